"""Axial attention that keeps its maps, for sizes at which they are small.

Each (L, L) map is computed once and serves the moments, the attention and both their backward
passes; `blocked` computes it up to four times to save the memory.

The maps and their layouts, and why no map is skewed: `kept_maps`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import kept_maps, reference
from axial_d2.ops.reference import at_least_single, no_autocast

# Numbers up to which a layer's maps and the rows they were made with are kept: 32 MB in single
# precision. The backward pass has about as many again while it runs.
MOST_KEPT = 1 << 23


def why_not(strips: int, length: int, channels: int, tables: int) -> str | None:
    """The reason why there is too much to keep, or None.

    Args:
        strips: those of all heads, B G.
        length: L.
        channels: of a query, a key and a value together.
        tables: T, 1 where the heads share them, else G.
    """
    # Four maps; the rows that each place meets of three tables.
    kept = length**2 * (4 * strips + tables * channels)
    if kept <= MOST_KEPT:
        return None
    return f"it would keep {kept} numbers of one layer, more than {MOST_KEPT}"


def axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    *,
    logit_scale: Tensor | None = None,
    span: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The attention; see `axial_d2.ops.axial_attention`. Differentiable once."""
    if logit_scale is None:
        logit_scale = q.new_ones(3, q.shape[1])
    with no_autocast(q):
        logits = _Logits.of(q, k, query_table, key_table, span)
        return logits.attention(v, value_table, logit_scale)


def logit_moments(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor, *, span: int | None = None
) -> tuple[Tensor, Tensor, int]:
    """The moments; see `axial_d2.ops.logit_moments`. Differentiable once."""
    with no_autocast(q):
        logits = _Logits.of(q, k, query_table, key_table, span)
        mean, variance, _ = logits.moments()
    return mean.to(q.dtype), variance.to(q.dtype), logits.pairs


def normalized_axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    *,
    scale_of: Callable[[Tensor, Tensor, int], Tensor],
    span: int | None = None,
) -> tuple[Tensor, Tensor]:
    """See `axial_d2.ops.normalized_axial_attention`. Differentiable once."""
    with no_autocast(q):
        logits = _Logits.of(q, k, query_table, key_table, span)
        mean, variance, maps = logits.moments()
        scale = scale_of(mean, variance, logits.pairs)
        return logits.attention(v, value_table, scale, maps)


class _Logits(NamedTuple):
    """Queries, keys and the rows they meet, in at least single precision.

    Attributes:
        q: (G, B, L, D).
        k: (G, B, L, D).
        query_rows: (T, L, D, L), [table, query, :, key], from `kept_maps.windows`.
        key_rows: (T, L, D, L), [table, key, :, query].
        inside: (L, L) float, 1 within the span, 0 outside; None for the whole strip.
        pairs: of query and key within the span, over all strips.
    """

    q: Tensor
    k: Tensor
    query_rows: Tensor
    key_rows: Tensor
    inside: Tensor | None
    pairs: int

    @classmethod
    def of(
        cls, q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor, span: int | None
    ) -> "_Logits":
        """From the arguments of `axial_attention`."""
        length = q.shape[2]
        q, k, query_table, key_table = (at_least_single(t) for t in (q, k, query_table, key_table))
        return cls(
            q.transpose(0, 1).contiguous(),
            k.transpose(0, 1).contiguous(),
            kept_maps.windows(query_table, length),
            kept_maps.windows(key_table, length, by_key=True),
            None if span is None else reference.band(length, span, q.device).to(q.dtype),
            q.shape[0] * reference.pairs_in_band(length, span),
        )

    def moments(self) -> tuple[Tensor, Tensor, kept_maps.Maps]:
        """Mean (3, G), biased variance (3, G), and the maps less their mean."""
        mean, variance, *maps = _Moments.apply(*self)
        return mean, variance, kept_maps.Maps(*maps)

    def attention(
        self, v: Tensor, value_table: Tensor, scale: Tensor, maps: kept_maps.Maps | None = None
    ) -> tuple[Tensor, Tensor]:
        """Content and position, (B, G, L, Dv) in v's precision.

        Args:
            v: (B, G, L, Dv).
            value_table: (R, Dv) or (G, R, Dv).
            scale: (3, G).
            maps: those of `moments`, where they are taken: to the softmax a mean more or less is
                all the same.
        """
        results = _Attention.apply(
            *self[:5],
            at_least_single(v).transpose(0, 1).contiguous(),
            kept_maps.windows(at_least_single(value_table), v.shape[2]),
            scale.to(self.q.dtype),
            maps,
        )
        return tuple(r.transpose(0, 1).to(v.dtype) for r in results)


