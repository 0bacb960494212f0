"""What is known of each picture of a dataset before its files are opened."""

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..classes import segment_classes
from ..datasets.coco_panoptic import read_panoptic_json
from ..datasets.own import collection_paused, expected_place
from .findings import Tally, describe
from .panoptic_json import records_of_json, segment_findings
from .pictures import MASK_FILES, UNKNOWN, Record, SegmentRecord


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
        with collection_paused():
            return _read(name, tally)
    except (ValueError, OSError) as error:
        raise ValueError(f"{error}{expected_place(name)}") from error


def _read(name: str, tally: Tally) -> list[Record]:
    metadata = MetadataCatalog.get(name)
    json = metadata.get("panoptic_json")
    if json is not None and not os.path.isfile(json):
        _load(name)  # the dataset's own loader may know how to get the files
    if json is not None and metadata.get("evaluator_type") == "coco_panoptic_seg":
        return records_of_json(metadata, read_panoptic_json(json), tally)
    # Others: the names of the files do not follow from the json alone, or there is none.
    try:
        entries = _load(name)
    except (ValueError, OSError):
        if json is not None and os.path.isfile(json):
            # The json itself may show where the fault is, which a loader's KeyError does not.
            records_of_json(metadata, read_panoptic_json(json), tally)
        raise
    classes = segment_classes(name)
    stuff = {
        index: f"'{text}'"
        for index, text in enumerate(classes.names)
        if index not in classes.thing_ids
    }
    records = []
    for index, entry in enumerate(entries):
        try:
            segments = entry.get("segments_info", ())
            label = entry.get("pan_seg_file_name", "")
            tally.add(segment_findings(label, segments, range(len(classes.names)), stuff))
            records.append(_record(entry))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"dataset dict {index} is not as Detectron2 wants it: {describe(error)}"
            ) from error
    if not records:
        tally.add_one("no image", "expected at least one, came none")
    return records


def _load(name: str) -> list[dict[str, Any]]:
    """The dataset dicts. A loader may be anybody's and raise anything; Detectron2's assert."""
    try:
        entries = DatasetCatalog.get(name)
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise ValueError(describe(error)) from error
    if not isinstance(entries, Sequence):
        raise ValueError(f"expected a list of dataset dicts, came a {type(entries).__name__}")
    return entries


def _record(entry: Mapping[str, Any]) -> Record:
    size = None
    if "width" in entry and "height" in entry:
        size = (operator.index(entry["width"]), operator.index(entry["height"]))
    image = os.fspath(entry["file_name"])
    for key in MASK_FILES:
        os.fspath(entry.get(key, ""))
    if "pan_seg_file_name" not in entry:
        return Record(image, None, size, {}, entry)
    segments = {
        s["id"]: SegmentRecord(
            s.get("area"), s.get("bbox"), s["category_id"], bool(s.get("iscrowd", 0))
        )
        for s in entry["segments_info"]
    }
    void = dict.fromkeys(entry.get("void_segments", []), UNKNOWN)
    return Record(image, os.fspath(entry["pan_seg_file_name"]), size, {**void, **segments})
