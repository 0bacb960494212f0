"""Faults that a panoptic json shows by itself, and what it says of each picture."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .findings import Finding
from .pictures import Record, SegmentRecord


def records_of_json(
    metadata: Any, content: Mapping[str, Any], findings: list[Finding]
) -> list[Record]:
    """What the json says of each picture.

    Args:
        metadata: of the dataset, with image_root and panoptic_root.
        content: of the json, its form being right (see `read_panoptic_json`).
        findings: the json's own faults are added to these.

    Returns:
        A record of each annotation that can be compared with its files.
    """
    images = {}
    for image in content["images"]:
        findings += _image_findings(image, images)
        if isinstance(image.get("id"), int | str):
            images.setdefault(image["id"], image)
    categories = {category["id"]: index for index, category in enumerate(content["categories"])}
    stuff = {category["id"] for category in content["categories"] if not category["isthing"]}
    records, annotated, used = [], set(), set()
    for index, annotation in enumerate(content["annotations"]):
        label = annotation.get("file_name", f"annotations[{index}]")
        key = annotation.get("image_id")
        known = isinstance(key, int | str) and key in images
        if not known or not isinstance(annotation.get("file_name"), str):
            findings.append(
                (
                    "annotation that belongs to no image",
                    f"{label}: expected a file_name and the image_id of one of the json's images, "
                    f"came image_id {key!r}",
                )
            )
            continue
        if key in annotated:
            findings.append(
                ("image with several annotations", f"{label}: image {key} has one before")
            )
        annotated.add(key)
        segments = annotation["segments_info"]
        findings += _segment_findings(label, segments, categories, stuff)
        used |= {s["category_id"] for s in segments if _is_whole(s, "category_id")}
        records.append(_record(metadata, images[key], annotation, categories))
    findings += [
        ("image without annotation", f"{image.get('file_name')}: expected one, came none")
        for key, image in images.items()
        if key not in annotated
    ]
    findings += [
        ("category that is never used", f"'{category['name']}' (id {category['id']})")
        for category in content["categories"]
        if category["id"] not in used
    ]
    if not content["images"]:
        findings.append(("no image", "expected at least one, came none"))
    return [record for record in records if record is not None]


def _is_whole(segment: Any, key: str) -> bool:
    return isinstance(segment, dict) and type(segment.get(key)) is int


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


def _segment_findings(
    label: str, segments: Sequence[Any], categories: Mapping[int, int], stuff: set[int]
) -> Iterator[Finding]:
    """Faults of the segments of one picture that the json alone shows."""
    seen: set[int] = set()
    seen_stuff: set[int] = set()
    for segment in segments:
        missing = [
            key
            for key in ("id", "category_id", "iscrowd", "area")
            if not isinstance(segment, dict) or not isinstance(segment.get(key), int | float)
        ]
        if missing:  # the evaluation reads all four
            yield (
                "segment without its fields",
                f"{label}: expected a number for {', '.join(missing)}, came {segment}",
            )
            continue
        broken = [key for key in ("id", "category_id") if type(segment[key]) is not int]
        if broken:
            yield (
                "segment whose ids are no whole numbers",
                f"{label}: {broken[0]}: expected a whole number, came {segment[broken[0]]!r}",
            )
            continue
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
        if category in stuff:
            if segment["iscrowd"]:
                yield "stuff segment that is a crowd", f"{label}: segment {key}"
            if category in seen_stuff:
                yield (
                    "stuff class with several segments in a picture",
                    f"{label}: expected one segment of category {category}, came {key} too",
                )
            seen_stuff.add(category)


def _record(
    metadata: Any,
    image: Mapping[str, Any],
    annotation: Mapping[str, Any],
    categories: Mapping[int, int],
) -> Record | None:
    """The record of one picture; None where the json's faults leave nothing to compare with."""
    if not isinstance(image.get("file_name"), str):
        return None
    size = (image.get("width"), image.get("height"))
    return Record(
        os.path.join(metadata.image_root, image["file_name"]),
        os.path.join(metadata.panoptic_root, annotation["file_name"]),
        size if all(isinstance(side, int) for side in size) else None,
        {
            s["id"]: SegmentRecord(
                s.get("area"),
                s.get("bbox"),
                categories.get(s.get("category_id")) if _is_whole(s, "category_id") else None,
                bool(s.get("iscrowd", 0)),
            )
            for s in annotation["segments_info"]
            if _is_whole(s, "id")
        },
    )
