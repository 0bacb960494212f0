"""Augmentations for panoptic training, as Detectron2's `Augmentation` and `Transform` classes.

Each draws once from numpy's global random state (which Detectron2 seeds per worker) and gives a
deterministic transform, which moves picture and labels alike. Labels are only ever picked
(nearest), never mixed. The work is small because a crop is taken while resizing: pixels outside of
it are never computed.
"""

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image

# Void in a panoptic png: id 0, so all three channels 0.
VOID = 0


class ScaleCropTransform(Transform):
    """Resizes a picture and crops a window, computing only the window.

    The result is the one of resizing all of the picture and cropping then: pixel i of the resized
    picture has its centre at (i + 0.5) * size / new_size of the source.

    Args:
        h, w: size of the source in pixels.
        new_h, new_w: size it is resized to, in pixels.
        top, left: corner of the window, in pixels of the resized picture.
        crop_h, crop_w: size of the window; it lies within the resized picture.
    """

    def __init__(
        self, h: int, w: int, new_h: int, new_w: int, top: int, left: int, crop_h: int, crop_w: int
    ):
        super().__init__()
        if not (0 <= top <= top + crop_h <= new_h and 0 <= left <= left + crop_w <= new_w):
            raise ValueError(
                f"the window of {crop_h}x{crop_w} at row {top}, column {left} is expected to lie "
                f"within the resized picture of {new_h}x{new_w}"
            )
        self._set_attributes(locals())

    def _expect_source(self, array: np.ndarray) -> None:
        if array.shape[:2] != (self.h, self.w):
            raise ValueError(f"expected {self.h}x{self.w} pixels, came {array.shape[:2]}")

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Bilinear, averaging where it shrinks. Takes and gives (H, W) or (H, W, C)."""
        self._expect_source(img)
        rows = slice(self.top, self.top + self.crop_h)
        columns = slice(self.left, self.left + self.crop_w)
        if (self.new_h, self.new_w) == (self.h, self.w):
            return img[rows, columns]
        step_y, step_x = self.h / self.new_h, self.w / self.new_w
        box = (
            columns.start * step_x,
            rows.start * step_y,
            min(columns.stop * step_x, self.w),  # rounding must not lead beyond the border
            min(rows.stop * step_y, self.h),
        )
        return _resize(img, (self.crop_w, self.crop_h), box)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Nearest: picks the source pixel under each pixel's centre. (H, W) or (H, W, C)."""
        self._expect_source(segmentation)
        # Whole numbers: a centre right between two pixels must not depend on rounding.
        rows = (2 * (self.top + np.arange(self.crop_h)) + 1) * self.h // (2 * self.new_h)
        columns = (2 * (self.left + np.arange(self.crop_w)) + 1) * self.w // (2 * self.new_w)
        return segmentation.take(rows, axis=0).take(columns, axis=1)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Moves (N, 2) points (x, y), in pixels with the origin at the corner."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w) - self.left
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h) - self.top
        return coords


def _resize(img: np.ndarray, size: tuple[int, int], box: tuple[float, ...]) -> np.ndarray:
    """Pillow's bilinear resize of the `box` of a picture to `size` (width, height).

    Pillow reads beyond the box where the filter's support reaches out of it, so windows of one
    picture fit together without a seam.
    """
    if img.ndim == 3 and (img.shape[2] != 3 or img.dtype != np.uint8):
        channels = [_resize(channel, size, box) for channel in np.moveaxis(img, 2, 0)]
        return np.stack(channels, axis=2)
    source = img if img.dtype == np.uint8 else img.astype(np.float32)
    return np.asarray(Image.fromarray(source).resize(size, Image.Resampling.BILINEAR, box=box))


class RandomScaleCrop(T.Augmentation):
    """Scales a picture at random and crops a random window of it.

    Args:
        scale: (low, high), range of the uniform factor on the picture's size.
        crop_size: (height, width) of the window in pixels; a picture that is smaller after scaling
            is kept whole in that direction (see `RandomPad`). None: no crop.
        resize: an augmentation that resizes, asked for the size that the factor is taken of,
            as Detectron2's `ResizeShortestEdge`. None: the picture's own size.

    Raises:
        ValueError: the range or the size is not positive.
    """

    def __init__(
        self,
        scale: Sequence[float] = (1.0, 1.0),
        crop_size: Sequence[int] | None = None,
        resize: T.Augmentation | None = None,
    ):
        super().__init__()
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale: expected 0 < low <= high, came {scale}")
        if crop_size is not None and (len(crop_size) != 2 or min(crop_size) < 1):
            raise ValueError(f"crop_size: expected (height, width) above 0, came {crop_size}")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = new_h, new_w = image.shape[:2]
        if self.resize is not None:
            resize = self.resize.get_transform(image)
            new_h, new_w = getattr(resize, "new_h", h), getattr(resize, "new_w", w)
        factor = np.random.uniform(*self.scale)
        new_h, new_w = max(1, round(new_h * factor)), max(1, round(new_w * factor))
        crop_h, crop_w = (new_h, new_w) if self.crop_size is None else self.crop_size
        crop_h, crop_w = min(crop_h, new_h), min(crop_w, new_w)
        top = np.random.randint(new_h - crop_h + 1)
        left = np.random.randint(new_w - crop_w + 1)
        if (crop_h, crop_w) == (h, w) == (new_h, new_w):
            return NoOpTransform()
        return ScaleCropTransform(h, w, new_h, new_w, top, left, crop_h, crop_w)


