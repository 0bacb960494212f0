"""Looks for faults in datasets before hours are spent on training with them."""

import logging
import os
import random
import time
from collections.abc import Iterable, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..classes import is_segmentation, segment_classes
from ..datasets.image_folder import is_image_folder
from ..datasets.own import file_stamp
from ..parallel import in_threads
from .findings import FATAL, Finding, Tally
from .folders import class_findings, folder_findings
from .pictures import Record, examine, missing_files
from .records import read_records

logger = logging.getLogger(__name__)

# Decoding takes about 10 ms a picture and core: 2000 are done in well under a minute.
MAX_DECODED = 2000
_WORKERS = min(8, os.cpu_count() or 1)

# Datasets found right in this process, each with the version of its json.
_passed: set[tuple] = set()


def check_datasets(names: Iterable[str], *, max_decoded: int = MAX_DECODED) -> None:
    """Makes sure that datasets of segmentation, and those of class folders, are whole and agree.

    Of a dataset of segmentation the json and the presence of every file are always checked. Picture
    and truth are decoded for all up to `max_decoded` pictures, and for a seeded sample of that many
    where there are more. A dataset that was found right is not looked at again in this process
    until its json changes. Of class folders the names are compared, and the first picture of each
    is decoded. Datasets of other kinds are passed over. `examine_datasets` looks at everything.

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
    folders = [name for name in names if is_image_folder(name)]
    segmented = [n for n in names if n not in folders and (is_segmentation(n) or _has_json(n))]
    for name in names:
        if name not in segmented and name not in folders:
            logger.info("The dataset '%s' is not one of segmentation and is not checked.", name)
    reports = [_check_dataset(name, max_decoded) for name in segmented]
    reports += [_compare_categories(segmented[0], name) for name in segmented[1:]]
    reports += [_check_folders(folders[0], name, max_decoded) for name in folders]
    sections = [text for text, _ in reports if text]
    if sections:
        hopeless = any(kinds & FATAL for _, kinds in reports)
        sections.append(
            "Right the data."
            if hopeless
            else "Right the data, or set DATASETS.CHECK False to train all the same."
        )
        raise ValueError("\n".join(sections))


def _has_json(name: str) -> bool:
    return "panoptic_json" in vars(MetadataCatalog.get(name))


def _check_dataset(name: str, max_decoded: int) -> tuple[str, set[str]]:
    """Checks one dataset; gives the report of its faults, "" where there are none, and kinds."""
    metadata = MetadataCatalog.get(name)
    json = metadata.get("panoptic_json", "")
    # Roots are in the key too: one json may be registered with other folders.
    key = (name, metadata.get("image_root"), metadata.get("panoptic_root"), json, max_decoded)
    key += file_stamp(json) if os.path.isfile(json) else ()
    if key in _passed:
        return "", set()
    start = time.perf_counter()
    tally = Tally()
    try:
        records = read_records(name, tally)
        classes = segment_classes(name)
    except (ValueError, OSError) as error:
        tally.add_one("the dataset cannot be loaded", str(error))
        return report(name, json, tally)
    empty = [r.image_file for r in records if r.png_file is not None and not r.segments]
    if empty:
        logger.warning(
            "'%s': %d of %d pictures have no segment, the first: %s",
            name, len(empty), len(records), empty[0],
        )  # fmt: skip
    whole = []
    for record in records:
        missing = missing_files(record)
        tally.add(missing)
        if not missing:
            whole.append(record)
    chosen = _chosen(name, whole, max_decoded)
    for _, facts in in_threads(lambda record: examine(record, classes), chosen, _WORKERS):
        if isinstance(facts, Exception):
            raise facts
        tally.add(facts.findings)
    if tally.kinds(warnings=False):
        return report(name, json, tally)
    # What depends on files whose versions are not known is looked at again.
    if json:
        _passed.add(key)
    seconds = time.perf_counter() - start
    logger.info("'%s': %d pictures, no fault found in %.1f s.", name, len(records), seconds)
    return "", set()


def _chosen(name: str, records: Sequence[Record], max_decoded: int) -> Sequence[Record]:
    """The pictures that are decoded."""
    if len(records) <= max_decoded:
        return records
    logger.info(
        "'%s' has %d pictures: all files are looked for, a sample of %d (seeded, the same every "
        "time) is decoded.",
        name, len(records), max_decoded,
    )  # fmt: skip
    return random.Random(0).sample(records, max_decoded)


def _check_folders(first: str, name: str, max_decoded: int) -> tuple[str, set[str]]:
    """As `_check_dataset`, for one of class folders; they are compared with those of `first`."""
    tally = Tally(folder_findings(name, max_decoded))
    if not tally.counts and name != first:
        tally.add(class_findings(first, name))
    return report(name, MetadataCatalog.get(name).get("image_root", ""), tally)


def report(name: str, source: str, tally: Tally) -> tuple[str, set[str]]:
    """The faults by kind, each with its number and the first few examples.

    Args:
        name: of the dataset.
        source: its json or folder.
        tally: what was found; warnings are left out.

    Returns:
        The text, "" without any fault, and the kinds.
    """
    kinds = tally.kinds(warnings=False)
    if not kinds:
        return "", set()
    lines = [f"The data of '{name}' ({source}) are not right:", *tally.lines(kinds)]
    return "\n".join(lines), set(kinds)


def _compare_categories(first: str, other: str) -> tuple[str, set[str]]:
    """Says where the classes of two datasets differ, "" where they do not."""
    findings = category_findings(first, other)
    if not findings:
        return "", set()
    source = MetadataCatalog.get(other).get("panoptic_json", "")
    text, kinds = report(other, source, Tally(findings))
    return f"{text}\n  expected are the categories of '{first}', in their order", kinds


def category_findings(first: str, other: str) -> list[Finding]:
    """Says where the classes of two datasets differ.

    Of a dataset that tells no instances apart the names alone count: all that it has is stuff, and
    it scores the classes of things all the same.

    Args:
        first: the dataset whose classes are expected.
        other: the one that is compared with it.

    Returns:
        A finding for each position that differs; none where the classes of either are not known,
        which other findings tell.
    """
    try:
        kinds = segment_classes(other).truth != "semantic"
        mine, theirs = _classes(first, kinds), _classes(other, kinds)
    except (ValueError, OSError):
        return []
    if mine == theirs:
        return []
    rows = max(len(mine), len(theirs))
    mine, theirs = (classes + ["no class"] * (rows - len(classes)) for classes in (mine, theirs))
    return [
        ("category that differs", f"position {index}: expected {expected}, came {came}")
        for index, (expected, came) in enumerate(zip(mine, theirs, strict=True))
        if expected != came
    ]


def _classes(name: str, kinds: bool) -> list[str]:
    """The names of the classes, with their kinds where these are wanted."""
    classes = segment_classes(name)
    return [
        f"'{text}' ({'thing' if index in classes.thing_ids else 'stuff'})" if kinds else f"'{text}'"
        for index, text in enumerate(classes.names)
    ]
