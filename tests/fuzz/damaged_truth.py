"""Damages to the panoptic pngs, 000.png to 002.png; the second picture's is the one damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from damaged_pictures import redraw
from damages import WORKS, Damage, edit, rewrite, segment
from PIL import Image

_TRUTH = "panoptic/001.png"


def _pixels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return redraw(lambda truth: Image.fromarray(change(np.array(truth))), _TRUTH)


def _stray(truth: np.ndarray) -> np.ndarray:
    truth[3, 4:9] = (7, 7, 7)
    return truth


def _with_palette(truth: Image.Image) -> Image.Image:
    """The same colours, exactly, by a palette."""
    colors, index = np.unique(np.array(truth).reshape(-1, 3), axis=0, return_inverse=True)
    found = Image.fromarray(index.reshape(truth.height, truth.width).astype(np.uint8), "P")
    found.putpalette(colors.astype(np.uint8).tobytes())
    return found


def _half_transparent(truth: Image.Image) -> Image.Image:
    truth = truth.convert("RGBA")
    truth.putalpha(100)
    return truth


def _sixteen_bits(truth: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(truth)[..., 0].astype(np.uint16))


_FILE = ("panoptic/001.png",)
_LATE = ("panoptic/001.png", "segments_info")

DAMAGES = [
    Damage("truth cut off in the middle", rewrite(_TRUTH, lambda b: b[: len(b) // 2]),
           (*_FILE, "truncated")),
    Damage("truth of zero bytes", rewrite(_TRUTH, lambda _: b""), (*_FILE, "cannot identify")),
    Damage("text as truth", rewrite(_TRUTH, lambda _: b"nothing"), (*_FILE, "cannot identify")),
    Damage("truth as a jpg under the name of a png", redraw(lambda p: p, _TRUTH, format="jpeg"),
           (*_FILE, "not in the json"), _LATE),
    Damage("grey truth", redraw(lambda p: p.convert("L"), _TRUTH), (*_FILE, "mode L"), _LATE),
    Damage("grey truth of 16 bits", redraw(_sixteen_bits, _TRUTH), (*_FILE, "mode I;16"), _LATE),
    Damage("truth with transparency", redraw(_half_transparent, _TRUTH), WORKS),
    Damage("truth with a palette of the same colours", redraw(_with_palette, _TRUTH), WORKS),
    Damage("truth with a palette of other colours",
           redraw(lambda p: p.convert("P", palette=Image.Palette.WEB), _TRUTH),
           (*_FILE, "not in the json"), _LATE),
    Damage("truth as an uncompressed bmp", redraw(lambda p: p, _TRUTH, format="bmp"), WORKS),
    Damage("truth smaller than the picture",
           redraw(lambda p: p.resize((16, 12), Image.Resampling.NEAREST), _TRUTH),
           (*_FILE, "33x24", "16x12")),
    Damage("truth lying on its side", _pixels(lambda t: t.transpose(1, 0, 2)),
           (*_FILE, "33x24", "24x33")),
    Damage("truth scaled smoothly", redraw(lambda p: p.resize((50, 40)).resize((33, 24)), _TRUTH),
           (*_FILE, "not in the json"), _LATE),
    Damage("id in the png that is not in the json", _pixels(_stray),
           (*_FILE, "not in the json"), _LATE),
    Damage("truth without any pixel", _pixels(np.zeros_like), (*_FILE, "came none"), WORKS,
           alters=("truth",)),
    Damage("truth with red and blue changed", _pixels(lambda t: t[..., ::-1]),
           (*_FILE, "not in the json"), _LATE),
    Damage("truth that is white", _pixels(lambda t: np.full_like(t, 255)),
           (*_FILE, "16777215"), _LATE),
    Damage("truth of another picture", lambda root: (root / _TRUTH).write_bytes(
        (root / "panoptic/002.png").read_bytes()), (*_FILE, "differs"), WORKS, alters=("truth",)),
    Damage("truth that is missing", lambda root: (root / _TRUTH).unlink(),
           (*_FILE, "not there"), _FILE),
    Damage("all void, which the json says too",
           lambda root: (_pixels(np.zeros_like)(root),
                         edit(lambda c: c["annotations"][1].update(segments_info=[]))(root)),
           WORKS, alters=("truth",)),
    Damage("everything is a crowd", edit(lambda c: [
        s.update(iscrowd=1) for a in c["annotations"] for s in a["segments_info"]
        if s["category_id"] in (3, 5)]), WORKS, alters=("truth",)),
    Damage("stuff segment that is a crowd", edit(lambda c: segment(c).update(iscrowd=1)),
           WORKS, alters=("truth",)),
]  # fmt: skip
