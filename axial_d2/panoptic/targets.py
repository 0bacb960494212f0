"""Training targets of Panoptic-DeepLab from a panoptic map, in one pass over its pixels.

Every tensor equals that of Detectron2's `PanopticDeepLabTargetGenerator`, its treatment of crowd
regions included, unless asked otherwise.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from axial_d2.panoptic.checks import check_ids, check_positive

Crowd = Literal["masked", "none", "instance"]


class PanopticTargets:
    """Makes the targets of one picture after another with the same settings."""

    def __init__(
        self,
        *,
        ignore_label: int,
        thing_ids: Iterable[int],
        sigma: float = 8,
        ignore_stuff_in_offset: bool = False,
        small_instance_area: int = 0,
        small_instance_weight: float = 1,
        ignore_crowd_in_semantic: bool = False,
        crowd: Crowd = "masked",
    ) -> None:
        """Checks and keeps the settings.

        Args:
            ignore_label: class of pixels without truth.
            thing_ids: contiguous class ids of the things.
            sigma: spread of a centre's Gaussian, in pixels.
            ignore_stuff_in_offset: whether stuff has no weight in the offsets.
            small_instance_area: instances of fewer pixels count as small.
            small_instance_weight: weight of their pixels in the semantic loss (others: 1).
            ignore_crowd_in_semantic: whether crowd regions get ignore_label.
            crowd: what becomes of crowd regions of things. "masked", as in Detectron2: a centre and
                offsets are drawn but have no weight in the region (the Gaussian may reach beyond
                it, and teach there a centre that is none). "none", as in the paper: no centre, no
                offset. "instance": with weight, as one large instance, so that at inference a
                crowd's pixels gather in a segment of their own, which PQ forgives, and not in the
                instances around.

        Raises:
            ValueError: a value is out of range.
        """
        check_positive("sigma", sigma)
        if crowd not in get_args(Crowd):
            raise ValueError(f"crowd must be one of {get_args(Crowd)}, got {crowd!r}")
        if small_instance_area < 0 or small_instance_weight < 0:
            raise ValueError(
                "small_instance_area and small_instance_weight must be at least 0, got "
                f"{small_instance_area} and {small_instance_weight}"
            )
        self._settings: dict[str, Any] = {
            "ignore_label": ignore_label,
            "thing_ids": frozenset(check_ids("thing_ids", thing_ids)),
            "gaussian": gaussian_patch(sigma),
            "sigma": sigma,
            "ignore_stuff_in_offset": ignore_stuff_in_offset,
            "small_instance_area": small_instance_area,
            "small_instance_weight": small_instance_weight,
            "ignore_crowd_in_semantic": ignore_crowd_in_semantic,
            "crowd": crowd,
        }

    def __call__(
        self, panoptic: np.ndarray, segments_info: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The targets of one picture, see `panoptic_targets`."""
        return panoptic_targets(panoptic, segments_info, **self._settings)


def panoptic_targets(
    panoptic: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    *,
    ignore_label: int,
    thing_ids: Iterable[int],
    sigma: float = 8,
    gaussian: np.ndarray | None = None,
    ignore_stuff_in_offset: bool = False,
    small_instance_area: int = 0,
    small_instance_weight: float = 1,
    ignore_crowd_in_semantic: bool = False,
    crowd: Crowd = "masked",
) -> dict[str, Any]:
    """Targets of the three maps from a panoptic map (Panoptic-DeepLab, section 3.2).

    Args:
        panoptic: (H, W) integer segment ids. An id that is not listed is void: ignore_label, no
            weight in centres and offsets (but 1 in sem_seg_weights, as in Detectron2).
        segments_info: mappings with `id`, `category_id` (contiguous) and `iscrowd` (0 where
            missing). A segment without a pixel, say after a crop, is left out; of segments with
            the same id the last counts.
        gaussian: what `gaussian_patch(sigma)` gives, to make it once only.
        ignore_label, thing_ids, sigma, ignore_stuff_in_offset, small_instance_area,
            small_instance_weight, ignore_crowd_in_semantic, crowd: see `PanopticTargets`.

    Returns:
        A dict of
            sem_seg: (H, W) int64 classes;
            center: (H, W) float32, 0 to 1, the highest Gaussian of any instance;
            center_points: list of [y, x], the instances' centres of mass, in the list's order;
            offset: (2, H, W) float32, (dy, dx) to the centre of mass in pixels; 0 elsewhere;
            sem_seg_weights: (H, W) float32;
            center_weights, offset_weights: (1, H, W) float32, 1 or 0.

    Raises:
        TypeError: the map holds no integers.
        ValueError: it is not two-dimensional, or a segment lacks its id or category.
    """
    panoptic = np.asarray(panoptic)
    if panoptic.ndim != 2:
        raise ValueError(f"panoptic must have shape (H, W), got {panoptic.shape}")
    if not np.issubdtype(panoptic.dtype, np.integer):
        raise TypeError(f"panoptic must hold integer ids, got {panoptic.dtype}")
    height, width = panoptic.shape
    things = frozenset(thing_ids)
    patch = gaussian_patch(sigma) if gaussian is None else gaussian
    runs = _find_runs(panoptic)
    # Row s of each table belongs to the segment with the s-th id of the picture.
    number = {int(identity): s for s, identity in enumerate(runs.ids)}
    count = len(runs.ids)
    category: np.ndarray = np.full(count, ignore_label, dtype=np.int64)
    semantic_weight: np.ndarray = np.ones(count, dtype=np.float32)
    center_weight: np.ndarray = np.zeros(count, dtype=np.float32)
    offset_weight: np.ndarray = np.zeros(count, dtype=np.float32)
    # Centre of mass of the segments that have one; for the others not a number.
    middle = np.full((count, 2), np.nan)
    center = np.zeros((height, width), dtype=np.float32)
    center_points = []
    for segment in segments_info:
        identity, label, is_crowd = _read(segment)
        if identity not in number:
            continue
        s = number[identity]
        if not (ignore_crowd_in_semantic and is_crowd):
            category[s] = label
        if not is_crowd or (crowd == "instance" and label in things):
            center_weight[s] = 1
            if not ignore_stuff_in_offset or label in things:
                offset_weight[s] = 1
        if label in things:
            if runs.area[s] < small_instance_area:
                semantic_weight[s] = small_instance_weight
            if not is_crowd or crowd != "none":
                middle[s] = runs.middle[s]
                center_points.append(middle[s].tolist())
                _paste_gaussian(center, patch, sigma, middle[s])
    return {
        "sem_seg": torch.from_numpy(runs.paint(category)),
        "center": torch.from_numpy(center),
        "center_points": center_points,
        "offset": torch.from_numpy(runs.offsets(middle)),
        "sem_seg_weights": torch.from_numpy(runs.paint(semantic_weight)),
        "center_weights": torch.from_numpy(runs.paint(center_weight)[None]),
        "offset_weights": torch.from_numpy(runs.paint(offset_weight)[None]),
    }


