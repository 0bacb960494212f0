"""Axial attention a block of strips at a time, in plain PyTorch.

The logits of a few strips stay in cache, are never kept, and are computed again in the backward
pass (the plan of FlashAttention): memory does not grow with B L^2.

A relative term needs, for query i and key j, row j - i + L - 1 of a (2 L - 1)-row table. The
product of the queries with all rows, (L, 2 L - 1), holds it at a place that moves by one from one
query to the next: the (L, L) map is a view of it with strides (2 L - 2, 1), no copy. The value
term goes the other way: the weights are written through that view into a buffer of zeros, and the
buffer is multiplied by the table.

Inside the blocks the heads come first, (G, b, L, D) with b strips of the block: each head has
tables of its own once the norm's scales are folded into them.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import block_moments, moments, reference
from axial_d2.ops.reference import at_least_single, no_autocast

# Floats in the logits of one block. Three to four buffers of that size are in use at a time; they
# should fit the last-level cache.
BLOCK_FLOATS = 1 << 18
# Positions of a strip per channel of a head above which the closed form of the moments, which grows
# with the square of the channels, takes less time than the logits.
CLOSED_FORM_FROM = 2


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
    heads, length = q.shape[1:3]
    rows = reference.rows_in_use(query_table, key_table, value_table, length=length)
    rq, rk, rv = (t.expand(heads, -1, -1) for t in rows)  # (G, 2 L - 1, D)
    content_query = q
    if logit_scale is not None:
        scale = logit_scale.to(q.dtype)
        content_query = q * scale[0, :, None, None]
        rq, rk = rq * scale[1, :, None, None], rk * scale[2, :, None, None]
    inputs = (content_query, q, k, v)
    heads_first = (t.transpose(0, 1).contiguous() for t in inputs)  # (G, B, L, D)
    # The keys' rows are reversed, so that one query's logits lie in one line: see `_by_key`.
    content, position = _Blocked.apply(
        *heads_first, rq.contiguous(), rk.flip(1).contiguous(), rv.contiguous(), span
    )
    return content.transpose(0, 1), position.transpose(0, 1)


def logit_moments(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor, *, span: int | None = None
) -> tuple[Tensor, Tensor, int]:
    """The moments; see `axial_d2.ops.logit_moments`.

    In closed form, or from the logits a block of strips at a time: under a span, and where that is
    cheaper.
    """
    heads, length, depth = q.shape[1:]
    rows = reference.rows_in_use(query_table, key_table, length=length)
    if span is None and length > CLOSED_FORM_FROM * depth:
        return moments.logit_moments(q, k, *rows)
    dtype = q.dtype
    q, k = (at_least_single(t).transpose(0, 1).contiguous() for t in (q, k))  # (G, B, L, D)
    rows = [at_least_single(t).expand(heads, -1, -1) for t in rows]  # (G, 2 L - 1, D)
    mean, variance, count = block_moments.logit_moments(q, k, *rows, span=span, blocks=_blocks(q))
    return mean.to(dtype), variance.to(dtype), count


def _by_query(lines: Tensor) -> Tensor:
    """Views (G, b, L, 2 L - 1) lines per query as the (G, b, L, L) map: [i, j] = line i, j - i."""
    length = lines.shape[2]
    return lines.as_strided(
        (*lines.shape[:3], length), (*lines.stride()[:2], 2 * length - 2, 1), length - 1
    )


def _by_key(lines: Tensor) -> Tensor:
    """Views lines per key, their rows reversed, as the map: [i, j] = line j, i - j."""
    return _by_query(lines).transpose(2, 3)


class _Scratch:
    """A buffer that the blocks share. What the views don't reach, both the same, stays zero."""

    def __init__(self, like: Tensor, strips: int, dtype: torch.dtype) -> None:
        heads, _, length, _ = like.shape
        shape = (heads, strips, length, 2 * length - 1)
        self.lines = torch.zeros(shape, dtype=dtype, device=like.device)

    def filled(self, view: bool, weights: Tensor) -> Tensor:
        """The (G, b * L, 2 L - 1) lines that the (G, b, L, L) map is spread over.

        Args:
            view: True for lines per query, False for lines per key.
            weights: (G, b, L, L).
        """
        lines = self.lines[:, : weights.shape[1]]
        (_by_query if view else _by_key)(lines).copy_(weights)
        return lines.flatten(1, 2)


