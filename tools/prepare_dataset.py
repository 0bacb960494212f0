#!/usr/bin/env python
"""Makes what a known dataset lacks after the download, from what it has (docs/datasets.md)."""

import argparse
import os
import sys
from pathlib import Path

# First: it makes Detectron2 ready for the libraries installed here. The checkout works uninstalled.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.data.preparation import RECIPES

_EXAMPLES = """\
examples:
  %(prog)s cityscapes --root datasets
  %(prog)s cityscapes          (below $DETECTRON2_DATASETS, or ./datasets)

What is there and right is kept, so that a broken-off run goes on where it stopped. Every file is
read again after it was written. The exit code is 1 when something could not be made.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    datasets = "\n".join(f"  {name:<12}{recipe.summary}" for name, recipe in RECIPES.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"datasets:\n{datasets}\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=RECIPES, metavar="DATASET", help="see below")
    parser.add_argument(
        "--root",
        default=os.environ.get("DETECTRON2_DATASETS", "datasets"),
        metavar="DIR",
        help="the folder that holds the datasets' folders (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="threads (default: %(default)s)",
    )
    return parser


def main() -> int:
    """Prepares one dataset; returns the exit code."""
    args = argument_parser().parse_args()
    root = os.path.abspath(os.path.expanduser(args.root))
    try:
        outcomes = RECIPES[args.dataset].prepare(root, workers=args.workers)
    except (ValueError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    for outcome in outcomes:
        print(outcome.text())
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
