"""The sizes that every kernel is told, and how it is started."""

import math
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

NUM_WARPS = 4


class Sizes(NamedTuple):
    """What every kernel is told.

    Attributes:
        strips: S, of one picture.
        heads: G.
        length: L.
        depth: Dq.
        value_depth: Dv; 0 without values.
        far: the tables' largest distance.
        half: keys that a query sees on either side of it.
        step: rows from one head's table to the next one's, 0 where all share it.
        all_strips: B.
        block: places of a tile.
        dtype: of the operands.
    """

    strips: int
    heads: int
    length: int
    depth: int
    value_depth: int
    far: int
    half: int
    step: int
    all_strips: int
    block: int
    dtype: torch.dtype

    @classmethod
    def of(cls, q: Tensor, v: Tensor | None, tables: list[Tensor], half: int) -> "Sizes":
        """From (N, S, G, L, D) strips and (T, R, D) tables."""
        pictures, strips, heads, length, depth = q.shape
        count, rows, _ = tables[0].shape
        value_depth = 0 if v is None else v.shape[-1]
        step = 0 if count == 1 else rows
        block = block_size(length, max(depth, value_depth), q.dtype)
        return cls(strips, heads, length, depth, value_depth, rows // 2, half, step,
                   pictures * strips, block, q.dtype)  # fmt: skip

    @property
    def tiles(self) -> int:
        """Of queries, or of keys, in a strip."""
        return math.ceil(self.length / self.block)

    @property
    def per_tile(self) -> tuple[int, int]:
        """A grid of one program per strip, head and tile."""
        return self.all_strips * self.heads, self.tiles

    def launch(self, name: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        """Runs a kernel with these sizes after its own arguments."""
        from triton import language as tl

        from axial_d2.ops.triton import kernels

        values = {} if name == "moments" else {"VALUES": _padded(self.value_depth)}
        depths = (self.depth,) if name == "moments" else (self.depth, self.value_depth)
        # Three products of tf32 are as good as one of single precision, and run on matrix units.
        exact = not torch.backends.cuda.matmul.allow_tf32
        # The interpreter's products of bfloat16 are wrong.
        dtype = tl.float32 if interpreted() else getattr(tl, str(self.dtype).split(".")[1])
        with torch.cuda.device_of(arguments[0]):
            getattr(kernels, name)[grid](
                *arguments, self.strips, self.heads, self.length, *depths, self.far, self.half,
                self.step, BLOCK=self.block, DEPTH=_padded(self.depth), DTYPE=dtype,
                PRECISION="tf32x3" if exact else "tf32", **values, **options,
                num_warps=NUM_WARPS, num_stages=stages(self.dtype),
            )  # fmt: skip


def block_size(length: int, channels: int, dtype: torch.dtype) -> int:
    """Places of a tile: what the registers hold, as the compiler counts for capability 8.0.

    Args:
        length: L.
        channels: the larger number of a query's and a value's.
        dtype: of the operands.
    """
    most = 32 if channels <= (32 if dtype == torch.float32 else 64) else 16
    return min(most, _padded(length))


def stages(dtype: torch.dtype) -> int:
    """How many tiles are on the way at a time; more would not fit shared memory."""
    return 1 if dtype == torch.float32 else 2


def _padded(size: int) -> int:
    """The next power of two; matrix units want 16 at least."""
    return max(16, 1 << max(size - 1, 0).bit_length())


def interpreted() -> bool:
    """Whether triton runs its kernels on the CPU, one line after the other."""
    return os.environ.get("TRITON_INTERPRET") == "1"
