"""Command line: ``python -m axial_d2.data.synthetic --output DIR --images N --size H W``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from axial_d2.data.synthetic.classes import CATEGORIES
from axial_d2.data.synthetic.writer import MAX_SIDE, MIN_SIDE, generate

_EXAMPLE = """example:
  python -m axial_d2.data.synthetic --output datasets/synthetic_panoptic --images 1000 \\
      --size 128 256

Under $DETECTRON2_DATASETS/synthetic_panoptic (by default datasets/synthetic_panoptic) the files
are found as the datasets synthetic_panoptic_train and synthetic_panoptic_val.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m axial_d2.data.synthetic",
        description="Draws the embedded dataset of street scenes and writes it as COCO panoptic "
        "files: DIR/train and DIR/val, each with images/, panoptic/ and panoptic.json.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--output", required=True, metavar="DIR", help="folder to write to")
    add("--images", required=True, type=int, metavar="N", help="pictures to train on")
    add("--val-images", type=int, metavar="M", help="pictures to validate on (default: N / 8)")
    add(
        "--size",
        type=int,
        nargs=2,
        default=(128, 256),
        metavar=("H", "W"),
        help=f"height and width in pixels, {MIN_SIDE} to {MAX_SIDE} (default: 128 256)",
    )
    add("--seed", type=int, default=0, help="the same seed gives the same files (default: 0)")
    add("--processes", type=int, metavar="P", help="processes (default: one per core)")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = parser().parse_args(arguments)
    try:
        states = generate(
            given.output,
            images=given.images,
            val_images=given.val_images,
            size=tuple(given.size),
            seed=given.seed,
            processes=given.processes,
        )
    except OSError as error:
        print(f"error: cannot write to {given.output}: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    what = {
        "written": "wrote",
        "replaced": "replaced (it was unfinished, or of other parameters)",
        "kept": "kept what was there already, complete and of the same parameters:",
    }
    for split, state in states.items():
        print(f"{what[state]} {Path(given.output, split)}")
    things = [category["name"] for category in CATEGORIES if category["isthing"]]
    stuff = [category["name"] for category in CATEGORIES if not category["isthing"]]
    print(f"things: {', '.join(things)}; stuff: {', '.join(stuff)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
