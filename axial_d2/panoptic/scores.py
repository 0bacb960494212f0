"""Scores of the instances of a panoptic map, all in one pass over the pixels."""

from typing import NamedTuple

import torch
from torch import Tensor

from axial_d2.panoptic.checks import (
    check_floating,
    check_integer,
    check_positive,
    check_tensor,
)

# Numbers of the semantic map at work at a time (16 MB in float32), so that the soft-max over many
# classes never stands as a whole.
_VALUES = 1 << 22


class InstanceScores(NamedTuple):
    """The instances of a panoptic map, ascending by label.

    Attributes:
        labels: (n,) int64, the instances' labels in the panoptic map.
        classes: (n,) int64.
        areas: (n,) int64, pixels.
        scores: (n,) float32, 0 to 1, centre score times mean class probability.
        centers: (n,) int64, index of the instance's centre (its id in the instance map - 1).
    """

    labels: Tensor
    classes: Tensor
    areas: Tensor
    scores: Tensor
    centers: Tensor


def instance_scores(
    panoptic: Tensor,
    instance: Tensor,
    center_scores: Tensor,
    semantic: Tensor,
    *,
    label_divisor: int,
    void_label: int = -1,
    from_logits: bool = True,
) -> InstanceScores:
    """Scores every instance: centre score times the mean probability of its class in its mask.

    Axial-DeepLab and Panoptic-DeepLab rank instances so for AP. (Detectron2 reads the heat-map at
    the mask's centre of mass instead, which for a partly hidden instance is not its centre.)

    Args:
        panoptic: (H, W) integer, as from `merge_semantic_and_instance`.
        instance: (H, W) integer, 0 = none, k = belongs to centre k - 1.
        center_scores: (K,) floating point.
        semantic: (C, H, W) floating point; logits, or probabilities with from_logits=False.
        label_divisor, void_label: as given to `merge_semantic_and_instance`.
        from_logits: whether to take the soft-max over the classes.

    Returns:
        Labels, classes, areas, scores and centres of the n instances with at least one pixel.

    Raises:
        TypeError, ValueError: an argument has another type, shape or range.
    """
    check_tensor("panoptic", panoptic, ("H", "W"))
    check_integer("panoptic", panoptic)
    height, width = panoptic.shape
    check_tensor("instance", instance, (height, width))
    check_integer("instance", instance)
    check_tensor("center_scores", center_scores, ("K",))
    check_floating("center_scores", center_scores)
    check_tensor("semantic", semantic, ("C", height, width))
    check_floating("semantic", semantic)
    check_positive("label_divisor", label_divisor, integer=True)
    count = len(center_scores)
    if instance.numel() and not 0 <= int(instance.amin()) <= int(instance.amax()) <= count:
        raise ValueError(
            f"instance must hold ids 0..{count}, one per centre score, "
            f"got {int(instance.amin())}..{int(instance.amax())}"
        )

    device = panoptic.device
    area = torch.zeros(count + 1, dtype=torch.long, device=device)
    label = torch.zeros(count + 1, dtype=torch.long, device=device)
    # float64: a sum over up to millions of pixels.
    mass = torch.zeros(count + 1, dtype=torch.float64, device=device)
    rows = max(1, _VALUES // max(1, len(semantic) * width))
    for start in range(0, height, rows):
        band = slice(start, start + rows)
        ids, labels = instance[band].flatten(), panoptic[band].flatten()
        pixels = ((ids > 0) & (labels != void_label)).nonzero().squeeze(1)  # (P,)
        if not len(pixels):
            continue
        ids, labels = ids[pixels].long(), labels[pixels].long()
        label[ids] = labels  # one label per instance: the order of writing does not matter
        area += torch.bincount(ids, minlength=count + 1)
        maps = semantic[:, band].flatten(1)[:, pixels].float()  # (C, P)
        classes = labels.div(label_divisor, rounding_mode="floor")
        own = maps.gather(0, classes[None]).squeeze(0)  # (P,)
        if from_logits:
            own = (own - maps.logsumexp(dim=0)).exp_()
        mass.index_add_(0, ids, own.double())

    found = area.nonzero().squeeze(1)
    found = found[label[found].argsort()]
    mean = mass[found] / area[found]
    # The heat-map is a regression: it may exceed the 1 of a perfect centre.
    scores = center_scores[found - 1].to(mean.dtype).clamp(0, 1) * mean
    classes = label[found].div(label_divisor, rounding_mode="floor")
    return InstanceScores(label[found], classes, area[found], scores.float(), found - 1)
