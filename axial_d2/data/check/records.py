"""What is known of each picture of a dataset before its files are opened."""

import os
from collections.abc import Mapping
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..classes import segment_classes
from ..datasets.coco_panoptic import read_panoptic_json
from .findings import Tally, describe
from .panoptic_json import records_of_json, segment_findings
from .pictures import UNKNOWN, Record, SegmentRecord

# Beginnings of names that stand for datasets under DETECTRON2_DATASETS.
_KNOWN = ("coco_", "cityscapes_", "mapillary_", "ade20k_")


def read_records(name: str, tally: Tally) -> list[Record]:
    """Reads the records of a dataset of segmentation.

    Args:
        name: of the dataset.
        tally: faults that can be seen before any picture is opened are added to it.

    Returns:
        A record of each picture.

    Raises:
        ValueError: the dataset cannot be loaded.
    """
    try:
        return _read(name, tally)
    except (ValueError, OSError) as error:
        text = str(error)
        if name.startswith(_KNOWN):
            where = os.path.abspath(os.environ.get("DETECTRON2_DATASETS", "datasets"))
            text += f"; DETECTRON2_DATASETS is {where}, docs/datasets.md shows what it should hold"
        raise ValueError(text) from error


def _read(name: str, tally: Tally) -> list[Record]:
    metadata = MetadataCatalog.get(name)
    json = metadata.get("panoptic_json")
    if json is not None and not os.path.isfile(json):
        _load(name)  # the dataset's own loader may know how to get the files
    if json is not None and metadata.get("evaluator_type") == "coco_panoptic_seg":
        return records_of_json(metadata, read_panoptic_json(json), tally)
    # Others: the names of the files do not follow from the json alone, or there is none.
    entries = _load(name)
    classes = segment_classes(name)
    stuff = {
        index: f"'{text}'"
        for index, text in enumerate(classes.names)
        if index not in classes.thing_ids
    }
    try:
        for entry in entries:
            segments = entry.get("segments_info", ())
            label = entry.get("pan_seg_file_name", "")
            tally.add(segment_findings(label, segments, range(len(classes.names)), stuff))
        return [_record(entry) for entry in entries]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"the dataset dicts of '{name}' are not Detectron2's: {describe(error)}"
        ) from error


def _load(name: str) -> list[dict[str, Any]]:
    """The dataset dicts. A loader may be anybody's and raise anything; Detectron2's assert."""
    try:
        return DatasetCatalog.get(name)
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise ValueError(describe(error)) from error


def _record(entry: Mapping[str, Any]) -> Record:
    size = (entry["width"], entry["height"]) if "width" in entry and "height" in entry else None
    if "pan_seg_file_name" not in entry:
        return Record(entry["file_name"], None, size, {}, entry)
    segments = {
        s["id"]: SegmentRecord(
            s.get("area"), s.get("bbox"), s["category_id"], bool(s.get("iscrowd", 0))
        )
        for s in entry["segments_info"]
    }
    void = dict.fromkeys(entry.get("void_segments", []), UNKNOWN)
    return Record(entry["file_name"], entry["pan_seg_file_name"], size, {**void, **segments})
