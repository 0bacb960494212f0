"""Looks into folders of classes, for `axial_d2.data.check_datasets`."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

from detectron2.data import MetadataCatalog
from PIL import Image

from ..datasets.image_folder import classes_of, empty_folders, pictures_of, some
from .findings import Finding
from .pictures import decode_picture

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
    try:
        decode_picture(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return [("picture that cannot be read", f"{path}: {error}")]
    return []


def class_findings(first: str, other: str) -> list[Finding]:
    """Says which class folders only one of two datasets has.

    Args:
        first: the dataset whose classes are expected.
        other: the one that is compared with it.

    Returns:
        One finding, or none where the classes are the same.
    """
    expected, came = classes_of(first), classes_of(other)
    differences = [
        f"{title} {some(names)}"
        for title, names in (
            ("lacks", sorted({*expected} - {*came})),
            ("has besides", sorted({*came} - {*expected})),
        )
        if names
    ]
    if not differences:
        return []
    text = f"expected the {len(expected)} class folders of '{first}'; {', '.join(differences)}"
    return [("class folders that differ", text)]
