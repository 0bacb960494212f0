"""Looks into folders of classes: a picture of each, or all of them."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from detectron2.data import MetadataCatalog
from tqdm import tqdm

from ..datasets.image_folder import classes_of, empty_folders, pictures_of, some
from ..parallel import in_threads
from .between import Duplicates
from .findings import Finding, Tally, describe
from .pictures import decode_picture
from .report import DatasetReport

logger = logging.getLogger(__name__)


def folder_findings(name: str, max_decoded: int) -> list[Finding]:
    """Looks for a picture in each class folder and decodes it.

    That costs a thousand pictures for ImageNet; to decode, or only to list, its million would take
    longer than what it might save.

    Args:
        name: of a registered dataset of class folders.
        max_decoded: how many pictures are decoded at most.

    Returns:
        The faults found.
    """
    try:
        classes = classes_of(name)
    except ValueError as error:
        return [("the dataset cannot be loaded", str(error))]
    root = MetadataCatalog.get(name).get("image_root")
    if root is None:
        logger.info("The dataset '%s' has no image_root, so its pictures are not checked.", name)
        return []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        first = list(pool.map(lambda folder: next(pictures_of(root, folder), None), classes))
        empty = [folder for folder, path in zip(classes, first, strict=True) if path is None]
        if empty:
            return [("class folder without a picture", empty_folders(root, empty))]
        faults = list(pool.map(_picture_findings, first[:max_decoded]))
    findings = [finding for found in faults for finding in found]
    if not findings:
        logger.info("'%s': %d classes, no fault found in a picture of each.", name, len(classes))
    return findings


def _picture_findings(path: str) -> list[Finding]:
    return _look((path, path))[0]


def _look(item: tuple[str, str], *, digest: bool = False) -> tuple[list[Finding], bytes | None]:
    """Decodes a picture, given with its folder."""
    path = item[1]
    try:
        return [], decode_picture(path, digest=digest)[2]
    except Exception as error:  # a damaged file makes some of Pillow's decoders raise any
        return [("picture that cannot be read", f"{path}: {describe(error)}")], None


def examine_folders(
    name: str, expected: str, workers: int, tally: Tally, duplicates: Duplicates
) -> DatasetReport:
    """Decodes every picture of a dataset of class folders, under a progress bar.

    Args:
        name: of the dataset.
        expected: the dataset whose classes it should have.
        workers: threads.
        tally: the faults are added to it.
        duplicates: the pictures of all datasets so far.

    Returns:
        What was found; after Ctrl-C, so far.
    """
    root = MetadataCatalog.get(name).get("image_root")
    try:
        classes = classes_of(name)
        if root is None:
            raise ValueError(f"the dataset '{name}': expected image_root in its metadata")
    except ValueError as error:
        tally.add_one("the dataset cannot be loaded", str(error))
        return DatasetReport(name, root or "", 0, tally)
    if name != expected:
        tally.add(class_findings(expected, name))
    counts = dict.fromkeys(classes, 0)
    stopped = False

    def look(item: tuple[str, str]) -> tuple[list[Finding], bytes | None]:
        return _look(item, digest=True)

    with tqdm(desc=name, unit=" pictures", dynamic_ncols=True) as bar:
        try:
            files = ((folder, path) for folder in classes for path in pictures_of(root, folder))
            for (folder, path), seen in in_threads(look, files, workers):
                assert not isinstance(seen, Exception)
                findings, digest = seen
                tally.add(findings)
                if digest is not None:
                    tally.add(duplicates.add(name, path, digest))
                counts[folder] += 1
                bar.update()
        except KeyboardInterrupt:
            stopped = True
    empty = [folder for folder, count in counts.items() if not count]
    if empty and not stopped:
        tally.add_one("class folder without a picture", empty_folders(root, empty))
    return DatasetReport(name, root, sum(counts.values()), tally, folders=counts, stopped=stopped)


def class_findings(first: str, other: str) -> Iterator[Finding]:
    """Says which class folders only one of two datasets has.

    Args:
        first: the dataset whose classes are expected.
        other: the one that is compared with it.

    Yields:
        One finding; none where the classes are the same, or where those of `first` are not known,
        which its own check tells.
    """
    try:
        expected = classes_of(first)
    except ValueError:
        return
    came = classes_of(other)
    differences = [
        f"{title} {some(names)}"
        for title, names in (
            ("lacks", sorted({*expected} - {*came})),
            ("has besides", sorted({*came} - {*expected})),
        )
        if names
    ]
    if differences:
        text = f"expected the {len(expected)} class folders of '{first}'; {', '.join(differences)}"
        yield "class folders that differ", text
