"""Registration of datasets with Detectron2's catalogs."""

from .ade20k import register_ade20k
from .class_list import read_class_list
from .coco_instances import load_coco_instances, register_coco_instances
from .coco_panoptic import load_coco_panoptic_json, panoptic_metadata, register_coco_panoptic
from .custom import check_dataset_name, check_names, register_custom
from .image_folder import (
    class_folders,
    classes_of,
    is_image_folder,
    load_image_folder,
    register_image_folder,
    register_imagenet,
)
from .mapillary import register_mapillary_vistas
from .mask_folders import load_mask_folders, register_mask_folders
from .own import load_dataset

__all__ = [
    "check_dataset_name",
    "check_names",
    "class_folders",
    "classes_of",
    "is_image_folder",
    "load_coco_instances",
    "load_coco_panoptic_json",
    "load_dataset",
    "load_image_folder",
    "load_mask_folders",
    "panoptic_metadata",
    "read_class_list",
    "register_ade20k",
    "register_coco_instances",
    "register_coco_panoptic",
    "register_custom",
    "register_image_folder",
    "register_imagenet",
    "register_mapillary_vistas",
    "register_mask_folders",
]
