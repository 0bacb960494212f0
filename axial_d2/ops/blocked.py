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
import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import block_moments, moments, reference
from axial_d2.ops.products import product
from axial_d2.ops.reference import at_least_single, no_autocast

# Floats in the logits of one block. Three to four buffers of that size are in use at a time; they
# should fit the last-level cache.
BLOCK_FLOATS = 1 << 19
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
            torch.add(content, position, out=content)
            total[block] = content.transpose(0, 1)
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
    # The keys' rows are reversed, so that one query's logits lie in one line: see `_by_key`.
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
    mean, variance, count = block_moments.logit_moments(q, k, *rows, span=span, blocks=_blocks(q))
    return mean.to(dtype), variance.to(dtype), count


def _by_query(lines: Tensor) -> Tensor:
    """Views (G, b, L, 2 L - 1) lines per query as the (G, b, L, L) map: [i, j] = line i, j - i."""
    length = lines.shape[2]
    if length == 1:
        return lines
    # Lines of one less: each starts one place further to the left in the line that it lies in.
    shorter = 2 * length - 2
    flat = lines.flatten(2)[..., length - 1 : length - 1 + length * shorter]
    return flat.unflatten(2, (length, shorter))[..., :length]


def _by_key(lines: Tensor) -> Tensor:
    """Views lines per key, their rows reversed, as the map: [i, j] = line j, i - j."""
    return _by_query(lines).transpose(2, 3)


# Floats of working memory that stay with a thread for its next layer: 32 MB in single precision.
# Fresh pages for each layer would cost a fifth of its time.
MOST_SCRATCH = 1 << 23
_of_thread = threading.local()


def _scratch(size: int, like: Tensor) -> Tensor:
    """Uninitialised working memory, of so many numbers of `like`'s kind."""
    passing = torch.jit.is_tracing() or torch.compiler.is_compiling()
    if passing or like.device.type not in ("cpu", "meta"):
        return like.new_empty(size)
    # A tensor made in inference mode can't be written to outside of it.
    kind = (like.dtype, like.device, torch.is_inference_mode_enabled())
    kept: tuple[tuple, Tensor] | None = getattr(_of_thread, "scratch", None)
    if kept is None or kept[0] != kind or kept[1].numel() < size:
        kept = (kind, like.new_empty(size))
        if size <= MOST_SCRATCH:
            _of_thread.scratch = kept
    return kept[1][:size]


class _Buffers:
    """What the blocks share, one after the other."""

    def __init__(self, like: Tensor, strips: int) -> None:
        """For so many strips at a time of tensors like a (G, B, L, D) one."""
        self.heads, _, self.length, _ = like.shape
        lines, width = self.heads * strips * self.length, 2 * self.length - 1
        sizes = [lines * self.length] * 2 + [lines * width] * 2
        scratch = _scratch(sum(sizes), at_least_single(like[:0]))
        *self._maps, self._lines, self._spread = scratch.split(sizes)
        # What the views `_by_query` and `_by_key` don't reach, both the same, stays zero.
        self._spread.zero_()

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a @ b.mT, (G, b, L, L), of (G, b, L, D)."""
        out = self._maps[0][: a.shape[1] * self.heads * self.length**2]
        out = out.view(-1, self.length, self.length)
        torch.bmm(a.flatten(0, 1), b.flatten(0, 1).mT, out=out)
        return out.view(*a.shape[:3], -1)

    def softmax(self, logits: Tensor) -> Tensor:
        """Of such a product, which may be lost at the next one."""
        out = self._maps[1][: logits.numel()].view(logits.shape)
        return torch.softmax(logits, dim=-1, out=out)

    def lines(self, a: Tensor, rows: Tensor) -> Tensor:
        """The products of (G, b, L, D) with (G, 2 L - 1, D) rows: (G, b, L, 2 L - 1)."""
        width = rows.shape[1]
        out = self._lines[: a.numel() // a.shape[3] * width].view(self.heads, -1, width)
        torch.bmm(a.flatten(1, 2), rows.mT, out=out)
        return out.view(*a.shape[:3], width)

    def spread(self, weights: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
        """The (G, b * L, 2 L - 1) lines that a (G, b, L, L) map is spread over.

        Args:
            weights: the map.
            view: `_by_query` or `_by_key`.
        """
        width = 2 * self.length - 1
        lines = self._spread[: weights.numel() // self.length * width]
        lines = lines.view(*weights.shape[:3], width)
        view(lines).copy_(weights)
        return lines.flatten(1, 2)


def _results(
    operands: Sequence[Tensor], span: int | None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """By blocks: which strips, and their content and position, (G, b, L, Dv)."""
    q, (rq, rk, rv) = operands[1], (at_least_single(t) for t in operands[4:])
    outside = _outside(q, span)
    blocks = _blocks(q)
    buffers = _Buffers(q, blocks[0].stop)
    for block in blocks:
        ab, qb, kb, vb = (at_least_single(t[:, block]) for t in operands[:4])
        weights = _weights(ab, qb, kb, rq, rk, outside, buffers)
        content = product(weights, vb)
        position = product(buffers.spread(weights, _by_query), rv)  # (G, b * L, Dv)
        yield block, content, position.unflatten(1, qb.shape[1:3])


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
                content[:, block], position[:, block] = parts
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
        buffers = _Buffers(q, blocks[0].stop)
        for block in blocks:
            ab, qb, kb, vb = (at_least_single(t[:, block]) for t in (a, q, k, v))
            dc, dp = (
                at_least_single(grad[:, block]).contiguous()
                for grad in (content_grad, position_grad)
            )
            weights = _weights(ab, qb, kb, rq, rk, outside, buffers)
            grads[3][:, block] = product(weights.mT, dc)
            spread = buffers.spread(weights, _by_query)
            table_grads[2] += product(spread.mT, dp.flatten(1, 2))

            logits = buffers.product(dc, vb)  # the gradient of the weights so far
            logits += _by_query(buffers.lines(dp, rv))
            logits -= torch.linalg.vecdot(logits, weights)[..., None]
            logits *= weights  # (G, b, L, L), the gradient of the logits

            grads[0][:, block] = product(logits, kb)
            spread = buffers.spread(logits, _by_query)
            grads[1][:, block] = product(spread, rq).reshape(qb.shape)
            table_grads[0] += product(spread.mT, qb.flatten(1, 2))
            spread = buffers.spread(logits, _by_key)
            grads[2][:, block] = product(logits.mT, ab) + product(spread, rk).reshape(kb.shape)
            table_grads[1] += product(spread.mT, kb.flatten(1, 2))
        table_grads = [g.to(t.dtype) for g, t in zip(table_grads, tables, strict=True)]
        return (*grads, *table_grads, None)


def _weights(
    a: Tensor,
    q: Tensor,
    k: Tensor,
    rq: Tensor,
    rk: Tensor,
    outside: Tensor | None,
    buffers: _Buffers,
) -> Tensor:
    """The soft-maxed weights of a block, (G, b, L, L)."""
    logits = buffers.product(a, k)
    logits += _by_query(buffers.lines(q, rq))
    logits += _by_key(buffers.lines(k, rk))
    if outside is not None:
        logits.masked_fill_(outside, -math.inf)
    return buffers.softmax(logits)


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
