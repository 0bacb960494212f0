#!/usr/bin/env python
"""Writes docs/golden.md: how far ours is from the stored results of the public implementation.

    python dev/golden_errors.py
    python dev/golden_errors.py --files attention_height --output /tmp/golden.md

The comparison is that of tests/layers/test_golden.py and tests/modeling/test_axial_resnet.py.
"""

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from golden_comparison import LAYERS, NET, QUANTITIES, compare  # noqa: E402

import axial_d2  # noqa: E402, F401
from axial_d2 import ops  # noqa: E402

DTYPES = (torch.float64, torch.float32)

_HEADER = """\
# Equal to the public PyTorch implementation

`tests/golden` holds what csrhddlam/axial-deeplab computes from random weights in float64: one
attention layer along each axis, a block with a stride of 2, and a whole network of depth 26 and
width 0.125 on two pictures of 224 x 224. Below is the largest difference of ours, relative to the
largest value of the stored tensor; over all tensors of a kind, of those that are stored (of the
network: some of the gradients). Gradients that are zero in exact arithmetic, here the shift of the
height pass's output, are relative to the largest of all gradients.

The tests demand less than 1e-9 in float64, and in float32 less than 1e-5 of layers and block. In
float32 the network has no bound: the original is 6e-3 away from its own float64 there.

Written by `python dev/golden_errors.py`: PyTorch {torch}, CPU, backend {backends}.
"""


def table(files: list[str]) -> tuple[list[str], set[str]]:
    """Measures.

    Args:
        files: of tests/golden.

    Returns:
        Lines of a Markdown table, and the backends that ran.
    """
    lines = ["", "| file | dtype | " + " | ".join(QUANTITIES) + " |"]
    lines.append("|---|---|" + "---:|" * len(QUANTITIES))
    backends: set[str] = set()
    for name in files:
        for dtype in DTYPES:
            with ops.record_backends() as ran:
                errors = compare(name, dtype)
            backends |= set(ran)
            largest = {
                quantity: max((e.value for e in errors if e.quantity == quantity), default=None)
                for quantity in QUANTITIES
            }
            cells = ["" if value is None else f"{value:.1e}" for value in largest.values()]
            lines.append(f"| {name} | {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |")
    return lines, backends


def main(words: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    files = [*LAYERS, NET]
    parser.add_argument("--files", nargs="+", choices=files, default=files, metavar="NAME")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "golden.md", metavar="FILE")
    args = parser.parse_args(words)
    if not args.output.parent.is_dir():
        print(f"error: --output: expected an existing folder, got no {args.output.parent}")
        return 1
    lines, backends = table(args.files)
    header = _HEADER.format(torch=torch.__version__, backends=", ".join(sorted(backends)))
    args.output.write_text(header + "\n".join(lines) + "\n")
    print("\n".join([*lines[1:], f"wrote {args.output}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
