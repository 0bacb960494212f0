"""Looks for faults in datasets before hours are spent on training with them."""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .check_files import Finding, Record, check_files
from .check_folders import class_findings, folder_findings
from .datasets.coco_panoptic import read_panoptic_json
from .datasets.image_folder import is_image_folder
from .datasets.own import file_stamp

logger = logging.getLogger(__name__)

# Decoding takes about 10 ms a picture and core: 2000 are done in well under a minute.
MAX_DECODED = 2000
_EXAMPLES = 3

# Datasets found right in this process, each with the version of its json.
_passed: set[tuple] = set()


def check_datasets(names: Iterable[str], *, max_decoded: int = MAX_DECODED) -> None:
    """Makes sure that panoptic datasets, and those of class folders, are whole and agree.

    Of a panoptic dataset the json and the presence of every file are always checked. Picture and
    png are decoded for all up to `max_decoded` pictures, and for a seeded sample of that many where
    there are more. A dataset that was found right is not looked at again in this process until its
    json changes. Of class folders the names are compared, and the first picture of each is decoded.
    Datasets of other kinds are passed over.

    Args:
        names: registered names, those to train on first: the categories of all others are compared
            with the first one's of their kind.
        max_decoded: how many pictures of a dataset are decoded at most.

    Raises:
        ValueError: any fault. One error tells, per dataset, each kind of fault with its number and
            the first few examples (file, expected, came).
    """
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in DatasetCatalog.list()]
    if unknown:
        raise ValueError(f"no dataset is registered under the name {unknown[0]!r}")
    panoptic = [name for name in names if "panoptic_json" in vars(MetadataCatalog.get(name))]
    folders = [name for name in names if name not in panoptic and is_image_folder(name)]
    for name in names:
        if name not in panoptic and name not in folders:
            logger.info("The dataset '%s' is not a panoptic one and is not checked.", name)
    sections = [_check_dataset(name, max_decoded) for name in panoptic]
    sections += [_compare_categories(panoptic[0], name) for name in panoptic[1:]]
    sections += [_check_folders(folders[0], name, max_decoded) for name in folders]
    sections = [section for section in sections if section]
    if sections:
        sections.append("Right the data, or set DATASETS.CHECK False to train all the same.")
        raise ValueError("\n".join(sections))


def _check_dataset(name: str, max_decoded: int) -> str:
    """Checks one dataset; gives the report of its faults, "" where there are none."""
    metadata = MetadataCatalog.get(name)
    json = metadata.panoptic_json
    # Roots are in the key too: one json may be registered with other folders.
    key = (name, metadata.get("image_root"), metadata.get("panoptic_root"), json, max_decoded)
    key += file_stamp(json) if os.path.isfile(json) else ()
    if key in _passed:
        return ""
    start = time.perf_counter()
    findings: list[Finding] = []
    try:
        if not os.path.isfile(json):
            DatasetCatalog.get(name)  # the dataset's own loader may know how to get the files
        if metadata.get("evaluator_type") == "coco_panoptic_seg":
            records = _records_of_json(metadata, read_panoptic_json(json), findings)
        else:  # as Cityscapes: the names of its files do not follow from the json alone
            records = _records_of_dicts(DatasetCatalog.get(name))
    except (ValueError, AssertionError, OSError) as error:  # Detectron2's loaders assert
        return _report(name, json, [("the dataset cannot be loaded", str(error))])
    empty = [record.image_file for record in records if not record.areas]
    if empty:
        logger.warning(
            "'%s': %d of %d pictures have no segment, the first: %s",
            name, len(empty), len(records), empty[0],
        )  # fmt: skip
    findings += check_files(name, records, max_decoded)
    if findings:
        return _report(name, json, findings)
    _passed.add(key)
    seconds = time.perf_counter() - start
    logger.info("'%s': %d pictures, no fault found in %.1f s.", name, len(records), seconds)
    return ""


def _check_folders(first: str, name: str, max_decoded: int) -> str:
    """As `_check_dataset`, for one of class folders; they are compared with those of `first`."""
    findings = folder_findings(name, max_decoded)
    if not findings and name != first:
        findings = class_findings(first, name)
    return _report(name, MetadataCatalog.get(name).get("image_root", ""), findings)


