"""The converter's command line: the stored network of the original, and files that are none."""

import argparse
import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.engine import DefaultPredictor
from safetensors.torch import load_file

from axial_d2.engine import load_config

GOLDEN = Path(__file__).parents[1] / "golden" / "net26_s0125.safetensors"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def state(golden):
    return {k.removeprefix("state."): v for k, v in golden.items() if k.startswith("state.")}


@pytest.fixture(scope="module")
def converted(tmp_path_factory, state, tool):
    """The network in the form of the original's train.py, gone through the tool."""
    root = tmp_path_factory.mktemp("converted")
    net = {f"module.{k}": v for k, v in state.items()}
    net["module.layer1.0.hight_block.flatten_index"] = torch.zeros(56 * 56, dtype=torch.long)
    momentum = {i: {"momentum_buffer": torch.ones(3)} for i in range(2)}
    optim = {"state": momentum, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    torch.save({"net": net, "optim": optim, "epoch": 129}, root / "129.pth")
    assert tool("convert_checkpoint")("csrhddlam", root / "129.pth", root / "out.pth") == 0
    return root


def test_the_written_config_and_weights_give_the_originals_logits(converted, golden):
    cfg = load_config(str(converted / "out.yaml"))
    assert cfg.MODEL.WEIGHTS == str(converted / "out.pth")
    model = DefaultPredictor(cfg).model.double()
    with torch.no_grad():
        logits = model.logits(golden["input"].double())
    error = (logits - golden["eval_output"]).abs().max() / golden["eval_output"].abs().max()
    assert error < 1e-9
    # And not because nothing depends on the weights: without them the logits are others.
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    with torch.no_grad():
        other = DefaultPredictor(cfg).model.double().logits(golden["input"].double())
    assert (other - golden["eval_output"]).abs().max() > 0.1 * golden["eval_output"].abs().max()


@pytest.mark.parametrize("max_distance", [63, 254])
def test_longer_tables_give_the_originals_logits_too(converted, golden, max_distance, caplog):
    key = "MODEL.AXIAL_RESNET.MAX_DISTANCE"
    cfg = load_config(str(converted / "out.yaml"), [key, str(max_distance)])
    model = DefaultPredictor(cfg).model.double()
    with torch.no_grad():
        logits = model.logits(golden["input"].double())
    assert (logits - golden["eval_output"]).abs().max() < 1e-9 * golden["eval_output"].abs().max()
    told = [record.getMessage() for record in caplog.records]
    assert sum(f"48 from 111 to {2 * max_distance + 1} rows" in text for text in told) == 1


def test_every_tensor_of_the_model_is_in_the_file(converted):
    cfg = load_config(str(converted / "out.yaml"), ["MODEL.WEIGHTS", ""])
    model = DefaultPredictor(cfg).model.state_dict()
    content = torch.load(converted / "out.pth", weights_only=True)
    shapes = {name: tuple(value.shape) for name, value in content["model"].items()}
    assert shapes == {name: tuple(value.shape) for name, value in model.items()}
    assert content["__author__"] == "csrhddlam/axial-deeplab"


def test_what_was_written_is_told(tmp_path, state, tool, capsys):
    torch.save(state, tmp_path / "bare.pth")
    assert tool("convert_checkpoint")("csrhddlam", tmp_path / "bare.pth", tmp_path / "o.pth") == 0
    printed = capsys.readouterr().out
    assert "depth 26, width 0.125, 10 classes" in printed
    node = yaml.safe_load((tmp_path / "o.yaml").read_text())["MODEL"]["AXIAL_RESNET"]
    for key, value in node.items():
        assert f"  MODEL.AXIAL_RESNET.{key} {value}\n" in printed
    assert (node["STRIDE"], node["STEM"], node["MAX_DISTANCE"]) == ("avg_pool", "conv7", 55)


def test_wrong_names_and_shapes_are_listed_together(tmp_path, state, tool, capsys):
    wrong = dict(state)
    del wrong["layer3.2.bn1.weight"]
    wrong["layer2.0.conv9.weight"] = torch.zeros(2, 3)
    wrong["fc.bias"] = torch.zeros(11)
    wrong["layer1.0.hight_block.relative"] = torch.zeros(4, 110)
    torch.save({"net": wrong}, tmp_path / "wrong.pth")
    assert tool("convert_checkpoint")("csrhddlam", tmp_path / "wrong.pth", tmp_path / "o.pth") == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path / 'wrong.pth'}: expected the tensors of an axial net")
    assert "; 4 differ:" in told
    assert "missing: layer3.2.bn1.weight (64)" in told
    assert "unknown: layer2.0.conv9.weight (2, 3)" in told
    assert "shape: fc.bias: expected (10), got (11)" in told
    assert "relative: expected (4, odd), got (4, 110)" in told
    assert not (tmp_path / "o.pth").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "expected a checkpoint of PyTorch, got a"),
        (b"", "expected a checkpoint of PyTorch, got a"),
        ({"net": {"a": torch.zeros(1)}, "args": argparse.Namespace()}, "expected tensors alone"),
        ({"epoch": 3}, "expected a dict of tensors, bare or under one of net, .*'epoch'"),
        ([1, 2], "got list"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "expected a network with axial attention"),
        ({"layer1.0.hight_block.relative": torch.zeros(4, 3)}, r"blocks .*got \(1, 0, 0, 0\)"),
    ],
)
def test_a_file_that_is_none_is_one_clear_error(tmp_path, tool, capsys, content, message):
    path = tmp_path / "in.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert tool("convert_checkpoint")("csrhddlam", path, tmp_path / "out.pth") == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {path}: ")
    assert len(told.splitlines()) == 1
    assert re.search(message, told)
    assert not (tmp_path / "out.pth").exists()


def test_paths_that_cannot_be_are_named(tmp_path, state, tool, capsys):
    given = tmp_path / "in.pth"
    torch.save({"net": state}, given)
    before = given.read_bytes()
    for source, target, message in (
        (tmp_path / "no.pth", tmp_path / "o.pth", "no such file"),
        (given, tmp_path / "no/o.pth", "expected an existing folder"),
        (given, tmp_path / "." / "in.pth", "expected another file than IN"),
        (given, tmp_path / "o.pkl", "expected a name that ends in .pth"),
    ):
        assert tool("convert_checkpoint")("csrhddlam", source, target) == 1
        assert message in capsys.readouterr().err
    assert given.read_bytes() == before
