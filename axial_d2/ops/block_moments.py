"""Mean and variance of the logits from the logits, a block of strips at a time.

For spans, and for strips so short beside the depth of a head that the closed form's D x D products
cost more than the L x L maps. Nothing of a block is kept: the backward pass computes it again.

A relative term needs no (L, L) map here: the product of the queries (or keys) with all rows of the
table, (L, 2 L - 1), holds each of its logits once, and others that no pair stands for. A mask takes
these out, and what is beyond the span.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import reference


def logit_moments(
    q: Tensor,
    k: Tensor,
    query_rows: Tensor,
    key_rows: Tensor,
    *,
    span: int | None,
    blocks: list[slice],
) -> tuple[Tensor, Tensor, int]:
    """`reference.logit_moments` with bounded memory. Differentiable once.

    Args:
        q: (G, B, L, D), heads first, in single or double precision, like the others.
        k: (G, B, L, D).
        query_rows: (G, 2 * L - 1, D), rows of distances -(L - 1) .. L - 1.
        key_rows: like `query_rows`.
        span: odd number of keys a query sees, None for all.
        blocks: the strips of each block.

    Returns:
        Mean (3, G), biased variance (3, G), count.
    """
    pairs = reference.pairs_in_band(q.shape[2], span)
    mean, variance = _Moments.apply(q, k, query_rows, key_rows, span, blocks, pairs)
    return mean, variance, q.shape[1] * pairs


class _Moments(torch.autograd.Function):
    """Mean and variance (3, G) from (G, B, L, D) inputs and per-head rows of the tables."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        rq: Tensor,
        rk: Tensor,
        span: int | None,
        blocks: list[slice],
        pairs: int,
    ) -> tuple[Tensor, Tensor]:
        masks = _masks(q.shape[2], span, q.dtype, q.device)
        # Sums of what is left of a value near the mean: the variance of logits far from zero would
        # be a small difference of large sums.
        near = q.new_zeros(3, q.shape[0])
        sums = torch.zeros(2, 3, q.shape[0], dtype=torch.float64, device=q.device)
        with reference.no_autocast(q):
            for block in blocks:
                for i, (term, mask) in enumerate(_terms(q, k, rq, rk, masks, block)):
                    term *= mask
                    if block.start == 0:
                        near[i] = term.sum(dim=(1, 2, 3)) / (pairs * term.shape[1])
                    rest = term.sub_(near[i, :, None, None, None] * mask).flatten(1)
                    sums[0, i] += rest.sum(dim=1)
                    sums[1, i] += torch.linalg.vecdot(rest, rest)
        count = pairs * q.shape[1]
        offset, square = sums / count
        mean = near + offset
        variance = (square - offset.square()).clamp_min(0)
        ctx.save_for_backward(q, k, rq, rk, mean)
        ctx.span, ctx.blocks, ctx.count = span, blocks, count
        return mean.to(q.dtype), variance.to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, mean_grad: Tensor, variance_grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, rq, rk, mean = ctx.saved_tensors
        count = ctx.count
        masks = _masks(q.shape[2], ctx.span, q.dtype, q.device)
        # The gradient of one logit x is (mean_grad + 2 variance_grad (x - mean)) / count.
        slope = (2 * variance_grad / count).to(q.dtype)[..., None, None, None]
        level = ((mean_grad - 2 * variance_grad * mean) / count).to(q.dtype)
        level = level[..., None, None, None]
        dq, dk = torch.empty_like(q), torch.empty_like(k)
        drq, drk = torch.zeros_like(rq), torch.zeros_like(rk)
        with reference.no_autocast(q):
            for block in ctx.blocks:
                qb, kb = q[:, block], k[:, block]
                content, query, key = (
                    term.mul_(slope[i]).add_(level[i]).mul_(mask)
                    for i, (term, mask) in enumerate(_terms(q, k, rq, rk, masks, block))
                )
                query, key = query.flatten(1, 2), key.flatten(1, 2)  # (G, b * L, 2 L - 1)
                dq[:, block] = (content @ kb).add_((query @ rq).view_as(qb))
                dk[:, block] = (content.mT @ qb).add_((key @ rk).view_as(kb))
                drq += query.mT @ qb.flatten(1, 2)
                drk += key.mT @ kb.flatten(1, 2)
        return dq, dk, drq, drk, None, None, None


def _terms(
    q: Tensor, k: Tensor, rq: Tensor, rk: Tensor, masks: tuple[Tensor, Tensor, Tensor], block: slice
) -> Iterator[tuple[Tensor, Tensor]]:
    """q.k (G, b, L, L), q.rq and k.rk (G, b, L, 2 L - 1), one after the other, with their masks."""
    qb, kb = q[:, block], k[:, block]
    yield qb @ kb.mT, masks[0]
    for strips, rows, mask in ((qb, rq, masks[1]), (kb, rk, masks[2])):
        yield (strips.flatten(1, 2) @ rows.mT).unflatten(1, qb.shape[1:3]), mask


# A network has about this many lengths; more would hold memory for sizes long gone.
@functools.lru_cache(maxsize=8)
def _masks(
    length: int, span: int | None, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Which of the entries of `_terms` stand for a pair: 1, others 0."""
    place = torch.arange(length, device=device)[:, None]
    distance = torch.arange(1 - length, length, device=device)
    near = distance.abs() < (length if span is None else span // 2 + 1)
    by_query, by_key = (
        (other >= 0) & (other < length) & near for other in (place + distance, place - distance)
    )
    inside = reference.band(length, span, device)
    return inside.to(dtype), by_query.to(dtype), by_key.to(dtype)
