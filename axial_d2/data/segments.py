"""The truth of a picture as panoptic segments, from whatever files a dataset has.

A dataset dict may name a panoptic png (``pan_seg_file_name`` with ``segments_info``; ids under
``void_segments`` are no truth), a mask of
classes (``sem_seg_file_name``), a mask of instances (``instance_file_name``), or carry
``annotations`` (polygons or run-length codes, as COCO's). All become one map of segment ids, so
that targets, evaluation and pictures know one form.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from axial_d2.panoptic.encoding import compact_ids, id_to_rgb, rgb_to_id

from .classes import SegmentClasses
from .pictures import read_labels, read_picture, size_text

#: Keys of a dataset dict that say where the truth is.
TRUTH_FILES = ("pan_seg_file_name", "sem_seg_file_name", "instance_file_name", "annotations")
# A polygon may reach out of the picture, but no picture is as large as this, in pixels.
_FARTHEST = 1_000_000


class Segments(NamedTuple):
    """The truth of one picture.

    Attributes:
        colors: (H, W, 3) uint8; the segment's id is R + 256 G + 65536 B, 0 is void.
        segments_info: per segment ``id``, ``category_id`` (contiguous), ``iscrowd`` (0 or 1),
            ``isthing``, and ``area`` (pixels) where it is known.
    """

    colors: np.ndarray
    segments_info: list[dict[str, Any]]

    def ids(self) -> np.ndarray:
        """(H, W) int32 segment ids."""
        return rgb_to_id(self.colors)


def has_truth(record: Mapping[str, Any]) -> bool:
    """Whether a dataset dict names a truth that `read_segments` can read."""
    return any(key in record for key in TRUTH_FILES)


def truth_file(record: Mapping[str, Any]) -> str:
    """The file that the truth of a dataset dict stands in, for messages."""
    for key in ("pan_seg_file_name", "sem_seg_file_name"):
        if key in record:
            return record[key]
    return record["file_name"]


def knows_instances(record: Mapping[str, Any]) -> bool:
    """Whether the truth of a dataset dict tells instances apart; that of mere classes does not."""
    return any(key in record for key in ("pan_seg_file_name", "instance_file_name", "annotations"))


def read_segments(record: Mapping[str, Any], classes: SegmentClasses) -> Segments:
    """Reads the truth of one picture.

    Where masks of classes and instances are put together, an instance lies above the classes, and
    of annotations the smaller above the larger, crowds below all. A pixel of a thing class that no
    instance covers is part of a crowd of that class. Where there are instances alone, all else is
    the last class, "background".

    Args:
        record: a dataset dict.
        classes: of its dataset.

    Returns:
        Its segments; a panoptic png's as its json has them, all others those that have pixels.

    Raises:
        ValueError: a file that cannot be read, whose size differs from the others', or that holds a
            value which is no class; no truth at all. The error names the file.
    """
    if "pan_seg_file_name" in record:
        colors = read_picture(record["pan_seg_file_name"], "RGB")
        if record.get("void_segments"):
            colors = np.array(colors)
            colors[np.isin(rgb_to_id(colors), record["void_segments"])] = 0
        things = classes.thing_ids
        infos = [
            {**segment, "isthing": segment["category_id"] in things}
            for segment in record["segments_info"]
        ]
        return Segments(colors, infos)
    builder = _Builder(classes)
    if "sem_seg_file_name" in record:
        labels = read_classes(record["sem_seg_file_name"], classes)
        builder.start(labels)
        if "instance_file_name" in record:
            builder.add_mask(labels, _read_instances(record, labels.shape))
    elif "annotations" in record:
        builder.start(np.full(_size(record), len(classes.names) - 1))
    else:
        raise ValueError(f"{record.get('file_name')}: the dataset has no truth for this picture")
    if "annotations" in record:
        builder.add_annotations(record)
    return builder.finish()


def read_classes(path: str, classes: SegmentClasses) -> np.ndarray:
    """Reads a mask of classes.

    Args:
        path: of the mask: values, or the classes' colours.
        classes: of its dataset.

    Returns:
        (H, W) int64 contiguous ids; -1 where there is no truth.

    Raises:
        ValueError: it cannot be read, or holds a value or colour that no class has.
    """
    found = read_labels(path)
    in_colors = found.ndim == 3
    if in_colors:
        known = {_number(color): index for index, color in enumerate(classes.colors)}
        known.setdefault(0, -1)  # black
        found = rgb_to_id(found)
    elif classes.values is None:
        known = {index: index for index in range(len(classes.names))}
        known[classes.ignore_label] = -1
    else:
        known = dict(classes.values)
    present, index = compact_ids(found)
    unknown = [value for value in present.tolist() if value not in known]
    if unknown:
        raise ValueError(_unknown_value(path, unknown[0], found, known, in_colors=in_colors))
    return np.array([known[value] for value in present.tolist()])[index]


def _unknown_value(
    path: str, value: int, found: np.ndarray, known: Mapping[int, int], *, in_colors: bool
) -> str:
    pixels = int((found == value).sum())
    if in_colors:
        color = [value % 256, value // 256 % 256, value // 65536]
        return (
            f"the mask {path}: expected the colours of the classes (black where there is no "
            f"truth), came {color} on {pixels} pixels"
        )
    return f"the mask {path}: expected the values {_ranges(known)}, came {value} on {pixels} pixels"


def _ranges(values: Mapping[int, int]) -> str:
    """Whole numbers in words: 0-18, 255."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _number(color: Sequence[int]) -> int:
    return color[0] + 256 * color[1] + 65536 * color[2]


