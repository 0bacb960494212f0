import importlib.util
import json
import sys
from pathlib import Path

import pytest

from axial_d2.benchmarks import Contest

TOOL = Path(__file__).parents[2] / "tools/benchmark.py"


@pytest.fixture
def tool():
    pytest.importorskip("detectron2", reason="the baseline is Detectron2's")
    spec = importlib.util.spec_from_file_location("benchmark_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "arguments",
    [
        ["merging", "--instances", "7"],
        ["targets"],
        ["loading", "--segments", "5"],
        ["attention", "--channels", "16", "--span", "9"],
        ["attention", "--channels", "16", "--mode", "eval"],
        ["attention", "--channels", "16", "--mode", "eval", "--no-compiler"],
    ],
)
def test_writes_figures_of_equal_results(tool, arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(tool.cpp_build.SWITCH, "1")  # and back after the test
    out = tmp_path / "figures.json"
    small = ["--size", "48", "64", "--repeats", "3", "--no-memory", "--json", str(out)]
    tool.main([*arguments, *small])
    (record,) = json.loads(out.read_text())["results"]
    assert record["what"] == arguments[0]
    # Samples are cut out at random: there is nothing to compare.
    assert record["same_result"] is (None if arguments[0] == "loading" else True)
    assert len(record["ours"]["seconds"]) == len(record["baseline"]["seconds"]) == 3
    assert record["ours"]["min"] <= record["ours"]["median"] <= record["ours"]["max"]
    assert record["faster"] == record["baseline"]["median"] / record["ours"]["median"]
    assert f"wrote {out}" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["backbone", "model", "growth", "train"])
def test_networks_of_configs(tool, what, tmp_path):
    out = tmp_path / "figures.json"
    small = ["--size", "65", "97", "--repeats", "1", "--no-memory", "--json", str(out)]
    tool.main([what, *small])
    (record,) = json.loads(out.read_text())["results"]
    assert record["ours"]["median"] > 0 < record["baseline"]["median"]
    assert record["same_result"] is None
    if what == "growth":
        large, little = record["multiply_adds"]
        ratio = record["ours"]["median"] / large / (record["baseline"]["median"] / little)
        assert record["time_per_multiply_add"] == pytest.approx(ratio) and large > 8 * little


def test_all_is_every_contest(tool, tmp_path, monkeypatch, capsys):
    lines = []
    record = {"what": "x", "size": [1], "faster": 4.0, "less_memory": 2.0, "same_result": True}
    record |= {name: {"median": 1.0, "min": 1.0, "max": 1.0} for name in ("ours", "baseline")}
    monkeypatch.setattr(tool, "run", lambda options, line: lines.append(options) or record)
    tool.main(["all", "--no-memory", "--threads", "1", "--json", str(tmp_path / "f.json")])
    assert {line.what for line in lines} == set(tool.CONTESTS)
    assert all(line.no_memory and line.threads == 1 for line in lines)
    assert len(json.loads((tmp_path / "f.json").read_text())["results"]) == len(lines)

    lines.clear()
    monkeypatch.setenv("AXIAL_D2_CPP", "1")  # What --no-compiler changes is changed back.
    some = ["attention", "backbone"]
    tool.main(["all", "--no-compiler", "--default-allocator", "--only", *some])
    assert {line.what for line in lines} == set(some)
    assert all(line.no_compiler and line.default_allocator for line in lines)
    printed = capsys.readouterr().out
    assert "freed_memory as the C library has it" in printed
    assert "ours / baseline: time 0.25, memory 0.5; the results are the same" in printed


def test_memory_is_that_of_one_run(tool):
    peak = tool.measure_memory(
        [sys.executable, str(TOOL), "targets", "--size", "512", "512"], "ours"
    )
    # At least the result: 8 + 4 + 8 + 4 + 4 + 4 bytes a pixel; far from the whole process.
    assert 0.9 * 32 * 512 * 512 < peak < 100e6


def test_a_different_result_is_no_figure(tool, monkeypatch):
    def wrong(size, options):
        return Contest(lambda: 1, lambda: 2, lambda a, b: a == b)

    monkeypatch.setitem(tool.CONTESTS, "merging", wrong)
    with pytest.raises(SystemExit, match="merging: .*not give the same result"):
        tool.main(["merging", "--size", "8", "8"])


def test_mistakes_on_the_command_line(tool, tmp_path, capsys):
    for arguments in ([], ["nothing"], ["merging", "--repeats", "0"]):
        with pytest.raises(SystemExit) as stop:
            tool.main(arguments)
        assert stop.value.code == 2
    assert "whole number from 1, got '0'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="--json: the folder .* does not exist"):
        tool.main(["targets", "--json", str(tmp_path / "none/f.json")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention", "--size", "8", "8", "--span", "4"], "attention: span: expected an odd"),
        (
            ["attention", "--size", "8", "8", "--channels", "30"],
            "attention: out_channels: exp",
        ),
        (["attention", "--size", "8", "8", "--backend", "triton"], "attention: backend 'triton'"),
        (["backbone", "--config", "/nope.yaml"], "backbone: .*/nope.yaml"),
        (["targets", "--json", "."], "--json: expected a file"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(tool, arguments, message, monkeypatch):
    monkeypatch.setattr(tool, "machine_speed", dict)
    with pytest.raises(SystemExit, match=message):
        tool.main(arguments)
