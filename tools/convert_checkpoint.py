#!/usr/bin/env python
"""Converts another project's classifier into a file for MODEL.WEIGHTS, and writes its config."""

import argparse
import sys
from pathlib import Path

# First: it makes Detectron2 ready for the libraries installed here. The checkout works uninstalled.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.engine import Conversion, SetupError, convert_csrhddlam

_EXAMPLES = """\
examples:
  %(prog)s csrhddlam axial26s.pth axial26s_converted.pth
    writes axial26s_converted.pth and axial26s_converted.yaml
  then, to evaluate the classifier:
    python tools/train_net.py --config-file axial26s_converted.yaml --eval-only
  or to begin a segmentation model with its backbone:
    python tools/train_net.py --config-file FILE MODEL.WEIGHTS axial26s_converted.pth \\
      MODEL.AXIAL_RESNET.DEPTH 26 MODEL.AXIAL_RESNET.WIDTH_MULTIPLIER 0.5 \\
      MODEL.AXIAL_RESNET.STEM conv7 MODEL.AXIAL_RESNET.STRIDE avg_pool

sources:
  csrhddlam  github.com/csrhddlam/axial-deeplab: axial26s, axial50s, axial50m, axial50l, as its
             training saves them (with or without optimiser state and "module.") or bare

IN is read with torch.load(weights_only=True). Everything in it must have its place: names that are
missing or unknown and tensors of another shape are an error that lists them all.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("project", choices=["csrhddlam"], help="where the checkpoint comes from")
    parser.add_argument("source", metavar="IN.pth", help="that project's checkpoint")
    parser.add_argument("target", metavar="OUT.pth", help="what to write, with OUT.yaml beside it")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    return parser


def describe(done: Conversion) -> str:
    """Says what was written, and the keys that these weights need."""
    rows = ", ".join(map(str, done.table_rows))
    lines = [
        f"{done.tensors} tensors, {done.parameters / 1e6:.2f} million parameters",
        f"position tables of {rows} rows fitted to {done.table_rows[0]} by repeating end rows",
        "the keys that these weights need:",
        *(f"  {key} {value}" for key, value in done.keys.items()),
        f"wrote {done.weights} and {done.config}",
    ]
    return "\n".join(lines)


def main() -> int:
    """Runs the command line; returns the exit code."""
    args = argument_parser().parse_args()
    try:
        done = convert_csrhddlam(args.source, args.target, overwrite=args.overwrite)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(describe(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
