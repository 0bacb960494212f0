#!/usr/bin/env python
"""Goes through everything in datasets and says in words what is wrong, and how classes occur."""

import argparse
import json
import os
import sys
from pathlib import Path

# First: it makes Detectron2 ready for the libraries installed here. The checkout works uninstalled.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.data.check import TINY, examine_datasets, report_text, save_chart, verdict
from axial_d2.engine import SetupError, load_datasets, names_to_check

_EXAMPLES = """\
examples:
  %(prog)s --config-file my.yaml                (its DATASETS.TRAIN and TEST)
  %(prog)s --config-file my.yaml my_train --chart balance.png --json report.json
  %(prog)s cityscapes_fine_panoptic_train cityscapes_fine_panoptic_val

The exit code is 0 when training can start, 1 when it cannot, 2 when the command is wrong.
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
    parser.add_argument(
        "--tiny",
        type=int,
        default=TINY,
        metavar="N",
        help="instances of fewer pixels are told (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="threads (default: %(default)s)",
    )
    parser.add_argument("--chart", metavar="FILE", help="draw the class balance (.png, .svg, .pdf)")
    parser.add_argument("--json", metavar="FILE", help="write the report as json")
    return parser


def main() -> int:
    """Checks the datasets; returns the exit code."""
    args = argument_parser().parse_args()
    reports = []
    try:
        cfg = load_datasets(args.config_file)
        names = names_to_check(cfg, args.names)
        for report in examine_datasets(names, workers=args.workers, tiny=args.tiny):
            reports.append(report)
            print(f"{report_text(report)}\n", flush=True)
        if args.json:
            content = [report.as_dict() for report in reports]
            Path(args.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            print(f"report: {args.json}")
        if args.chart:
            save_chart(reports, args.chart)
            print(f"chart:  {args.chart}")
    except SetupError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped before the end.", file=sys.stderr)
        return 130
    print(verdict(reports))
    return 0 if all(report.fit for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
