"""Registers the embedded dataset with Detectron2's catalogs."""

from __future__ import annotations

import os
from pathlib import Path

from axial_d2.data.synthetic.classes import CATEGORIES

FOLDER = "synthetic_panoptic"  # below $DETECTRON2_DATASETS
_registered: dict[str, Path] = {}


def register(root: str | os.PathLike | None = None) -> None:
    """Registers `synthetic_panoptic_train` and `synthetic_panoptic_val`.

    The classes are known without files; the files are read when the dataset is first used. A
    second call does nothing, or moves the datasets where it names another root.

    Args:
        root: folder that holds synthetic_panoptic/{train,val}; None for $DETECTRON2_DATASETS, or
            "datasets" where that is not set, as for Detectron2's own datasets.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from axial_d2.data.datasets.coco_panoptic import panoptic_metadata

    if root is None:
        root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    base = Path(root).expanduser().absolute() / FOLDER
    for split in ("train", "val"):
        name, folder = f"{FOLDER}_{split}", base / split
        if _registered.get(name) == folder and name in DatasetCatalog.list():
            continue
        if name in _registered:
            DatasetCatalog.pop(name, None)
            MetadataCatalog.pop(name, None)
        DatasetCatalog.register(name, lambda name=name, folder=folder: _load(name, folder))
        MetadataCatalog.get(name).set(
            image_root=str(folder / "images"),
            panoptic_root=str(folder / "panoptic"),
            panoptic_json=str(folder / "panoptic.json"),
            **panoptic_metadata(CATEGORIES),
        )
        _registered[name] = folder


def _load(name: str, folder: Path) -> list[dict]:
    """The dataset dicts of one split."""
    from axial_d2.data.datasets.coco_panoptic import load_coco_panoptic_json

    truth = folder / "panoptic.json"
    if not truth.is_file():
        raise FileNotFoundError(
            f"the dataset '{name}' has not been generated: {truth} is not there. Make it with\n"
            f"  python -m axial_d2.data.synthetic --output {folder.parent} --images 1000 "
            "--size 128 256\n"
            f"or set DETECTRON2_DATASETS to the folder that holds {FOLDER}."
        )
    return load_coco_panoptic_json(folder / "images", folder / "panoptic", truth)
