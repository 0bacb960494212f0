"""Looks at the picture and the truth of one record of a dataset."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image, ImageOps
from pycocotools import mask as rle

from axial_d2.panoptic.encoding import boxes_of, compact_ids, rgb_to_id

from ..classes import SegmentClasses
from ..datasets.coco_panoptic import missing_file_hint
from ..segments import read_segments
from .findings import Finding, describe

_EXIF_ORIENTATION = 274  # https://www.exiv2.org/tags.html
_EXIF_SIDEWAYS = (5, 6, 7, 8)  # these turn by 90 degrees, so that height and width change places


class SegmentRecord(NamedTuple):
    """What the json says of a segment; None where it does not."""

    area: int | None  # pixels
    bbox: Any  # left, top, width, height; as it stands in the json
    category: int | None  # contiguous id
    crowd: bool


#: Keys of a dataset dict that name masks.
MASK_FILES = ("sem_seg_file_name", "instance_file_name")
#: Of a segment that is there, but has no class.
UNKNOWN = SegmentRecord(None, None, None, False)


class Record(NamedTuple):
    """One picture with its truth, as far as the json is right about it."""

    image_file: str
    png_file: str | None  # None: the truth is of another form, in `entry`
    size: tuple[int, int] | None  # (width, height) in pixels; None where the json has none
    segments: dict[int, SegmentRecord]
    entry: Mapping[str, Any] | None = None  # the dataset dict


class Facts(NamedTuple):
    """What a look at one picture has shown.

    Attributes:
        findings: its faults.
        segments: (contiguous class, pixels, whether it is a crowd) of each.
        void: pixels without a class.
        pixels: of the truth.
        digest: of the picture's file; None where it was not asked for or cannot be read.
    """

    findings: list[Finding]
    segments: Sequence[tuple[int, int, bool]] = ()
    void: int = 0
    pixels: int = 0
    digest: bytes | None = None


def mask_files(record: Record) -> list[str]:
    """The masks of classes and instances that a record names."""
    entry = record.entry or {}
    return [os.fspath(entry[key]) for key in MASK_FILES if key in entry]


def missing_files(record: Record) -> list[Finding]:
    """Says which files of a record are not there.

    Args:
        record: of one picture.

    Returns:
        A finding for each that is missing.
    """
    files = [("picture that is missing", record.image_file)]
    if record.png_file is not None:
        files.append(("png that is missing", record.png_file))
    for path in mask_files(record):
        files.append(("mask that is missing", path))
    return [(kind, missing_file_hint(path)) for kind, path in files if not os.path.isfile(path)]


def examine(record: Record, classes: SegmentClasses, *, digest: bool = False) -> Facts:
    """Decodes picture and truth of one record and compares them with the json.

    Args:
        record: of one picture, whose files are there (see `missing_files`).
        classes: of its dataset.
        digest: whether to make one of the picture's file.

    Returns:
        What was found.
    """
    try:
        size, turned, mark = decode_picture(record.image_file, digest=digest)
    except Exception as error:  # a damaged file makes some of Pillow's decoders raise any
        text = f"{record.image_file}: {describe(error)}"
        return Facts([("picture that cannot be read", text)])
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
    if record.png_file is None:
        facts = _of_segments(record, classes, size)
    else:
        facts = _of_png(record, size)
    return facts._replace(findings=findings + facts.findings, digest=mark)


def _of_segments(record: Record, classes: SegmentClasses, size: tuple[int, int]) -> Facts:
    """The truth of masks and annotations, whose faults reading it shows."""
    assert record.entry is not None
    try:
        segments = read_segments(record.entry, classes)
    except (ValueError, OSError) as error:
        return Facts([("truth that cannot be read", str(error))])
    except (AttributeError, LookupError, TypeError) as error:  # of dicts from somebody's own loader
        text = f"{record.image_file}: {describe(error)}"
        return Facts([("truth that cannot be read", text)])
    came = segments.colors.shape[1], segments.colors.shape[0]
    if came != size:
        text = f"{record.image_file}: expected a truth of {_text(size)}, came {_text(came)}"
        return Facts([("truth whose size differs from the picture", f"{text} (width x height)")])
    found = [(s["category_id"], s["area"], bool(s["iscrowd"])) for s in segments.segments_info]
    pixels = size[0] * size[1]
    void = pixels - sum(area for _, area, _ in found)
    return Facts(list(_annotation_findings(record, size)), found, void, pixels)


def _of_png(record: Record, size: tuple[int, int]) -> Facts:
    """The truth of a panoptic png, compared with what the json says of it."""
    path = str(record.png_file)
    try:
        with Image.open(path) as png:
            mode = png.mode
            # Turned as training turns it.
            colors = np.asarray(ImageOps.exif_transpose(png).convert("RGB"))
    except Exception as error:
        return Facts([("png that cannot be read", f"{path}: {describe(error)}")])
    png_size = (colors.shape[1], colors.shape[0])
    if png_size != size:  # the areas would all differ too, which says nothing new
        text = f"expected {_text(size)}, came {_text(png_size)} (width x height)"
        return Facts([("png whose size differs from the picture", f"{path}: {text}")])
    if mode not in ("RGB", "RGBA", "P"):
        text = "expected colours with id = R + 256 G + 65536 B (mode RGB)"
        return Facts([("png not in colours", f"{path}: {text}, came mode {mode}")])
    present, index = compact_ids(rgb_to_id(colors))
    counted = np.bincount(index.ravel(), minlength=len(present)).tolist()
    areas = dict(zip(present.tolist(), counted, strict=True))
    findings = [*_id_findings(record, areas), *_box_findings(record, present.tolist(), index)]
    found = [
        (segment.category, areas[key], segment.crowd)
        for key, segment in record.segments.items()
        if key in areas and segment.category is not None
    ]
    pixels = size[0] * size[1]
    return Facts(findings, found, pixels - sum(area for _, area, _ in found), pixels)


def _text(size: tuple[int, int] | None) -> str:
    return "no size" if size is None else f"{size[0]}x{size[1]}"


def decode_picture(path: str, *, digest: bool) -> tuple[tuple[int, int], bool, bytes | None]:
    """Decodes a picture.

    Args:
        path: the file.
        digest: whether to make one of the file's content.

    Returns:
        (width, height) after EXIF rotation, whether it was turned by that, and the digest.

    Raises:
        OSError, or whatever Pillow raises over a damaged file.
    """
    mark = None
    if digest:
        with open(path, "rb") as file:
            mark = hashlib.blake2b(file.read(), digest_size=16).digest()
    with Image.open(path) as picture:
        turned = picture.getexif().get(_EXIF_ORIENTATION) in _EXIF_SIDEWAYS
        size = picture.size[::-1] if turned else picture.size
        # An eighth of the size is all that is asked of a jpeg's decoder: it reads all of the file
        # and so notices a truncated one, in half of the time.
        picture.draft(None, (max(1, picture.width // 8), max(1, picture.height // 8)))
        picture.load()
    return size, turned, mark


def _id_findings(record: Record, areas: Mapping[int, int]) -> Iterator[Finding]:
    """Compares the ids and areas of a png with the json's segments."""
    file = record.png_file
    for key, segment in record.segments.items():
        area = segment.area
        if key not in areas:
            yield (
                "segment that is not in the png",
                f"{file}: expected pixels with the id {key} of the json, came none",
            )
        elif isinstance(area, int | float) and area != areas[key]:
            yield (
                "segment whose area differs (PQ is computed from the json's)",
                f"{file}: segment {key}: expected {areas[key]} pixels, came {area}",
            )
    for key, area in areas.items():
        if key != 0 and key not in record.segments:
            yield (
                "id in the png that is not in the json",
                f"{file}: expected the ids of the json (or 0, void), came {key} on {area} pixels",
            )


