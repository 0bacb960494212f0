"""One set of maps from those of several scales and mirrored copies of a picture."""

import math

import torch
from torch import Tensor

from axial_d2.panoptic.checks import check_floating, check_tensor


class MapAverage:
    """Running means of class probabilities, heat-map and offsets over views of one picture.

    A view is what the network says of the picture at some scale, mirrored or not. Its cells lie
    elsewhere than those of other views, so all are brought to one grid of cells: classes and
    heat-map bilinearly. Offsets are averaged as the places they point to: a cell of the grid takes
    the place that the view's cell there points to, so that no place between two centres is invented
    within a view. Where offsets are the same function of the place in all views, the mean is that
    function. (The multi-scale inference of Axial-DeepLab, arXiv 2003.07853, and Panoptic-DeepLab.)

    Only sums are kept, whatever the number of views.
    """

    def __init__(
        self, *, size: tuple[int, int], cells: tuple[int, int], extent: tuple[int, int]
    ) -> None:
        """Lays out the grid.

        Args:
            size: height and width of the picture, in the pixels that all offsets are given in.
            cells: rows and columns of the grid.
            extent: height and width in pixels that the cells cover: the size, or more where they
                cover padding below and to the right.

        Raises:
            ValueError: a number below 1, or an extent below the size.
        """
        if min(*size, *cells) < 1 or extent[0] < size[0] or extent[1] < size[1]:
            raise ValueError(
                "size and cells must be at least 1 and extent at least the size, got size "
                f"{tuple(size)}, cells {tuple(cells)}, extent {tuple(extent)}"
            )
        self._size = size
        self._cells = cells
        # Distance of each cell's middle from the upper and left edge of the picture, pixels.
        self._middles = [
            (torch.arange(n, dtype=torch.float64) + 0.5) * (full / n)
            for n, full in zip(cells, extent, strict=True)
        ]
        self._count = 0
        self._log_sum = self._center_sum = self._place_sum = torch.empty(0)

    def add(
        self,
        sem_seg: Tensor,
        center: Tensor,
        offset: Tensor,
        *,
        covered: tuple[float, float],
        mirrored: bool = False,
    ) -> None:
        """Adds the maps of one view.

        Args:
            sem_seg: (C, h, w) logits.
            center: (1, h, w) heat-map.
            offset: (2, h, w), dy and dx in pixels of the picture, from the middle of the cell.
            covered: height and width, in pixels of the picture, that the h x w cells cover.
            mirrored: the view is of the picture with left and right exchanged: its first column is
                at the picture's right edge, and a dx to the right leads to the left.

        Raises:
            TypeError, ValueError: a map has another type or shape.
        """
        check_tensor("sem_seg", sem_seg, ("C", "h", "w"))
        check_floating("sem_seg", sem_seg)
        check_tensor("center", center, (1, *sem_seg.shape[1:]))
        check_tensor("offset", offset, (2, *sem_seg.shape[1:]))
        y, x = (
            self._positions(axis, sem_seg.shape[1 + axis], covered[axis], mirrored and axis == 1)
            for axis in (0, 1)
        )
        log_probability = _bilinear(sem_seg, y, x).log_softmax(dim=0)  # (C, rows, columns)
        heat = _bilinear(center, y, x)  # (1, rows, columns)
        place = _nearest(_places(offset, covered), y, x)  # (2, rows, columns)
        if mirrored:
            place[1] = self._size[1] - place[1]
        if self._count == 0:
            self._log_sum, self._center_sum, self._place_sum = log_probability, heat, place
        else:
            # The logarithm of the sum of the probabilities, none of which vanishes.
            torch.logaddexp(self._log_sum, log_probability, out=self._log_sum)
            self._center_sum += heat
            self._place_sum += place
        self._count += 1

    def mean(self) -> tuple[Tensor, Tensor, Tensor]:
        """The means so far.

        Returns:
            (C, rows, columns) logarithms of the mean probabilities; (1, rows, columns) heat-map;
            (2, rows, columns) offsets from the middle of the cell, pixels of the picture.

        Raises:
            ValueError: nothing was added.
        """
        if self._count == 0:
            raise ValueError("mean of no views: expected at least one `add` before")
        place = self._place_sum / self._count
        middle = torch.stack(torch.meshgrid(*self._middles, indexing="ij")).to(place)
        return (
            self._log_sum - math.log(self._count),
            self._center_sum / self._count,
            place - middle,
        )

    def _positions(self, axis: int, count: int, covered: float, mirrored: bool) -> Tensor:
        """Where on a view's axis of `count` cells the grid's middles are: 0 is its first middle."""
        place = self._middles[axis]
        if mirrored:
            place = self._size[axis] - place
        # Beyond the outermost middles the outermost cells are continued.
        return (place * (count / covered) - 0.5).clamp(0, count - 1)


def _places(offset: Tensor, covered: tuple[float, float]) -> Tensor:
    """(2, h, w) from the picture's upper left corner, in pixels, where each cell points to."""
    middles = [
        (torch.arange(n, dtype=torch.float64) + 0.5) * (full / n)
        for n, full in zip(offset.shape[1:], covered, strict=True)
    ]
    return offset + torch.stack(torch.meshgrid(*middles, indexing="ij")).to(offset)


def _nearest(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(C, h, w) at rows y and columns x, the cell that holds the place, (C, rows, columns)."""
    row, column = ((position + 0.5).floor().long() for position in (y, x))
    rows, columns = maps.shape[1:]
    row = row.clamp_max(rows - 1).to(maps.device)
    column = column.clamp_max(columns - 1).to(maps.device)
    return maps[:, row[:, None], column]  # (C, rows, columns)


def _bilinear(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(C, h, w) at rows y and columns x, (C, rows, columns); no place is beyond the middles."""
    for axis, position in ((1, y[:, None]), (2, x)):
        low = position.floor()
        part = (position - low).to(maps)  # (rows, 1), then (columns,)
        low = low.long().flatten().to(maps.device)
        high = (low + 1).clamp_max(maps.shape[axis] - 1)
        maps = torch.lerp(maps.index_select(axis, low), maps.index_select(axis, high), part)
    return maps
