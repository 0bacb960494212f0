"""Axial attention a block of strips at a time, in plain PyTorch.

The logits of a few strips stay in cache, are never kept, and are computed again in the backward
pass (the plan of FlashAttention): memory does not grow with B L^2.

A block has I queries of each strip and the J keys that they see: under a span no others. A relative
term needs, for query i and key j, the row of distance j - i of a table. The product of the queries
with the rows of all I + J - 1 distances in the block holds it at a place that moves by one from one
query to the next: the (I, J) map is a view of it with strides (I + J - 2, 1), no copy. The value
term goes the other way: the weights are written through that view into a buffer of zeros, and the
buffer is multiplied by the rows.

Inside the blocks the heads come first, (G, b, I, D) with b strips of the block: each head has
tables of its own once the norm's scales are folded into them.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import block_moments, moments, reference
from axial_d2.ops.blocks import Block, Buffers, by_key, by_query
from axial_d2.ops.products import product
from axial_d2.ops.reference import at_least_single, no_autocast

# Floats in the logits of one block. Three to four buffers of that size are in use at a time; they
# should fit the last-level cache.
BLOCK_FLOATS = 1 << 19
# Queries of a block under a span: more see more keys that are not theirs, fewer make products too
# small to be fast. Without a span a block has the whole strip.
BLOCK_QUERIES = 64
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
    operands = _operands(q, k, v, (query_table, key_table, value_table), logit_scale)
    content, position = _Blocked.apply(*operands, span)
    return content.transpose(0, 1), position.transpose(0, 1)


def summed_axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *tables: Tensor,
    logit_scale: Tensor | None = None,
    span: int | None = None,
) -> Tensor:
    """See `axial_d2.ops.summed_axial_attention`. Without a gradient."""
    total = torch.empty_like(v)
    operands = _operands(q, k, v, tables, logit_scale)
    with no_autocast(q):
        for block, content, position in _results(operands, span):
            total[block.strips, :, block.queries] = content.add_(position).transpose(0, 1)
    return total


def _operands(
    q: Tensor, k: Tensor, v: Tensor, tables: Sequence[Tensor], logit_scale: Tensor | None
) -> tuple[Tensor, ...]:
    """q with the scale of q.k, q, k, v, (G, B, L, D); the rows with theirs, (G, 2 L - 1, D)."""
    heads, length = q.shape[1:3]
    rows = reference.rows_in_use(*tables, length=length)
    rq, rk, rv = (t.expand(heads, -1, -1) for t in rows)  # (G, 2 L - 1, D)
    heads_first = [t.transpose(0, 1).contiguous() for t in (q, k, v)]
    content_query = heads_first[0]
    if logit_scale is not None:
        scale = logit_scale.to(q.dtype)[..., None, None]  # (3, G, 1, 1)
        content_query = content_query * scale[0, ..., None]
        rq, rk = rq * scale[1], rk * scale[2]
    # The keys' rows are reversed, so that one query's logits lie in one line: see `by_key`.
    return content_query, *heads_first, rq.contiguous(), rk.flip(1).contiguous(), rv.contiguous()


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
    mean, variance, count = block_moments.logit_moments(
        q, k, *rows, span=span, blocks=_strip_blocks(q)
    )
    return mean.to(dtype), variance.to(dtype), count


def _blocks(q: Tensor, span: int | None) -> list[Block]:
    """Cuts (G, B, L, D) queries into blocks, those of one shape in a row."""
    heads, strips, length, _ = q.shape
    half = reference.half_span(length, span)
    blocks = []
    for queries in _even_slices(length, 1 if span is None else math.ceil(length / BLOCK_QUERIES)):
        keys = slice(max(0, queries.start - half), min(length, queries.stop + half))
        pairs = heads * (queries.stop - queries.start) * (keys.stop - keys.start)
        for some in _even_slices(strips, math.ceil(strips * pairs / BLOCK_FLOATS)):
            blocks.append(Block(length, some, queries, keys))
    return blocks


def _results(
    operands: Sequence[Tensor], span: int | None
) -> Iterator[tuple[Block, Tensor, Tensor]]:
    """By blocks: their content and position, (G, b, I, Dv)."""
    q, tables = operands[1], [at_least_single(t) for t in operands[4:]]
    blocks = _blocks(q, span)
    buffers = Buffers(q, blocks)
    for block in blocks:
        ab, qb, kb, vb = map(_whole, block.parts(operands[:4]))
        rows = block.rows(tables)
        weights = _weights(ab, qb, kb, rows, block, span, buffers)
        content = product(weights, vb)
        position = product(buffers.spread(weights, by_query), rows[2])  # (G, b * I, Dv)
        yield block, content, position.unflatten(1, qb.shape[1:3])


def _whole(part: Tensor) -> Tensor:
    """In at least single precision, and in one piece."""
    return at_least_single(part).contiguous()


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
            for block, *parts in _results((a, q, k, v, rq, rk, rv), span):
                for result, part in zip((content, position), parts, strict=True):
                    result[:, block.strips, block.queries] = part
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
        a, q, k, v, *saved = ctx.saved_tensors
        tables = [at_least_single(t) for t in saved]
        # A key, or its value, may be in several blocks.
        grads = [
            torch.empty_like(a),
            torch.empty_like(q),
            *(torch.zeros_like(at_least_single(t)) for t in (k, v)),
        ]
        row_grads = [torch.zeros_like(t) for t in tables]
        blocks = _blocks(q, ctx.span)
        buffers = Buffers(q, blocks, both=True)
        for block in blocks:
            ab, qb, kb, vb = map(_whole, block.parts((a, q, k, v)))
            da, dq, dk, dv = block.parts(grads)
            rq, rk, rv = block.rows(tables)
            drq, drk, drv = block.rows(row_grads)
            dc, dp = (
                _whole(grad[:, block.strips, block.queries])
                for grad in (content_grad, position_grad)
            )
            weights = _weights(ab, qb, kb, (rq, rk, rv), block, ctx.span, buffers)
            dv += product(weights.mT, dc)
            drv += product(buffers.spread(weights, by_query).mT, dp.flatten(1, 2))

            logits = buffers.product(dc, vb)  # the gradient of the weights so far
            logits += by_query(buffers.lines(dp, rv), kb.shape[2])
            logits -= torch.linalg.vecdot(logits, weights)[..., None]
            logits *= weights  # (G, b, I, J), the gradient of the logits

            da.copy_(product(logits, kb))
            spread = buffers.spread(logits, by_query)
            dq.copy_(product(spread, rq).unflatten(1, qb.shape[1:3]))
            drq += product(spread.mT, qb.flatten(1, 2))
            spread = buffers.spread(logits, by_key)
            dk += product(logits.mT, ab)
            dk += product(spread, rk).unflatten(1, kb.shape[1:3])
            drk += product(spread.mT, kb.flatten(1, 2))
        everything = zip((*grads, *row_grads), (a, q, k, v, *saved), strict=True)
        return (*(g.to(t.dtype) for g, t in everything), None)


def _weights(
    a: Tensor,
    q: Tensor,
    k: Tensor,
    rows: Sequence[Tensor],
    block: Block,
    span: int | None,
    buffers: Buffers,
) -> Tensor:
    """The soft-maxed weights of a block, (G, b, I, J)."""
    rq, rk, _ = rows
    logits = buffers.product(a, k)
    logits += by_query(buffers.lines(q, rq), k.shape[2])
    logits += by_key(buffers.lines(k, rk), q.shape[2])
    outside = block.outside(reference.half_span(block.length, span), q.device)
    if outside is not None:
        logits.masked_fill_(outside, -math.inf)
    return buffers.softmax(logits)


def _strip_blocks(q: Tensor) -> list[slice]:
    """Cuts the strips of (G, B, L, D) into nearly equal blocks, the largest first."""
    heads, strips, length, _ = q.shape
    return _even_slices(strips, math.ceil(heads * strips * length * length / BLOCK_FLOATS))


def _even_slices(total: int, count: int) -> list[slice]:
    """Nearly equal ones, at most so many, the largest first."""
    return list(_slices(total, math.ceil(total / min(count, total))))


def _slices(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
