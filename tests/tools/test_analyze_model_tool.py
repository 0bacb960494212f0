"""tools/analyze_model.py as a user calls it."""

import json

import pytest


@pytest.fixture
def analyze(tool, trained):
    """analyze(word, ...) -> exit code, of the tiny model; its dataset is not looked at."""
    run = tool("analyze_model")

    def call(*words, config=trained / "tiny.yaml", size=(48, 64)):
        return run("--config-file", config, "--size", *size, *words)

    return call


def test_the_parts_add_up_and_are_written(analyze, trained, tmp_path, capsys):
    assert analyze("--json", tmp_path / "a.json") == 0
    said = capsys.readouterr().out
    assert "peak activation memory: " in said and said.endswith(f"wrote {tmp_path}/a.json\n")
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["size"] == [48, 64] and record["config"] == str(trained / "tiny.yaml")
    assert list(record["parts"]) == [
        *("stem", "res2", "res3", "res4", "res5"),
        *("semantic decoder", "semantic head", "instance decoder", "instance head"),
    ]
    for key in ("parameters", "multiply_adds_paper", "multiply_adds_done"):
        assert record["total"][key] == sum(part[key] for part in record["parts"].values()) > 0
    assert record["peak_activation_bytes"] > 48 * 64 * 4 and record["backends"] == ["kept"]


def test_the_parameters_are_those_of_the_checkpoint(analyze, trained, tmp_path):
    import torch

    assert analyze("--json", tmp_path / "a.json", "--no-memory") == 0
    record = json.loads((tmp_path / "a.json").read_text())
    state = torch.load(trained / "out/model_final.pth")["model"]
    kept = {k: v for k, v in state.items() if not k.endswith(("_mean", "_var", "_tracked"))}
    assert record["total"]["parameters"] == sum(v.numel() for v in kept.values())
    assert record["peak_activation_bytes"] is None


def test_neither_data_nor_a_backend_changes_a_count(analyze, tmp_path):
    options = (
        *("--opts", "MODEL.AXIAL_RESNET.BACKEND", "blocked"),
        *("DATASETS.CUSTOM", "[]", "DATASETS.TRAIN", "()"),
    )
    assert analyze("--json", tmp_path / "a.json") == 0
    assert analyze("--json", tmp_path / "b.json", *options) == 0
    first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in "ab")
    assert first["parts"] == second["parts"] and second["backends"] == ["blocked"]


def test_mistakes_are_one_line(analyze, tmp_path, capsys):
    def error():
        lines = capsys.readouterr().err.splitlines()
        return [line for line in lines if line.startswith("error: ")][-1]

    assert analyze(size=(0, 5)) == 1
    assert error() == "error: --size: expected 1 or more, got 0 5"
    assert analyze("--json", tmp_path / "no/a.json") == 1
    assert error() == f"error: --json: the folder {tmp_path}/no does not exist"
    assert analyze(config=tmp_path / "no.yaml") == 1
    assert error().startswith(f"error: --config-file: no such file: {tmp_path}/no.yaml")
    assert analyze("--opts", "MODEL.META_ARCHITECTURE", "PanopticFPN") == 1
    assert "expected one of AxialDeepLab, PanopticDeepLab, AxialClassifier" in error()
    assert analyze("--opts", "MODEL.AXIAL_RESNET.SPAN", "4") == 1
    assert "MODEL.AXIAL_RESNET.SPAN" in error()
    # Detectron2 asserts that there are features to build a pyramid of.
    assert analyze("--opts", "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone") == 1
    assert "AssertionError: " in error()