class PadTransform(Transform):
    """Pads the picture with a colour and the labels with void.

    Args:
        top, left, bottom, right: pixels added on each side.
        fill: colour of the padding, one value per channel.
    """

    def __init__(self, top: int, left: int, bottom: int, right: int, fill: Sequence[float]):
        super().__init__()
        self._set_attributes(locals())

    def _pad(self, array: np.ndarray, fill: np.ndarray) -> np.ndarray:
        h, w = array.shape[:2]
        shape = (self.top + h + self.bottom, self.left + w + self.right, *array.shape[2:])
        padded = np.empty(shape, array.dtype)
        padded[:] = fill.astype(array.dtype)
        padded[self.top : self.top + h, self.left : self.left + w] = array
        return padded

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Takes (H, W) or (H, W, C), gives it padded with `fill`."""
        fill = np.asarray(self.fill)
        return self._pad(img, fill.round() if img.dtype == np.uint8 else fill)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Takes (H, W) ids or (H, W, 3) colours, gives them padded with void."""
        return self._pad(segmentation, np.asarray(VOID))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Moves (N, 2) points (x, y)."""
        coords[:, 0] += self.left
        coords[:, 1] += self.top
        return coords


class RandomPad(T.Augmentation):
    """Pads a picture to at least `size`, at a random place within the padding.

    A place at random keeps the network from learning where the border is.

    Args:
        size: (height, width) in pixels. A picture that is larger stays as it is in that direction.
        fill: colour of the padding, one value per channel; the mean colour, which the network sees
            as 0, is a good one.
    """

    def __init__(self, size: Sequence[int], fill: Sequence[float]):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        rows, columns = max(0, self.size[0] - h), max(0, self.size[1] - w)
        top, left = np.random.randint(rows + 1), np.random.randint(columns + 1)
        if rows == columns == 0:
            return NoOpTransform()
        return PadTransform(top, left, rows - top, columns - left, self.fill)


class ColorMatrixTransform(Transform):
    """Maps each pixel's colour x to A x + b, clipped to 0..255; labels and places stay.

    Args:
        matrix: (C, C + 1), A and b side by side; C = 3 or 1 as the picture has channels.
    """

    def __init__(self, matrix: np.ndarray):
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Takes and gives (H, W, C) uint8."""
        if img.shape[2:] != (len(self.matrix),) or img.dtype != np.uint8:
            raise ValueError(
                f"expected uint8 of {len(self.matrix)} channels, came {img.dtype} {img.shape}"
            )
        if len(self.matrix) == 1:
            gain, shift = self.matrix[0]
            levels = (np.arange(256) * gain + shift).round().clip(0, 255).astype(np.uint8)
            return levels[img]
        # Pillow's own loop: four times faster than a product of float arrays.
        picture = Image.fromarray(img).convert("RGB", tuple(self.matrix.ravel().tolist()))
        return np.asarray(picture)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords


class ColorJitter(T.Augmentation):
    """Changes brightness, contrast, saturation and hue at random, all as one colour matrix.

    At strength s brightness, contrast and saturation are multiplied by uniform factors within
    1 +- 0.4 s, and the hue is turned by up to 18 s degrees: the usual range of
    colour jitter at s = 1.

    Args:
        strength: 0 (nothing changes) to 1.
        image_format: order of the channels: "RGB", "BGR" or "L".

    Raises:
        ValueError: the strength is out of range or the format another one.
    """

    def __init__(self, strength: float, image_format: str = "BGR"):
        super().__init__()
        if not 0 <= strength <= 1:
            raise ValueError(f"strength: expected 0 to 1, came {strength}")
        if image_format not in ("RGB", "BGR", "L"):
            raise ValueError(f"image_format: expected RGB, BGR or L, came {image_format!r}")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        brightness, contrast, saturation = 1 + 0.4 * self.strength * np.random.uniform(-1, 1, 3)
        hue = np.deg2rad(18 * self.strength * np.random.uniform(-1, 1))
        # Every 4th pixel each way gives the mean grey well enough, at a 16th of the cost.
        mean = float(image[::4, ::4].mean()) * brightness
        if self.image_format == "L":
            return ColorMatrixTransform(np.array([[brightness * contrast, mean * (1 - contrast)]]))
        color = _hue_matrix(hue) @ _saturation_matrix(saturation) * (brightness * contrast)
        if self.image_format == "BGR":
            color = color[::-1, ::-1]
        shift = np.full((3, 1), mean * (1 - contrast))
        return ColorMatrixTransform(np.concatenate([color, shift], axis=1))


def _saturation_matrix(factor: float) -> np.ndarray:
    """(3, 3): moves an RGB colour away from its grey (ITU-R BT.601 luma) by `factor`."""
    grey = np.tile([0.299, 0.587, 0.114], (3, 1))
    return factor * np.eye(3) + (1 - factor) * grey


def _hue_matrix(angle: float) -> np.ndarray:
    """(3, 3): turns an RGB colour about the axis of greys by `angle` in radians (Rodrigues)."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    third = np.full((3, 3), 1 / 3)
    return np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * third
