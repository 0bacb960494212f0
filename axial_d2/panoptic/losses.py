"""Losses of the three maps. Pure: no weight factors of the whole, those belong to the heads.

Each is an average over what counts; where nothing counts (all pixels void, no instance, an empty
batch) it is 0 with a graph, so that every parameter still gets a gradient, of zeros.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from axial_d2.panoptic.checks import as_real, check_floating, check_integer, check_tensor


def hard_pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    top_k_percent: float = 0.2,
    ignore_label: int = 255,
) -> Tensor:
    """Mean cross-entropy of the hardest pixels of the whole batch (DeeperLab, section 3.2).

    Same value as Detectron2's `DeepLabCE`: the losses are weighted first, ignored pixels count as
    losses of 0, and the share is of all pixels of the batch, ignored ones included.

    Args:
        logits: (N, C, H, W) floating point; half precision is widened.
        labels: (N, H, W) integer classes 0..C-1, or ignore_label.
        weights: (N, H, W) factor of each pixel's loss, or None for 1.
        top_k_percent: share of the pixels to average, in (0, 1] (not percent, in spite of the
            name, which is Detectron2's); at least one pixel is taken.
        ignore_label: label of pixels without truth, any integer.

    Returns:
        () the loss.

    Raises:
        TypeError, ValueError: an argument has another type, shape or range.
    """
    if not 0 < top_k_percent <= 1:
        raise ValueError(f"top_k_percent must be above 0 and at most 1, got {top_k_percent}")
    losses = _pixel_losses(logits, labels, weights, ignore_label).flatten()  # (N * H * W,)
    if not losses.numel():
        return logits.sum() * 0
    if top_k_percent < 1:
        hardest = max(1, int(top_k_percent * losses.numel()))
        # Which of equal losses are taken does not change the mean; the order is not needed.
        losses = losses.topk(hardest, sorted=False).values
    return losses.mean()


def cross_entropy(
    logits: Tensor, labels: Tensor, *, weights: Tensor | None = None, ignore_label: int = 255
) -> Tensor:
    """Mean cross-entropy over the pixels that have a truth.

    Without weights that of `torch.nn.CrossEntropyLoss(ignore_index=ignore_label)`, with them the
    weighted mean, sum(weight * loss) / sum(weight); 0 where there is no such pixel.

    Args:
        logits, labels, weights, ignore_label: as in `hard_pixel_cross_entropy`.

    Returns:
        () the loss.

    Raises:
        TypeError, ValueError: an argument has another type or shape.
    """
    losses = _pixel_losses(logits, labels, weights, ignore_label)
    known = (labels != ignore_label).to(losses.dtype)
    return _ratio(losses.sum(), (known if weights is None else known * weights).sum())


def center_loss(pred: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean squared error of the centre heat-map.

    As in Detectron2's head: sum(weight * error^2) / sum(weight), 0 where no pixel has weight.

    Args:
        pred: (N, 1, H, W) floating point.
        target: (N, 1, H, W), 0 to 1.
        weights: (N, 1, H, W) or (N, H, W), 0 = ignored.

    Returns:
        () the loss.

    Raises:
        TypeError, ValueError: an argument has another type or shape.
    """
    check_tensor("pred", pred, ("N", 1, "H", "W"))
    return _weighted_mean(F.mse_loss, pred, target, weights)


def offset_loss(pred: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted absolute error of the offsets, dy and dx summed.

    As in Detectron2's head: sum(weight * (|dy error| + |dx error|)) / sum(weight), 0 where no
    pixel has weight.

    Args:
        pred: (N, 2, H, W) floating point, pixels.
        target: (N, 2, H, W), pixels.
        weights: (N, 1, H, W) or (N, H, W), 0 = ignored.

    Returns:
        () the loss.

    Raises:
        TypeError, ValueError: an argument has another type or shape.
    """
    check_tensor("pred", pred, ("N", 2, "H", "W"))
    return _weighted_mean(F.l1_loss, pred, target, weights)


def _weighted_mean(error, pred: Tensor, target: Tensor, weights: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    check_floating("pred", pred)
    check_tensor("target", target, tuple(pred.shape))
    images, _, height, width = pred.shape
    if isinstance(weights, Tensor) and weights.dim() == 3:
        check_tensor("weights", weights, (images, height, width))
        weights = weights[:, None]  # (N, 1, H, W)
    check_tensor("weights", weights, (images, 1, height, width))
    pred = as_real(pred)
    losses = error(pred, target.to(pred.dtype), reduction="none") * weights
    return _ratio(losses.sum(), weights.sum(dtype=pred.dtype))


def _ratio(total: Tensor, weight: Tensor) -> Tensor:
    # No branch on the value: a GPU need not wait for it. Without weight the total is 0 already.
    return total / torch.where(weight > 0, weight, torch.ones_like(weight))


def _pixel_losses(
    logits: Tensor, labels: Tensor, weights: Tensor | None, ignore_label: int
) -> Tensor:
    """Weighted cross-entropy of each pixel, 0 where the label is ignored, (N, H, W)."""
    check_tensor("logits", logits, ("N", "C", "H", "W"))
    check_floating("logits", logits)
    images, classes, height, width = logits.shape
    check_tensor("labels", labels, (images, height, width))
    check_integer("labels", labels)
    if weights is not None:
        check_tensor("weights", weights, (images, height, width))
    try:
        losses = F.cross_entropy(
            as_real(logits), labels.long(), ignore_index=ignore_label, reduction="none"
        )
    except IndexError as error:  # on the CPU; a GPU stops with a device-side assertion
        wrong = labels[(labels != ignore_label) & ((labels < 0) | (labels >= classes))]
        raise ValueError(
            f"labels must be classes 0..{classes - 1} or ignore_label {ignore_label}, "
            f"got {int(wrong[0])}"
        ) from error
    return losses if weights is None else losses * weights
