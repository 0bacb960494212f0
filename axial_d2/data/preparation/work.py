"""Work on many files that can be broken off: done again, it goes on where it stopped."""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from axial_d2.panoptic.encoding import boxes_of, compact_ids

from ..files import whole_file
from ..parallel import in_threads
from ..pictures import UNREADABLE

Item = TypeVar("Item")
Result = TypeVar("Result")

_EXAMPLES = 3


class Outcome(NamedTuple):
    """What became of one step.

    Attributes:
        title: of the step.
        made: files that were written.
        kept: files that were there and right.
        failed: per item that could not be done what, and why.
    """

    title: str
    made: int
    kept: int
    failed: tuple[str, ...]

    def text(self) -> str:
        """One line, and the first few failures below it."""
        line = f"{self.title}: {self.made} made, {self.kept} were there"
        if not self.failed:
            return line
        lines = [f"{line}, {len(self.failed)} FAILED", *(f"  {t}" for t in self.failed[:_EXAMPLES])]
        if len(self.failed) > _EXAMPLES:
            lines.append(f"  ... and {len(self.failed) - _EXAMPLES} more")
        return "\n".join(lines)


def run(
    title: str,
    items: Sequence[Item],
    do: Callable[[Item], tuple[Result, int, int]],
    *,
    workers: int,
) -> tuple[Outcome, list[Result]]:
    """Does something with each of many items, in threads, under a progress bar.

    Args:
        title: of the bar.
        items: what to do it with.
        do: gives a result, how many files were written and how many were there; raises a ValueError
            or an OSError that names the file where it cannot.
        workers: threads.

    Returns:
        What became of it, and the results of the items that could be done, in order.
    """
    results: list[Result] = []
    failed: list[str] = []
    made = kept = 0
    with tqdm(total=len(items), desc=title, unit="file", dynamic_ncols=True) as bar:
        for _, done in in_threads(do, items, workers):
            if isinstance(done, Exception):
                failed.append(str(done))
            else:
                result, new, old = done
                results.append(result)
                made, kept = made + new, kept + old
            bar.update()
    return Outcome(title, made, kept, tuple(failed)), results


def write_png(path: str, pixels: np.ndarray) -> bool:
    """Writes a png, unless it is there with these very pixels; reads it again to be sure.

    Args:
        path: of the file; its folder is made.
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8.

    Returns:
        Whether it was written. A file of that name is never half-written.

    Raises:
        OSError: it cannot be written, or is not what was written.
    """
    if os.path.isfile(path) and _holds(path, pixels):
        return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path) as part:
        Image.fromarray(pixels).save(part, format="png")
        if not _holds(part, pixels):
            raise OSError(f"{path}: what was written is not what is there: is the disk full?")
    return True


def _holds(path: str, pixels: np.ndarray) -> bool:
    try:
        with Image.open(path) as image:
            found = np.asarray(image)
    except UNREADABLE:
        return False
    return found.shape == pixels.shape and bool((found == pixels).all())


def write_json(path: str, content: Any) -> bool:
    """Writes a json, unless it is there with this content.

    Args:
        path: of the file.
        content: what json can hold.

    Returns:
        Whether it was written. A file of that name is never half-written.
    """
    text = json.dumps(content)
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def read_pixels(path: str) -> np.ndarray:
    """Reads a file's pixels as they are.

    Args:
        path: of the picture.

    Raises:
        ValueError: it is not there or cannot be read; the message names it.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there") from None
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def segments_of(ids: np.ndarray) -> list[dict[str, Any]]:
    """Area and box of each segment of a picture.

    Args:
        ids: (H, W) integers; 0 is none.

    Returns:
        Per id that occurs, ascending, ``id``, ``area`` (pixels) and ``bbox`` ([left, top, width,
        height]), as COCO's panoptic json has them.
    """
    present, index = compact_ids(ids)
    areas = np.bincount(index.ravel(), minlength=len(present)).tolist()
    return [
        {"id": value, "area": area, "bbox": box}
        for value, area, box in zip(
            present.tolist(), areas, boxes_of(index, len(present)), strict=True
        )
        if value != 0
    ]
