"""How `blocked` cuts its work: heads, queries and strips, and which way keys and tables run."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from axial_d2.ops import blocks
from axial_d2.ops.blocks import Maps, even_slices
from axial_d2.ops.reference import at_least_single, half_span, is_concrete


class Group(NamedTuple):
    """Some heads and queries: what their blocks share.

    Attributes:
        backwards: whether keys, values and tables run backwards; see `ops/blocks.py`.
        heads: which.
        together: whether a block has all of them, or one.
        queries: which places.
        keys: those that they see.
        outside: (I, J), pairs beyond the span; None where there is none.
        rows: which of the tables' they need.
        blocks: the strips of each, and its maps.
    """

    backwards: bool
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
            blocks.windows(rows, count, backwards=self.backwards)
            for rows, count in (
                (rq, others),
                (rk if self.backwards else rk.flip(1), own),
                (rv, others),
            )
        ]

    def flat(self, *parts: Tensor) -> list[Sequence[Tensor]]:
        """Of (G, X, Y, Z) parts those of each block, (G * X, Y, Z), in at least single precision.

        Copies where a block has several heads.
        """
        parts = tuple(at_least_single(t) for t in parts)
        if not self.together:
            return [t.unbind() for t in parts]
        return [(t.flatten(0, 1),) for t in parts]

    def views(self, *parts: Tensor) -> list[Sequence[Tensor]]:
        """The same as views, (G, X, Y, Z) where there are several heads."""
        return [(t,) if self.together else t.unbind() for t in parts]


def _is_small(pairs: int, strips: int, value_depth: int) -> bool:
    """Whether blocks have several heads, since each call takes its time.

    Otherwise they have one, of which no map is turned by a copy.
    """
    return blocks.BLOCK_FLOATS // pairs >= 2 * max(strips, value_depth)


def run_backwards(q: Tensor, v: Tensor, span: int | None) -> bool:
    """Whether windows of (G, B, L, D) queries' tables would be larger than their maps."""
    _, strips, length, depth = q.shape
    queries, keys = blocks.ranges(length, span)[0]
    pairs = (queries.stop - queries.start) * (keys.stop - keys.start)
    few = strips < 2 * depth + v.shape[-1]
    return few and not _is_small(pairs, strips, v.shape[-1])


def groups(q: Tensor, v: Tensor, span: int | None, *, backwards: bool) -> list[Group]:
    """Cuts (G, B, L, D) queries and values into groups."""
    heads, strips, length, depth = q.shape
    plans = []
    for queries, keys in blocks.ranges(length, span):
        own, others = queries.stop - queries.start, keys.stop - keys.start
        outside = blocks.outside(queries, keys, half_span(length, span), q.device)
        first = keys.start + length - queries.stop
        rows = slice(first, first + own + others - 1)
        if backwards:
            keys = slice(length - keys.stop, length - keys.start)
            rows = slice(2 * length - 1 - rows.stop, 2 * length - 1 - rows.start)
            outside = None if outside is None else outside.flip(1)
        small = _is_small(own * others, strips, v.shape[-1])
        # Of several heads windows of a block's size, about.
        floats = max(strips, v.shape[-1]) if small else max(1, 2 * depth + v.shape[-1])
        at_once = blocks.BLOCK_FLOATS // (own * others * floats)
        for some_heads in even_slices(heads, math.ceil(heads / max(1, at_once))):
            in_block = some_heads.stop - some_heads.start if small else 1
            floats = in_block * strips * own * others
            some_strips = even_slices(strips, math.ceil(floats / blocks.BLOCK_FLOATS))
            shapes = [(in_block, s.stop - s.start, own, others) for s in some_strips]
            plans.append((some_heads, queries, keys, outside, rows, some_strips, shapes))
    buffers = blocks.buffers_for([s for plan in plans for s in plan[-1]], at_least_single(q[:0]))
    return [
        Group(
            backwards=backwards,
            heads=some_heads,
            together=shapes[0][0] > 1,
            queries=queries,
            keys=keys,
            outside=outside,
            rows=rows,
            blocks=[(s, buffers.maps(m)) for s, m in zip(some_strips, shapes, strict=True)],
        )
        for some_heads, queries, keys, outside, rows, some_strips, shapes in plans
    ]


def laid(operands: Sequence[Tensor], *, backwards: bool) -> list[Tensor]:
    """The operands as the blocks read them; tables in at least single precision."""
    a, q, k, v, *tables = operands
    tables = [at_least_single(t) for t in tables]
    if backwards:
        k, v = k.flip(2), v.flip(2)
        tables = [t.flip(1) for t in tables]
    return [*(in_rows(t) for t in (a, q, k, v)), *tables]


def in_rows(tensor: Tensor) -> Tensor:
    """So that products take its matrices where they lie."""
    if tensor.is_meta:  # A convolution's result does not lie there as it would.
        return tensor
    if not is_concrete(tensor):  # A graph's strides may be open.
        return tensor.contiguous()
    *strides, last = tensor.stride()
    return tensor if last == 1 and min(strides) >= tensor.shape[-1] else tensor.contiguous()
