#!/usr/bin/env python
"""Counts what a configured network costs for one picture: parameters, multiply-adds, memory."""

import argparse
import json
import sys
from pathlib import Path

# First: it makes Detectron2 ready for the libraries installed here. The checkout works uninstalled.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.analysis import Analysis, analyze
from axial_d2.engine import SetupError, read_config
from tabulate import tabulate

_NOTES = """\
example:
  %(prog)s --config-file configs/cityscapes-panoptic/axial_deeplab_s.yaml --size 1025 2049

Nothing is computed and no dataset is needed: sizes alone go through the network, the picture's as
it is: a segmentation model pads a picture to a multiple of its stride before. One multiply-add
is 1; counted are convolutions, linear layers and every product of attention, whichever
implementation of it runs. "as the paper counts": both attention layers of a strided block at full
size, and the full span at every position, at the border too. "done": what is needed; the stride
comes between the two layers, and queries see the keys that exist.

Peak memory: the tensors alive at once in one evaluation pass of one picture in single precision,
without parameters, the picture, and what an operation uses inside itself. For a large picture
this takes a minute; --no-memory leaves it out.

The JSON has config, size, options, parts {name: {parameters, multiply_adds_paper,
multiply_adds_done}}, total (the same), peak_activation_bytes and backends: whole numbers.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config (YAML)")
    parser.add_argument(
        "--size", nargs=2, type=int, required=True, metavar=("H", "W"), help="of the picture"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--no-memory", action="store_true", help="do not count memory")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys to change; must come last",
    )
    return parser


def table(analysis: Analysis) -> str:
    """The figures for people, a line per part."""
    rows = [
        [name, part.parameters / 1e6, part.paper / 1e9, part.done / 1e9]
        for name, part in [*analysis.parts.items(), ("total", analysis.total)]
    ]
    headers = ["", "parameters, M", "multiply-adds as the paper counts, G", "done, G"]
    text = tabulate(rows, headers, floatfmt=(".0f", ".3f", ".2f", ".2f"))
    if analysis.peak_activation_bytes is not None:
        text += f"\n\npeak activation memory: {analysis.peak_activation_bytes / 2**20:.0f} MiB"
        if analysis.backends:
            text += f" (attention: {', '.join(analysis.backends)})"
    return text


def record(analysis: Analysis) -> dict:
    """The figures as whole numbers."""

    def plain(part: tuple[int, int, int]) -> dict[str, int]:
        names = ("parameters", "multiply_adds_paper", "multiply_adds_done")
        return dict(zip(names, part, strict=True))

    return {
        "parts": {name: plain(part) for name, part in analysis.parts.items()},
        "total": plain(analysis.total),
        "peak_activation_bytes": analysis.peak_activation_bytes,
        "backends": analysis.backends,
    }


def main() -> int:
    """Runs the command line; returns the exit code."""
    args = argument_parser().parse_args()
    try:
        if min(args.size) < 1:
            raise SetupError(f"--size: expected 1 or more, got {args.size[0]} {args.size[1]}")
        if args.json and not args.json.parent.is_dir():
            raise SetupError(f"--json: the folder {args.json.parent} does not exist")
        if args.json and args.json.is_dir():
            raise SetupError(f"--json: expected a file, got the folder {args.json}")
        cfg = read_config(args.config_file, args.opts)
        try:
            analysis = analyze(cfg, tuple(args.size), memory=not args.no_memory)
        except (ValueError, KeyError, RuntimeError, AssertionError) as error:
            # Detectron2's own parts refuse values and sizes by errors of any kind.
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise SetupError(f"{args.config_file}: {kind}{error}") from error
        print(f"{args.config_file}, {args.size[0]} x {args.size[1]}\n\n{table(analysis)}")
        if args.json:
            about = {"config": args.config_file, "size": args.size, "options": args.opts}
            args.json.write_text(json.dumps(about | record(analysis), indent=2) + "\n")
            print(f"\nwrote {args.json}")
    except (SetupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
