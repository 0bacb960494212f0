"""What all pictures share: enlarging small ones, text, and putting pictures side by side."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

# Pixels of the longer side from which class names can be read in a picture.
_READABLE_SIDE = 960
_GAP = 8
_TITLE_SIZE = 20
_BACKGROUND = 24


def drawing_scale(height: int, width: int) -> int:
    """The whole factor by which a picture is enlarged before it is drawn on.

    Args:
        height: of the picture, pixels.
        width: of the picture, pixels.

    Returns:
        1 for pictures with a side of 960 pixels or more; for others the smallest factor that gets
        them there. A whole number, so that every pixel of a prediction stays a square.
    """
    return max(1, -(-_READABLE_SIDE // max(height, width)))


def enlarge(image: np.ndarray, scale: int, *, smooth: bool = True) -> np.ndarray:
    """Enlarges a picture or a map by a whole factor.

    Args:
        image: (H, W) or (H, W, 3).
        scale: factor.
        smooth: interpolate (pictures, heat-maps) or repeat pixels (ids, masks).

    Returns:
        The same type, (H * scale, W * scale) or with 3 channels.
    """
    if scale == 1:
        return image.copy()
    if not smooth:
        return image.repeat(scale, axis=0).repeat(scale, axis=1)
    import cv2

    size = image.shape[1] * scale, image.shape[0] * scale
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


@lru_cache(maxsize=32)
def font(size: int) -> Any:
    """A font that is there wherever Detectron2 runs: matplotlib's own.

    Args:
        size: height in pixels.

    Returns:
        A Pillow font.
    """
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size)


def as_image(image: np.ndarray, name: str = "image_rgb") -> np.ndarray:
    """Checks a picture handed over by a caller.

    Args:
        image: what came.
        name: of the argument, for the error.

    Returns:
        The picture as uint8.

    Raises:
        ValueError: not (H, W, 3).
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name}: expected (H, W, 3), got {image.shape}")
    return image.clip(0, 255).astype(np.uint8)


def as_array(values: Any) -> np.ndarray:
    """An array from a tensor on any device, or from anything numpy takes.

    Args:
        values: tensor or array.

    Returns:
        The array.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point():
            values = values.float()  # numpy knows no bfloat16
        values = values.numpy()
    return np.asarray(values)


def check_map_size(shape: tuple[int, ...], image: np.ndarray, name: str) -> None:
    """Refuses a map of another size than the picture it belongs to.

    Args:
        shape: of the map, rows and columns last.
        image: (H, W, 3).
        name: of the map, for the error.

    Raises:
        ValueError: the sizes differ.
    """
    if shape[-2:] != image.shape[:2]:
        raise ValueError(
            f"{name}: expected the picture's size {image.shape[:2]}, got {tuple(shape[-2:])}"
        )


def stack_pictures(
    pictures: Sequence[np.ndarray], titles: Sequence[str] | None = None
) -> np.ndarray:
    """Puts pictures side by side on a dark ground.

    Args:
        pictures: each (H, W, 3) uint8 RGB; they need not have one size.
        titles: a line above each; None for none.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: no picture, or another number of titles than of pictures.
    """
    if not pictures:
        raise ValueError("pictures: expected at least one, got none")
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"titles: expected {len(pictures)}, one per picture, got {len(titles)}")
    pictures = [as_image(p, "pictures") for p in pictures]
    bar = 0 if titles is None else _TITLE_SIZE + 2 * _GAP
    height = bar + max(p.shape[0] for p in pictures)
    width = sum(p.shape[1] for p in pictures) + _GAP * (len(pictures) - 1)
    sheet = np.full((height, width, 3), _BACKGROUND, np.uint8)
    left = 0
    for index, picture in enumerate(pictures):
        rows, columns = picture.shape[:2]
        sheet[bar : bar + rows, left : left + columns] = picture
        if titles is not None:
            sheet[:bar, left : left + columns] = _title(titles[index], bar, columns)
        left += columns + _GAP
    return sheet


def _title(text: str, height: int, width: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    bar = Image.new("RGB", (width, height), (_BACKGROUND,) * 3)
    ImageDraw.Draw(bar).text((_GAP, _GAP // 2), text, font=font(_TITLE_SIZE), fill=(255,) * 3)
    return np.asarray(bar)
