"""Faults that a panoptic json shows by itself, and what it says of each picture."""

import operator
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from .findings import Finding, Tally
from .pictures import UNKNOWN, Record, SegmentRecord

_FIELDS = ("id", "category_id", "iscrowd", "area")
_fields_of = operator.itemgetter(*_FIELDS)
_NUMBERS = {int, float}


def records_of_json(metadata: Any, content: Mapping[str, Any], tally: Tally) -> list[Record]:
    """What the json says of each picture.

    Args:
        metadata: of the dataset, with image_root and panoptic_root.
        content: of the json, its form being right (see `read_panoptic_json`).
        tally: the json's own faults are added to it.

    Returns:
        A record of each annotation that can be compared with its files.
    """
    images = {}
    for image in content["images"]:
        tally.add(_image_findings(image, images))
        if isinstance(image.get("id"), int | str):
            images.setdefault(image["id"], image)
    categories = {category["id"]: index for index, category in enumerate(content["categories"])}
    stuff = {
        category["id"]: f"category {category['id']} ('{category['name']}')"
        for category in content["categories"]
        if not category["isthing"]
    }
    records, annotated, used = [], set(), set()
    for index, annotation in enumerate(content["annotations"]):
        label = annotation.get("file_name", f"annotations[{index}]")
        key = annotation.get("image_id")
        known = isinstance(key, int | str) and key in images
        if not known or not isinstance(annotation.get("file_name"), str):
            text = "expected a file_name and the image_id of one of the json's images"
            tally.add_one(
                "annotation that belongs to no image", f"{label}: {text}, came image_id {key!r}"
            )
            continue
        if key in annotated:
            tally.add_one("image with several annotations", f"{label}: image {key} has one before")
        annotated.add(key)
        segments, others = [], []  # those that have all fields, and those that do not
        for segment in annotation["segments_info"]:
            (segments if _is_whole(segment) else others).append(segment)
        tally.add(_incomplete(label, segment) for segment in others)
        tally.add(segment_findings(label, segments, categories, stuff))
        used.update(segment["category_id"] for segment in segments)
        record = _record(metadata, images[key], annotation["file_name"], segments, categories)
        if record is not None:
            records.append(record)
            ids = [s["id"] for s in others if isinstance(s, dict) and type(s.get("id")) in _NUMBERS]
            record.segments.update(dict.fromkeys(ids, UNKNOWN))
    tally.add(
        ("image without annotation", f"{image.get('file_name')}: expected one, came none")
        for key, image in images.items()
        if key not in annotated
    )
    tally.add(
        ("category that is never used", f"'{category['name']}' (id {category['id']})")
        for category in content["categories"]
        if category["id"] not in used
    )
    if not content["images"]:
        tally.add_one("no image", "expected at least one, came none")
    return records


def _is_whole(segment: Any) -> bool:
    """Whether a segment has a number for each field; the evaluation reads all four."""
    try:
        fields = _fields_of(segment)
    except (KeyError, TypeError):
        return False
    return {*map(type, fields)} <= _NUMBERS and segment["iscrowd"] % 1 == 0


def _incomplete(label: str, segment: Any) -> Finding:
    wrong = [
        key
        for key in _FIELDS
        if not isinstance(segment, dict) or type(segment.get(key)) not in _NUMBERS
    ]
    text = f"{label}: expected a number for {', '.join(wrong or ['iscrowd (0 or 1)'])}"
    return "segment without its fields", f"{text}, came {segment}"


def _image_findings(image: Mapping[str, Any], seen: Mapping[Any, Any]) -> Iterator[Finding]:
    kind = "image without its fields"
    for key, wanted in (("id", int | str), ("file_name", str), ("height", int), ("width", int)):
        if not isinstance(image.get(key), wanted):
            text = "a text" if wanted is str else "a whole number"
            yield kind, f"{image}: {key}: expected {text}, came {image.get(key)!r}"
    if isinstance(image.get("id"), int | str) and image["id"] in seen:
        first = seen[image["id"]].get("file_name")
        yield (
            "image id used twice",
            f"{image.get('file_name')}: expected an id of its own, came {image.get('id')!r}, "
            f"which {first} has",
        )


def segment_findings(
    label: str,
    segments: Iterable[Mapping[str, Any]],
    categories: Container[int],
    stuff: Mapping[int, str],
) -> Iterator[Finding]:
    """Faults of the segments of one picture that can be seen without its files.

    Args:
        label: of the picture.
        segments: with ``id``, ``category_id`` and, for a crowd, ``iscrowd``.
        categories: ids of all.
        stuff: those of stuff, each with its name for messages.
    """
    seen: set[int] = set()
    seen_stuff: set[int] = set()
    for segment in segments:
        key, category = segment["id"], segment["category_id"]
        if key in seen:
            yield (
                "segment id used twice in a picture",
                f"{label}: expected ids of their own, came {key} again",
            )
        seen.add(key)
        if key == 0:
            yield (
                "segment with the id 0",
                f"{label}: expected an id from 1 on, came 0, which is void",
            )
        if category not in categories:
            yield (
                "unknown category",
                f"{label}: segment {key}: expected a category_id of the json's "
                f"categories, came {category}",
            )
        elif category in stuff:
            if segment.get("iscrowd"):
                yield "stuff segment that is a crowd", f"{label}: segment {key}"
            if category in seen_stuff:
                yield (
                    "stuff class with several segments in a picture",
                    f"{label}: expected one segment of {stuff[category]}, came {key} too",
                )
            seen_stuff.add(category)


def _record(
    metadata: Any,
    image: Mapping[str, Any],
    png: str,
    segments: Iterable[Mapping[str, Any]],
    categories: Mapping[int, int],
) -> Record | None:
    """The record of one picture; None where the json's faults leave nothing to compare with."""
    if not isinstance(image.get("file_name"), str):
        return None
    size = (image.get("width"), image.get("height"))
    return Record(
        os.path.join(metadata.image_root, image["file_name"]),
        os.path.join(metadata.panoptic_root, png),
        size if all(isinstance(side, int) for side in size) else None,
        {
            s["id"]: SegmentRecord(
                s["area"], s.get("bbox"), categories.get(s["category_id"]), bool(s["iscrowd"])
            )
            for s in segments
        },
    )
