#!/usr/bin/env python
"""Scores saved predictions, ours or another project's, against a dataset; needs no model."""

import argparse
import os
import sys
from pathlib import Path

# First: it makes Detectron2 ready for the libraries installed here. The checkout works uninstalled.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.engine import SetupError, evaluate_saved, load_datasets, summary

_EXAMPLES = """\
examples:
  Keep what a model predicts, then score it (the same numbers):
    tools/train_net.py --config-file FILE --eval-only MODEL.WEIGHTS W TEST.SAVE_PREDICTIONS True
    %(prog)s --dataset cityscapes_fine_panoptic_val --predictions output/inference/predictions
  A dataset of your own, named in a config:
    %(prog)s --config-file my.yaml --dataset my_val --predictions theirs.zip --output scores

DIR holds any of: a COCO panoptic json with its png folder, a json of COCO instance results,
Cityscapes' instance text files with their masks, a folder "semantic" of png files with the
dataset's class ids (docs/predictions.md).
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered dataset")
    parser.add_argument(
        "--predictions", required=True, metavar="DIR", help="the predictions: a folder or a zip"
    )
    parser.add_argument(
        "--config-file", metavar="FILE", help="a config whose DATASETS.CUSTOM names the dataset"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="for results.json and results_per_class.csv (default: output/evaluate/NAME)",
    )
    return parser


def main() -> int:
    """Scores the predictions; returns the exit code."""
    args = argument_parser().parse_args()
    output = args.output or os.path.join("output", "evaluate", args.dataset)
    try:
        cfg = load_datasets(args.config_file)
        evaluate_saved(cfg, args.dataset, args.predictions, output)
    except SetupError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    print(summary(output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
