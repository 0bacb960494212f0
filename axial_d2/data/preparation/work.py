"""Work on many files that can be broken off: done again, it goes on where it stopped."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from axial_d2.panoptic.encoding import compact_ids

from ..pictures import UNREADABLE

Item = TypeVar("Item")
Result = TypeVar("Result")

_EXAMPLES = 3
# Waiting items per worker: enough to keep it busy, few enough to stop soon.
_AHEAD = 4


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
        workers: threads; Pillow and numpy let go of the interpreter lock while they work.

    Returns:
        What became of it, and the results of the items that could be done, in order.
    """
    results: dict[int, Result] = {}
    failed: dict[int, str] = {}
    made = kept = 0
    waiting: dict[Future, int] = {}
    todo = iter(enumerate(items))
    with (
        tqdm(total=len(items), desc=title, unit="file", dynamic_ncols=True) as bar,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        while True:
            for number, item in todo:
                waiting[pool.submit(do, item)] = number
                if len(waiting) >= workers * _AHEAD:
                    break
            if not waiting:
                break
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                number = waiting.pop(future)
                try:
                    results[number], new, old = future.result()
                    made, kept = made + new, kept + old
                except (ValueError, OSError) as error:
                    failed[number] = str(error)
                bar.update()
    texts = tuple(failed[number] for number in sorted(failed))
    return Outcome(title, made, kept, texts), [results[number] for number in sorted(results)]


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
    part = f"{path}.part"
    try:
        Image.fromarray(pixels).save(part, format="png")
        if not _holds(part, pixels):
            raise OSError(f"{path}: what was written is not what is there: is the disk full?")
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.remove(part)
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
    part = f"{path}.part"
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.remove(part)
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
    found = []
    areas = np.bincount(index.ravel(), minlength=len(present))
    height, width = ids.shape
    # Which segments each row and column meets: (S, H) and (S, W).
    in_row = np.zeros((len(present), height), dtype=bool)
    in_row[index, np.arange(height)[:, None]] = True
    in_column = np.zeros((len(present), width), dtype=bool)
    in_column[index, np.arange(width)[None]] = True
    for number, value in enumerate(present.tolist()):
        if value == 0:
            continue
        y, x = np.flatnonzero(in_row[number]), np.flatnonzero(in_column[number])
        box = [x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1]
        found.append({"id": value, "area": int(areas[number]), "bbox": [int(v) for v in box]})
    return found
