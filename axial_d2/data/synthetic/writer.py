"""Writes the embedded dataset as COCO panoptic files."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from axial_d2.data.synthetic.classes import CATEGORIES
from axial_d2.data.synthetic.scene import render
from axial_d2.panoptic.encoding import id_to_rgb

MIN_SIDE, MAX_SIDE = 64, 4096  # below, a person is a few pixels; above, memory runs out
_SPLITS = ("train", "val")
_MANIFEST = "manifest.json"
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111)  # 4:4:4
_OWN_FILE = re.compile(r"\d{6,}\.(jpg|png)")


def generate(
    output: str | os.PathLike,
    *,
    images: int,
    size: tuple[int, int] = (128, 256),
    val_images: int | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: bool = True,
) -> dict[str, str]:
    """Draws the embedded dataset and writes it in COCO panoptic format.

    `output` gets two folders, train and val, each with images/ (.jpg), panoptic/ (.png) and
    panoptic.json. The files depend on `images`, `val_images`, `size` and `seed` alone, and picture
    i of a split only on `size`, `seed` and i. A complete set of the same parameters is kept; an
    unfinished one, and one of other parameters, is drawn anew.

    Args:
        output: folder, made where it is missing.
        images: number of pictures of the training split, at least 1.
        size: (height, width) of the pictures in pixels, each `MIN_SIDE` to `MAX_SIDE`.
        val_images: number of pictures of the validation split; None for an eighth of `images`.
        seed: not negative; the two splits are drawn from separate streams of chance.
        processes: number of processes; None for one per core.
        progress: whether to show a progress bar.

    Returns:
        For each split, "written", "replaced" (another set of this generator stood there, or an
        unfinished one) or "kept".

    Raises:
        ValueError: an argument is out of range, or `output` holds something else.
        OSError: `output` cannot be written.
    """
    if val_images is None and isinstance(images, int):
        val_images = max(images // 8, 1)
    height, width = _checked_size(size)
    for name, value, least in (
        ("images", images, 1),
        ("val_images", val_images, 1),
        ("seed", seed, 0),
        ("processes", 1 if processes is None else processes, 1),
    ):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
    processes = processes or len(_cores())
    root = Path(output).expanduser()
    plans = []
    for stream, (split, count) in enumerate(zip(_SPLITS, (images, val_images), strict=True)):
        manifest = {
            "generator": "axial_d2.data.synthetic",
            "drawing": _drawing_version(),
            "split": split,
            "images": int(count),
            "height": height,
            "width": width,
            "seed": int(seed),
        }
        # Both states are read before anything is written: a refusal leaves all as it was.
        plans.append((root / split, manifest, stream, _state(root / split, manifest)))
    for folder, manifest, stream, state in plans:
        if state != "kept":
            _write_split(folder, manifest, stream, processes, progress)
    return {folder.name: state for folder, _, _, state in plans}


@functools.cache
def _drawing_version() -> str:
    """Changes with the source of what is drawn, so that sets of an older state are drawn anew."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        if file.name not in ("__init__.py", "__main__.py", "registration.py", "writer.py"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _checked_size(size) -> tuple[int, int]:
    numbers = tuple(size) if isinstance(size, tuple | list) else ()
    if len(numbers) != 2 or not all(
        isinstance(side, int | np.integer) and MIN_SIDE <= side <= MAX_SIDE for side in numbers
    ):
        raise ValueError(
            f"size must be (height, width), each from {MIN_SIDE} to {MAX_SIDE} pixels, got {size!r}"
        )
    return int(numbers[0]), int(numbers[1])


