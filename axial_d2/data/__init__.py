"""Data: registration, the check before training, mappers, augmentations, the embedded dataset."""

from . import synthetic
from .build import CLASSIFIERS, build_mapper
from .check import check_datasets
from .classification_mapper import ClassificationMapper
from .datasets import (
    check_names,
    classes_of,
    is_image_folder,
    register_coco_panoptic,
    register_custom,
    register_image_folder,
    register_imagenet,
)
from .mapper import AxialDeepLabDatasetMapper

__all__ = [
    "CLASSIFIERS",
    "AxialDeepLabDatasetMapper",
    "ClassificationMapper",
    "build_mapper",
    "check_datasets",
    "check_names",
    "classes_of",
    "is_image_folder",
    "register_coco_panoptic",
    "register_custom",
    "register_image_folder",
    "register_imagenet",
]

synthetic.register()
register_imagenet()
