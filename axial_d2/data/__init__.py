"""Data: registration, the check before training, mappers, augmentations, the embedded dataset."""

from . import synthetic
from .build import CLASSIFIERS, build_mapper
from .check import check_datasets
from .classes import SegmentClasses, segment_classes
from .classification_mapper import ClassificationMapper
from .datasets import (
    check_dataset_name,
    check_names,
    classes_of,
    is_image_folder,
    read_class_list,
    register_ade20k,
    register_coco_instances,
    register_coco_panoptic,
    register_custom,
    register_image_folder,
    register_imagenet,
    register_mapillary_vistas,
    register_mask_folders,
)
from .mapper import AxialDeepLabDatasetMapper
from .segments import read_segments

__all__ = [
    "CLASSIFIERS",
    "AxialDeepLabDatasetMapper",
    "ClassificationMapper",
    "SegmentClasses",
    "build_mapper",
    "check_datasets",
    "check_dataset_name",
    "check_names",
    "classes_of",
    "is_image_folder",
    "read_class_list",
    "read_segments",
    "register_ade20k",
    "register_coco_instances",
    "register_coco_panoptic",
    "register_custom",
    "register_image_folder",
    "register_imagenet",
    "register_mapillary_vistas",
    "register_mask_folders",
    "segment_classes",
]

synthetic.register()
register_imagenet()
register_mapillary_vistas()
register_ade20k()
