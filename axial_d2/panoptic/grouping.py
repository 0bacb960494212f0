"""From centres and offsets to instances: each thing pixel goes to the centre that it points to."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from axial_d2.panoptic.checks import (
    as_real,
    check_floating,
    check_integer,
    check_mask,
    check_tensor,
)
from axial_d2.panoptic.nearest import NearestPoint

# Pixels at work at a time: their coordinates, votes and ids stay in cache.
_PIXELS = 1 << 17


def group_pixels(points: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    """Gives each thing pixel to the centre nearest to its vote (its coordinates plus its offset).

    Panoptic-DeepLab, section 3.3 (arXiv 1911.10194). Same result as Detectron2's `group_pixels`
    multiplied by the mask; of centres equally near the first in `points` wins, and a vote that is
    not finite goes to the first. Memory beside the result is bounded, whatever K.

    Args:
        points: (K, 2) centres, y and x in pixels of the mask.
        offset: (2, H, W) floating point, (dy, dx) from the pixel to its centre, in pixels.
        mask: (H, W) bool, true for thing pixels.

    Returns:
        (H, W) int64: 0 outside the mask, 1..K inside; all 0 where K = 0.

    Raises:
        TypeError, ValueError: an argument has another type or shape.
    """
    check_mask("mask", mask, ("H", "W"))
    height, width = mask.shape
    check_tensor("offset", offset, (2, height, width))
    check_floating("offset", offset)
    check_tensor("points", points, ("K", 2))
    instance = torch.zeros(height, width, dtype=torch.long, device=mask.device)
    if not len(points) or not mask.numel():
        return instance
    offset = as_real(offset)
    nearest = NearestPoint(points, (height, width), offset.dtype)
    for rows, pixels in _masked_pixels(mask):
        y = pixels.div(width, rounding_mode="floor")
        x = pixels - y * width
        y += rows.start
        vote_y = offset[0, rows].flatten()[pixels].add_(y)
        vote_x = offset[1, rows].flatten()[pixels].add_(x)
        instance[rows].view(-1)[pixels] = nearest(vote_y, vote_x).add_(1)
    return instance


def group_cells(
    points: Tensor,
    offset: Tensor,
    *,
    size: tuple[int, int],
    mask: Tensor,
    cell_weight: Tensor | None = None,
    semantic: Tensor | None = None,
) -> Tensor:
    """Groups full-resolution pixels from offsets predicted on a coarser grid.

    Resizing offsets bilinearly invents votes half way between two centres along the border of
    their instances. Here each CELL votes for its nearest centre, and a pixel takes, of the ids of
    the four cells around it, the one with the largest sum of

        bilinear weight * cell weight * (d2 - d1) / (d2 + d1)

    where d1 and d2 are the distances from the cell's vote to the nearest two centres: a vote
    between two centres says little. Where no cell has weight the nearest cell decides.

    Args:
        points: (K, 2) centres, y and x in pixels of the full resolution.
        offset: (2, h, w) floating point, (dy, dx) in pixels of the full resolution, from the
            middle of cell (i, j) at ((i + 0.5) * H / h - 0.5, (j + 0.5) * W / w - 0.5), as in
            a bilinear resize with align_corners=False.
        size: height and width H, W in pixels of what the cells cover.
        mask: (H, W) bool, true for thing pixels; or smaller, the upper left part of it, where the
            cells cover padding too.
        cell_weight: floating point, at least 0. (h, w): for instance the probability that the
            cell is a thing. Better (C, h, w): the probability of each class, of which a pixel
            takes that of its own class. None = 1 everywhere.
        semantic: classes of the pixels, integers 0..C-1 of the mask's shape; goes with a
            cell_weight of (C, h, w). Only read inside the mask.

    Returns:
        int64 of the mask's shape: 0 outside the mask, 1..K inside; all 0 where K = 0. Of ids with
        equal sums that of the upper left cell wins.

    Raises:
        TypeError, ValueError: an argument has another type, shape or range.
    """
    _check_cells(points, offset, size, mask, cell_weight, semantic)
    height, width = mask.shape
    rows, columns = offset.shape[1:]
    instance = torch.zeros(height, width, dtype=torch.long, device=mask.device)
    if not len(points) or not mask.numel():
        return instance

    middle_y, middle_x = _cell_middles((rows, columns), size, offset)
    votes = as_real(offset) + torch.stack(torch.meshgrid(middle_y, middle_x, indexing="ij"))
    votes = votes.flatten(1)  # (2, h * w)
    nearest = NearestPoint(points, (height, width), votes.dtype)
    index = nearest(votes[0], votes[1])  # (h * w,)
    margin = nearest.margin(votes[0], votes[1])  # (h * w,)
    cell_id = index + 1
    by_class = None if cell_weight is None or cell_weight.dim() == 2 else semantic
    table = None if cell_weight is None else cell_weight.reshape(-1, rows * columns)

    low_y, high_y, part_y = _neighbours(rows, size[0], votes)
    low_x, high_x, part_x = _neighbours(columns, size[1], votes)
    for band, pixels in _masked_pixels(mask):
        y = pixels.div(width, rounding_mode="floor")
        x = pixels - y * width
        y += band.start
        top, bottom = low_y[y] * columns, high_y[y] * columns
        left, right = low_x[x], high_x[x]
        cells = torch.stack([top + left, top + right, bottom + left, bottom + right])  # (4, P)
        ids = cell_id[cells]  # (4, P)
        chosen = ids[0]
        # Inside an instance the four agree; only along borders is there anything to weigh.
        disputed = (ids[1:] != chosen).any(dim=0).nonzero().squeeze(1)
        if len(disputed):
            y, x, cells = y[disputed], x[disputed], cells[:, disputed]
            weight = margin[cells]  # (4, P)
            if table is not None:
                row = torch.zeros_like(y) if by_class is None else by_class[y, x].long()
                weight = weight * table[row, cells]
            py, px = part_y[y], part_x[x]
            share = torch.stack([(1 - py) * (1 - px), (1 - py) * px, py * (1 - px), py * px])
            chosen[disputed] = _heaviest_id(ids[:, disputed], share, weight)
        instance[band].view(-1)[pixels] = chosen
    return instance


def _heaviest_id(ids: Tensor, share: Tensor, weight: Tensor) -> Tensor:
    """Of four ids per pixel (4, P) the one with the largest summed share times weight, (P,)."""
    weighted = share * weight
    known = (weighted > 0).any(dim=0)
    # No weight anywhere: the nearest cell, which is the one with the largest bilinear share.
    nearest = F.one_hot(share.argmax(dim=0), 4).T.to(share.dtype)  # (4, P)
    weighted = torch.where(known, weighted, nearest)
    total = torch.zeros_like(share)
    for other in range(4):
        total += weighted[other] * (ids == ids[other])
    return ids.gather(0, total.argmax(dim=0, keepdim=True)).squeeze(0)


def _check_cells(
    points: Tensor,
    offset: Tensor,
    size: tuple[int, int],
    mask: Tensor,
    cell_weight: Tensor | None,
    semantic: Tensor | None,
) -> None:
    check_mask("mask", mask, ("H", "W"))
    if mask.shape[0] > size[0] or mask.shape[1] > size[1]:
        raise ValueError(f"mask must lie within size {tuple(size)}, got {tuple(mask.shape)}")
    check_tensor("offset", offset, (2, "h", "w"))
    check_floating("offset", offset)
    if mask.numel() and not offset.numel():
        raise ValueError(f"offset must have at least one cell, got shape {tuple(offset.shape)}")
    check_tensor("points", points, ("K", 2))
    if cell_weight is None:
        return
    cells = tuple(offset.shape[1:])
    if cell_weight.dim() == 3:
        check_tensor("cell_weight", cell_weight, ("C", *cells))
        if semantic is None:
            raise ValueError("semantic must be given with a cell_weight per class, got None")
        check_tensor("semantic", semantic, tuple(mask.shape))
        check_integer("semantic", semantic)
        inside = semantic[mask]
        if inside.numel() and not 0 <= int(inside.min()) <= int(inside.max()) < len(cell_weight):
            raise ValueError(
                f"semantic must hold classes 0..{len(cell_weight) - 1} inside the mask, as "
                f"cell_weight does, got {int(inside.min())}..{int(inside.max())}"
            )
    else:
        check_tensor("cell_weight", cell_weight, cells)
    check_floating("cell_weight", cell_weight)
    if cell_weight.numel() and cell_weight.amin() < 0:
        raise ValueError(f"cell_weight must be at least 0, got {cell_weight.amin().item()}")


def resize_offsets(offset: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarges offsets so that every pixel of a cell votes for the place its cell votes for.

    The training side of `group_cells`: out[p] = offset[cell(p)] + (middle of cell(p) - p), with
    the nearest cell. Differentiable; the gradient of a cell is the sum over its pixels.

    Args:
        offset: (N, 2, h, w) floating point, (dy, dx) in pixels of the full resolution, from the
            middle of the cell.
        size: height and width H, W of the full resolution.

    Returns:
        (N, 2, H, W), float32 (float64 where the input is): coordinates do not fit half precision.

    Raises:
        TypeError, ValueError: an argument has another type or shape.
    """
    check_tensor("offset", offset, ("N", 2, "h", "w"))
    check_floating("offset", offset)
    height, width = size
    if height < 1 or width < 1 or not offset.shape[2] * offset.shape[3]:
        raise ValueError(
            f"offset and size must have at least one pixel, got {tuple(offset.shape)} and {size}"
        )
    votes = as_real(offset)
    middle_y, middle_x = _cell_middles((offset.shape[2], offset.shape[3]), size, votes)
    votes = votes + torch.stack(torch.meshgrid(middle_y, middle_x, indexing="ij"))
    votes = F.interpolate(votes, size=(height, width), mode="nearest-exact")  # (N, 2, H, W)
    y = torch.arange(height, device=votes.device, dtype=votes.dtype)
    x = torch.arange(width, device=votes.device, dtype=votes.dtype)
    return votes - torch.stack(torch.meshgrid(y, x, indexing="ij"))


def _cell_middles(
    cells: tuple[int, int], size: tuple[int, int], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Full-resolution coordinates of the middles of the rows (h,) and columns (w,) of cells."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    middles = [
        (torch.arange(n, device=like.device, dtype=dtype) + 0.5) * (full / n) - 0.5
        for n, full in zip(cells, size, strict=True)
    ]
    return middles[0], middles[1]


def _neighbours(cells: int, pixels: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel of an axis the cells before and after it and the part of the latter."""
    position = torch.arange(pixels, device=like.device, dtype=like.dtype)
    position = ((position + 0.5) * (cells / pixels) - 0.5).clamp_(0, cells - 1)
    low = position.floor()
    high = (low + 1).clamp_(max=cells - 1)
    return low.long(), high.long(), position - low


def _masked_pixels(mask: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Bands of rows, each with the flat places of its true pixels, (P,) int64."""
    height, width = mask.shape
    band = max(1, _PIXELS // width)
    for start in range(0, height, band):
        rows = slice(start, min(start + band, height))
        pixels = mask[rows].flatten().nonzero().squeeze(1)
        if len(pixels):
            yield rows, pixels
