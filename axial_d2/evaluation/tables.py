"""Scores in tables small enough for a log."""

import itertools
import math
from collections.abc import Sequence

from tabulate import tabulate

# Rows that one block may have before a second and third stand beside it: 133 classes in 45 lines.
_ROWS_PER_BLOCK = 20
_MAX_BLOCKS = 3


def score_table(headers: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A table of scores in percent, long ones in up to three blocks side by side.

    Args:
        headers: the name of each column.
        rows: one sequence per row, as long as `headers`: strings, counts (int) and scores (float).
            A score that is nan shows as "-".
    """
    rows = [[_text(value) for value in row] for row in rows]
    blocks = max(1, min(_MAX_BLOCKS, math.ceil(len(rows) / _ROWS_PER_BLOCK)))
    height = math.ceil(len(rows) / blocks)
    parts = [rows[start : start + height] for start in range(0, len(rows), height or 1)]
    empty = [""] * len(headers)
    lines = [
        list(itertools.chain(*line)) for line in itertools.zip_longest(*parts, fillvalue=empty)
    ]
    first = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(
        lines,
        headers=list(headers) * max(1, len(parts)),
        tablefmt="pipe",
        colalign=first * len(parts) if lines else None,
        disable_numparse=True,
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.1f}"
    return str(value)
