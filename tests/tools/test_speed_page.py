"""The tables of docs/speed.md say what the files of the benchmark say."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "dev"))
import speed_page


def record(**more):
    times = {"median": 0.5, "min": 0.4, "max": 0.6, "peak_bytes": 10}
    return {
        "what": "attention", "size": [56, 57], "options": {"mode": "eval", "span": 0},
        "ours": times, "baseline": {**times, "median": 2.0}, "faster": 4.0, "less_memory": 8.0,
        **more,
    }  # fmt: skip


def test_rows(tmp_path):
    path = tmp_path / "f.json"
    growth = record(what="growth", time_per_multiply_add=1.1, memory_per_multiply_add=0.9)
    content = {"environment": {"threads": 2}, "results": [record(), growth]}
    path.write_text(json.dumps(content))
    text = speed_page.tables([path, path])
    assert text.count("threads 2:") == 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    wanted = ["attention 56x57 mode eval", "500 ms", "2000 ms", "0.25", "0.125", "40 % / 10 %"]
    assert wanted in rows
    assert any(row[3:5] == ["1.10 per multiply-add", "0.90 per multiply-add"] for row in rows)


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_other_files_are_named(tmp_path, text):
    path = tmp_path / "f.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match=r"f\.json: expected a json of tools/benchmark.py"):
        speed_page.tables([path])


def test_the_page_has_its_place():
    text = speed_page.PAGE.read_text()
    assert text.index(speed_page.BEGIN) < text.index(speed_page.END)
