"""The crops of ImageNet classification, as Detectron2's augmentations; computed while resizing.

Both are torchvision's in effect: `RandomResizedCrop` by distribution, `CenterCrop` up to rounding.
"""

import math
from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

from .augmentations import ScaleCropTransform

# As many windows are tried for one that lies within the picture, as torchvision does.
_TRIES = 10


class RandomResizedCrop(T.Augmentation):
    """Cuts a window of random area and shape out of a picture and resizes it to a fixed size.

    The window is placed on the pixels of the resized picture, so that its area and shape are those
    drawn up to half a pixel there. Where no window fits in ten draws, as in a picture much longer
    than wide, it is the largest one in the middle whose shape is allowed.

    Args:
        size: (height, width) of the result in pixels.
        area: (low, high), range of the window's uniform share of the picture's area, 0 to 1.
        aspect: (low, high), range of its width by its height, uniform in the logarithm.

    Raises:
        ValueError: a size or range that is not positive, or an area above 1.
    """

    def __init__(
        self,
        size: Sequence[int],
        area: Sequence[float] = (0.08, 1.0),
        aspect: Sequence[float] = (3 / 4, 4 / 3),
    ):
        super().__init__()
        _check_size(size)
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"area: expected 0 < low <= high <= 1, came {area}")
        if len(aspect) != 2 or not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f"aspect: expected 0 < low <= high, came {aspect}")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        crop_h, crop_w = self.size
        window = self._draw(h, w)
        inside = window is not None
        window_h, window_w = window if window is not None else self._largest(h, w)
        # The size of the whole picture at which the window is as large as the result.
        new_h, new_w = round(h * crop_h / window_h), round(w * crop_w / window_w)
        rows, columns = new_h - crop_h, new_w - crop_w
        top = np.random.randint(rows + 1) if inside else rows // 2
        left = np.random.randint(columns + 1) if inside else columns // 2
        return ScaleCropTransform(h, w, new_h, new_w, top, left, crop_h, crop_w)

    def _draw(self, h: int, w: int) -> tuple[float, float] | None:
        """(height, width) of a window within the picture, in its pixels; None: none was drawn."""
        for _ in range(_TRIES):
            pixels = h * w * np.random.uniform(*self.area)
            aspect = math.exp(np.random.uniform(*map(math.log, self.aspect)))
            window_h, window_w = math.sqrt(pixels / aspect), math.sqrt(pixels * aspect)
            if window_h <= h and window_w <= w:
                return window_h, window_w
        return None

    def _largest(self, h: int, w: int) -> tuple[float, float]:
        aspect = min(max(w / h, self.aspect[0]), self.aspect[1])
        return min(h, w / aspect), min(w, h * aspect)


class CenterCrop(T.Augmentation):
    """Resizes a picture by its shorter side and cuts its middle out.

    Args:
        shorter_side: of the resized picture, in pixels, the shape being kept.
        size: (height, width) of the window in pixels.

    Raises:
        ValueError: a size that is not positive, or a window larger than the shorter side.
    """

    def __init__(self, shorter_side: int, size: Sequence[int]):
        super().__init__()
        _check_size(size)
        if shorter_side < max(size):
            raise ValueError(
                f"shorter_side: expected at least the window's {max(size)} pixels, came "
                f"{shorter_side}"
            )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        # Rounded down, and the middle to the even pixel, as torchvision rounds them.
        new_h = self.shorter_side * h // min(h, w)
        new_w = self.shorter_side * w // min(h, w)
        crop_h, crop_w = self.size
        top, left = round((new_h - crop_h) / 2), round((new_w - crop_w) / 2)
        return ScaleCropTransform(h, w, new_h, new_w, top, left, crop_h, crop_w)


def _check_size(size: Sequence[int]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size: expected (height, width) above 0, came {size}")
