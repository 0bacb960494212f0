#!/usr/bin/env python
"""Goes through everything in datasets and says in words what is wrong, and how classes occur."""

import argparse
import os
import sys
from pathlib import Path

# First: it makes Detectron2 ready for the libraries installed here. The checkout works uninstalled.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.data.check import EXAMPLES, TINY, verdict
from axial_d2.engine import SetupError, check_and_report

_EXAMPLES = """\
examples:
  %(prog)s --config-file my.yaml                (its DATASETS.TRAIN and TEST)
  %(prog)s --config-file my.yaml my_train --chart balance.png --json report.json
  %(prog)s cityscapes_fine_panoptic_train cityscapes_fine_panoptic_val

The exit code is 0 when training can start, 1 when it cannot, 2 when the command or its config is
wrong, 130 after Ctrl-C, which ends with what was found so far.
What each finding means: docs/check_dataset.md.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="datasets, those to train on first"
    )
    parser.add_argument("--config-file", metavar="FILE", help="a config that names datasets")
    add = parser.add_argument
    add(
        "--tiny",
        type=_positive,
        default=TINY,
        metavar="N",
        help="instances of fewer pixels are told (default: %(default)s)",
    )
    add(
        "--examples",
        type=_positive,
        default=EXAMPLES,
        metavar="N",
        help="how many of each kind of finding are told (default: %(default)s)",
    )
    add(
        "--workers",
        type=_positive,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="threads (default: %(default)s)",
    )
    add("--chart", metavar="FILE", help="draw the class balance (.png, .svg, .pdf)")
    add("--json", metavar="FILE", help="write the report as json")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def main() -> int:
    """Checks the datasets; returns the exit code."""
    args = argument_parser().parse_intermixed_args()
    for stream in (sys.stdout, sys.stderr):  # names of files may have what a terminal cannot show
        stream.reconfigure(errors="backslashreplace")
    try:
        reports = check_and_report(
            args.names,
            config_file=args.config_file,
            workers=args.workers,
            tiny=args.tiny,
            examples=args.examples,
            chart_file=args.chart,
            json_file=args.json,
        )
    except SetupError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped before the end.", file=sys.stderr)
        return 130
    print(verdict(reports))
    if any(report.stopped for report in reports):
        return 130
    return 0 if all(report.fit for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