class _Blocked(torch.autograd.Function):
    """Content and position from (G, B, L, D) inputs and per-head rows of the tables."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        a: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rq: Tensor,
        rk: Tensor,
        rv: Tensor,
        span: int | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a, q, k, v, rq, rk, rv)
        ctx.span = span
        content, position = torch.empty_like(v), torch.empty_like(v)
        with no_autocast(q):
            tables = [at_least_single(t) for t in (rq, rk, rv)]
            outside = _outside(q, span)
            blocks = _blocks(q)
            scratch = _Scratch(q, blocks[0].stop, tables[0].dtype)
            for block in blocks:
                ab, qb, kb, vb = (at_least_single(t[:, block]) for t in (a, q, k, v))
                weights = _weights(ab, qb, kb, tables[0], tables[1], outside)
                content[:, block] = weights @ vb
                spread = scratch.filled(True, weights)
                position[:, block] = (spread @ tables[2]).view_as(vb)
        return content, position

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, content_grad: Tensor, position_grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        # The region of the forward pass may still be open.
        with no_autocast(content_grad):
            return _Blocked._gradients(ctx, content_grad, position_grad)

    @staticmethod
    def _gradients(
        ctx: FunctionCtx, content_grad: Tensor, position_grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, q, k, v, *tables = ctx.saved_tensors
        rq, rk, rv = (at_least_single(t) for t in tables)
        grads = [torch.empty_like(t) for t in (a, q, k, v)]
        table_grads = [torch.zeros_like(t) for t in (rq, rk, rv)]
        outside = _outside(q, ctx.span)
        blocks = _blocks(q)
        scratch = _Scratch(q, blocks[0].stop, rq.dtype)
        for block in blocks:
            ab, qb, kb, vb = (at_least_single(t[:, block]) for t in (a, q, k, v))
            dc, dp = (
                at_least_single(content_grad[:, block]),
                at_least_single(position_grad[:, block]),
            )
            weights = _weights(ab, qb, kb, rq, rk, outside)
            grads[3][:, block] = weights.mT @ dc
            table_grads[2] += scratch.filled(True, weights).mT @ dp.flatten(1, 2)

            by_row = (dp.flatten(1, 2) @ rv.mT).view(*weights.shape[:3], -1)
            logits = torch.matmul(dc, vb.mT).add_(_by_query(by_row))  # of the weights so far
            logits -= (logits * weights).sum(dim=-1, keepdim=True)
            logits *= weights  # (G, b, L, L), the gradient of the logits

            grads[0][:, block] = logits @ kb
            spread = scratch.filled(True, logits)
            grads[1][:, block] = (spread @ rq).view_as(qb)
            table_grads[0] += spread.mT @ qb.flatten(1, 2)
            spread = scratch.filled(False, logits)
            grads[2][:, block] = (logits.mT @ ab).add_((spread @ rk).view_as(kb))
            table_grads[1] += spread.mT @ kb.flatten(1, 2)
        table_grads = [g.to(t.dtype) for g, t in zip(table_grads, tables, strict=True)]
        return (*grads, *table_grads, None)


def _weights(
    a: Tensor, q: Tensor, k: Tensor, rq: Tensor, rk: Tensor, outside: Tensor | None
) -> Tensor:
    """The soft-maxed weights of a block, (G, b, L, L)."""
    shape = (*q.shape[:3], rq.shape[1])
    logits = torch.matmul(a, k.mT)
    logits += _by_query((q.flatten(1, 2) @ rq.mT).view(shape))
    logits += _by_key((k.flatten(1, 2) @ rk.mT).view(shape))
    if outside is not None:
        logits.masked_fill_(outside, -math.inf)
    return logits.softmax(dim=-1)


def _outside(q: Tensor, span: int | None) -> Tensor | None:
    return None if span is None else ~reference.band(q.shape[2], span, q.device)


def _blocks(q: Tensor) -> list[slice]:
    """Cuts the strips of (G, B, L, D) into nearly equal blocks, the largest first."""
    heads, strips, length, _ = q.shape
    count = min(strips, math.ceil(heads * strips * length * length / BLOCK_FLOATS))
    return list(_slices(strips, math.ceil(strips / count)))


def _slices(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