def _read_instances(record: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray:
    path = record["instance_file_name"]
    found = read_labels(path)
    numbers = rgb_to_id(found) if found.ndim == 3 else found
    if numbers.min(initial=0) < 0:
        raise ValueError(f"the mask {path}: expected numbers from 0 on, came {numbers.min()}")
    if numbers.shape != size:
        raise ValueError(
            f"the mask {path}: expected {size[1]}x{size[0]}, the size of "
            f"{record['sem_seg_file_name']}, came {size_text(numbers)} (width x height)"
        )
    return numbers


def _size(record: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of the picture, from the dict or, where it has none, from the file."""
    if "height" in record and "width" in record:
        return int(record["height"]), int(record["width"])
    return read_picture(record["file_name"], "RGB").shape[:2]


def annotation_mask(
    annotation: Mapping[str, Any], size: tuple[int, int], file_name: str
) -> np.ndarray:
    """The pixels of one instance.

    Args:
        annotation: with ``segmentation``: polygons (those of fewer than three points have no
            pixels, as in Detectron2), a run-length code, or a (H, W) array.
        size: (height, width) of the picture, in pixels.
        file_name: of the picture, for the error.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: it has no segmentation, or one that cannot be read or is of another size.
    """
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, np.ndarray):
        mask = segmentation.astype(bool)
    elif not segmentation:
        raise ValueError(f"{file_name}: expected a segmentation in each annotation, came none")
    else:
        code = copy.copy(segmentation)  # pycocotools may write into what it is given
        try:
            if isinstance(code, list):
                # Of fewer than three points none is a polygon; four numbers would pass for a box.
                polygons = [_numbers(p) for p in code if len(p) % 2 == 0 and len(p) >= 6]
                if not polygons:
                    return np.zeros(size, dtype=bool)
                code = rle.merge(rle.frPyObjects(polygons, *size))
            elif isinstance(code["counts"], list):
                if sum(code["counts"]) != math.prod(code["size"]):
                    raise ValueError(f"{sum(code['counts'])} pixels of {code['size']}")
                code = rle.frPyObjects(code, *code["size"])
            mask = rle.decode(code).astype(bool)
        except Exception as error:  # pycocotools raises bare ones
            raise ValueError(
                f"{file_name}: a segmentation that is neither polygons nor a run-length code: "
                f"{error}"
            ) from error
    if mask.shape != tuple(size):
        raise ValueError(
            f"{file_name}: expected segmentations of {size[1]}x{size[0]}, came {size_text(mask)} "
            "(width x height)"
        )
    return mask


def _numbers(polygon: Sequence[Any]) -> list[float]:
    """Makes sure of it: pycocotools brings the process down over texts and over huge numbers."""
    if not all(isinstance(x, int | float) and abs(x) <= _FARTHEST for x in polygon):  # and no nan
        raise ValueError(
            f"expected numbers from -{_FARTHEST} to {_FARTHEST} in a polygon, came {polygon}"
        )
    return [float(x) for x in polygon]


class _Builder:
    """Numbers segments from 1 on, later ones above earlier ones."""

    def __init__(self, classes: SegmentClasses):
        self._classes = classes
        self._things = set(classes.thing_ids)
        self._infos: list[dict[str, Any]] = []

    def start(self, labels: np.ndarray) -> None:
        """A segment for each class; those of things are crowds."""
        self._ids: np.ndarray = np.zeros(labels.shape, dtype=np.int32)
        table = np.zeros(len(self._classes.names) + 1, dtype=np.int32)  # the last one for -1
        for category in np.unique(labels[labels >= 0]).tolist():
            table[category] = self._new(category, crowd=category in self._things)
        self._ids = table[labels]  # (H, W)

    def add_mask(self, labels: np.ndarray, numbers: np.ndarray) -> None:
        """Instances from a mask: one for each pair of a thing class and a number that is not 0."""
        things = np.isin(labels, self._classes.thing_ids) & (numbers != 0)
        keys = labels[things].astype(np.int64) * 2**32 + numbers[things]
        present, inverse = np.unique(keys, return_inverse=True)
        own = [self._new(int(key >> 32), crowd=False) for key in present]
        self._ids[things] = np.array(own, dtype=np.int32)[inverse]

    def add_annotations(self, record: Mapping[str, Any]) -> None:
        """Instances from polygons or codes: crowds below, the smaller above the larger."""
        size = self._ids.shape
        masks = [annotation_mask(a, size, record["file_name"]) for a in record["annotations"]]
        crowds = [int(a.get("iscrowd", 0)) for a in record["annotations"]]
        order = sorted(range(len(masks)), key=lambda i: (-crowds[i], -int(masks[i].sum())))
        for index in order:
            category = record["annotations"][index]["category_id"]
            if category not in self._things:
                raise ValueError(
                    f"{record['file_name']}: expected the category_id of a thing in each "
                    f"annotation, came {category!r}"
                )
            self._ids[masks[index]] = self._new(category, crowd=bool(crowds[index]))

    def _new(self, category: int, *, crowd: bool) -> int:
        self._infos.append(
            {
                "id": len(self._infos) + 1,
                "category_id": category,
                "iscrowd": int(crowd),
                "isthing": category in self._things,
            }
        )
        return len(self._infos)

    def finish(self) -> Segments:
        """What has pixels."""
        areas = np.bincount(self._ids.ravel(), minlength=len(self._infos) + 1).tolist()
        infos = [{**info, "area": areas[info["id"]]} for info in self._infos if areas[info["id"]]]
        return Segments(id_to_rgb(self._ids), infos)
