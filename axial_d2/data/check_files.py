"""Looks at the pictures and png files of a panoptic dataset, for `axial_d2.data.check_datasets`."""

import logging
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from axial_d2.panoptic.encoding import rgb_to_id

from .datasets.coco_panoptic import missing_file_hint

logger = logging.getLogger(__name__)

_EXIF_ORIENTATION = 274  # https://www.exiv2.org/tags.html
_EXIF_SIDEWAYS = (5, 6, 7, 8)  # these turn by 90 degrees, so that height and width change places

Finding = tuple[str, str]  # kind of fault, and what was expected and what came


class Record(NamedTuple):
    """One picture with its truth, as far as the json is right about it."""

    image_file: str
    png_file: str
    size: tuple[int, int] | None  # (width, height) in pixels; None where the json has none
    areas: dict[int, int | None]  # pixels by segment id; None where the json has none


def check_files(name: str, records: Sequence[Record], max_decoded: int) -> list[Finding]:
    """Looks for all files and into those of at most `max_decoded` pictures."""
    chosen: Sequence[Record] = records
    if len(records) > max_decoded:
        chosen = random.Random(0).sample(records, max_decoded)
        logger.info(
            "'%s' has %d pictures: all files are looked for, a sample of %d (seeded, the same "
            "every time) is decoded.",
            name, len(records), max_decoded,
        )  # fmt: skip
    # Threads suffice: Pillow and numpy let go of the interpreter lock while they work.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        missing = list(pool.map(_missing_files, records))
        faults = list(pool.map(_pixel_findings, chosen))
    return [finding for findings in missing + faults for finding in findings]


def _missing_files(record: Record) -> list[Finding]:
    kinds = {"picture that is missing": record.image_file, "png that is missing": record.png_file}
    return [
        (kind, missing_file_hint(path)) for kind, path in kinds.items() if not os.path.isfile(path)
    ]


def _pixel_findings(record: Record) -> list[Finding]:
    """Decodes picture and png of one record and compares them with the json."""
    if not (os.path.isfile(record.image_file) and os.path.isfile(record.png_file)):
        return []  # reported already
    try:
        size, turned = decode_picture(record.image_file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return [("picture that cannot be read", f"{record.image_file}: {error}")]
    findings = []
    if record.size not in (None, size):
        hint = " after it is turned as its EXIF says" if turned else ""
        findings.append(
            (
                "picture whose size differs from the json",
                f"{record.image_file}: expected {_text(record.size)}, came {_text(size)}{hint} "
                "(width x height)",
            )
        )
    try:
        with Image.open(record.png_file) as png:
            mode = png.mode
            colors = np.asarray(png.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return [*findings, ("png that cannot be read", f"{record.png_file}: {error}")]
    png_size = (colors.shape[1], colors.shape[0])
    if png_size != size:  # the areas would all differ too, which says nothing new
        text = f"expected {_text(size)}, came {_text(png_size)} (width x height)"
        kind = "png whose size differs from the picture"
        return [*findings, (kind, f"{record.png_file}: {text}")]
    if mode not in ("RGB", "RGBA", "P"):
        text = "expected colours with id = R + 256 G + 65536 B (mode RGB)"
        return [*findings, ("png not in colours", f"{record.png_file}: {text}, came mode {mode}")]
    return [*findings, *_id_findings(record, colors)]


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def decode_picture(path: str) -> tuple[tuple[int, int], bool]:
    """Decodes a picture; gives its (width, height) after EXIF rotation and if it was turned."""
    with Image.open(path) as picture:
        turned = picture.getexif().get(_EXIF_ORIENTATION) in _EXIF_SIDEWAYS
        size = picture.size[::-1] if turned else picture.size
        # An eighth of the size is all that is asked of a jpeg's decoder: it reads all of the file
        # and so notices a truncated one, in half of the time.
        picture.draft(None, (max(1, picture.width // 8), max(1, picture.height // 8)))
        picture.load()
    return size, turned


def _id_findings(record: Record, colors: np.ndarray) -> Iterator[Finding]:
    """Compares the ids and areas of a png, (H, W, 3), with the json's segments."""
    ids = rgb_to_id(colors).ravel()
    # Runs of equal ids are few, so that sorting them costs little.
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    values, inverse = np.unique(ids[starts], return_inverse=True)
    lengths = np.diff(np.append(starts, ids.size))
    counted = np.bincount(inverse, lengths).astype(np.int64).tolist()
    areas = dict(zip(values.tolist(), counted, strict=True))
    file = record.png_file
    for segment, area in record.areas.items():
        if segment not in areas:
            yield (
                "segment that is not in the png",
                f"{file}: expected pixels with the id {segment} of the json, came none",
            )
        elif isinstance(area, int | float) and area != areas[segment]:
            yield (
                "segment whose area differs (PQ is computed from the json's)",
                f"{file}: segment {segment}: expected {areas[segment]} pixels, came {area}",
            )
    for segment, area in areas.items():
        if segment != 0 and segment not in record.areas:
            yield (
                "id in the png that is not in the json",
                f"{file}: expected the ids of the json (or 0, void), came {segment} on {area} "
                "pixels",
            )
