"""What `blocked` works on at a time: some strips of few heads, their maps, and the memory for them.

A relative term is a product per place, not per strip: the query at place i of every strip meets the
same rows of the table, so that the places are the batch, and the strips the rows of a matrix
product. With R[i, j] = row j - i, for I queries and J keys of b strips:

    q.rq      [i, :, j] = q[:, i] @ R[i].T       (b, D) @ (D, J)
    k.rk      [j, :, i] = k[:, j] @ R[:, j].T    (b, D) @ (D, I)
    position  [i, :, d] = w[:, i] @ R[i]         (b, J) @ (J, Dv)

The rows that each place meets are copied, once for all strips: so places may run forwards, and q, k
and v are read where they lie. With fewer strips than channels the copies would be larger
than the maps. There keys and tables run backwards: the row of a pair is i + j, and a place's rows
are a window that moves by one, a view.

Of one head, what lies by place is a view of what lies by strip. Views are made once where they can
be: of small maps a call costs as much as its work.
"""

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from axial_d2.ops.reference import half_span, is_concrete
from axial_d2.ops.softmax import LOG2_E, powers

Shape = tuple[int, int, int, int]  # (G, b, I, J): heads, strips, queries and keys of a block

# Floats in the logits of one block; three times as many are in use. All strips of one head at
# length 56. Measured on two cores with half a megabyte of second cache each: half or twice as many
# are slower.
BLOCK_FLOATS = 3 << 16
# Queries of a block under a span: more see more keys that are not theirs, fewer make products too
# small to be fast. Without a span a block has the whole strip.
BLOCK_QUERIES = 64


def ranges(length: int, span: int | None) -> list[tuple[slice, slice]]:
    """The queries of each block, and the keys that they see."""
    half = half_span(length, span)
    return [
        (queries, slice(max(0, queries.start - half), min(length, queries.stop + half)))
        for queries in even_slices(length, 1 if span is None else math.ceil(length / BLOCK_QUERIES))
    ]


def outside(queries: slice, keys: slice, half: int, device: torch.device) -> Tensor | None:
    """Which pairs are beyond the span, (I, J); None where none is."""
    if max(keys.stop - queries.start, queries.stop - keys.start) - 1 <= half:
        return None
    i, j = (torch.arange(p.start, p.stop, device=device) for p in (queries, keys))
    return (j - i[:, None]).abs() > half


def even_slices(total: int, count: int) -> list[slice]:
    """Nearly equal ones, at most so many, the largest first."""
    step = math.ceil(total / min(count, total))
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def windows(rows: Tensor, others: int, *, backwards: bool) -> Tensor:
    """What each of I places meets of (G, I + J - 1, D) rows.

    Args:
        rows: of a table, such that the first place meets the last ones; backwards, the first ones.
        others: J.
        backwards: whether what the places meet runs backwards, and the rows with it.

    Returns:
        (G, I, J, D), a copy; backwards a view.
    """
    found = rows.unfold(1, others, 1).mT
    return found if backwards else found.flip(1)


def rows_from(windows: Tensor) -> Tensor:
    """The gradient of (G, I + J - 1, D) rows from that of their (G, I, J, D) windows, forwards."""
    heads, places, others, depth = windows.shape
    count = places + others - 1
    lines = windows.new_zeros(heads, places, count, depth)
    # A place's rows lie one before those of the place before.
    strides = (places * count * depth, (count - 1) * depth, depth, 1)
    lines.as_strided(windows.shape, strides, (places - 1) * depth).copy_(windows)
    return lines.sum(dim=1)


def lines(placed: Tensor) -> Tensor:
    """A map as lines with a number for each row, backwards.

    Args:
        placed: (G, I, b, J), of one head without G.

    Returns:
        (G, I * b, I + J - 1).
    """
    *heads, places, strips, others = placed.shape
    count = places + others - 1
    made = placed.new_zeros(*heads, places, strips, count)
    strides = [places * strips * count] * len(heads) + [strips * count + 1, count, 1]
    made.as_strided(placed.shape, strides).copy_(placed)
    return made.flatten(-3, -2)


