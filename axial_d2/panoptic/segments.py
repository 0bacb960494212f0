"""From a panoptic map to segments with categories, areas and scores."""

from typing import NamedTuple

import torch
from torch import Tensor

from axial_d2.panoptic.merging import PanopticSegmentation
from axial_d2.panoptic.scores import instance_scores

# A table over all labels that may occur has this many entries at most: 128 MB.
_MAX_LABEL = 1 << 24


class Segments(NamedTuple):
    """What `find_segments` gives.

    Attributes:
        ids: (H, W) int64, 0 for void, else a segment's id, from 1.
        infos: one dict per segment in the order of the ids: id, category_id, isthing, area in
            pixels; a thing also has instance_id, its number among the picture's things from 0, and
            score, 0 to 1.
    """

    ids: Tensor
    infos: list[dict]


def find_segments(
    found: PanopticSegmentation,
    logits: Tensor,
    *,
    label_divisor: int,
    void_label: int = -1,
) -> Segments:
    """Lists the segments of one picture, the things with `instance_scores`'s scores.

    Args:
        found: what `panoptic_segmentation` gave, its void below 0.
        logits: (C, H, W), the semantic branch's.
        label_divisor: as given to `panoptic_segmentation`.
        void_label: as given there; negative.

    Returns:
        The segments, ordered by class and number.

    Raises:
        TypeError, ValueError: an argument has another type, shape or range.
    """
    if not isinstance(found, PanopticSegmentation):
        raise TypeError(f"found: expected a PanopticSegmentation, got {type(found).__name__}")
    highest = int(found.panoptic.max()) if found.panoptic.numel() else -1
    if highest // label_divisor >= len(logits):
        raise ValueError(
            f"found: its highest label {highest} is of class {highest // label_divisor} with "
            f"label_divisor {label_divisor}, but logits have {len(logits)} classes"
        )
    if highest >= _MAX_LABEL:
        raise ValueError(f"found: expected labels below {_MAX_LABEL}, got {highest}")
    if void_label >= 0:
        raise ValueError(f"void_label: expected a negative number, got {void_label}")
    if not found.panoptic.numel():
        return Segments(found.panoptic.long(), [])
    scored = instance_scores(
        found.panoptic,
        found.instance,
        found.scores,
        logits,
        label_divisor=label_divisor,
        void_label=void_label,
    )
    instances = {
        label: {"isthing": True, "instance_id": i, "score": score}
        for i, (label, score) in enumerate(
            zip(scored.labels.tolist(), scored.scores.tolist(), strict=True)
        )
    }
    # Void gets bin 0, label n bin n + 1: one table over all labels that occur.
    bins = found.panoptic.clamp_min(-1) + 1  # (H, W)
    area = torch.bincount(bins.flatten())
    area[0] = 0
    present = area.nonzero().squeeze(1)
    number = torch.zeros_like(area)
    number[present] = torch.arange(1, len(present) + 1, device=number.device)
    infos = [
        {"id": identity, "category_id": label // label_divisor, "area": pixels}
        | instances.get(label, {"isthing": False})
        for identity, (label, pixels) in enumerate(
            zip((present - 1).tolist(), area[present].tolist(), strict=True), start=1
        )
    ]
    return Segments(number[bins], infos)
