"""A feature map cut into tiles of queries, each with the keys within its reach.

The queries of a tile share most of their windows: the product of a tile's queries with the keys of
the tile and its margin, one matrix product, holds every pair in a window, and for 8 x 8 tiles and
7 x 7 windows three times as many others. The pairs in windows are a view of it: moving a query by
one place moves its window by one place, so that the view has constant strides.

Axis letters: G heads, N images, H rows, W columns, D depth per head; B tiles of a block, Q queries
of a tile, K keys of a tile and its margin, M the window's side.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Longest side of a tile. Longer ones have more pairs out of all windows, shorter ones more margin.
LONGEST_SIDE = 8
# Floats in the largest product of a block. A few buffers of that size are in use at a time. A block
# is one tile of one head at least: beyond it only with windows of more than 27 rows.
BLOCK_FLOATS = 1 << 20


@dataclass(frozen=True)
class Grid:
    """The tiles of one map size.

    Attributes:
        height: H.
        width: W.
        window: M, odd.
        by_key: whether there are also products of the keys with the M * M rows of a table.
    """

    height: int
    width: int
    window: int
    by_key: bool

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a tile, such that equal tiles cover the map with little to spare."""
        return _side(self.height), _side(self.width)

    def blocks(self, heads: int, pictures: int) -> Iterator["Block"]:
        """Cuts all tiles of all heads and pictures into blocks, those of a head in a row."""
        rows, columns = self.tile
        margin = self.window - 1
        down, across = math.ceil(self.height / rows), math.ceil(self.width / columns)
        keys = (rows + margin) * (columns + margin)
        products = keys * max(rows * columns, self.window**2 if self.by_key else 0)
        heads_at_once = min(heads, max(1, BLOCK_FLOATS // products))
        most = max(1, BLOCK_FLOATS // (heads_at_once * products))
        for g in _slices(heads, heads_at_once):
            for n in _slices(pictures, max(1, most // (down * across))):
                for y in _slices(down, max(1, most // across)):
                    for x in _slices(across, most):
                        yield Block(self, g, n, y, x)


@dataclass(frozen=True)
class Block:
    """Some tiles: those of some heads, pictures, tile rows and tile columns.

    G is the heads of the block, except in the maps that it reads and writes, which have all.

    Attributes:
        grid: what the tiles belong to.
        heads: the heads.
        pictures: the pictures.
        down: the rows of tiles.
        across: the columns of tiles.
    """

    grid: Grid
    heads: slice
    pictures: slice
    down: slice
    across: slice

    @property
    def is_first(self) -> bool:
        """Whether its heads have no block before it."""
        return self.pictures.start == self.down.start == self.across.start == 0

    def queries(self, x: Tensor) -> Tensor:
        """The places of the tiles, (G, B, Q, D) from a map (G, N, H, W, D); zeros beyond it."""
        (y, x_), (low, right) = self._places(0), self._missing(0)[1::2]
        region = F.pad(x[self.heads, self.pictures, y, x_], (0, 0, 0, right, 0, low))
        rows, columns = self.grid.tile
        tiles = region.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
        tiles = tiles.transpose(3, 4)  # (G, n, down, across, rows, columns, D)
        return tiles.flatten(4, 5).flatten(1, 3)  # (G, B, Q, D)

    def keys(self, x: Tensor) -> Tensor:
        """The places of the tiles and their margins, (G, B, K, D); zeros beyond the map."""
        reach = self.grid.window // 2
        (y, x_), (top, low, left, right) = self._places(reach), self._missing(reach)
        region = F.pad(x[self.heads, self.pictures, y, x_], (0, 0, left, right, top, low))
        tiles = self._overlapping(region)  # (G, n, down, across, rows, columns, D)
        return tiles.flatten(4, 5).flatten(1, 3)  # (G, B, K, D)

    def put_queries(self, x: Tensor, tiles: Tensor) -> None:
        """Writes (G, B, Q, D) where `queries` reads; what lies beyond the map is dropped."""
        rows, columns = self.grid.tile
        y, x_ = self._places(0)
        region = tiles.unflatten(1, self._counts()).unflatten(4, (rows, columns))
        region = region.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # (G, n, rows, columns, D)
        x[self.heads, self.pictures, y, x_] = region[:, :, : y.stop - y.start, : x_.stop - x_.start]

    def add_keys(self, x: Tensor, tiles: Tensor) -> None:
        """Adds (G, B, K, D) where `keys` reads; a place in several margins gets them all."""
        reach = self.grid.window // 2
        (y, x_), (top, _, left, _) = self._places(reach), self._missing(reach)
        rows, columns = (side + 2 * reach for side in self.grid.tile)
        tiles = tiles.unflatten(1, self._counts()).unflatten(4, (rows, columns))
        # Tiles so far apart that their margins don't meet are added at once.
        apart = max(math.ceil((side + 2 * reach) / side) for side in self.grid.tile)
        # Room for whole steps from each first tile on, so that the steps are a dimension: of a
        # tensor that is added to by `unfold`, torch.compile (2.14) loses what lies in its gaps.
        down, across = (
            (count + apart - 1) * side
            for count, side in zip(tiles.shape[2:4], self.grid.tile, strict=True)
        )
        region = tiles.new_zeros(*tiles.shape[:2], down, across, tiles.shape[-1])
        for first in range(min(apart, tiles.shape[2])):
            for second in range(min(apart, tiles.shape[3])):
                part = tiles[:, :, first::apart, second::apart]
                steps = self._steps(region, 2, first, part.shape[2], apart)
                steps = self._steps(steps, 4, second, part.shape[3], apart)
                # (G, n, down, across, rows, columns, D)
                steps.transpose(3, 4)[:, :, :, :, :rows, :columns].add_(part)
        height, width = y.stop - y.start, x_.stop - x_.start
        x[self.heads, self.pictures, y, x_] += region[:, :, top : top + height, left : left + width]

    def in_map(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What exists: queries (down, across, Q) and, of each query's window, keys (..., Q, M * M).

        The windows of queries beyond the map are left whole: a softmax over nothing would be NaN.
        """
        axes = []
        for axis, (size, side, tiles) in enumerate(
            zip(
                (self.grid.height, self.grid.width),
                self.grid.tile,
                (self.down, self.across),
                strict=True,
            )
        ):
            place = torch.arange(tiles.start * side, tiles.stop * side, device=device)
            step = torch.arange(self.grid.window, device=device) - self.grid.window // 2
            key = place[:, None] + step
            query = place < size
            key = ((key >= 0) & (key < size)) | ~query[:, None]
            # (down, 1, rows, 1, M, 1) and (1, across, 1, columns, 1, M)
            shape = [1] * 6
            shape[axis], shape[axis + 2], shape[axis + 4] = -1, side, self.grid.window
            axes.append((query.view(shape[:4]), key.view(shape)))
        queries = (axes[0][0] & axes[1][0]).flatten(2)  # (down, across, Q)
        return queries, (axes[0][1] & axes[1][1]).flatten(4).flatten(2, 3)

    def by_query(self, products: Tensor) -> Tensor:
        """Views products per query (G, B, Q, K) as windows (G, B, rows, columns, M, M)."""
        keys, columns = products.shape[3], self.grid.tile[1]
        across = columns + self.grid.window - 1
        return self._windows(products, (columns * keys + across, keys + 1, across, 1))

    def by_key(self, products: Tensor) -> Tensor:
        """Views products per key with a table's rows (G, B, K, M * M) as windows, as above."""
        window = self.grid.window
        line = window * window
        across = (self.grid.tile[1] + window - 1) * line
        return self._windows(products, (across, line, across + window, line + 1))

    def spread(self, windows: Tensor) -> Tensor:
        """Windows (G, B, Q, M * M) as products per query (G, B, Q, K), zero for other pairs."""
        rows, columns = (side + self.grid.window - 1 for side in self.grid.tile)
        products = windows.new_zeros(*windows.shape[:3], rows * columns)
        self.by_query(products).copy_(self._unfolded(windows))
        return products

    def spread_by_key(self, windows: Tensor) -> Tensor:
        """Windows (G, B, Q, M * M) as products per key with a table's rows, (G, B, K, M * M)."""
        rows, columns = (side + self.grid.window - 1 for side in self.grid.tile)
        products = windows.new_zeros(*windows.shape[:2], rows * columns, windows.shape[3])
        self.by_key(products).copy_(self._unfolded(windows))
        return products

    def _unfolded(self, windows: Tensor) -> Tensor:
        """(G, B, Q, M * M) to (G, B, rows, columns, M, M)."""
        window = self.grid.window
        return windows.unflatten(3, (window, window)).unflatten(2, self.grid.tile)

    def _windows(self, products: Tensor, strides: tuple[int, ...]) -> Tensor:
        window = self.grid.window
        shape = (*products.shape[:2], *self.grid.tile, window, window)
        return products.as_strided(shape, (*products.stride()[:2], *strides))

    def _counts(self) -> tuple[int, ...]:
        return tuple(s.stop - s.start for s in (self.pictures, self.down, self.across))

    def _steps(self, region: Tensor, axis: int, first: int, count: int, apart: int) -> Tensor:
        """Cuts an axis of places into `count` steps of `apart` tiles, from the `first` tile on."""
        side = self.grid.tile[0 if axis == 2 else 1]
        places = region.narrow(axis, first * side, count * apart * side)
        return places.unflatten(axis, (count, apart * side))

    def _overlapping(self, region: Tensor) -> Tensor:
        """Views (G, n, rows, columns, D) as tiles with margins."""
        rows, columns = self.grid.tile
        margin = self.grid.window - 1
        tiles = region.unfold(2, rows + margin, rows)
        tiles = tiles.unfold(3, columns + margin, columns)
        # (G, n, down, across, D, rows, columns)
        return tiles.permute(0, 1, 2, 3, 5, 6, 4)

    def _places(self, reach: int) -> tuple[slice, slice]:
        """Rows and columns of the map that the tiles and `reach` places around them cover."""
        (top, low), (left, right) = self._ends(reach)
        return (
            slice(max(top, 0), min(low, self.grid.height)),
            slice(max(left, 0), min(right, self.grid.width)),
        )

    def _missing(self, reach: int) -> tuple[int, int, int, int]:
        """How much of that lies beyond the map: above, below, left, right."""
        (top, low), (left, right) = self._ends(reach)
        height, width = self.grid.height, self.grid.width
        return max(-top, 0), max(low - height, 0), max(-left, 0), max(right - width, 0)

    def _ends(self, reach: int) -> list[tuple[int, int]]:
        return [
            (tiles.start * side - reach, tiles.stop * side + reach)
            for tiles, side in zip((self.down, self.across), self.grid.tile, strict=True)
        ]


def _side(size: int) -> int:
    return math.ceil(size / math.ceil(size / LONGEST_SIDE))


def _slices(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
