"""Nearest of K points for millions of positions, without measuring every pair."""

import torch
from torch import Tensor

# Side of a tile, in pixels: centres of instances are seldom closer, so most tiles know one answer;
# a power of two, so that position / side is exact.
_TILE = 16
# Points that a tile keeps for comparison. What needs more is measured against all points.
_CANDIDATES = 4
# Pairs measured in one go: the distances of a chunk stay in cache (4 bytes each).
_PAIRS = 1 << 20
# Rounding in float32 coordinates and distances stays far below this, in pixels, up to 10^6 pixels.
_MARGIN = 1.0


def _distance(y: Tensor, x: Tensor) -> Tensor:
    # Rounded twice, as Detectron2's norm does, and with its square root: what is a tie there is a
    # tie here.
    return (y * y + x * x).sqrt_()


class NearestPoint:
    """Finds the nearest of K points, exactly; of points equally near, the first.

    The picture is cut into square tiles. With the point nearest to the tile's middle at distance
    d and half the tile's diagonal r, no point farther than d + 2r from the middle can be nearest
    to anything inside the tile. Most tiles are left with a single point: a table look-up. The
    others compare a few, and only positions outside the picture, not finite, or in a crowd of
    points are measured against all.
    """

    def __init__(self, points: Tensor, size: tuple[int, int], dtype: torch.dtype) -> None:
        """Prepares the tiles.

        Args:
            points: (K, 2) coordinates y, x in pixels, K >= 1.
            size: height and width of the picture in pixels.
            dtype: floating point type of the positions to come.
        """
        self._y, self._x = points.to(dtype).unbind(1)  # (K,) each
        self._at_once = max(1, _PAIRS // len(points))
        self._rows = -(-size[0] // _TILE)
        self._columns = -(-size[1] // _TILE)
        self._build_tiles()

    def _build_tiles(self) -> None:
        device, dtype = self._y.device, self._y.dtype
        middle_y = (torch.arange(self._rows, device=device, dtype=dtype) + 0.5) * _TILE
        middle_x = (torch.arange(self._columns, device=device, dtype=dtype) + 0.5) * _TILE
        count = min(_CANDIDATES, len(self._y))
        reach = _TILE * 2**0.5 + _MARGIN  # 2r = the diagonal
        kept, needed = [], []
        rows_at_once = max(1, _PAIRS // max(1, self._columns * len(self._y)))
        for rows in middle_y.split(rows_at_once):
            distance = _distance(
                rows[:, None, None] - self._y, middle_x[None, :, None] - self._x
            )  # (r, columns, K)
            near = distance.topk(count, dim=-1, largest=False)
            limit = near.values[..., :1] + reach
            needed.append((distance <= limit).sum(-1).flatten())  # (r * columns,)
            # Ascending, so that the first of equally near points stands first here too.
            first = near.indices[..., :1]
            kept.append(torch.cat([first, near.indices.sort(dim=-1).values], -1).flatten(0, 1))
        outside = torch.zeros(1, count + 1, dtype=torch.long, device=device)
        table = torch.cat([*kept, outside])  # (tiles + 1, 1 + count)
        need = torch.cat([*needed, torch.tensor([len(self._y) + count + 1], device=device)])
        self._candidates = table[:, 1:].contiguous()
        # What a tile answers: its only point, or -1 = compare its candidates, or -2 = all points.
        answer = torch.where(need == 1, table[:, 0], -1)
        self._answer = answer.masked_fill_(need > count, -2)

    def __call__(self, y: Tensor, x: Tensor) -> Tensor:
        """Index of the nearest point.

        Args:
            y, x: (P,) positions in pixels, any real value; one that is not finite gets index 0.

        Returns:
            (P,) int64 indices in 0..K-1.
        """
        tile_y, tile_x = (y / _TILE).floor_(), (x / _TILE).floor_()
        inside = (tile_y >= 0) & (tile_y < self._rows) & (tile_x >= 0) & (tile_x < self._columns)
        tile = tile_y.mul_(self._columns).add_(tile_x)
        tile = tile.masked_fill_(~inside, self._rows * self._columns).long()
        nearest = self._answer[tile]
        few = (nearest == -1).nonzero().squeeze(1)
        if len(few):
            nearest[few] = self._among_candidates(y[few], x[few], tile[few])
        many = (nearest == -2).nonzero().squeeze(1)
        for chunk in many.split(self._at_once):
            nearest[chunk] = self._among_all(y[chunk], x[chunk])
        return nearest

    def margin(self, y: Tensor, x: Tensor) -> Tensor:
        """How decidedly positions lie nearest to one point: (d2 - d1) / (d2 + d1), 0 to 1.

        Args:
            y, x: (P,) positions in pixels.

        Returns:
            (P,) with d1, d2 the distances to the nearest two points; 1 where there is but one
            point, 0 for a position that is not finite or equally far from both.
        """
        if len(self._y) == 1:
            return torch.isfinite(y + x).to(y.dtype)
        margins = []
        for some_y, some_x in zip(y.split(self._at_once), x.split(self._at_once), strict=True):
            distance = _distance(self._y[:, None] - some_y, self._x[:, None] - some_x)  # (K, p)
            first, nearest = distance.min(dim=0)
            distance.scatter_(0, nearest[None], torch.inf)
            second = distance.amin(dim=0)
            margins.append((second - first) / (second + first))
        return torch.cat(margins).nan_to_num_(nan=0.0)

    def _among_candidates(self, y: Tensor, x: Tensor, tile: Tensor) -> Tensor:
        candidates = self._candidates[tile]  # (P, count)
        distance = _distance(self._y[candidates] - y[:, None], self._x[candidates] - x[:, None])
        return candidates.gather(1, distance.argmin(dim=1, keepdim=True)).squeeze(1)

    def _among_all(self, y: Tensor, x: Tensor) -> Tensor:
        # A position that is not finite is equally far from all, or at no distance: the first.
        return _distance(self._y - y[:, None], self._x - x[:, None]).argmin(dim=1)  # (P, K)
