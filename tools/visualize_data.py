#!/usr/bin/env python
"""Draws what the network will see: augmented training pictures with their targets and weights."""

import argparse
import sys
from pathlib import Path

# First: it makes Detectron2 ready for the libraries installed here. The checkout works uninstalled.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.engine import SetupError, draw_training_data, load_config

_EXAMPLES = """\
examples:
  %(prog)s --config-file my.yaml --limit 8 --output seen
  Three augmentations of each picture, another crop:
    %(prog)s --config-file my.yaml --limit 2 --draws 3 --output seen INPUT.CROP_SIZE '(256, 256)'

A sheet holds the picture as the network gets it, the semantic target, centres, offsets (the hue is
the direction to the centre, see the wheel) and the weights of the three losses; where it is striped
nothing is taught. The exit code is 1 when a picture could not be drawn.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config (YAML)")
    parser.add_argument(
        "--dataset", metavar="NAME", help="a dataset (default: the first of DATASETS.TRAIN)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N pictures only")
    parser.add_argument(
        "--draws", type=int, default=1, metavar="K", help="augmentations of each (default: 1)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the augmentations (default: 0)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where sheets are written")
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys to change; must come last",
    )
    return parser


def main() -> int:
    """Draws the sheets; returns the exit code."""
    args = argument_parser().parse_args()
    failed = 0
    try:
        if args.draws < 1 or (args.limit is not None and args.limit < 1):
            raise SetupError("--draws and --limit: expected 1 or more")
        cfg = load_config(args.config_file, args.opts)
        sheets = draw_training_data(
            cfg, args.dataset, args.output, limit=args.limit, draws=args.draws, seed=args.seed
        )
        for path, written in sheets:
            if isinstance(written, Exception):
                failed += 1
                print(f"{path}: NOT DRAWN: {written}", file=sys.stderr)
            else:
                print(f"{path} -> {', '.join(map(str, written))}")
    except SetupError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
