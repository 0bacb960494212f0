"""Registration of datasets with Detectron2's catalogs."""

from .coco_panoptic import load_coco_panoptic_json, panoptic_metadata, register_coco_panoptic
from .custom import check_names, register_custom

__all__ = [
    "check_names",
    "load_coco_panoptic_json",
    "panoptic_metadata",
    "register_coco_panoptic",
    "register_custom",
]
