"""Panoptic quality, counted picture by picture (Kirillov et al., CVPR 2019).

The counting is that of panopticapi, which cityscapesscripts carries too; a picture needs neither
files nor a list of all pictures, so that an evaluation keeps a few numbers of each.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from axial_d2.panoptic.encoding import compact_ids

_QUALITIES = ("pq", "sq", "rq")


class QualityCounts(NamedTuple):
    """What the panoptic quality of a class is made of.

    Attributes:
        iou: sum over the matched pairs.
        tp: matched pairs.
        fp: predicted segments without a partner.
        fn: true segments without a partner.
    """

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def plus(self, other: "QualityCounts") -> "QualityCounts":
        """The counts of both."""
        return QualityCounts(
            self.iou + other.iou, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn
        )


def count_matches(
    truth: np.ndarray,
    truth_segments: Sequence[Mapping[str, Any]],
    predicted: np.ndarray,
    predicted_segments: Sequence[Mapping[str, Any]],
) -> dict[int, QualityCounts]:
    """Matches the segments of one picture.

    A pair of one class matches where its intersection is more than half of its union, less what of
    the prediction is void in the truth. Crowds match nothing. A predicted segment that lies by more
    than half on void, and on the crowd of its class (the last one listed), is no mistake.

    Args:
        truth: (H, W) integer segment ids; ids that are not listed are void.
        truth_segments: mappings with `id`, `category_id` and perhaps `iscrowd`, and `area` in
            pixels (the map's where missing). One without a pixel is one that was not found.
        predicted: (H, W) integer segment ids, 0 void.
        predicted_segments: mappings with `id` and `category_id`.

    Returns:
        The counts by class, of those that occur in either, crowds aside.

    Raises:
        ValueError: the maps differ in size, an id of `predicted` is not listed, or one that is
            listed has no pixel.
    """
    if truth.ndim != 2 or truth.shape != predicted.shape:
        raise ValueError(
            f"predicted must have the truth's size (height, width) = {truth.shape}; got "
            f"{predicted.shape}"
        )
    table = _Overlaps(truth, predicted)
    true = {segment["id"]: segment for segment in truth_segments}
    found = {segment["id"]: segment for segment in predicted_segments}
    _check_listed(table.predicted_ids, found)
    counts: dict[int, QualityCounts] = {}

    def count(category: int, **more: Any) -> None:
        counts[category] = counts.get(category, QualityCounts()).plus(QualityCounts(**more))

    void = table.on_void(true)
    matched_true, matched_found = set(), set()
    for a, b, intersection in table.pairs():
        if a not in true or b not in found or true[a].get("iscrowd", 0):
            continue
        category = true[a]["category_id"]
        if category != found[b]["category_id"]:
            continue
        area = true[a].get("area")
        area = table.true_area[a] if area is None else area
        union = table.predicted_area[b] + area - intersection - void.get(b, 0)
        if intersection > 0.5 * union:
            count(category, iou=intersection / union, tp=1)
            matched_true.add(a)
            matched_found.add(b)
    crowds = {}
    for key, segment in true.items():
        if segment.get("iscrowd", 0):
            crowds[segment["category_id"]] = key
        elif key not in matched_true:
            count(segment["category_id"], fn=1)
    for key, segment in found.items():
        if key in matched_found:
            continue
        forgiven = void.get(key, 0)
        if segment["category_id"] in crowds:
            forgiven += table.overlap(crowds[segment["category_id"]], key)
        if forgiven <= 0.5 * table.predicted_area[key]:
            count(segment["category_id"], fp=1)
    return counts


class _Overlaps:
    """How many pixels each pair of a true and a predicted segment shares."""

    def __init__(self, truth: np.ndarray, predicted: np.ndarray):
        true_ids, a = compact_ids(truth)
        predicted_ids, b = compact_ids(predicted)
        self.true_ids, self.predicted_ids = true_ids.tolist(), predicted_ids.tolist()
        rows, columns = len(self.true_ids), len(self.predicted_ids)
        pairs = np.bincount((a * columns + b).ravel(), minlength=rows * columns)
        self._table = pairs.reshape(rows, columns)
        self._row = {key: index for index, key in enumerate(self.true_ids)}
        self._column = {key: index for index, key in enumerate(self.predicted_ids)}
        self.true_area = dict(zip(self.true_ids, self._table.sum(1).tolist(), strict=True))
        areas = self._table.sum(0).tolist()
        self.predicted_area = dict(zip(self.predicted_ids, areas, strict=True))

    def pairs(self) -> Iterable[tuple[int, int, int]]:
        """(true id, predicted id, pixels), for those that share any."""
        for row, column in zip(*np.nonzero(self._table), strict=True):
            yield self.true_ids[row], self.predicted_ids[column], int(self._table[row, column])

    def overlap(self, a: int, b: int) -> int:
        if a not in self._row or b not in self._column:
            return 0
        return int(self._table[self._row[a], self._column[b]])

    def on_void(self, true: Mapping[int, Any]) -> dict[int, int]:
        """Pixels of each predicted segment that have the id 0 in the truth."""
        if 0 not in self._row or 0 in true:
            return {}
        pixels = self._table[self._row[0]].tolist()
        return dict(zip(self.predicted_ids, pixels, strict=True))


def _check_listed(present: Sequence[int], found: Mapping[int, Any]) -> None:
    unknown = [key for key in present if key != 0 and key not in found]
    if unknown:
        raise ValueError(f"predicted holds segment ids that its segments lack: {unknown[:5]}")
    absent = sorted(set(found) - set(present))
    if absent:
        raise ValueError(f"predicted holds no pixel of segments that are listed: {absent[:5]}")


def sum_counts(counts: Iterable[Mapping[int, QualityCounts]], classes: int) -> list[QualityCounts]:
    """Adds up pictures.

    Args:
        counts: of each picture, by class 0..classes-1.
        classes: how many there are.

    Returns:
        The counts of each class.
    """
    total = [QualityCounts()] * classes
    for picture in counts:
        for category, each in picture.items():
            total[category] = total[category].plus(each)
    return total


def panoptic_quality(total: Sequence[QualityCounts], thing_ids: Iterable[int]) -> dict[str, Any]:
    """PQ, SQ and RQ from the counts of all classes (equations 1 and 2 of the paper).

    Args:
        total: the counts of each class, as `sum_counts` gives them.
        thing_ids: the classes that are things.

    Returns:
        "All", "Things", "Stuff": pq, sq, rq in 0..1 (nan where no class occurs) and n, how many
        classes occur in the truth or in a prediction; "per_class": a list by class with pq, sq, rq
        (nan for a class that does not occur), tp, fp and fn.
    """
    per_class = []
    for iou, tp, fp, fn in total:
        pairs = tp + 0.5 * fp + 0.5 * fn
        nan = float("nan")
        values = (iou / pairs, iou / tp if tp else 0.0, tp / pairs) if pairs else (nan, nan, nan)
        per_class.append(
            {**dict(zip(_QUALITIES, values, strict=True)), "tp": tp, "fp": fp, "fn": fn}
        )
    things = set(thing_ids)
    return {
        "All": _average(per_class),
        "Things": _average([c for k, c in enumerate(per_class) if k in things]),
        "Stuff": _average([c for k, c in enumerate(per_class) if k not in things]),
        "per_class": per_class,
    }


def _average(classes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    occurring = [c for c in classes if c["tp"] + c["fp"] + c["fn"]]
    n = len(occurring)
    mean = {key: sum(c[key] for c in occurring) / n if n else float("nan") for key in _QUALITIES}
    return {**mean, "n": n}
