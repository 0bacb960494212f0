"""What is known of each picture of a dataset before its files are opened."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..datasets.coco_panoptic import read_panoptic_json
from .findings import Finding
from .panoptic_json import records_of_json
from .pictures import Record, SegmentRecord

# Beginnings of names that stand for datasets under DETECTRON2_DATASETS.
_KNOWN = ("coco_", "cityscapes_", "mapillary_", "ade20k_")


def read_records(name: str, findings: list[Finding]) -> list[Record]:
    """Reads the records of a dataset of segmentation.

    Args:
        name: of the dataset.
        findings: faults that a panoptic json shows by itself are added to these.

    Returns:
        A record of each picture.

    Raises:
        ValueError, AssertionError, OSError: the dataset cannot be loaded.
    """
    try:
        return _read(name, findings)
    except (AssertionError, OSError, ValueError) as error:
        if not name.startswith(_KNOWN):
            raise
        where = os.path.abspath(os.environ.get("DETECTRON2_DATASETS", "datasets"))
        raise ValueError(
            f"{error}; DETECTRON2_DATASETS is {where}, docs/datasets.md shows what it should hold"
        ) from error


def _read(name: str, findings: list[Finding]) -> list[Record]:
    metadata = MetadataCatalog.get(name)
    json = metadata.get("panoptic_json")
    if json is not None and not os.path.isfile(json):
        DatasetCatalog.get(name)  # the dataset's own loader may know how to get the files
    if json is not None and metadata.get("evaluator_type") == "coco_panoptic_seg":
        return records_of_json(metadata, read_panoptic_json(json), findings)
    # Others: the names of the files do not follow from the json alone, or there is none.
    return [_record(entry) for entry in DatasetCatalog.get(name)]


def _record(entry: dict) -> Record:
    size = (entry["width"], entry["height"]) if "width" in entry and "height" in entry else None
    if "pan_seg_file_name" not in entry:
        return Record(entry["file_name"], None, size, {}, entry)
    segments = {
        s["id"]: SegmentRecord(
            s.get("area"), s.get("bbox"), s["category_id"], bool(s.get("iscrowd", 0))
        )
        for s in entry["segments_info"]
    }
    void = dict.fromkeys(entry.get("void_segments", []), SegmentRecord(None, None, None, False))
    return Record(entry["file_name"], entry["pan_seg_file_name"], size, {**void, **segments})
