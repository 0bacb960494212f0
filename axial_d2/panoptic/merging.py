"""From the three maps of Panoptic-DeepLab to one panoptic map (arXiv 1911.10194, section 3.3).

Results are Detectron2's (`projects/panoptic_deeplab/post_processing.py`) except where that one is
at fault: `find_centers` keeps top_k centres, not one fewer, takes any size and leaves its input
alone. Time and memory grow with the pixels, not with pixels times instances.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from axial_d2.panoptic.checks import (
    as_real,
    check_floating,
    check_ids,
    check_integer,
    check_mask,
    check_positive,
    check_tensor,
)
from axial_d2.panoptic.grouping import group_cells, group_pixels

# Class ids count upwards from 0: a label beyond is a mistake, and would blow up the vote table.
_MAX_CLASS = 1 << 16


class PanopticSegmentation(NamedTuple):
    """What `panoptic_segmentation` finds.

    Attributes:
        panoptic: (H, W) int64, class * label_divisor + number of the instance in its class (from
            1; 0 for stuff), or void_label.
        instance: (H, W) int64, 0 = none, k = belongs to centre k - 1.
        points: (K, 2) int64, the centres' y and x in pixels, in row-major order.
        scores: (K,) the heat-map's values at the centres.
    """

    panoptic: Tensor
    instance: Tensor
    points: Tensor
    scores: Tensor


def find_centers(
    heatmap: Tensor, *, threshold: float = 0.1, nms_kernel: int = 7, top_k: int | None = 200
) -> tuple[Tensor, Tensor]:
    """Finds instance centres: the local maxima of the heat-map.

    A pixel is a centre where it is above the threshold (and above 0) and no pixel in the square
    around it is higher; equal neighbours are all centres, as in Detectron2.

    Args:
        heatmap: (H, W) or (1, H, W) floating point, nominally 0..1. Not a number = no centre.
        threshold: lowest score, exclusive.
        nms_kernel: side of that square in pixels, odd.
        top_k: the number of centres to keep, those with the highest scores, or None for all. Of
            equal scores the first in row-major order are kept. (Detectron2 drops everything that
            is no better than the k-th, thus keeps k - 1 at most.)

    Returns:
        points: (K, 2) int64, y and x in pixels, in row-major order whatever the scores, so that
            instances are numbered as in Detectron2.
        scores: (K,) in float32, or float64 for such a map.

    Raises:
        TypeError, ValueError: an argument has another type, shape or range.
    """
    if isinstance(heatmap, Tensor) and heatmap.dim() == 3:
        check_tensor("heatmap", heatmap, (1, "H", "W"))
        heatmap = heatmap[0]
    check_tensor("heatmap", heatmap, ("H", "W"))
    check_floating("heatmap", heatmap)
    check_positive("nms_kernel", nms_kernel, integer=True)
    if nms_kernel % 2 == 0:
        raise ValueError(f"nms_kernel must be odd, got {nms_kernel}")
    if top_k is not None:
        check_positive("top_k", top_k, integer=True)

    heatmap = as_real(heatmap)
    kept = torch.where(heatmap > max(threshold, 0), heatmap, 0)
    peak = (kept == _window_max(kept, nms_kernel)).logical_and_(kept > 0)
    points = peak.nonzero()  # (K, 2), row-major
    scores = heatmap[points[:, 0], points[:, 1]]
    if top_k is not None and len(points) > top_k:
        best = scores.sort(descending=True, stable=True).indices[:top_k].sort().values
        points, scores = points[best], scores[best]
    return points, scores


def _window_max(values: Tensor, window: int) -> Tensor:
    """Largest value (at least 0) in the square around each place, (H, W) -> (H, W).

    One axis after the other, and by windows that double: log2(window) passes instead of window^2.
    """
    half = window // 2
    values = F.pad(values, (half, half, half, half))  # 0 is below every score that was kept
    for axis in (0, 1):
        width = 1
        while width < window:
            step = min(width, window - width)
            length = values.shape[axis] - step
            values = torch.maximum(
                values.narrow(axis, 0, length), values.narrow(axis, step, length)
            )
            width += step
    return values


def merge_semantic_and_instance(
    semantic: Tensor,
    instance: Tensor,
    *,
    thing_ids: Iterable[int],
    label_divisor: int,
    stuff_area: int,
    void_label: int,
    thing_mask: Tensor | None = None,
) -> Tensor:
    """Merges the semantic map and the class-agnostic instance map.

    Each instance takes the class that most of its thing pixels have (of equal counts the lowest
    class) and the next free number of that class, in the order of the instance ids; its pixels
    outside the thing mask become void. Stuff classes keep the pixels of no instance, if these are
    stuff_area or more; the rest is void.

    Args:
        semantic: (H, W) integer class ids, 0 or more.
        instance: (H, W) integer ids, 0 = none.
        thing_ids: class ids of the things.
        label_divisor: above the number of instances of any class.
        stuff_area: smallest area of a stuff class in pixels.
        void_label: for pixels that get no label.
        thing_mask: (H, W) bool, where instances may lie and vote; None = where `semantic` is a
            thing. Under an own mask the majority may be a stuff class, as in Detectron2.

    Returns:
        (H, W) int64: class * label_divisor + number, number 1.. for instances and 0 for stuff.

    Raises:
        TypeError, ValueError: an argument has another type, shape or range, or a class has
            label_divisor instances or more.
    """
    things = check_ids("thing_ids", thing_ids)
    check_positive("label_divisor", label_divisor, integer=True)
    check_tensor("semantic", semantic, ("H", "W"))
    check_integer("semantic", semantic)
    check_tensor("instance", instance, tuple(semantic.shape))
    check_integer("instance", instance)
    if thing_mask is not None:
        check_mask("thing_mask", thing_mask, tuple(semantic.shape))
    if not semantic.numel():
        return semantic.long()

    is_thing = _thing_table(semantic, things)  # (classes,)
    classes = len(is_thing)
    instance, count = _count_up(instance)
    # Row 0: no instance. Rows 1..count: instances. Last row: outside an own thing mask.
    key = instance.long()
    if thing_mask is not None:
        key = key.masked_fill((key > 0) & ~thing_mask, count + 1)
    key = (key * classes).add_(semantic)  # (H, W)
    votes = torch.bincount(key.flatten(), minlength=(count + 2) * classes)
    votes = votes.view(count + 2, classes)

    label = torch.full_like(votes, void_label)
    stuff = ~is_thing & (votes[0] >= stuff_area)
    label[0] = torch.where(
        stuff, torch.arange(classes, device=label.device) * label_divisor, label[0]
    )
    voters = torch.ones_like(is_thing) if thing_mask is not None else is_thing
    label[1:-1] = _label_instances(votes[1:-1] * voters, label_divisor, void_label)[:, None]
    label[1:-1, ~voters] = void_label
    return label.view(-1)[key]


def _thing_table(semantic: Tensor, things: list[int]) -> Tensor:
    """For each class up to the highest in the map whether it is a thing, (classes,) bool."""
    classes = _top_label("semantic", semantic, _MAX_CLASS) + 1
    table = torch.zeros(classes, dtype=torch.bool, device=semantic.device)
    table[[c for c in things if c < classes]] = True
    return table


def _label_instances(votes: Tensor, label_divisor: int, void_label: int) -> Tensor:
    """Labels (K,) of instances from their votes (K, classes); void where nobody voted."""
    label = torch.full((len(votes),), void_label, device=votes.device)
    present = votes.any(dim=1).nonzero().squeeze(1)
    if not len(present):
        return label
    winner = votes[present].argmax(dim=1)  # the lowest class among equals
    # Number within the class: sort by class, keep the order, count from the class's first.
    ordered, place = winner.sort(stable=True)
    first = torch.searchsorted(ordered, ordered)
    number = torch.arange(1, len(ordered) + 1, device=votes.device) - first
    if number.max() >= label_divisor:
        raise ValueError(
            f"label_divisor must be above the number of instances of a class, got {label_divisor}"
            f" for {int(number.max())} instances of class {int(ordered[number.argmax()])}"
        )
    label[present[place]] = ordered * label_divisor + number
    return label


def _count_up(instance: Tensor) -> tuple[Tensor, int]:
    """Ids as they are where they are few, otherwise numbered anew in the same order from 0."""
    top = _top_label("instance", instance, None)
    if top <= 1 << 12:
        return instance, top
    ids, inverse = torch.unique(instance, return_inverse=True)
    start = 0 if ids[0] == 0 else 1
    return inverse + start, len(ids) - 1 + start


def _top_label(name: str, labels: Tensor, limit: int | None) -> int:
    if not labels.numel():
        return 0
    low, high = (int(v) for v in labels.aminmax())
    if low < 0 or (limit is not None and high >= limit):
        wanted = "0 or more" if limit is None else f"in 0..{limit - 1}"
        raise ValueError(f"{name} must hold labels {wanted}, got {low}..{high}")
    return high


def panoptic_segmentation(
    semantic: Tensor,
    heatmap: Tensor,
    offset: Tensor,
    *,
    thing_ids: Iterable[int],
    label_divisor: int,
    stuff_area: int,
    void_label: int = -1,
    threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int | None = 200,
    thing_mask: Tensor | None = None,
    grouping: Literal["pixels", "cells"] = "pixels",
    cell_weight: Tensor | None = None,
    cell_extent: tuple[int, int] | None = None,
) -> PanopticSegmentation:
    """The whole way: centres, grouping, merging.

    Args:
        semantic: (H, W) integer class ids.
        heatmap: (H, W) or (1, H, W) centre scores.
        offset: (2, H, W) in pixels; with grouping "cells" (2, h, w), see `group_cells`.
        thing_ids, label_divisor, stuff_area, void_label, thing_mask: as in
            `merge_semantic_and_instance`.
        threshold, nms_kernel, top_k: as in `find_centers`.
        grouping: "pixels" = `group_pixels`, Detectron2's way; "cells" = `group_cells`.
        cell_weight: (h, w), or better (C, h, w) class probabilities, with grouping "cells" only.
        cell_extent: height and width in pixels that the cells cover where that is more than the
            picture (padding below and to the right), with grouping "cells" only.

    Returns:
        The panoptic map, the instance map and the centres with their scores.

    Raises:
        TypeError, ValueError: an argument has another type, shape or range.
    """
    things = check_ids("thing_ids", thing_ids)
    check_tensor("semantic", semantic, ("H", "W"))
    check_integer("semantic", semantic)
    check_tensor("heatmap", heatmap, (*(1,) * (heatmap.dim() - 2), *semantic.shape))
    if grouping not in ("pixels", "cells"):
        raise ValueError(f'grouping must be "pixels" or "cells", got {grouping!r}')
    if grouping != "cells" and not (cell_weight is None and cell_extent is None):
        raise ValueError(
            f'cell_weight and cell_extent go with grouping "cells", got one with {grouping!r}'
        )

    mask = thing_mask
    if mask is None:
        mask = _thing_table(semantic, things)[semantic.long()]  # (H, W)
    points, scores = find_centers(heatmap, threshold=threshold, nms_kernel=nms_kernel, top_k=top_k)
    if grouping == "cells":
        size = cell_extent or (mask.shape[0], mask.shape[1])
        instance = group_cells(
            points, offset, size=size, mask=mask, cell_weight=cell_weight, semantic=semantic
        )
    else:
        instance = group_pixels(points, offset, mask)
    panoptic = merge_semantic_and_instance(
        semantic,
        instance,
        thing_ids=things,
        label_divisor=label_divisor,
        stuff_area=stuff_area,
        void_label=void_label,
        thing_mask=thing_mask,
    )
    return PanopticSegmentation(panoptic, instance, points, scores)