def _report(name: str, source: str, findings: Sequence[Finding]) -> str:
    """The faults by kind, each with its number and the first few examples; "" without any."""
    if not findings:
        return ""
    lines = [f"The data of '{name}' ({source}) are not right:"]
    for kind, count in Counter(kind for kind, _ in findings).items():
        lines.append(f"  {kind}: {count} time{'s' * (count > 1)}")
        examples = [text for other, text in findings if other == kind]
        lines += [f"    {text}" for text in examples[:_EXAMPLES]]
        if count > _EXAMPLES:
            lines.append(f"    ... and {count - _EXAMPLES} more")
    return "\n".join(lines)


def _records_of_json(
    metadata: Any, content: Mapping[str, Any], findings: list[Finding]
) -> list[Record]:
    """What the json says of each picture. Its own faults are added to `findings`."""
    images = {}
    for image in content["images"]:
        findings += _image_findings(image, images)
        if isinstance(image.get("id"), int | str):
            images.setdefault(image["id"], image)
    categories = {category["id"] for category in content["categories"]}
    records, annotated = [], set()
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
        findings += _segment_findings(label, annotation["segments_info"], categories)
        records.append(_record(metadata, images[key], annotation))
    findings += [
        ("image without annotation", f"{image.get('file_name')}: expected one, came none")
        for key, image in images.items()
        if key not in annotated
    ]
    if not content["images"]:
        findings.append(("no image", "expected at least one, came none"))
    return [record for record in records if record is not None]


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
    label: str, segments: Sequence[Any], categories: set[int]
) -> Iterator[Finding]:
    """Faults of the segments of one picture that the json alone shows."""
    seen = set()
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
        if segment["id"] in seen:
            yield (
                "segment id used twice in a picture",
                f"{label}: expected ids of their own, came {segment['id']} again",
            )
        seen.add(segment["id"])
        if segment["id"] == 0:
            yield (
                "segment with the id 0",
                f"{label}: expected an id from 1 on, came 0, which is void",
            )
        if segment["category_id"] not in categories:
            yield (
                "unknown category",
                f"{label}: segment {segment['id']}: expected a category_id of the json's "
                f"categories, came {segment['category_id']}",
            )


def _record(
    metadata: Any, image: Mapping[str, Any], annotation: Mapping[str, Any]
) -> Record | None:
    """The record of one picture; None where the json's faults leave nothing to compare with."""
    if not isinstance(image.get("file_name"), str):
        return None
    size = (image.get("width"), image.get("height"))
    segments = [s for s in annotation["segments_info"] if isinstance(s, dict)]
    return Record(
        os.path.join(metadata.image_root, image["file_name"]),
        os.path.join(metadata.panoptic_root, annotation["file_name"]),
        size if all(isinstance(side, int) for side in size) else None,
        {s["id"]: s.get("area") for s in segments if isinstance(s.get("id"), int)},
    )


def _records_of_dicts(dicts: Sequence[Mapping[str, Any]]) -> list[Record]:
    return [
        Record(
            entry["file_name"],
            entry["pan_seg_file_name"],
            (entry["width"], entry["height"]) if "width" in entry and "height" in entry else None,
            {segment["id"]: segment.get("area") for segment in entry["segments_info"]},
        )
        for entry in dicts
    ]


def _compare_categories(first: str, other: str) -> str:
    """Says where the classes of two datasets differ, "" where they do not."""
    mine, theirs = _classes(first), _classes(other)
    if mine == theirs:
        return ""
    rows = max(len(mine), len(theirs))
    mine, theirs = (classes + ["no class"] * (rows - len(classes)) for classes in (mine, theirs))
    findings = [
        ("category that differs", f"position {index}: expected {expected}, came {came}")
        for index, (expected, came) in enumerate(zip(mine, theirs, strict=True))
        if expected != came
    ]
    report = _report(other, MetadataCatalog.get(other).panoptic_json, findings)
    return f"{report}\n  expected are the categories of '{first}', in their order"


def _classes(name: str) -> list[str]:
    metadata = MetadataCatalog.get(name)
    things = set(metadata.thing_dataset_id_to_contiguous_id.values())
    return [
        f"'{text}' ({'thing' if index in things else 'stuff'})"
        for index, text in enumerate(metadata.stuff_classes)
    ]