class _Moments(torch.autograd.Function):
    """Mean, variance, and the maps less their mean; these carry no gradient."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        query_rows: Tensor,
        key_rows: Tensor,
        inside: Tensor | None,
        count: int,
    ) -> tuple[Tensor, ...]:
        maps = kept_maps.make_maps(q, k, query_rows, key_rows)
        kept_maps.keep_inside(maps, inside)
        mean, variance = [], []
        for term in maps:
            numbers = kept_maps.per_head(term, len(q))  # (rows, G, numbers), a view
            mean.append(numbers.sum(dim=(0, 2)) / count)
            # Less the mean before it is squared: the variance may be small beside the mean.
            numbers -= mean[-1][:, None]
        kept_maps.keep_inside(maps, inside)
        for term in maps:
            numbers = kept_maps.per_head(term, len(q))
            variance.append(torch.linalg.vecdot(numbers, numbers).sum(dim=0) / count)
        ctx.save_for_backward(q, k, query_rows, key_rows, inside, *maps)
        ctx.count = count
        ctx.mark_non_differentiable(*maps)
        ctx.set_materialize_grads(False)
        return torch.stack(mean), torch.stack(variance), *maps

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, mean_grad: Tensor | None, variance_grad: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        q, k, query_rows, key_rows, inside, *maps = ctx.saved_tensors
        # The gradient of one logit x is (mean_grad + 2 variance_grad (x - mean)) / count.
        parts = []
        if variance_grad is not None:
            parts.append((kept_maps.Maps(*maps), 2 * variance_grad / ctx.count))
        if mean_grad is not None:
            ones = kept_maps.Maps(*(torch.ones_like(m) for m in maps))
            kept_maps.keep_inside(ones, inside)
            parts.append((ones, mean_grad / ctx.count))
        totals: list[Tensor | None] = [None] * 4
        # The region of the forward pass may still be open.
        with no_autocast(q):
            for part, factor in parts:
                grads, _ = kept_maps.gradients(q, k, query_rows, key_rows, part, factor)
                totals = [g if t is None else t + g for t, g in zip(totals, grads, strict=True)]
        return *totals, None, None


class _Attention(torch.autograd.Function):
    """Content and position, (G, B, L, Dv), from scaled terms."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        query_rows: Tensor,
        key_rows: Tensor,
        inside: Tensor | None,
        v: Tensor,
        value_rows: Tensor,
        scale: Tensor,
        maps: kept_maps.Maps | None,
    ) -> tuple[Tensor, Tensor]:
        if maps is None:
            maps = kept_maps.make_maps(q, k, query_rows, key_rows)
        by_head = scale[..., None, None, None]  # (3, G, 1, 1, 1)
        logits = maps.content * by_head[0]  # (G, B, L, L)
        logits.addcmul_(kept_maps.by_strip(maps.query, q), by_head[1])
        # [table, key, strip, query] to [head, strip, query, key].
        logits.addcmul_(kept_maps.transposed(maps.key.flatten(2)).view_as(logits), by_head[2])
        if inside is not None:
            logits.masked_fill_(inside == 0, -math.inf)
        weights = logits.softmax(dim=-1)
        content = kept_maps.product(weights, v)
        by_place = kept_maps.by_place(weights, len(value_rows))
        position = kept_maps.product(by_place, value_rows.mT)  # (T, L, M, Dv)
        ctx.save_for_backward(q, k, query_rows, key_rows, v, value_rows, scale, weights)
        return content, kept_maps.by_strip(position, q).contiguous()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, content_grad: Tensor, position_grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, query_rows, key_rows, v, value_rows, scale, weights = ctx.saved_tensors
        # The region of the forward pass may still be open.
        with no_autocast(v):
            content_grad, position_grad = content_grad.contiguous(), position_grad.contiguous()
            tables = len(value_rows)
            by_place = kept_maps.by_place(position_grad, tables)  # (T, L, M, Dv)
            v_grad = kept_maps.product(weights.mT, content_grad)
            value_rows_grad = by_place.mT @ kept_maps.by_place(weights, tables)

            logits_grad = content_grad @ v.mT  # (G, B, L, L), of the weights so far
            logits_grad += kept_maps.by_strip(by_place @ value_rows, v)
            # From the map, not from the results: so the rows add up to 0 as rounded, too.
            logits_grad -= torch.linalg.vecdot(logits_grad, weights)[..., None]
            logits_grad *= weights

            # [head, strip, query, key] to [table, key, strip, query].
            key_tables, length = key_rows.shape[:2]
            by_key = kept_maps.transposed(logits_grad.view(key_tables, -1, length))
            maps = kept_maps.Maps(
                logits_grad,
                kept_maps.by_place(logits_grad, len(query_rows)),
                by_key.view(key_tables, length, -1, length),
            )
            grads, scale_grad = kept_maps.gradients(q, k, query_rows, key_rows, maps, scale)
        return *grads, None, v_grad, value_rows_grad, scale_grad, None
