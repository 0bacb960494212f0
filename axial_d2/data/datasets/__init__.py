"""Registration of datasets with Detectron2's catalogs."""

from .coco_panoptic import load_coco_panoptic_json, panoptic_metadata, register_coco_panoptic
from .custom import check_names, register_custom
from .image_folder import (
    class_folders,
    classes_of,
    is_image_folder,
    load_image_folder,
    register_image_folder,
    register_imagenet,
)

__all__ = [
    "check_names",
    "class_folders",
    "classes_of",
    "is_image_folder",
    "load_coco_panoptic_json",
    "load_image_folder",
    "panoptic_metadata",
    "register_coco_panoptic",
    "register_custom",
    "register_image_folder",
    "register_imagenet",
]
