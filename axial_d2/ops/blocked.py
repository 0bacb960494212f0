"""Axial attention a block of strips at a time, in plain PyTorch.

The logits of a few strips stay in cache, are never kept, and are computed again in the backward
pass (the plan of FlashAttention): memory does not grow with B L^2.

A block has b strips of one head, or of several small ones, I queries of each and the J keys that
they see: under a span no others. What is cut how: `ops/block_groups.py`;
how it lies: `ops/blocks.py`.

Heads come first, (G, B, L, D), with whatever strides: each head has tables of its own once the
norm's scales are folded into them.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import block_moments, blocks, moments, reference
from axial_d2.ops.block_groups import Group, groups, in_rows, laid, run_backwards
from axial_d2.ops.blocks import Maps, even_slices
from axial_d2.ops.products import product
from axial_d2.ops.reference import at_least_single, is_concrete, no_autocast

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


def _attend(operands: Sequence[Tensor], span: int | None, results: Sequence[Tensor]) -> None:
    """Writes content and position, or their sum alone, into (G, B, L, Dv) results."""
    q, v = operands[1], operands[3]
    backwards = run_backwards(q, v, span)
    operands = laid(operands, backwards=backwards)
    for group in groups(q, v, span, backwards=backwards):
        _attend_group(group, operands, results)


def _attend_group(group: Group, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    a, q, k, v, *tables = operands
    windows = group.flat(*group.windows(*tables))
    for strips, maps in group.blocks:
        inputs = group.flat(*group.of_queries(strips, a, q), *group.of_keys(strips, k, v))
        targets = group.views(*group.of_queries(strips, *results))
        for ab, qb, kb, vb, rq, rk, rv, *of_block in zip(*inputs, *windows, *targets, strict=True):
            weights, sums = maps.weights(ab, qb, kb, rq, rk, group.outside)
            content, position = product(weights, vb), product(maps.turned(weights), rv)
            position = maps.turned(position)
            parts = (content, position) if len(of_block) == 2 else (content.add_(position),)
            for part, target in zip(parts, of_block, strict=True):
                _divide(maps.by_head(part), maps.by_head(sums), target)


def _divide(part: Tensor, sums: Tensor, result: Tensor) -> None:
    if is_concrete(part):
        torch.div(part, sums, out=result)
    else:  # A compiler loses the strides of `out`, a transform does not know it.
        result.copy_(part / sums)


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
        q, v = saved[1], saved[3]
        backwards = run_backwards(q, v, ctx.span)
        operands = laid(saved, backwards=backwards)
        result_grads = in_rows(content_grad), in_rows(position_grad)
        # A key, or its value, may be in several blocks, a row is in most.
        grads = [torch.empty_like(t) for t in operands[:2]]
        grads += [torch.zeros_like(at_least_single(t)) for t in operands[2:]]
        for group in groups(q, v, ctx.span, backwards=backwards):
            _group_gradients(group, operands, result_grads, grads)
        if backwards:
            grads[2:] = [*(t.flip(2) for t in grads[2:4]), *(t.flip(1) for t in grads[4:])]
        return (*(g.to(t.dtype) for g, t in zip(grads, saved, strict=True)), None)


def _group_gradients(
    group: Group,
    operands: Sequence[Tensor],
    result_grads: Sequence[Tensor],
    grads: Sequence[Tensor],
) -> None:
    """Writes a group's part of the operands' gradients, adds it to those of keys, values, rows."""
    a, q, k, v, *tables = operands
    windows = group.windows(*tables)
    row_grads = [t[group.heads, group.rows] for t in grads[4:]]
    if group.backwards:
        tables = group.flat(*windows) + group.views(*row_grads)
    else:
        # In one piece, so that flat they are views.
        window_grads = [t.new_zeros(t.mT.shape) for t in windows]
        tables = group.flat(*windows, *window_grads)
    for strips, maps in group.blocks:
        inputs = (*group.of_queries(strips, a, q, *result_grads), *group.of_keys(strips, k, v))
        targets = (*group.of_queries(strips, *grads[:2]), *group.of_keys(strips, *grads[2:4]))
        of_blocks = (*group.flat(*inputs), *tables, *group.views(*targets))
        add = _add_to_rows if group.backwards else _add_to_windows
        for tensors in zip(*of_blocks, strict=True):
            _block_gradients(*tensors, outside=group.outside, maps=maps, add=add)
    if not group.backwards:
        parts = (blocks.rows_from(t.mT) for t in window_grads)
        for n, (row_grad, part) in enumerate(zip(row_grads, parts, strict=True)):
            row_grad += part.flip(1) if n == 1 else part


def _add_to_windows(target: Tensor, x: Tensor, map_: Tensor, maps: Maps) -> None:
    """Adds to the gradients of windows, (G * I, D, J), from what lies by place."""
    target.baddbmm_(x.mT, map_)


def _add_to_rows(target: Tensor, x: Tensor, map_: Tensor, maps: Maps) -> None:
    """The same to those of rows, (G, I + J - 1, D), of one head without G."""
    x, map_ = maps.by_head(x), maps.by_head(map_)  # (G, I, b, D), (G, I, b, J)
    target += blocks.lines(map_).mT @ x.flatten(-3, -2)


def _block_gradients(
    a: Tensor, q: Tensor, dc: Tensor, dp: Tensor, k: Tensor, v: Tensor,
    rq: Tensor, rk: Tensor, rv: Tensor, drq: Tensor, drk: Tensor, drv: Tensor,
    da: Tensor, dq: Tensor, dk: Tensor, dv: Tensor,
    *, outside: Tensor | None, maps: Maps, add: Callable[[Tensor, Tensor, Tensor, Maps], None],
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
        drq: the gradient of rq, as `add` takes it, like the next two.
        drk: of rk.
        drv: of rv.
        da: (G, b, I, D), of one head (b, I, D); written to.
        dq: like da, written to.
        dk: (G, b, J, D), of one head (b, J, D); added to.
        dv: (G, b, J, Dv), of one head (b, J, Dv); added to.
        outside: see `Group`.
        maps: where the block works.
        add: adds to the gradients of rows, or of windows.
    """
    weights, sums = maps.weights(a, q, k, rq, rk, outside)
    weights /= sums
    dv += maps.by_head(product(weights.mT, dc))
    add(drv, maps.turned(dp), maps.turned(weights), maps)

    logits = maps.weight_gradient(dc, dp, v, rv)
    logits -= torch.linalg.vecdot(logits, weights)[..., None]
    logits *= weights  # (G * b, I, J), the gradient of the logits

    da.copy_(maps.by_head(product(logits, k)))
    dk += maps.by_head(product(logits.mT, a))
    placed = maps.turned(logits)
    dq.copy_(maps.by_head(maps.turned(product(placed, rq))))
    add(drq, maps.turned(q), placed, maps)
    placed = maps.by_key(logits)
    dk += maps.by_head(maps.turned(product(placed, rk)))
    add(drk, maps.turned(k), placed, maps)


def _strip_blocks(q: Tensor) -> list[slice]:
    """Cuts the strips of (G, B, L, D) into nearly equal blocks, the largest first."""
    heads, strips, length, _ = q.shape
    return even_slices(strips, math.ceil(heads * strips * length * length / MOMENT_FLOATS))
