"""Data: registration, the check before training, mapper, augmentations, the embedded dataset."""

from . import synthetic
from .check import check_datasets
from .datasets import check_names, register_coco_panoptic, register_custom
from .mapper import AxialDeepLabDatasetMapper

__all__ = [
    "AxialDeepLabDatasetMapper",
    "check_datasets",
    "check_names",
    "register_coco_panoptic",
    "register_custom",
]

synthetic.register()
