"""From a dataset dict to what a classifier takes: reads the picture, crops it, keeps the label."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import transforms as T

from .augmentations import ColorJitter
from .mapper import FLIPS, check_rules
from .pictures import read_picture
from .resized_crops import CenterCrop, RandomResizedCrop

logger = logging.getLogger(__name__)


class ClassificationMapper:
    """Detectron2 mapper for training and testing of a classifier.

    Args:
        augmentations: applied in turn to the picture.
        image_format: "RGB" or "BGR"; pictures of any kind become that.
    """

    @configurable
    def __init__(self, *, augmentations: Sequence[T.Augmentation | T.Transform], image_format: str):
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        logger.info("Augmentations used: %s", augmentations)

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Reads INPUT.

        Raises:
            ValueError: a key whose value is out of range, those of training and of testing alike.
        """
        return {
            "augmentations": build_crops(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one dataset dict; the one given stays as it is.

        Args:
            dataset_dict: ``file_name`` and, where it is known, ``label``.

        Returns:
            The dict's own entries and ``image``, (3, H, W) uint8.

        Raises:
            ValueError: the picture cannot be read.
        """
        result = copy.copy(dataset_dict)
        aug_input = T.AugInput(read_picture(result["file_name"], self.image_format))
        self.augmentations(aug_input)
        # A copy always: the array may be a read-only view into Pillow's buffer.
        result["image"] = torch.from_numpy(np.array(aug_input.image.transpose(2, 0, 1), order="C"))
        return result


def build_crops(cfg: Any, is_train: bool) -> list[T.Augmentation]:
    """The augmentations of a classifier that ``cfg.INPUT`` asks for.

    Training: a window of random area and shape (``RESIZED_CROP``) resized to ``CROP_SIZE``, colour
    (``COLOR_JITTER``), flip (``RANDOM_FLIP``). Testing: the shorter side to ``MIN_SIZE_TEST``, and
    the middle ``CROP_SIZE`` of it. ``MIN_SIZE_TRAIN``, ``SCALE_JITTER``, ``CROP`` and
    ``MAX_SIZE_TEST`` are not read.

    Raises:
        ValueError: a key whose value is out of range.
    """
    _check_input(cfg)
    node = cfg.INPUT
    if not is_train:
        return [CenterCrop(node.MIN_SIZE_TEST, node.CROP_SIZE)]
    augmentations: list[T.Augmentation] = [
        RandomResizedCrop(node.CROP_SIZE, node.RESIZED_CROP.AREA, node.RESIZED_CROP.ASPECT)
    ]
    if node.COLOR_JITTER:
        augmentations.append(ColorJitter(node.COLOR_JITTER, node.FORMAT))
    if node.RANDOM_FLIP != "none":
        horizontal = node.RANDOM_FLIP == "horizontal"
        augmentations.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    return augmentations


def _check_input(cfg: Any) -> None:
    """Raises a ValueError that names the first key of INPUT with a value we cannot use."""
    node = cfg.INPUT
    crop, area, aspect = node.CROP_SIZE, node.RESIZED_CROP.AREA, node.RESIZED_CROP.ASPECT
    rules = (
        ("INPUT.CROP_SIZE", crop, len(crop) == 2 and min(crop) > 0,
         "(height, width) in pixels, such as (224, 224) for a classifier"),
        ("INPUT.MIN_SIZE_TEST", node.MIN_SIZE_TEST, node.MIN_SIZE_TEST >= max(crop, default=0),
         f"at least {max(crop, default=0)}, the larger side of INPUT.CROP_SIZE"),
        ("INPUT.RESIZED_CROP.AREA", area, len(area) == 2 and 0 < area[0] <= area[1] <= 1,
         "(low, high) with 0 < low <= high <= 1"),
        ("INPUT.RESIZED_CROP.ASPECT", aspect, len(aspect) == 2 and 0 < aspect[0] <= aspect[1],
         "(low, high) with 0 < low <= high"),
        ("INPUT.COLOR_JITTER", node.COLOR_JITTER, 0 <= node.COLOR_JITTER <= 1, "0 to 1"),
        ("INPUT.FORMAT", node.FORMAT, node.FORMAT in ("RGB", "BGR"), "RGB or BGR"),
        ("INPUT.RANDOM_FLIP", node.RANDOM_FLIP, node.RANDOM_FLIP in FLIPS, ", ".join(FLIPS)),
        ("MODEL.PIXEL_MEAN", cfg.MODEL.PIXEL_MEAN, len(cfg.MODEL.PIXEL_MEAN) == 3, "3 values"),
    )  # fmt: skip
    check_rules(rules)
