"""Local 2-D attention a block of tiles at a time, in plain PyTorch.

Nothing of a block is kept: the backward pass computes its logits again, so that memory grows
neither with the window nor with the number of windows. Where what lies in `ops/tiles.py`.
"""

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import reference
from axial_d2.ops.reference import at_least_single, no_autocast
from axial_d2.ops.tiles import Block, Grid


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor | None,
    value_table: Tensor | None,
    *,
    logit_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The attention; see `axial_d2.ops.local_attention`. Differentiable once."""
    window = _window_within(q, query_table)
    rq, rk, rv = (_rows(t, window, q.shape[1]) for t in (query_table, key_table, value_table))
    content_query = q
    if logit_scale is not None:
        scale = logit_scale.to(q.dtype)[..., None, None]  # (T, G, 1, 1)
        content_query = q * scale[0, ..., None]
        rq = rq * scale[1]
        rk = None if rk is None else rk * scale[2]
    heads_first = [t.transpose(0, 1) for t in (content_query, q, k, v)]  # (G, N, H, W, D)
    results = [t.transpose(0, 1) for t in _Attention.apply(*heads_first, rq, rk, rv, window)]
    return results[0], None if value_table is None else results[1]


def local_logit_moments(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    """The moments; see `axial_d2.ops.local_logit_moments`. Differentiable once."""
    window = _window_within(q, query_table)
    down, across = (reference.pairs_in_band(n, window) for n in q.shape[2:4])
    rows = [_rows(t, window, q.shape[1]) for t in (query_table, key_table)]
    heads_first = [t.transpose(0, 1) for t in (q, k)]  # (G, N, H, W, D)
    count = q.shape[0] * down * across
    mean, variance = _Moments.apply(*heads_first, *rows, window, count)
    return mean, variance, count


def _window_within(q: Tensor, table: Tensor) -> int:
    """M, or the smallest window through which every place of so small a map sees all of it."""
    return min(operator.index(table.shape[0]), 2 * max(_sizes(q)[2:]) - 1)


def _sizes(q: Tensor) -> list[int]:
    """Of the first four dimensions, as numbers: tracers have tensors and symbols for them.

    What is cut how depends on them: a compiled program is of one size.
    """
    return [operator.index(n) for n in q.shape[:4]]


def _rows(table: Tensor | None, window: int, heads: int) -> Tensor | None:
    """The middle of (M, M, D), as wide as the window, as (G, window * window, D)."""
    if table is None:
        return None
    cut = (table.shape[0] - window) // 2
    inner = slice(cut, cut + window)
    return table[inner, inner].flatten(0, 1).expand(heads, -1, -1)


def _of_heads(block: Block, tables: Sequence[Tensor | None]) -> list[Any]:
    """Views of the rows that the heads of a block have."""
    return [None if t is None else t[block.heads] for t in tables]


def _blocks(q: Tensor, window: int, key_rows: Tensor | None) -> Iterator[Block]:
    heads, pictures, height, width = _sizes(q)
    return Grid(height, width, window, by_key=key_rows is not None).blocks(heads, pictures)


class _Attention(torch.autograd.Function):
    """Content and, with rows for values, position, from (G, N, H, W, D) maps and per-head rows."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        a: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rq: Tensor,
        rk: Tensor | None,
        rv: Tensor | None,
        window: int,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(a, q, k, v, rq, rk, rv)
        ctx.window = window
        content = v.new_empty(v.shape)
        position = None if rv is None else v.new_empty(v.shape)
        with no_autocast(q):
            tables = [_single(t) for t in (rq, rk, rv)]
            for block in _blocks(q, window, rk):
                rq, rk, rv = _of_heads(block, tables)
                ab, qb = (at_least_single(block.queries(t)) for t in (a, q))
                kb, vb = (at_least_single(block.keys(t)) for t in (k, v))
                weights = _weights(block, ab, qb, kb, rq, rk)
                block.put_queries(content, block.spread(weights) @ vb)
                if rv is not None:
                    block.put_queries(position, _per_head(weights, rv))
        return (content,) if position is None else (content, position)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, content_grad: Tensor, position_grad: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        # The region of the forward pass may still be open.
        with no_autocast(content_grad):
            return _Attention._gradients(ctx, content_grad, position_grad)

    @staticmethod
    def _gradients(
        ctx: FunctionCtx, content_grad: Tensor, position_grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        a, q, k, v, *tables = ctx.saved_tensors
        single = [_single(t) for t in tables]
        da, dq = (torch.empty_like(t) for t in (a, q))
        # Margins of several blocks add up: not in half precision.
        dk, dv = (torch.zeros_like(at_least_single(t)) for t in (k, v))
        table_grads = [None if t is None else torch.zeros_like(t) for t in single]
        for block in _blocks(q, ctx.window, single[1]):
            rq, rk, rv = _of_heads(block, single)
            drq, drk, drv = _of_heads(block, table_grads)
            ab, qb, dc = (at_least_single(block.queries(t)) for t in (a, q, content_grad))
            kb, vb = (at_least_single(block.keys(t)) for t in (k, v))
            weights = _weights(block, ab, qb, kb, rq, rk)

            slopes = _copied(block.by_query(dc @ vb.mT), weights)
            block.add_keys(dv, block.spread(weights).mT @ dc)
            if rv is not None:
                dp = at_least_single(block.queries(position_grad))
                slopes += _per_head(dp, rv.mT)
                drv += _summed(weights, dp)
            # d softmax = w * (g - sum(w * g)); no row of 1s is subtracted from a sum of 1s.
            slopes -= torch.linalg.vecdot(weights, slopes)[..., None]
            logits = weights.mul_(slopes)
            content = block.spread(logits)
            block.put_queries(da, content @ kb)
            block.put_queries(dq, _per_head(logits, rq))
            drq += _summed(logits, qb)
            dkb = content.mT @ ab
            if rk is not None:
                by_key = block.spread_by_key(logits)
                dkb += _per_head(by_key, rk)
                drk += _summed(by_key, kb)
            block.add_keys(dk, dkb)
        grads = [t.to(like.dtype) for t, like in zip((dk, dv), (k, v), strict=True)]
        for grad, table in zip(table_grads, tables, strict=True):
            grads.append(None if grad is None else grad.to(table.dtype))
        return da, dq, *grads, None


class _Moments(torch.autograd.Function):
    """Mean and variance (T, G) from (G, N, H, W, D) maps and per-head rows of the tables."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        rq: Tensor,
        rk: Tensor | None,
        window: int,
        count: int,
    ) -> tuple[Tensor, Tensor]:
        terms = 2 if rk is None else 3
        # Sums of what is left of a value near the mean: the variance of logits far from zero would
        # be a small difference of large sums.
        near = at_least_single(q).new_zeros(terms, q.shape[0])
        sums = torch.zeros(2, terms, q.shape[0], dtype=torch.float64, device=q.device)
        with no_autocast(q):
            single = [_single(rq), _single(rk)]
            for block in _blocks(q, window, rk):
                qb, kb = at_least_single(block.queries(q)), at_least_single(block.keys(k))
                pairs = _pairs(block, qb)
                for t, term in enumerate(_terms(block, qb, kb, *_of_heads(block, single))):
                    if block.is_first:
                        near[t, block.heads] = (term * pairs).sum(dim=(1, 2, 3)) / pairs.sum()
                    rest = term.sub_(near[t, block.heads, None, None, None]).mul_(pairs).flatten(1)
                    sums[0, t, block.heads] += rest.sum(dim=1)
                    sums[1, t, block.heads] += torch.linalg.vecdot(rest, rest)
        offset, square = sums / count
        mean = near + offset
        variance = (square - offset.square()).clamp_min(0)
        ctx.save_for_backward(q, k, rq, rk, mean)
        ctx.window, ctx.count = window, count
        return mean.to(q.dtype), variance.to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, mean_grad: Tensor, variance_grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, *tables, mean = ctx.saved_tensors
        single = [_single(t) for t in tables]
        dq = torch.empty_like(q)
        dk = torch.zeros_like(at_least_single(k))
        table_grads = [None if t is None else torch.zeros_like(t) for t in single]
        # The gradient of one logit x is (mean_grad + 2 variance_grad (x - mean)) / count.
        slope = (2 * variance_grad / ctx.count).to(dk.dtype)[..., None, None, None]
        level = ((mean_grad - 2 * variance_grad * mean) / ctx.count).to(dk.dtype)
        level = level[..., None, None, None]
        with no_autocast(q):
            for block in _blocks(q, ctx.window, single[1]):
                rq, rk = _of_heads(block, single)
                drq, drk = _of_heads(block, table_grads)
                qb, kb = at_least_single(block.queries(q)), at_least_single(block.keys(k))
                pairs = _pairs(block, qb)
                logits = [
                    term.mul_(slope[i, block.heads]).add_(level[i, block.heads]).mul_(pairs)
                    for i, term in enumerate(_terms(block, qb, kb, rq, rk))
                ]
                content = block.spread(logits[0])
                block.put_queries(dq, content @ kb + _per_head(logits[1], rq))
                drq += _summed(logits[1], qb)
                dkb = content.mT @ qb
                if rk is not None:
                    by_key = block.spread_by_key(logits[2])
                    dkb += _per_head(by_key, rk)
                    drk += _summed(by_key, kb)
                block.add_keys(dk, dkb)
        grads = [None if g is None else g.to(q.dtype) for g in table_grads]
        return dq, dk.to(k.dtype), *grads, None, None


def _terms(block: Block, q: Tensor, k: Tensor, rq: Tensor, rk: Tensor | None) -> list[Tensor]:
    """q.k, q.rq and, with rows of its own, k.rk, each (G, B, Q, M * M)."""
    query = _per_head(q, rq.mT)
    terms = [_copied(block.by_query(q @ k.mT), query), query]
    if rk is not None:
        terms.append(_copied(block.by_key(_per_head(k, rk.mT)), query))
    return terms


def _copied(windows: Tensor, like: Tensor) -> Tensor:
    """Windows as (G, B, Q, M * M), to be written to: `reshape` may view them instead."""
    return windows.clone(memory_format=torch.contiguous_format).view(like.shape)


def _weights(
    block: Block, a: Tensor, q: Tensor, k: Tensor, rq: Tensor, rk: Tensor | None
) -> Tensor:
    """The soft-maxed weights of a block, (G, B, Q, M * M)."""
    logits = _per_head(q, rq.mT)
    by_place = block.in_map(q.device)[1]  # (down, across, Q, M * M)
    windows = (*logits.shape[:2], *block.grid.tile, block.grid.window, block.grid.window)
    logits.view(windows).add_(block.by_query(a @ k.mT))
    if rk is not None:
        logits.view(windows).add_(block.by_key(_per_head(k, rk.mT)))
    per_picture = logits.unflatten(1, (-1, *by_place.shape[:2]))  # (G, n, down, across, Q, M * M)
    per_picture.masked_fill_(~by_place, -math.inf)
    return logits.softmax(dim=-1)


def _pairs(block: Block, like: Tensor) -> Tensor:
    """1 for each pair that exists, else 0: (B, Q, M * M)."""
    queries, keys = block.in_map(like.device)
    pairs = (keys & queries[..., None]).to(like.dtype).flatten(0, 1)  # (down * across, Q, M * M)
    pictures = block.pictures.stop - block.pictures.start
    return pairs.repeat(pictures, 1, 1)


def _per_head(x: Tensor, rows: Tensor) -> Tensor:
    """(G, B, Q, D) times each head's (G, D, E): (G, B, Q, E)."""
    return (x.flatten(1, 2) @ rows).unflatten(1, x.shape[1:3])


def _summed(x: Tensor, y: Tensor) -> Tensor:
    """Sums the outer products of (G, B, Q, D) and (G, B, Q, E) over tiles and places: (G, D, E)."""
    return x.flatten(1, 2).mT @ y.flatten(1, 2)


def _single(table: Tensor | None) -> Tensor | None:
    return None if table is None else at_least_single(table)