def gaussian_patch(sigma: float) -> np.ndarray:
    """A centre's heat-map, 1 in the middle, cut off 3 sigma + 1 pixels away: (S, S) float32."""
    axis = np.arange(0, 6 * sigma + 3, dtype=np.float64) - (3 * sigma + 1)
    patch = np.exp(-(axis**2 + axis[:, None] ** 2) / (2 * sigma**2))
    return patch.astype(np.float32)


def _paste_gaussian(heatmap: np.ndarray, patch: np.ndarray, sigma: float, at: np.ndarray) -> None:
    """Raises the heat-map (H, W) to the patch centred at the pixel nearest to `at`."""
    # np.rint rounds halves to even, as Python's round in Detectron2.
    pixel = np.rint(at)
    low = np.rint(pixel - 3 * sigma - 1).astype(int)
    high = np.minimum(np.rint(pixel + 3 * sigma + 2).astype(int), heatmap.shape)
    start = np.maximum(low, 0)
    rows, columns = (slice(a, b) for a, b in zip(start, high, strict=True))
    (top, left), (bottom, right) = start - low, high - low
    region = heatmap[rows, columns]
    np.maximum(region, patch[top:bottom, left:right], out=region)


def _read(segment: Mapping[str, Any]) -> tuple[int, int, bool]:
    try:
        return int(segment["id"]), int(segment["category_id"]), bool(segment.get("iscrowd", 0))
    except KeyError as error:
        raise ValueError(
            f"segments_info: each segment needs id and category_id, got {dict(segment)}"
        ) from error


class _Runs(NamedTuple):
    """A panoptic map as horizontal runs of one id, thousands instead of millions of pixels.

    Attributes:
        shape: H, W.
        ids: (S,) the ids that occur, ascending.
        segment: (R,) for each run its place in `ids`.
        row: (R,) the run's row.
        length: (R,) pixels.
        area: (S,) pixels.
        middle: (S, 2) float64, centre of mass, y and x.
    """

    shape: tuple[int, int]
    ids: np.ndarray
    segment: np.ndarray
    row: np.ndarray
    length: np.ndarray
    area: np.ndarray
    middle: np.ndarray

    def paint(self, values: np.ndarray) -> np.ndarray:
        """The map (H, W) in which each segment has its value of `values` (S,)."""
        return np.repeat(values[self.segment], self.length).reshape(self.shape)

    def offsets(self, middle: np.ndarray) -> np.ndarray:
        """(2, H, W) float32 from each pixel to its segment's `middle` (S, 2), 0 where it is nan."""
        height, width = self.shape
        offset: np.ndarray = np.empty((2, height, width), dtype=np.float32)
        own = middle[self.segment]  # (R, 2)
        dy = np.nan_to_num(own[:, 0] - self.row).astype(np.float32)
        offset[0] = np.repeat(dy, self.length).reshape(self.shape)
        # Subtracted in float64, rounded once: Detectron2's result under numpy 2.
        x: np.ndarray = np.repeat(own[:, 1], self.length).reshape(self.shape)
        np.subtract(x, np.arange(width), out=offset[1], casting="same_kind")
        offset[1][np.isnan(x)] = 0
        return offset


def _find_runs(panoptic: np.ndarray) -> _Runs:
    height, width = panoptic.shape
    starts = np.ones((height, width), dtype=bool)
    np.not_equal(panoptic[:, 1:], panoptic[:, :-1], out=starts[:, 1:])
    first = np.flatnonzero(starts)  # (R,)
    row, column = np.divmod(first, max(1, width))
    length = np.diff(first, append=height * width)
    ids, segment = np.unique(panoptic[row, column], return_inverse=True)
    # Sums of whole numbers below 2^53 are exact in float64, so the mean is rounded once.
    count = len(ids)
    area = np.bincount(segment, weights=length, minlength=count)
    sum_y = np.bincount(segment, weights=length * row, minlength=count)
    sum_x = np.bincount(
        segment, weights=length * column + length * (length - 1) // 2, minlength=count
    )
    middle = np.stack([sum_y, sum_x], axis=1) / area[:, None]
    return _Runs((height, width), ids, segment, row, length, area, middle)
