#!/usr/bin/env python
"""Writes the tables of docs/speed.md from the files that tools/benchmark.py writes.

    python tools/benchmark.py all --json quiet.json
    python tools/benchmark.py all --no-compiler --json plain.json
    python dev/speed_page.py quiet.json plain.json

What stands between two comments that name the tables is replaced; the rest is written by hand.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

PAGE = Path(__file__).parents[1] / "docs/speed.md"
BEGIN, END = "<!-- tables: dev/speed_page.py -->", "<!-- end of the tables -->"
_HEADERS = ("what", "ours", "baseline", "ours / baseline", "memory, ours / baseline", "spread")
_SETTINGS = ("mode", "batch", "channels", "span", "instances", "segments")


def tables(paths: list[Path]) -> str:
    """The tables of all files, each under a line that says what they were measured on.

    Args:
        paths: json files of tools/benchmark.py.

    Raises:
        SystemExit: a file is missing or none of these.
    """
    parts = []
    for path in paths:
        try:
            content = json.loads(path.read_text())
            environment, results = content["environment"], content["results"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{path}: expected a json of tools/benchmark.py: {error!r}") from error
        facts = ", ".join(f"{key} {value}" for key, value in environment.items())
        rows = [_row(record) for record in results]
        parts += [f"{facts}:", tabulate(rows, _HEADERS, tablefmt="pipe", disable_numparse=True)]
    return "\n\n".join(parts)


def _row(record: dict[str, Any]) -> list[str]:
    ours, baseline = record["ours"], record["baseline"]
    settings = [f"{k} {record['options'][k]}" for k in _SETTINGS if record["options"].get(k)]
    what = " ".join([record["what"], "x".join(map(str, record["size"])), *settings])
    ratio, memory = f"{1 / record['faster']:.3g}", "-"
    if "less_memory" in record:
        memory = f"{1 / record['less_memory']:.3g}"
    if "time_per_multiply_add" in record:
        ratio = f"{record['time_per_multiply_add']:.2f} per multiply-add"
        memory = f"{record.get('memory_per_multiply_add', float('nan')):.2f} per multiply-add"
    spread = " / ".join(
        f"{100 * (row['max'] - row['min']) / row['median']:.0f} %" for row in (ours, baseline)
    )
    times = [f"{1000 * row['median']:.4g} ms" for row in (ours, baseline)]
    return [what, *times, ratio, memory, spread]


def main() -> None:
    """Writes the page."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    made = tables([Path(name) for name in sys.argv[1:]])
    PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
