"""What `blocked` works on at a time: which pairs, how their maps lie, and the memory for them."""

import math
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from axial_d2.ops.reference import at_least_single

View = Callable[[Tensor, int], Tensor]


def by_query(lines: Tensor, others: int) -> Tensor:
    """Views (G, b, I, I + J - 1) lines per query as the (G, b, I, J) map: [i, j] = line i, j - i.

    Args:
        lines: by distance, ascending.
        others: J.
    """
    own = lines.shape[2]
    if own == 1:
        return lines
    # Lines of one less: each starts one place further to the left in the line that it lies in.
    shorter = own + others - 2
    flat = lines.flatten(2)[..., own - 1 : own - 1 + own * shorter]
    return flat.unflatten(2, (own, shorter))[..., :others]


def by_key(lines: Tensor, others: int) -> Tensor:
    """Views (G, b, J, I + J - 1) lines per key, by distance descending, as the map."""
    return by_query(lines, others).transpose(2, 3)


class Block(NamedTuple):
    """Queries of some strips, and the keys that they see.

    Attributes:
        length: L.
        strips: which.
        queries: which places.
        keys: which places.
    """

    length: int
    strips: slice
    queries: slice
    keys: slice

    def parts(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Its views (G, b, I or J, D) of a, q, k and v, or of what is like them."""
        places = (self.queries, self.queries, self.keys, self.keys)
        return [t[:, self.strips, p] for t, p in zip(tensors, places, strict=True)]

    def rows(self, tables: Sequence[Tensor]) -> list[Tensor]:
        """Its views of the three (G, 2 L - 1, D) tables, the keys' descending, by distance."""
        first = self.keys.start - (self.queries.stop - 1)
        last = self.keys.stop - 1 - self.queries.start
        ends = ((first, last), (-last, -first), (first, last))
        zero = self.length - 1
        return [t[:, a + zero : b + zero + 1] for t, (a, b) in zip(tables, ends, strict=True)]

    def outside(self, half: int, device: torch.device) -> Tensor | None:
        """Which pairs are beyond the span, (I, J); None where none is."""
        queries, keys = self.queries, self.keys
        if max(keys.stop - queries.start, queries.stop - keys.start) - 1 <= half:
            return None
        i, j = (torch.arange(p.start, p.stop, device=device) for p in (queries, keys))
        return (j - i[:, None]).abs() > half


# Floats of working memory that stay with a thread for its next layer: 32 MB in single precision.
# Fresh pages for each layer would cost a fifth of its time.
MOST_SCRATCH = 1 << 23
_of_thread = threading.local()


def _scratch(size: int, like: Tensor) -> Tensor:
    """Uninitialised working memory, of so many numbers of `like`'s kind."""
    passing = torch.jit.is_tracing() or torch.compiler.is_compiling()
    # A tensor of another type, of a tracer say, is no working memory for others.
    if passing or like.device.type not in ("cpu", "meta") or type(like) is not Tensor:
        return like.new_empty(size)
    # A tensor made in inference mode can't be written to outside of it.
    kind = (like.dtype, like.device, torch.is_inference_mode_enabled())
    kept: tuple[tuple, Tensor] | None = getattr(_of_thread, "scratch", None)
    if kept is None or kept[0] != kind or kept[1].numel() < size:
        kept = (kind, like.new_empty(size))
        if size <= MOST_SCRATCH:
            _of_thread.scratch = kept
    return kept[1][:size]


class Buffers:
    """What the blocks share, one after the other."""

    def __init__(self, like: Tensor, blocks: Sequence[Block], *, both: bool = False) -> None:
        """Takes the memory.

        Args:
            like: a (G, B, L, D) tensor.
            blocks: all that are to come.
            both: whether maps will be spread by key too.
        """
        self.heads = like.shape[0]
        pairs, lines = 0, 0
        for block in blocks:
            strips, own, others = (p.stop - p.start for p in block[1:])
            pairs = max(pairs, self.heads * strips * own * others)
            lines = max(lines, self.heads * strips * max(own, others) * (own + others - 1))
        sizes = [pairs, pairs, lines, *[lines] * (1 + both)]
        scratch = _scratch(sum(sizes), at_least_single(like[:0]))
        self._logits, self._weights, self._lines, *spreads = scratch.split(sizes)
        self._spreads: dict[View, Tensor] = dict(zip((by_query, by_key), spreads, strict=False))
        self._shapes: dict[View, tuple[int, int]] = {}

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a @ b.mT, (G, b, I, J), of (G, b, I, D) and (G, b, J, D)."""
        shape = (*a.shape[:3], b.shape[2])
        out = self._logits[: math.prod(shape)].view(-1, *shape[2:])
        torch.bmm(a.flatten(0, 1), b.flatten(0, 1).mT, out=out)
        return out.view(shape)

    def softmax(self, logits: Tensor) -> Tensor:
        """Of such a product, which may be lost at the next one."""
        out = self._weights[: logits.numel()].view(logits.shape)
        return torch.softmax(logits, dim=-1, out=out)

    def lines(self, a: Tensor, rows: Tensor) -> Tensor:
        """The products of (G, b, I, D) with (G, R, D) rows: (G, b, I, R)."""
        shape = (*a.shape[:3], rows.shape[1])
        out = self._lines[: math.prod(shape)].view(self.heads, -1, shape[3])
        torch.bmm(a.flatten(1, 2), rows.mT, out=out)
        return out.view(shape)

    def spread(self, weights: Tensor, view: View) -> Tensor:
        """The lines that a (G, b, I, J) map is spread over, (G, b * I, I + J - 1) or of J.

        Args:
            weights: the map.
            view: `by_query` or `by_key`.
        """
        own, others = weights.shape[2:] if view is by_query else weights.shape[:1:-1]
        if self._shapes.get(view) != (own, others):
            # What the view doesn't reach stays zero from one block to the next of its shape.
            self._spreads[view].zero_()
            self._shapes[view] = (own, others)
        shape = (*weights.shape[:2], own, own + others - 1)
        lines = self._spreads[view][: math.prod(shape)].view(shape)
        view(lines, others).copy_(weights)
        return lines.flatten(1, 2)