def _cores() -> list[int]:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _state(folder: Path, manifest: dict) -> str:
    """What is to become of a split's folder: "written", "replaced" or "kept"."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return "written"
    try:
        found = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        own = found.get("generator") == manifest["generator"]
    except (OSError, ValueError, AttributeError):
        own = False
    if not own:
        raise ValueError(
            f"{folder} holds something that this generator did not write (no {_MANIFEST} of its "
            "own): choose another output folder, or remove that one"
        )
    complete = found == manifest and (folder / "panoptic.json").is_file()
    for part, ending in (("images", "jpg"), ("panoptic", "png")):
        complete = complete and all(
            (folder / part / _file_name(index, ending)).is_file()
            for index in range(manifest["images"])
        )
    return "kept" if complete else "replaced"


def _write_split(folder: Path, manifest: dict, stream: int, processes: int, progress: bool) -> None:
    """Writes one split; panoptic.json comes last and whole, so without it a set is unfinished."""
    truth = folder / "panoptic.json"
    for part in ("images", "panoptic"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    truth.unlink(missing_ok=True)
    for part in ("images", "panoptic"):
        for file in (folder / part).iterdir():
            if _OWN_FILE.fullmatch(file.name):
                file.unlink()
    text = json.dumps(manifest, indent=1) + "\n"
    (folder / _MANIFEST).write_text(text, encoding="utf-8")

    height, width, count = manifest["height"], manifest["width"], manifest["images"]
    draw = functools.partial(
        _write_picture, str(folder), (manifest["seed"], stream), (height, width)
    )
    results = tqdm(
        _mapped(draw, count, min(processes, count)),
        total=count,
        desc=f"drawing {manifest['split']}",
        unit="picture",
        disable=not progress,
    )
    content = {
        "info": {"description": "procedurally drawn street scenes", **manifest},
        "licenses": [],
        "images": [],
        "annotations": [],
        "categories": CATEGORIES,
    }
    for index, segments_info in enumerate(results):
        picture, labels = _file_name(index, "jpg"), _file_name(index, "png")
        content["images"].append(
            {"id": index + 1, "file_name": picture, "height": height, "width": width}
        )
        content["annotations"].append(
            {"image_id": index + 1, "file_name": labels, "segments_info": segments_info}
        )
    unfinished = folder / "panoptic.json.unfinished"
    unfinished.write_text(json.dumps(content) + "\n", encoding="utf-8")
    shutil.move(unfinished, truth)  # a rename: within one folder


def _mapped(draw, count: int, processes: int) -> Iterator[list[dict]]:
    """`draw` of 0 to `count` - 1 in order, over several processes."""
    if processes == 1:
        yield from map(draw, range(count))
        return
    # Forked children need not import torch and Detectron2 again, which takes longer than to draw
    # a hundred pictures; they only use numpy, single-threaded OpenCV and files.
    method = "fork" if sys.platform.startswith("linux") else "spawn"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        pool = multiprocessing.get_context(method).Pool(processes)
    with pool:
        yield from pool.imap(draw, range(count), chunksize=max(min(count // processes, 8), 1))


def _file_name(index: int, ending: str) -> str:
    return f"{index + 1:06d}.{ending}"


def _write_picture(
    folder: str, seed: tuple[int, int], size: tuple[int, int], index: int
) -> list[dict]:
    """Draws and writes picture `index` with its truth; returns its segments_info."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the processes keep all cores busy
    try:
        try:
            scene = render(np.random.default_rng((*seed, index)), *size)
        except ValueError as error:  # ours, not the caller's mistake
            raise RuntimeError(f"picture {index} of seed {seed}, size {size} failed") from error
        colors = id_to_rgb(scene.panoptic)
        for part, ending, rgb, options in (
            ("images", "jpg", scene.image, _JPEG),
            ("panoptic", "png", colors, ()),
        ):
            done, encoded = cv2.imencode("." + ending, rgb[..., ::-1], options)
            if not done:
                raise OSError(f"OpenCV could not encode a .{ending} picture")
            Path(folder, part, _file_name(index, ending)).write_bytes(encoded.tobytes())
    finally:
        cv2.setNumThreads(threads)
    return scene.segments_info
