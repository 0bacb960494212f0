"""Reading of pictures and of label masks, with errors that name the file."""

import os

import numpy as np
from detectron2.data import detection_utils as utils
from PIL import Image, UnidentifiedImageError

#: What Pillow raises for a file that it cannot read: SyntaxError is its word for a broken png.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_picture(path: str, image_format: str) -> np.ndarray:
    """Reads a picture of any kind (grey, CMYK, with transparency) as `image_format`.

    Args:
        path: the file.
        image_format: "RGB", "BGR", "L" or "YUV-BT.601", as Detectron2's `read_image` takes it.

    Returns:
        (H, W, C) picture, turned as its EXIF says.

    Raises:
        ValueError: it cannot be read; the error names the file and the cause.
    """
    try:
        _check_plain(path)
        return utils.read_image(path, format=image_format)
    except UNREADABLE as error:
        raise ValueError(f"cannot read the picture {path}: {_cause(error)}") from error


def read_labels(path: str) -> np.ndarray:
    """Reads a mask whose pixels are whole numbers, or colours, without changing them.

    Args:
        path: the file: grey of 1, 8, 16 or 32 bits, or with a palette, whose indices are the
            numbers; or in colours.

    Returns:
        (H, W) int32 numbers, or (H, W, 3) uint8 of a mask in colours.

    Raises:
        ValueError: it cannot be read, or has another kind of pixels.
    """
    try:
        _check_plain(path)
        with Image.open(path) as image:
            if image.mode in ("RGB", "RGBA"):
                return np.asarray(image.convert("RGB"))
            if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
                return np.asarray(image).astype(np.int32)
            mode = image.mode
    except UNREADABLE as error:
        raise ValueError(f"cannot read the mask {path}: {_cause(error)}") from error
    raise ValueError(
        f"the mask {path}: expected whole numbers (grey or palette) or colours (RGB), came pixels "
        f"of Pillow's mode {mode}"
    )


def size_text(array: np.ndarray) -> str:
    """The size of a (H, W, ...) array, as WIDTHxHEIGHT."""
    return f"{array.shape[1]}x{array.shape[0]}"


def _check_plain(path: str) -> None:
    """Refuses folders, and pipes, from which reading would wait for ever."""
    if not os.path.isfile(path) and os.path.exists(path):
        kind = "a folder" if os.path.isdir(path) else "neither a file nor a folder"
        raise ValueError(f"expected a file, it is {kind}")


def _cause(error: Exception) -> str:
    """The error without the path, which the message has already."""
    if isinstance(error, UnidentifiedImageError):  # which shows a Python object
        return "cannot identify image file: it begins as none of a known format"
    return getattr(error, "strerror", None) or str(error)
