"""Axial attention a block of strips at a time, in plain PyTorch.

The logits of a few strips stay in cache, are never kept, and are computed again in the backward
pass (the plan of FlashAttention): memory does not grow with B L^2.

A block has b strips of one head, I queries of each and the J keys that they see: under a span no
others. How it lies: `ops/blocks.py`.

Heads come first, (G, B, L, D), with whatever strides: each head has tables of its own once the
norm's scales are folded into them.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import block_moments, blocks, moments, reference
from axial_d2.ops.blocks import Maps, even_slices
from axial_d2.ops.products import product
from axial_d2.ops.reference import at_least_single, half_span, is_concrete, no_autocast

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
    with no_autocast(q):
        operands = _operands(q, k, v, tables, logit_scale)
        _attend(operands, span, [total.transpose(0, 1)])
    return total


def _operands(
    q: Tensor, k: Tensor, v: Tensor, tables: Sequence[Tensor], logit_scale: Tensor | None
) -> tuple[Tensor, ...]:
    """q with the scale of q.k, q, k, v, (G, B, L, D); the rows with theirs, (G, 2 L - 1, D)."""
    heads, length = q.shape[1:3]
    rows = reference.rows_in_use(*tables, length=length)
    rq, rk, rv = (t.expand(heads, -1, -1) for t in rows)  # (G, 2 L - 1, D)
    heads_first = [t.transpose(0, 1) for t in (q, k, v)]
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


class _Group(NamedTuple):
    """Some heads and queries: what their blocks share.

    Attributes:
        heads: which.
        together: whether a block has all of them, or one.
        queries: which places.
        keys: those that they see.
        outside: (I, J), pairs beyond the span; None where there is none.
        rows: which of the tables' they need.
        blocks: the strips of each, and its maps.
    """

    heads: slice
    together: bool
    queries: slice
    keys: slice
    outside: Tensor | None
    rows: slice
    blocks: list[tuple[slice, Maps]]

    def of_queries(self, strips: slice, *tensors: Tensor) -> list[Tensor]:
        """The part of each (G, B, L, D) tensor, (G, b, I, D), views."""
        return [t[self.heads, strips, self.queries] for t in tensors]

    def of_keys(self, strips: slice, *tensors: Tensor) -> list[Tensor]:
        """The same by keys, (G, b, J, D)."""
        return [t[self.heads, strips, self.keys] for t in tensors]

    def windows(self, rq: Tensor, rk: Tensor, rv: Tensor) -> list[Tensor]:
        """For each place the rows that it meets of (G, 2 L - 1, D) tables.

        Returns:
            (G, I, J, D), (G, J, I, D) and (G, I, J, Dv): of queries, of keys and of values.
        """
        rq, rk, rv = (t[self.heads, self.rows] for t in (rq, rk, rv))
        own, others = (p.stop - p.start for p in (self.queries, self.keys))
        return [
            blocks.windows(rq, others),
            blocks.windows(rk.flip(1), own),
            blocks.windows(rv, others),
        ]

    def flat(self, *parts: Tensor) -> list[Sequence[Tensor]]:
        """Of (G, X, Y, Z) parts those of each block, (G * X, Y, Z): copies, but of one head."""
        if not self.together:
            return [t.unbind() for t in parts]
        return [(t.flatten(0, 1),) for t in parts]

    def views(self, *parts: Tensor) -> list[Sequence[Tensor]]:
        """The same as views, (G, X, Y, Z) where there are several heads."""
        return [(t,) if self.together else t.unbind() for t in parts]


def _groups(operands: Sequence[Tensor], span: int | None) -> Iterator[_Group]:
    _, q, _, v, *_ = operands
    heads, strips, length, depth = q.shape
    for queries, keys in blocks.ranges(length, span):
        own, others = queries.stop - queries.start, keys.stop - keys.start
        outside = blocks.outside(queries, keys, half_span(length, span), q.device)
        first = keys.start + length - queries.stop
        rows = slice(first, first + own + others - 1)
        # Heads of small maps together, since each call takes its time; else one by one, since of
        # one head no map is turned by a copy. No more windows than logits, about.
        most = blocks.BLOCK_FLOATS // (own * others)
        small = most >= 2 * max(strips, v.shape[-1])
        at_once = most // (max(strips, v.shape[-1]) if small else 2 * depth + v.shape[-1])
        for some_heads in even_slices(heads, math.ceil(heads / max(1, at_once))):
            in_block = some_heads.stop - some_heads.start if small else 1
            floats = in_block * strips * own * others
            some_strips = even_slices(strips, math.ceil(floats / blocks.BLOCK_FLOATS))
            shapes = [(in_block, s.stop - s.start, own, others) for s in some_strips]
            buffers = blocks.buffers_for(shapes, q[:0])
            maps = [buffers.maps(shape) for shape in shapes]
            yield _Group(
                heads=some_heads,
                together=in_block > 1,
                queries=queries,
                keys=keys,
                outside=outside,
                rows=rows,
                blocks=list(zip(some_strips, maps, strict=True)),
            )


def _attend(operands: Sequence[Tensor], span: int | None, results: Sequence[Tensor]) -> None:
    """Writes content and position, or their sum alone, into (G, B, L, Dv) results."""
    operands = [_in_rows(t) for t in operands]
    a, q, k, v, *tables = operands
    for group in _groups(operands, span):
        windows = group.flat(*group.windows(*tables))
        for strips, maps in group.blocks:
            queries, keys = group.of_queries(strips, a, q), group.of_keys(strips, k, v)
            inputs = group.flat(*queries, *keys)
            targets = group.views(*group.of_queries(strips, *results))
            for ab, qb, kb, vb, rq, rk, rv, *of_block in zip(
                *inputs, *windows, *targets, strict=True
            ):
                weights, sums = maps.weights(ab, qb, kb, rq, rk, group.outside)
                content, position = product(weights, vb), product(maps.turned(weights), rv)
                position = maps.turned(position)
                parts = (content, position) if len(of_block) == 2 else (content.add_(position),)
                for part, target in zip(parts, of_block, strict=True):
                    _divide(maps.by_head(part), maps.by_head(sums), target)


def _in_rows(tensor: Tensor) -> Tensor:
    """In at least single precision, and so that products take its matrices where they lie."""
    tensor = at_least_single(tensor)
    if tensor.is_meta:  # A convolution's result does not lie there as it would.
        return tensor
    if not is_concrete(tensor):  # A graph's strides may be open.
        return tensor.contiguous()
    *strides, last = tensor.stride()
    return tensor if last == 1 and min(strides) >= tensor.shape[-1] else tensor.contiguous()


def _divide(part: Tensor, sums: Tensor, result: Tensor) -> None:
    if torch.compiler.is_compiling():  # It loses the strides of `out`.
        result.copy_(part / sums)
    else:
        torch.div(part, sums, out=result)


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
        results = torch.empty_like(v), torch.empty_like(v)
        with no_autocast(q):
            _attend((a, q, k, v, rq, rk, rv), span, results)
        return results

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
        saved = ctx.saved_tensors  # To be asked for once.
        operands = [_in_rows(t) for t in saved]
        result_grads = _in_rows(content_grad), _in_rows(position_grad)
        # A key, or its value, may be in several blocks, a row is in most.
        grads = [torch.empty_like(t) for t in operands[:2]]
        grads += [torch.zeros_like(t) for t in operands[2:]]
        for group in _groups(operands, ctx.span):
            _group_gradients(group, operands, result_grads, grads)
        everything = zip(grads, saved, strict=True)
        return (*(g.to(t.dtype) for g, t in everything), None)


def _group_gradients(
    group: _Group,
    operands: Sequence[Tensor],
    result_grads: Sequence[Tensor],
    grads: Sequence[Tensor],
) -> None:
    """Writes a group's part of the operands' gradients, adds it to those of keys, values, rows."""
    a, q, k, v, *tables = operands
    of_windows = group.windows(*tables)
    window_grads = [t.new_zeros(t.mT.shape) for t in of_windows]
    # The gradients are in one piece, and flat they are views.
    windows = group.flat(*of_windows, *window_grads)
    for strips, maps in group.blocks:
        inputs = (*group.of_queries(strips, a, q, *result_grads), *group.of_keys(strips, k, v))
        targets = (*group.of_queries(strips, *grads[:2]), *group.of_keys(strips, *grads[2:4]))
        of_blocks = (*group.flat(*inputs), *windows, *group.views(*targets))
        for tensors in zip(*of_blocks, strict=True):
            _block_gradients(*tensors, outside=group.outside, maps=maps)
    drq, drk, drv = (blocks.rows_from(t.mT) for t in window_grads)
    for grad, part in zip(grads[4:], (drq, drk.flip(1), drv), strict=True):
        grad[group.heads, group.rows] += part


def _block_gradients(
    a: Tensor, q: Tensor, dc: Tensor, dp: Tensor, k: Tensor, v: Tensor,
    rq: Tensor, rk: Tensor, rv: Tensor, drq: Tensor, drk: Tensor, drv: Tensor,
    da: Tensor, dq: Tensor, dk: Tensor, dv: Tensor,
    *, outside: Tensor | None, maps: Maps,
) -> None:  # fmt: skip
    """The gradients of a block.

    Args:
        a: (G * b, I, D), the queries of q.k.
        q: (G * b, I, D), those of q.rq.
        dc: (G * b, I, Dv), the gradient of the content.
        dp: (G * b, I, Dv), of the position.
        k: (G * b, J, D).
        v: (G * b, J, Dv).
        rq: (G * I, J, D), the rows that each query sees.
        rk: (G * J, I, D), those by which each key is seen.
        rv: (G * I, J, Dv), the rows of the values.
        drq: (G * I, D, J), added to, like the next two.
        drk: (G * J, D, I).
        drv: (G * I, Dv, J).
        da: (G, b, I, D), of one head (b, I, D); written to.
        dq: like da, written to.
        dk: (G, b, J, D), of one head (b, J, D); added to.
        dv: (G, b, J, Dv), of one head (b, J, Dv); added to.
        outside: see `_Group`.
        maps: where the block works.
    """
    weights, sums = maps.weights(a, q, k, rq, rk, outside)
    weights /= sums
    dv += maps.by_head(product(weights.mT, dc))
    drv.baddbmm_(maps.turned(dp).mT, maps.turned(weights))

    logits = maps.weight_gradient(dc, dp, v, rv)
    logits -= torch.linalg.vecdot(logits, weights)[..., None]
    logits *= weights  # (G * b, I, J), the gradient of the logits

    da.copy_(maps.by_head(product(logits, k)))
    dk += maps.by_head(product(logits.mT, a))
    placed = maps.turned(logits)
    dq.copy_(maps.by_head(maps.turned(product(placed, rq))))
    drq.baddbmm_(maps.turned(q).mT, placed)
    placed = maps.by_key(logits)
    dk += maps.by_head(maps.turned(product(placed, rk)))
    drk.baddbmm_(maps.turned(k).mT, placed)


def _strip_blocks(q: Tensor) -> list[slice]:
    """Cuts the strips of (G, B, L, D) into nearly equal blocks, the largest first."""
    heads, strips, length, _ = q.shape
    return even_slices(strips, math.ceil(heads * strips * length * length / MOMENT_FLOATS))
