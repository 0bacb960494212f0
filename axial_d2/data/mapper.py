"""From a dataset dict to what the model takes: reads, augments, makes the training targets."""

import copy
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from axial_d2.panoptic.encoding import rgb_to_id
from axial_d2.panoptic.targets import PanopticTargets

from .augmentations import ColorJitter, RandomPad, RandomScaleCrop
from .classes import SegmentClasses, segment_classes
from .datasets import register_custom
from .pictures import read_picture, size_text
from .segments import TRUTH_FILES, Segments, knows_instances, read_segments, truth_file

logger = logging.getLogger(__name__)

#: What INPUT.RANDOM_FLIP may be.
FLIPS = ("horizontal", "vertical", "none")


class AxialDeepLabDatasetMapper:
    """Detectron2 mapper for panoptic training and inference.

    Reads the picture and, for training, its truth as segments; transforms both alike; makes the
    targets from the transformed ids, so that semantic, centre and offset agree to the pixel.

    Args:
        is_train: whether to read the truth and give targets.
        augmentations: applied in turn to picture and segments.
        image_format: "RGB", "BGR", "L" or "YUV-BT.601", as Detectron2's `read_image` takes it.
        target_generator: `(ids (H, W), segments_info) -> dict of targets`; needed for training.
        classes: of the training datasets, by name; needed for training. A dataset dict without
            ``dataset_name`` is of the first.

    Raises:
        ValueError: training without a target generator or classes.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        target_generator: Callable[[np.ndarray, list[dict]], dict[str, Any]] | None = None,
        classes: Mapping[str, SegmentClasses] | None = None,
    ):
        if is_train and target_generator is None:
            raise ValueError("target_generator: expected a callable where is_train, came None")
        if is_train and not classes:
            raise ValueError("classes: expected those of a dataset where is_train, came none")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.target_generator = target_generator
        self.classes = dict(classes or {})
        mode = "training" if is_train else "inference"
        logger.info("Augmentations used in %s: %s", mode, augmentations)

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Reads INPUT, and for training DATASETS and MODEL.PIXEL_MEAN (colour of the padding).

        For training the classes are those of the first dataset of ``DATASETS.TRAIN``.
        """
        arguments = {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }
        if is_train:
            register_custom(cfg)
            arguments["classes"] = {name: segment_classes(name) for name in cfg.DATASETS.TRAIN}
            classes = arguments["classes"][cfg.DATASETS.TRAIN[0]]
            arguments["target_generator"] = PanopticTargets(
                ignore_label=classes.ignore_label,
                thing_ids=classes.thing_ids,
                sigma=cfg.INPUT.GAUSSIAN_SIGMA,
                ignore_stuff_in_offset=cfg.INPUT.IGNORE_STUFF_IN_OFFSET,
                small_instance_area=cfg.INPUT.SMALL_INSTANCE_AREA,
                small_instance_weight=cfg.INPUT.SMALL_INSTANCE_WEIGHT,
                ignore_crowd_in_semantic=cfg.INPUT.IGNORE_CROWD_IN_SEMANTIC,
                crowd=cfg.INPUT.CROWD,
            )
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one dataset dict; the one given stays as it is.

        Args:
            dataset_dict: of any form that `axial_d2.data.segments.read_segments` reads; for
                inference ``file_name`` is enough.

        Returns:
            The dict's own entries (``height`` and ``width`` are the picture's before augmentation)
            and ``image``, (C, H, W) uint8. For training without the truth's files, and with the
            ``segments_info`` and targets of `axial_d2.panoptic.PanopticTargets`: sem_seg, center,
            center_points, offset, sem_seg_weights, center_weights, offset_weights. Where the truth
            does not tell instances apart, nothing has weight in centres and offsets.

        Raises:
            ValueError: a picture cannot be read, or has another size than the dict or the truth
                says.
        """
        # Only the top level is written to; a deep copy of many segments costs more than a flip.
        result = copy.copy(dataset_dict)
        image = read_picture(result["file_name"], self.image_format)
        _check_size(result, image)
        aug_input = T.AugInput(image)
        if self.is_train:
            segments = self._segments(result, image)
            aug_input.sem_seg = segments.colors
        self.augmentations(aug_input)
        if self.is_train:
            ids = rgb_to_id(np.ascontiguousarray(aug_input.sem_seg))
            result.update(self._targets(ids, segments.segments_info, dataset_dict))
            for key in TRUTH_FILES:
                result.pop(key, None)
        # A copy always: the array may be a read-only view into Pillow's buffer.
        result["image"] = torch.from_numpy(np.array(aug_input.image.transpose(2, 0, 1), order="C"))
        return result

    def _segments(self, record: Mapping[str, Any], image: np.ndarray) -> Segments:
        name = record.get("dataset_name", next(iter(self.classes)))
        segments = read_segments(record, self.classes[name])
        if segments.colors.shape[:2] != image.shape[:2]:
            raise utils.SizeMismatchError(
                f"{truth_file(record)}: expected {size_text(image)}, the size of "
                f"{record['file_name']}, came {size_text(segments.colors)} (width x height)"
            )
        return segments

    def _targets(
        self, ids: np.ndarray, infos: list[dict[str, Any]], record: Mapping[str, Any]
    ) -> dict[str, Any]:
        if knows_instances(record):
            return {"segments_info": infos, **self.target_generator(ids, infos)}
        # Crowds as their class: IGNORE_CROWD_IN_SEMANTIC is about crowds among instances.
        whole = [{**info, "iscrowd": 0} for info in infos]
        targets = self.target_generator(ids, whole)
        for key in ("center", "offset", "center_weights", "offset_weights"):
            targets[key] = torch.zeros_like(targets[key])
        return {"segments_info": infos, **targets, "center_points": []}


def _check_size(record: dict[str, Any], image: np.ndarray) -> None:
    """Compares the picture's size with the dict's; gives it to the dict where that has none."""
    size = image.shape[1], image.shape[0]
    said = record.setdefault("width", size[0]), record.setdefault("height", size[1])
    if said != size:
        raise utils.SizeMismatchError(
            f"{record['file_name']}: expected {said[0]}x{said[1]}, as the dataset says, came "
            f"{size_text(image)} (width x height), turned as its EXIF says"
        )


def build_augmentations(cfg: Any, is_train: bool) -> list[T.Augmentation]:
    """The augmentations that ``cfg.INPUT`` asks for.

    Training: resize, scale and crop in one, colour, padding, flip. The factor of ``SCALE_JITTER``
    is on the size that ``MIN_SIZE_TRAIN`` and ``MAX_SIZE_TRAIN`` give, as in Detectron2's own
    mappers, or with ``MIN_SIZE_TRAIN`` (0,) on the picture's own. ``CROP_SIZE`` crops, and pads
    what is smaller; without it ``CROP`` holds, which does not pad. Colour comes before padding, so
    that the padding keeps the mean colour.

    Inference: the shorter side to ``MIN_SIZE_TEST``, the longer at most ``MAX_SIZE_TEST``; 0 is no
    resize and no limit.

    Raises:
        ValueError: a key whose value is out of range or unknown.
    """
    if not is_train:
        sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        return [T.ResizeShortestEdge(sizes[0], sizes[1] or sys.maxsize, "choice")]
    _check_input(cfg)
    augmentations = _scale_and_crop(cfg)
    if cfg.INPUT.COLOR_JITTER:
        augmentations.append(ColorJitter(cfg.INPUT.COLOR_JITTER, cfg.INPUT.FORMAT))
    if any(cfg.INPUT.CROP_SIZE):
        augmentations.append(RandomPad(cfg.INPUT.CROP_SIZE, cfg.MODEL.PIXEL_MEAN))
    if cfg.INPUT.RANDOM_FLIP != "none":
        horizontal = cfg.INPUT.RANDOM_FLIP == "horizontal"
        augmentations.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    return augmentations


def _check_input(cfg: Any) -> None:
    """Raises a ValueError that names the first key of INPUT with a value we cannot use."""
    node = cfg.INPUT
    channels = 1 if node.FORMAT == "L" else 3
    jitter, crop = node.SCALE_JITTER, node.CROP_SIZE
    rules = (
        ("INPUT.SCALE_JITTER", jitter, len(jitter) == 2 and 0 < jitter[0] <= jitter[-1],
         "(low, high) with 0 < low <= high"),
        ("INPUT.CROP_SIZE", crop, len(crop) == 2 and (min(crop) > 0 or not any(crop)),
         "(height, width) in pixels, or (0, 0)"),
        ("INPUT.COLOR_JITTER", node.COLOR_JITTER, 0 <= node.COLOR_JITTER <= 1, "0 to 1"),
        ("INPUT.FORMAT", node.FORMAT, not node.COLOR_JITTER or node.FORMAT in ("RGB", "BGR", "L"),
         "RGB, BGR or L where COLOR_JITTER is not 0"),
        ("INPUT.RANDOM_FLIP", node.RANDOM_FLIP, node.RANDOM_FLIP in FLIPS, ", ".join(FLIPS)),
        ("MODEL.PIXEL_MEAN", cfg.MODEL.PIXEL_MEAN, len(cfg.MODEL.PIXEL_MEAN) == channels,
         f"{channels} values with INPUT.FORMAT {node.FORMAT}"),
    )  # fmt: skip
    check_rules(rules)


def check_rules(rules: Iterable[tuple[str, Any, bool, str]]) -> None:
    """Raises a ValueError for the first of (key, value, whether it is right, what is expected)."""
    for key, value, right, expected in rules:
        if not right:
            raise ValueError(f"{key}: expected {expected}, came {value!r}")


def _scale_and_crop(cfg: Any) -> list[T.Augmentation]:
    """Detectron2's resize, then scale jitter, then ``INPUT.CROP_SIZE`` or Detectron2's crop."""
    scale, crop_size = cfg.INPUT.SCALE_JITTER, cfg.INPUT.CROP_SIZE
    resize = None
    if any(cfg.INPUT.MIN_SIZE_TRAIN):
        resize = T.ResizeShortestEdge(
            cfg.INPUT.MIN_SIZE_TRAIN,
            cfg.INPUT.MAX_SIZE_TRAIN or sys.maxsize,
            cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
        )
    if any(crop_size):
        return [RandomScaleCrop(scale, crop_size, resize)]
    crop = cfg.INPUT.CROP
    if not crop.ENABLED:
        return [RandomScaleCrop(scale, None, resize)]
    if crop.TYPE == "absolute":
        return [RandomScaleCrop(scale, [int(side) for side in crop.SIZE], resize)]
    return [RandomScaleCrop(scale, None, resize), T.RandomCrop(crop.TYPE, crop.SIZE)]
