"""Segment ids as the three colour channels of a PNG (COCO panoptic format)."""

import numpy as np

# One byte per channel, R lowest (COCO panoptic format, cocodataset.org/#format-data).
_CHANNEL_FACTORS = np.array([1, 256, 65536], dtype=np.int32)
MAX_ID = 256**3 - 1


def rgb_to_id(rgb: np.ndarray) -> np.ndarray:
    """Reads segment ids from the colours of a panoptic PNG.

    Args:
        rgb: (H, W, 3) uint8, channels in the order R, G, B.

    Returns:
        (H, W) int32 ids in 0..256^3-1, id = R + 256 G + 65536 B.

    Raises:
        ValueError: `rgb` is not an (H, W, 3) array.
        TypeError: `rgb` is not uint8.
    """
    rgb = np.asarray(rgb)
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"rgb must have shape (H, W, 3), got {rgb.shape}")
    if rgb.dtype != np.uint8:
        raise TypeError(f"rgb must be uint8, got {rgb.dtype}")
    ids: np.ndarray = rgb[..., 2].astype(np.int32)
    for channel in (1, 0):
        ids <<= 8
        ids |= rgb[..., channel]
    return ids


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Writes segment ids as colours, the inverse of `rgb_to_id`.

    Args:
        ids: integers of any shape (...), each in 0..256^3-1.

    Returns:
        (..., 3) uint8, channels in the order R, G, B.

    Raises:
        TypeError: `ids` are not integers.
        ValueError: an id lies outside 0..256^3-1.
    """
    ids = np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"ids must be integers, got {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(f"ids must lie in 0..{MAX_ID}, got {ids.min()}..{ids.max()}")
    channels = ids[..., None] // _CHANNEL_FACTORS % 256  # (..., 3)
    return channels.astype(np.uint8)


def compact_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `np.unique(ids, return_inverse=True)`, by runs: there are far fewer of them than pixels.

    Args:
        ids: (H, W) integers.

    Returns:
        Distinct ids, ascending, (S,); and the place of each pixel's among them, (H, W).
    """
    flat = ids.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    lengths = np.diff(starts, append=flat.size)
    present, inverse = np.unique(flat[starts], return_inverse=True)
    return present, np.repeat(inverse, lengths).reshape(ids.shape)  # (H*W,) -> (H, W)


def boxes_of(index: np.ndarray, count: int) -> list[list[int]]:
    """The boxes of segments, as COCO has them.

    Args:
        index: (H, W) integers 0..count-1, each of which occurs (as `compact_ids` gives them).
        count: how many segments there are.

    Returns:
        Per segment [left, top, width, height] in pixels.
    """
    height, width = index.shape
    # By runs within a row, of which there are far fewer than pixels.
    begins = np.ones((height, width), dtype=bool)
    np.not_equal(index[:, 1:], index[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    # One past each run's last pixel; where there is no pixel there is no run.
    ends: np.ndarray = np.append(starts[1:], index.size)[: len(starts)]
    segment = index.ravel()[starts]
    left, top = np.full((2, count), max(height, width))
    right: np.ndarray = np.zeros(count, dtype=np.int64)
    bottom = np.zeros_like(right)
    rows, columns = np.divmod(starts, max(width, 1))
    np.minimum.at(left, segment, columns)
    np.minimum.at(top, segment, rows)
    np.maximum.at(right, segment, columns + (ends - starts))
    np.maximum.at(bottom, segment, rows + 1)
    return np.stack([left, top, right - left, bottom - top], axis=1).tolist()
