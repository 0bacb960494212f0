"""What `blocked` works on at a time: which pairs, their maps, and the memory for them.

Inside of a block the queries run backwards. The row of a position table for the pair of the i-th
query and the j-th key is then i + j, counted from the first row that the block needs: what a query
sees of a table is a window that moves by one from one query to the next, and the map of what is
known by rows is a view along diagonals, without a negative stride. Of one head the windows are
views too; of several they are copied.
"""

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from axial_d2.ops.products import product
from axial_d2.ops.reference import is_recorded

Shape = tuple[int, int, int, int]  # (G, b, I, J): heads, strips, queries and keys of a block


def diagonals(lines: Tensor, others: int) -> Tensor:
    """Views (G, b, I, I + J - 1) lines, a number for each row, as the (G, b, I, J) map.

    Args:
        lines: of each query; or of each key, then the map is transposed.
        others: J.
    """
    # Each starts one place further to the right in its line than the one before.
    return lines.flatten(2).unfold(2, others, lines.shape[3] + 1)


def windows(rows: Tensor, keys: int) -> Tensor:
    """What each query sees of (G, I + J - 1, D) rows, (G * I, J, D)."""
    return rows.unfold(1, keys, 1).flatten(0, 1).mT


class Block(NamedTuple):
    """Queries of some strips and heads, and the keys that they see.

    Attributes:
        length: L.
        heads: which.
        strips: which.
        queries: which places.
        keys: which places.
    """

    length: int
    heads: slice
    strips: slice
    queries: slice
    keys: slice

    def of_queries(self, tensor: Tensor) -> Tensor:
        """Its part of (G, B, L, D), backwards, a copy in one piece: (G, b, I, D)."""
        return tensor[self.heads, self.strips, self.queries].flip(2).contiguous()

    def write(self, part: Tensor, to: Tensor) -> None:
        """Writes (G, b, I, D), which runs backwards, into (G, B, L, D)."""
        to[self.heads, self.strips, self.queries] = part.flip(2)

    def of_keys(self, tensor: Tensor) -> Tensor:
        """Its part of (G, B, L, D), a view: (G, b, J, D)."""
        return tensor[self.heads, self.strips, self.keys]

    def rows(self, table: Tensor) -> Tensor:
        """Those of (G, 2 L - 1, D) that it needs, a view: (G, I + J - 1, D)."""
        first = self.keys.start + self.length - self.queries.stop
        return table[self.heads, first : first + sum(self.sides) - 1]

    def outside(self, half: int, device: torch.device) -> Tensor | None:
        """Which pairs are beyond the span, (I, J); None where none is."""
        queries, keys = self.queries, self.keys
        if max(keys.stop - queries.start, queries.stop - keys.start) - 1 <= half:
            return None
        i, j = (torch.arange(p.start, p.stop, device=device) for p in (queries, keys))
        return (j - i.flip(0)[:, None]).abs() > half

    @property
    def sides(self) -> tuple[int, int]:
        """I and J."""
        return self.queries.stop - self.queries.start, self.keys.stop - self.keys.start

    @property
    def shape(self) -> Shape:
        """(G, b, I, J)."""
        heads, strips = (s.stop - s.start for s in (self.heads, self.strips))
        return heads, strips, *self.sides


class Maps:
    """The maps of blocks of one shape, one block after the other in the same memory.

    Their views are made once: of small maps they would take as long as the products.
    """

    def __init__(
        self, shape: Shape, regions: Sequence[Tensor], reached: dict[str, tuple[int, int]]
    ) -> None:
        """Views the memory.

        Args:
            shape: (G, b, I, J).
            regions: flat, large enough for a map, for another, for lines per key, and, if the
                gradients are wanted, for lines per query and per key, which maps are spread over.
            reached: the (I, J) of what was spread over each of the last two; what these maps don't
                reach is zero there.
        """
        heads, strips, own, others = shape
        logits, other, lines, *spread = regions
        of_queries, of_keys = ((heads, strips, n, own + others - 1) for n in (own, others))
        self._logits = _first(logits, shape)
        self._pairs = self._logits.flatten(0, 1)  # (G * b, I, J)
        self._query_term = _Placed(other, shape)
        # When there are weights, the queries' term is no longer needed.
        self._weights = _first(other, shape)
        key_lines = _first(lines, of_keys)
        self._key_lines = key_lines.flatten(1, 2)  # (G, b * J, I + J - 1)
        self._key_term = diagonals(key_lines, own).mT  # (G, b, I, J)
        # Nor are the lines of the keys.
        self._other = _Placed(lines, shape)
        self._spread: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name, memory, sizes in zip("qk", spread, (of_queries, of_keys), strict=False):
            target = _first(memory, sizes)
            reach = diagonals(target, others) if name == "q" else diagonals(target, own).mT
            self._spread[name] = memory, target.flatten(1, 2), reach
        self._reached = reached

    def logits(self, a: Tensor, q: Tensor, k: Tensor, rq: Tensor, rk: Tensor) -> Tensor:
        """The sum of the three terms, (G, b, I, J).

        Args:
            a: (G, b, I, D), the queries of q.k.
            q: (G, b, I, D), those of q.rq.
            k: (G, b, J, D).
            rq: (G, I + J - 1, D).
            rk: (G, I + J - 1, D).
        """
        torch.bmm(k.flatten(1, 2), rk.mT, out=self._key_lines)
        self._query_term.multiply(q, rq)
        if torch.compiler.is_compiling():  # It loses the strides of `out`.
            self._logits.copy_(self._query_term.map).add_(self._key_term)
        else:
            torch.add(self._query_term.map, self._key_term, out=self._logits)
        self._pairs.baddbmm_(a.flatten(0, 1), k.flatten(0, 1).mT)
        return self._logits

    def weights(self) -> Tensor:
        """The soft-maxed logits."""
        return torch.softmax(self._logits, dim=-1, out=self._weights)

    def position(self, weights: Tensor, rv: Tensor) -> Tensor:
        """The sums of a table's (G, I + J - 1, D) rows by weight, (G, b, I, D)."""
        self._other.map.copy_(weights)
        sums = product(self._other.placed, windows(rv, weights.shape[3]))  # (G * I, b, D)
        return sums.unflatten(0, (weights.shape[0], -1)).transpose(1, 2)

    def weight_gradient(self, dc: Tensor, dp: Tensor, v: Tensor, rv: Tensor) -> Tensor:
        """What the gradients of content and position are of the weights, where the logits were.

        Args:
            dc: (G, b, I, D), of the content.
            dp: (G, b, I, D), of the position.
            v: (G, b, J, D).
            rv: (G, I + J - 1, D).

        Returns:
            (G, b, I, J).
        """
        torch.bmm(dc.flatten(0, 1), v.flatten(0, 1).mT, out=self._pairs)
        self._other.multiply(dp, rv)
        return self._logits.add_(self._other.map)

    def by_query(self, map_: Tensor) -> Tensor:
        """Spreads (G, b, I, J) over lines with a number for each row, (G, b * I, I + J - 1)."""
        return self._spread_over("q", map_)

    def by_key(self, map_: Tensor) -> Tensor:
        """The same over lines per key, (G, b * J, I + J - 1)."""
        return self._spread_over("k", map_)

    def _spread_over(self, name: str, map_: Tensor) -> Tensor:
        memory, lines, reach = self._spread[name]
        sides = (map_.shape[2], map_.shape[3])
        if self._reached.get(name) != sides:
            memory.zero_()
            self._reached[name] = sides
        reach.copy_(map_)
        return lines