class Maps:
    """The maps of blocks of one shape, one block after the other in the same memory.

    Tensors go in and come out by strip, (G * b, X, Y), or by place, (G * X, b, Y). Of one head one
    is a view of the other.
    """

    def __init__(self, shape: Shape, regions: Sequence[Tensor]) -> None:
        """Views the memory.

        Args:
            shape: (G, b, I, J).
            regions: flat, three that are large enough for a map.
        """
        heads, strips, own, others = shape
        self._heads = heads
        logits, second, third = regions
        self._logits = _first(logits, (heads * strips, own, others))
        self._query_term = _first(second, (heads * own, strips, others))  # By place.
        # When there are weights, the queries' term is no longer needed.
        self._weights = _first(second, (heads * strips, own, others))
        self._key_term = _first(third, (heads * others, strips, own))  # By place.
        # Nor is that of the keys.
        self._other = _first(third, (heads * own, strips, others))  # By place.
        # [head, strip, query, key]
        self._of_logits = self.by_head(self._logits)
        self._of_queries, self._of_other = (
            self.by_head(t).transpose(-3, -2) for t in (self._query_term, self._other)
        )
        self._of_keys = self.by_head(self._key_term).transpose(-3, -2).mT
        self._ones = logits.new_ones(others, 1)

    def by_head(self, tensor: Tensor) -> Tensor:
        """Views (G * X, Y, Z) as (G, X, Y, Z) where there are several heads."""
        return tensor if self._heads == 1 else tensor.unflatten(0, (self._heads, -1))

    def turned(self, tensor: Tensor) -> Tensor:
        """By strip what lies by place, by place what lies by strip."""
        turned = self.by_head(tensor).transpose(-3, -2)
        return turned if self._heads == 1 else turned.flatten(0, 1)

    def weights(
        self, a: Tensor, q: Tensor, k: Tensor, rq: Tensor, rk: Tensor, outside: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The soft-maxed logits but for a factor per query.

        Args:
            a: (G * b, I, D), the queries of q.k.
            q: (G * b, I, D), those of q.rq.
            k: (G * b, J, D).
            rq: (G * I, J, D), the rows that each query sees.
            rk: (G * J, I, D), those by which each key is seen.
            outside: (I, J), pairs beyond the span; None where there is none.

        Returns:
            The weights, (G * b, I, J); their sums, (G * b, I, 1).
        """
        torch.bmm(self.turned(q), rq.mT, out=self._query_term)
        torch.bmm(self.turned(k), rk.mT, out=self._key_term)
        if torch.compiler.is_compiling():  # It loses the strides of `out`.
            self._of_logits.copy_(self._of_queries).add_(self._of_keys)
        else:
            torch.add(self._of_queries, self._of_keys, out=self._of_logits)
        self._logits.baddbmm_(a, k.mT, beta=LOG2_E, alpha=LOG2_E)
        if outside is not None:
            self._logits.masked_fill_(outside, -math.inf)
        return self._weights, powers(self._logits, self._ones, out=self._weights)

    def weight_gradient(self, dc: Tensor, dp: Tensor, v: Tensor, rv: Tensor) -> Tensor:
        """What the gradients of content and position are of the weights, where the logits were.

        Args:
            dc: (G * b, I, Dv), of the content.
            dp: (G * b, I, Dv), of the position.
            v: (G * b, J, Dv).
            rv: (G * I, J, Dv), the rows that each query sees.

        Returns:
            (G * b, I, J).
        """
        torch.bmm(dc, v.mT, out=self._logits)
        torch.bmm(self.turned(dp), rv.mT, out=self._other)
        self._of_logits.add_(self._of_other)
        return self._logits

    def by_key(self, map_: Tensor) -> Tensor:
        """A (G * b, I, J) map as (G * J, b, I), a copy."""
        self._of_keys.copy_(self.by_head(map_))
        return self._key_term


def _first(memory: Tensor, shape: Sequence[int]) -> Tensor:
    return memory[: math.prod(shape)].view(shape)


# Floats of working memory that stay with a thread for its next layer: 32 MB in single precision.
# Fresh pages for each layer would cost a fifth of its time.
MOST_SCRATCH = 1 << 23
_of_thread = threading.local()


class Buffers:
    """The memory of all blocks, and their maps in it."""

    def __init__(self, kind: tuple, memory: Tensor, size: int) -> None:
        """Cuts the memory; `buffers_for` gives what is at hand.

        Args:
            kind: what else has to be the same for another use; empty where there is to be none.
            memory: flat, at least three times the size.
            size: of the largest map.
        """
        self.kind = kind
        self.memory = memory
        self.size = size
        self._regions = memory[: 3 * size].split(size)
        self._maps: dict[Shape, Maps] = {}

    def maps(self, shape: Shape) -> Maps:
        """Of blocks of a shape, (G, b, I, J)."""
        if not self.kind:  # For one use; sizes may be symbols, which are no keys.
            return Maps(shape, self._regions)
        if shape not in self._maps:
            self._maps[shape] = Maps(shape, self._regions)
        return self._maps[shape]


def buffers_for(shapes: Sequence[Shape], like: Tensor) -> Buffers:
    """Memory for blocks of these shapes; what the thread had last where that will do.

    Args:
        shapes: (G, b, I, J) of each.
        like: a tensor of the type, in at least single precision, and on the device.
    """
    size = max(math.prod(shape) for shape in shapes)
    if not is_concrete(like):
        return Buffers((), like.new_empty(3 * size), size)
    # A tensor made in inference mode can't be written to outside of it.
    kind = (like.dtype, like.device, torch.is_inference_mode_enabled())
    kept: Buffers | None = getattr(_of_thread, "buffers", None)
    if kept is None or kept.kind != kind or kept.memory.numel() < 3 * size:
        kept = Buffers(kind, like.new_empty(3 * size), size)
    elif kept.size != size:
        kept = Buffers(kind, kept.memory, size)
    if 3 * size <= MOST_SCRATCH:
        _of_thread.buffers = kept
    return kept