def _box_findings(record: Record, present: list[int], index: np.ndarray) -> Iterator[Finding]:
    """Compares the json's boxes with those of the pixels."""
    for key, box in zip(present, boxes_of(index, len(present)), strict=True):
        segment = record.segments.get(key)
        if segment is None or segment.bbox is None or _listed(segment.bbox) == box:
            continue
        yield (
            "box that differs from the pixels",
            f"{record.png_file}: segment {key}: expected {box}, came {segment.bbox}",
        )


def _listed(box: Any) -> list[Any] | None:
    return list(box) if isinstance(box, Iterable) else None


def _annotation_findings(record: Record, size: tuple[int, int]) -> Iterator[Finding]:
    """Compares the boxes of instances with the extent of their polygons or codes."""
    assert record.entry is not None
    for index, annotation in enumerate(record.entry.get("annotations", ())):
        extent, box = _extent(annotation["segmentation"]), annotation.get("bbox")
        if extent is None or not _touches(extent, size):
            yield "instance without pixels", f"{record.image_file}: annotation {index}"
        elif (
            box is not None
            and annotation.get("bbox_mode") == BoxMode.XYWH_ABS
            and not _near(box, extent)
        ):
            expected = [round(value, 1) for value in extent]
            yield (
                "box that differs from the pixels",
                f"{record.image_file}: annotation {index}: expected about {expected}, came {box}",
            )


def _touches(extent: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether [left, top, width, height] has a part within a picture of (width, height)."""
    return all(
        begin < side and begin + length > 0
        for begin, length, side in zip(extent[:2], extent[2:], size, strict=True)
    )


def _extent(segmentation: Any) -> list[float] | None:
    """[left, top, width, height] of polygons, a code or an array; None: no pixels at all.

    `read_segments` has read the same segmentation, so its form is right.
    """
    if isinstance(segmentation, list):
        polygons = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
        points = [x for polygon in polygons for x in polygon]
        if not points:
            return None
        left, top = min(points[::2]), min(points[1::2])
        return [left, top, max(points[::2]) - left, max(points[1::2]) - top]
    if isinstance(segmentation, np.ndarray):
        segmentation = rle.encode(np.asfortranarray(segmentation, dtype=np.uint8))
    code: Any = dict(segmentation)
    if isinstance(code["counts"], list):
        code = rle.frPyObjects(code, *code["size"])
    box = rle.toBbox(code).tolist()
    return box if box[2] and box[3] else None


def _near(box: Any, extent: Sequence[float]) -> bool:
    """Whether edges are less than two pixels apart; programs round boxes in different ways."""
    try:
        (x, y, w, h), (left, top, width, height) = box, extent
        apart = (x - left, y - top, x + w - left - width, y + h - top - height)
        return all(abs(distance) < 2 for distance in apart)
    except (TypeError, ValueError):
        return False