class _Placed:
    """A map by heads and queries, (G * I, b, J), and a view of it as (G, b, I, J)."""

    def __init__(self, memory: Tensor, shape: Shape) -> None:
        heads, strips, own, others = shape
        self.placed = _first(memory, (heads * own, strips, others))
        self.map = self.placed.unflatten(0, (heads, own)).transpose(1, 2)

    def multiply(self, x: Tensor, rows: Tensor) -> None:
        """Fills it with products of (G, b, I, D) and the (G, I + J - 1, D) rows of the pairs."""
        by_query = x.transpose(1, 2).flatten(0, 1)  # (G * I, b, D)
        torch.bmm(by_query, windows(rows, self.placed.shape[2]).mT, out=self.placed)


def _first(memory: Tensor, shape: Sequence[int]) -> Tensor:
    return memory[: math.prod(shape)].view(shape)


# Floats of working memory that stay with a thread for its next layer: 32 MB in single precision.
# Fresh pages for each layer would cost a fifth of its time.
MOST_SCRATCH = 1 << 23
_of_thread = threading.local()


class Buffers:
    """The memory of all blocks, and their maps in it."""

    def __init__(self, kind: tuple, memory: Tensor, sizes: Sequence[int]) -> None:
        """Cuts the memory; `buffers_for` gives what is at hand.

        Args:
            kind: what else has to be the same for another use; empty where there is to be none.
            memory: flat.
            sizes: of the regions, see `Maps`.
        """
        self.kind = kind
        self.memory = memory
        self.sizes = sizes
        self._regions = memory[: sum(sizes)].split(sizes)
        self._reached: dict[str, tuple[int, int]] = {}
        self._maps: dict[Shape, Maps] = {}

    def maps(self, shape: Shape) -> Maps:
        """Of blocks of a shape, (G, b, I, J)."""
        if not self.kind:  # For one use; sizes may be symbols, which are no keys.
            return Maps(shape, self._regions, self._reached)
        if shape not in self._maps:
            self._maps[shape] = Maps(shape, self._regions, self._reached)
        return self._maps[shape]


def buffers_for(shapes: Sequence[Shape], like: Tensor, *, gradients: bool = False) -> Buffers:
    """Memory for blocks of these shapes; what the thread had last where that will do.

    Args:
        shapes: (G, b, I, J) of each.
        like: a tensor of the type, in at least single precision, and on the device.
        gradients: whether maps will be spread over lines.
    """
    pairs = max(math.prod(shape) for shape in shapes)
    of_queries = max(g * b * i * (i + j - 1) for g, b, i, j in shapes)
    of_keys = max(g * b * j * (i + j - 1) for g, b, i, j in shapes)
    sizes = [pairs, pairs, of_keys, *([of_queries, of_keys] if gradients else [])]
    total = sum(sizes)
    if _is_passing(like):
        return Buffers((), like.new_empty(total), sizes)
    # A tensor made in inference mode can't be written to outside of it.
    kind = (like.dtype, like.device, torch.is_inference_mode_enabled())
    kept: Buffers | None = getattr(_of_thread, "buffers", None)
    if kept is None or kept.kind != kind or kept.memory.numel() < total:
        kept = Buffers(kind, like.new_empty(total), sizes)
    elif kept.sizes != sizes:
        kept = Buffers(kind, kept.memory, sizes)
    if total <= MOST_SCRATCH:
        _of_thread.buffers = kept
    return kept


def _is_passing(like: Tensor) -> bool:
    """Whether memory like this tensor is none for others: a tracer's, a transform's, a GPU's."""
    return (
        torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or is_recorded()
        or like.device.type not in ("cpu", "meta")
        or type(like) is not Tensor
        or torch._C._functorch.is_functorch_wrapped_tensor(like)
    )
