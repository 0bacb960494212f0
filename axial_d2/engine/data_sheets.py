"""What the network will see of a dataset, as pictures."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image

from axial_d2.data.datasets import load_dataset
from axial_d2.engine.checks import is_classifier
from axial_d2.engine.errors import SetupError
from axial_d2.engine.prediction import output_paths
from axial_d2.engine.setup import check_writable


def draw_training_data(
    cfg: CfgNode, name: str | None, output: str, *, limit: int | None, draws: int, seed: int
) -> Iterator[tuple[str, list[Path] | Exception]]:
    """Draws training pictures as the mapper gives them to the network, with their targets.

    Args:
        cfg: from `load_config`.
        name: the dataset; None: the first of DATASETS.TRAIN.
        output: directory to write to, made if missing.
        limit: the first so many pictures; None for all.
        draws: how often each is augmented, a sheet for each time.
        seed: of the augmentations, so that the same command draws the same sheets.

    Yields:
        Per picture its path, and the files written or the error that kept it from being drawn.

    Raises:
        SetupError: no such dataset, one without a truth of segments or of another kind than the
            model, values of INPUT that the mapper refuses, or an `output` that cannot be written.
    """
    from axial_d2 import data

    if not cfg.DATASETS.TRAIN:
        raise SetupError("DATASETS.TRAIN: expected the name of a dataset to train on, got none")
    name = name or cfg.DATASETS.TRAIN[0]
    # The mapper takes the classes of the first training dataset.
    own = cfg.clone()
    own.defrost()
    own.DATASETS.TRAIN = (name,)
    try:
        data.check_dataset_name(name, "--dataset")
        if is_classifier(cfg) != data.is_image_folder(name):
            kind = "class folders" if is_classifier(cfg) else "segmentation"
            raise ValueError(
                f"--dataset: expected a dataset of {kind} for the model "
                f"{cfg.MODEL.META_ARCHITECTURE}, got {name!r}"
            )
        mapper = data.build_mapper(own, is_train=True)
        draw = _crop(data.classes_of(name)) if is_classifier(cfg) else _sheet(name)
        entries = load_dataset(name)[:limit]
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error
    check_writable(output, "--output")
    paths = [Path(entry["file_name"]) for entry in entries]
    for entry, target in zip(entries, output_paths(paths, output), strict=True):
        try:
            written = []
            for number in range(draws):
                _seed(f"{seed} {entry['file_name']} {number}")
                sample = mapper(entry)
                image = _as_rgb(sample["image"], cfg.INPUT.FORMAT)
                path = target if draws == 1 else target.with_stem(f"{target.stem}-{number + 1}")
                Image.fromarray(draw(image, sample, entry["file_name"])).save(path)
                written.append(path)
            yield entry["file_name"], written
        except (ValueError, OSError) as error:  # One bad picture must not cost the others.
            yield entry["file_name"], error


def _sheet(name: str) -> Any:
    from axial_d2.data import segment_classes
    from axial_d2.visualization import training_sheet

    classes = segment_classes(name)

    def draw(image: np.ndarray, sample: dict[str, Any], path: str) -> np.ndarray:
        return training_sheet(
            image,
            sample,
            names=classes.names,
            colors=classes.colors,
            thing_ids=classes.thing_ids,
            title=f"{os.path.basename(path)}, {sample['width']}x{sample['height']}, of {name}",
        )

    return draw


def _crop(classes: list[str]) -> Any:
    from axial_d2.visualization import drawing_scale, enlarge, stack_pictures

    def draw(image: np.ndarray, sample: dict[str, Any], path: str) -> np.ndarray:
        large = enlarge(image, drawing_scale(*image.shape[:2]))
        size = f"{image.shape[1]}x{image.shape[0]}"
        title = f"{os.path.basename(path)}: {classes[sample['label']]}, {size}"
        return stack_pictures([large], [title])

    return draw


def _as_rgb(image: torch.Tensor, image_format: str) -> np.ndarray:
    """(C, H, W) of the mapper to (H, W, 3) RGB."""
    from detectron2.data.detection_utils import convert_image_to_rgb

    pixels = image.permute(1, 2, 0).numpy()  # (H, W, C)
    return np.asarray(convert_image_to_rgb(pixels, image_format)).astype(np.uint8)


def _seed(text: str) -> None:
    """Detectron2's augmentations draw from numpy, ours from it too; others from the rest."""
    number = random.Random(text).randrange(2**32)
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
