#!/usr/bin/env python
"""Draws what a trained model finds in pictures: segments with class names, centres, offsets."""

import argparse
import sys
from pathlib import Path

# First: it makes Detectron2 ready for the libraries installed here. The checkout works uninstalled.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.engine import PicturePredictor, SetupError, draw_dataset, draw_files, load_config
from axial_d2.engine.memory import keep_freed_memory

_EXAMPLES = """\
examples:
  %(prog)s --config-file FILE --input street.jpg 'photos/*.png' directory --output drawn \\
    --opts MODEL.WEIGHTS output/model_final.pth
  At several scales, mirrored too (docs/testing.md):
    %(prog)s --config-file FILE --tta --input street.jpg --output drawn \\
      --opts MODEL.WEIGHTS output/model_final.pth TEST.AUG.SCALES '(0.5, 1.0, 1.5)'
  Image, truth and prediction side by side, for the first 8 pictures of a dataset:
    %(prog)s --config-file FILE --dataset synthetic_panoptic_val --limit 8 --output drawn \\
      --opts MODEL.WEIGHTS output/model_final.pth

With two pictures of the same name the second is written as NAME_2.png. The exit code is 1 when a
picture could not be read.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config (YAML)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", metavar="PATH", help="pictures: files, patterns, directories"
    )
    source.add_argument("--dataset", metavar="NAME", help="a registered dataset, with its truth")
    parser.add_argument("--limit", type=int, metavar="N", help="with --dataset: the first N only")
    parser.add_argument("--output", required=True, metavar="DIR", help="where pictures are written")
    parser.add_argument(
        "--debug",
        action="store_true",
        help="also NAME_centers.png (heat-map, peaks) and NAME_offsets.png (hue is direction)",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="average what the network says at TEST.AUG.SCALES times the size, mirrored as well "
        "with TEST.AUG.FLIP, before segments are formed; the same as --opts TEST.AUG.ENABLED True. "
        "Computes about the sum of the squared scales times as much, twice that with FLIP: 11 "
        "times by default",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys to change; must come last",
    )
    return parser


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argument_parser()
    args = parser.parse_args()
    if args.limit is not None and (args.limit < 1 or not args.dataset):
        parser.error(f"--limit: expected 1 or more, and --dataset; got {args.limit}")
    failed = total = 0
    try:
        options = [*args.opts, "TEST.AUG.ENABLED", "True"] if args.tta else args.opts
        cfg = load_config(args.config_file, options, need_pictures=bool(args.dataset))
        if cfg.MODEL.DEVICE == "cpu":
            keep_freed_memory()
        predictor = PicturePredictor(cfg, debug=args.debug)
        if args.dataset:
            drawn = draw_dataset(
                predictor, args.dataset, args.output, limit=args.limit, debug=args.debug
            )
        else:
            drawn = draw_files(predictor, args.input, args.output, debug=args.debug)
        for source, result in drawn:
            total += 1
            if isinstance(result, Exception):
                failed += 1
                reason = " ".join(str(result).split())
                print(f"{source}: {type(result).__name__}: {reason}", file=sys.stderr)
            else:
                print(f"{source} -> {', '.join(map(str, result))}", flush=True)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{total - failed} of {total} pictures drawn to {args.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
