"""Axial attention a block of strips at a time, in plain PyTorch.

The logits of a few strips stay in cache, are never kept, and are computed again in the backward
pass (the plan of FlashAttention): memory does not grow with B L^2.

A block has b strips of some heads, I queries of each and the J keys that they see: under a span no
others. A relative term needs, for a pair, the row of its distance. For one query of all strips the
rows are a window of the table, and the term is a product of matrices. For the keys this would give
a map that lies the wrong way round; their products with all I + J - 1 rows hold it along diagonals,
a view. How both lie: `ops/blocks.py`.

Heads come first, (G, B, L, D): each head has tables of its own once the norm's scales are folded
into them.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import block_moments, moments, reference
from axial_d2.ops.blocks import Block, Maps, buffers_for
from axial_d2.ops.products import product
from axial_d2.ops.reference import at_least_single, no_autocast

# Floats in the logits of one block; four times as many are in use. All strips of one head at length
# 56. Measured on two cores with half a megabyte of second cache each: half or twice as many are
# slower.
BLOCK_FLOATS = 3 << 16
# Queries of a block under a span: more see more keys that are not theirs, fewer make products too
# small to be fast. Without a span a block has the whole strip.
BLOCK_QUERIES = 64
# Floats in one term of the logits whose moments are counted, of several heads and strips.
MOMENT_FLOATS = 1 << 19
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
            block.write(content.add_(position), to=total.transpose(0, 1))
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
    return content_query, *heads_first, rq, rk, rv


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


def _blocks(q: Tensor, value_depth: int, span: int | None) -> list[Block]:
    """Cuts (G, B, L, D) queries into blocks, those of the same queries in a row."""
    heads, strips, length, _ = q.shape
    half = reference.half_span(length, span)
    blocks = []
    for queries in _even_slices(length, 1 if span is None else math.ceil(length / BLOCK_QUERIES)):
        keys = slice(max(0, queries.start - half), min(length, queries.stop + half))
        pairs = (queries.stop - queries.start) * (keys.stop - keys.start)
        # Many strips of few heads: what is done per query is a product over the strips. Of several
        # heads the windows of the tables are copies, which are to be no larger than the logits.
        heads_at_once = max(1, BLOCK_FLOATS // (pairs * max(strips, value_depth)))
        for some_heads in _even_slices(heads, math.ceil(heads / heads_at_once)):
            count = (some_heads.stop - some_heads.start) * strips * pairs
            for some in _even_slices(strips, math.ceil(count / BLOCK_FLOATS)):
                blocks.append(Block(length, some_heads, some, queries, keys))
    return blocks


def _maps(
    q: Tensor, v: Tensor, span: int | None, *, gradients: bool = False
) -> Iterator[tuple[Block, Maps]]:
    """The blocks of (G, B, L, D) queries, and what each works in."""
    blocks = _blocks(q, v.shape[-1], span)
    shapes = [block.shape for block in blocks]
    buffers = buffers_for(shapes, at_least_single(q[:0]), gradients=gradients)
    for block, shape in zip(blocks, shapes, strict=True):
        yield block, buffers.maps(shape)


def _results(
    operands: Sequence[Tensor], span: int | None
) -> Iterator[tuple[Block, Tensor, Tensor]]:
    """By blocks: their content and position, (G, b, I, Dv)."""
    q, tables = operands[1], [at_least_single(t) for t in operands[4:]]
    for block, maps in _maps(q, operands[3], span):
        ab, qb, kb, vb = _parts(block, operands[:4])
        rows = [block.rows(t) for t in tables]
        weights = _weights(ab, qb, kb, rows, block, span, maps)
        content = product(weights, vb)
        yield block, content, maps.position(weights, rows[2])


def _parts(block: Block, operands: Sequence[Tensor]) -> list[Tensor]:
    """Of a, q, k and v, (G, b, I or J, D) each, in at least single precision and in one piece."""
    a, q, k, v = operands
    qb = at_least_single(block.of_queries(q))
    # Without a scale a is q.
    ab = qb if a is q else at_least_single(block.of_queries(a))
    return [ab, qb, *(at_least_single(block.of_keys(t)).contiguous() for t in (k, v))]


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
                    block.write(part, to=result)
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
        da, dq, dk, dv = grads
        for block, maps in _maps(q, v, ctx.span, gradients=True):
            ab, qb, kb, vb = _parts(block, (a, q, k, v))
            dkb, dvb = block.of_keys(dk), block.of_keys(dv)
            rq, rk, rv = (block.rows(t) for t in tables)
            drq, drk, drv = (block.rows(t) for t in row_grads)
            dc, dp = (at_least_single(block.of_queries(t)) for t in (content_grad, position_grad))
            weights = _weights(ab, qb, kb, (rq, rk, rv), block, ctx.span, maps)
            dvb += product(weights.mT, dc)
            drv += product(maps.by_query(weights).mT, dp.flatten(1, 2))

            logits = maps.weight_gradient(dc, dp, vb, rv)
            logits -= torch.linalg.vecdot(logits, weights)[..., None]
            logits *= weights  # (G, b, I, J), the gradient of the logits

            block.write(product(logits, kb), to=da)
            spread = maps.by_query(logits)
            block.write(product(spread, rq).unflatten(1, qb.shape[1:3]), to=dq)
            drq += product(spread.mT, qb.flatten(1, 2))
            spread = maps.by_key(logits)
            dkb += product(logits.mT, ab)
            dkb += product(spread, rk).unflatten(1, kb.shape[1:3])
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
    maps: Maps,
) -> Tensor:
    """The soft-maxed weights of a block, (G, b, I, J)."""
    logits = maps.logits(a, q, k, *rows[:2])
    outside = block.outside(reference.half_span(block.length, span), q.device)
    if outside is not None:
        logits.masked_fill_(outside, -math.inf)
    return maps.weights()


def _strip_blocks(q: Tensor) -> list[slice]:
    """Cuts the strips of (G, B, L, D) into nearly equal blocks, the largest first."""
    heads, strips, length, _ = q.shape
    return _even_slices(strips, math.ceil(heads * strips * length * length / MOMENT_FLOATS))


def _even_slices(total: int, count: int) -> list[slice]:
    """Nearly equal ones, at most so many, the largest first."""
    return list(_slices(total, math.ceil(total / min(count, total))))


def _slices(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
