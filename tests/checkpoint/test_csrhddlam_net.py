"""Whole networks of csrhddlam/axial-deeplab: recognised, refused with all that is wrong, renamed.

That a converted network computes the same is tests/tools/test_convert_tool.py's.
"""

import pytest
import torch
from golden_comparison import NET, part, read

from axial_d2.checkpoint.csrhddlam_net import (
    Network,
    check,
    convert_network,
    expected_shapes,
    recognise,
)
from axial_d2.checkpoint.reading import read_state

# Parameters of the original's networks with their size-bound tables, counted by running it.
COUNTS = {
    "axial26s": (Network(26, 64, 56, 1000), 5_944_936),
    "axial50s": (Network(50, 64, 56, 1000), 11_586_216),
    "axial50m": (Network(50, 96, 56, 1000), 25_179_400),
    "axial50l": (Network(50, 128, 56, 1000), 43_973_480),
}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "flatten_index")


def empty_state(network: Network) -> dict[str, torch.Tensor]:
    """A state of the right shapes that takes no memory."""
    one = torch.zeros(1)
    return {
        name: one.expand(shape) if shape else one[0]
        for name, shape in expected_shapes(network).items()
        if not name.endswith("flatten_index")
    }


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """The golden network's."""
    return part(read(NET)[0], "state.")


@pytest.mark.parametrize("name", COUNTS)
def test_each_published_network_is_recognised_and_counted(name: str) -> None:
    network, parameters = COUNTS[name]
    shapes = expected_shapes(network)
    counted = {k: torch.Size(s).numel() for k, s in shapes.items() if not k.endswith(BUFFERS)}
    assert sum(counted.values()) == parameters
    assert recognise(empty_state(network)) == network
    multiplier = {"s": 0.5, "m": 0.75, "l": 1.0}[name[-1]]
    assert (network.width_multiplier, network.max_distance) == (multiplier, 55)


def test_the_stored_network_has_the_names_that_are_expected(state) -> None:
    network = recognise(state)
    assert network == Network(26, 16, 56, 10)
    expected = {k: s for k, s in expected_shapes(network).items() if "flatten_index" not in k}
    assert {k: tuple(v.shape) for k, v in state.items()} == expected


def test_all_that_is_wrong_is_listed(state) -> None:
    del state["layer3.2.bn1.bias"], state["fc.bias"]
    state["layer5.0.bn1.bias"] = state["head.weight"] = torch.zeros(3)
    state["layer1.0.conv_up.weight"] = torch.zeros(32, 17, 1, 1)
    state["layer2.0.width_block.relative"] = torch.zeros(8, 113)
    state["bn1.weight"] = torch.ones(8, dtype=torch.int8)
    with pytest.raises(ValueError, match="not a whole axial26 with 16 channels") as error:
        convert_network(state)
    text = str(error.value)
    assert "2 missing: layer3.2.bn1.bias, fc.bias\n" in text
    assert "2 unknown: layer5.0.bn1.bias, head.weight\n" in text
    assert "layer1.0.conv_up.weight expected (32, 16, 1, 1), got (32, 17, 1, 1)" in text
    assert "layer2.0.width_block.relative expected (8, 111), got (8, 113)" in text
    assert "1 not of floating-point numbers: bn1.weight" in text


def test_a_block_too_few_or_too_many_is_told_by_its_names(state) -> None:
    whole = empty_state(COUNTS["axial50s"][0])
    lacking = {k: v for k, v in whole.items() if not k.startswith("layer4.2.")}
    with pytest.raises(ValueError, match=r"axial50 .*\n.*missing: layer4\.2\.conv_down\.weight"):
        convert_network(lacking)
    extra = {k.replace("layer1.0", "layer1.1"): v for k, v in state.items() if "layer1.0" in k}
    with pytest.raises(ValueError, match=r"axial26 .*\n.*unknown: layer1\.1\."):
        convert_network(state | extra)


def test_another_network_is_told_from_these(state) -> None:
    with pytest.raises(ValueError, match="got 2 tensors named conv1.weight, layer1.0.conv1"):
        convert_network(
            {"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1, 1)}
        )


def test_index_buffers_are_dropped_and_looked_at(state) -> None:
    index = [k + 13 - q for k in range(14) for q in range(14)]  # Row of (key, query).
    name = "layer4.0.hight_block.flatten_index"
    state[name] = torch.tensor(index)
    converted, _ = convert_network(state)
    assert not [k for k in converted if "index" in k]
    state[name] = torch.tensor(index).flip(0)
    with pytest.raises(ValueError, match=f"look tables up otherwise than the original: {name}"):
        convert_network(state)


def test_a_shift_that_the_softmax_does_not_cancel_is_refused(state) -> None:
    name = "layer1.0.width_block.bn_similarity.bias"
    state[name] = state[name].clone()
    state[name][3] = float("inf")
    with pytest.raises(ValueError, match=f"1 with numbers that are not finite: {name}"):
        convert_network(state)


def test_counters_may_be_missing(state) -> None:
    without = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
    assert convert_network(without)[0].keys() == convert_network(state)[0].keys()


def test_tables_come_out_in_one_length(state) -> None:
    converted, network = convert_network(state)
    tables = {k: v for k, v in converted.items() if k.endswith("_table.weight")}
    assert len(tables) == 48
    assert {v.shape[0] for v in tables.values()} == {111}
    # By eye: 27 rows in the middle, the ends repeated; the value's table turned round.
    original = state["layer4.0.width_block.relative"]
    ours = tables["backbone.res5.0.attention.width.value_table.weight"]
    assert ours[42:69].equal(original[16:].t().flip(0))
    assert (ours[:42] == ours[42]).all()
    assert (ours[69:] == ours[68]).all()
    check(state, network)


def test_an_odd_width_is_one_that_the_original_cannot_run() -> None:
    with pytest.raises(ValueError, match="multiple of 16, got 24"):
        convert_network(empty_state(Network(26, 24, 56, 10)))


# ---- the file ------------------------------------------------------------------------------------


class Anything:
    """What a training script might save beside the weights."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net": {"a": torch.ones(1)}, "args": Anything()}, 'would run code of the file.*"net"'),
        ([1, 2], "expected a dict of weights, got a list"),
        ({}, "got nothing"),
        ({"net": 3, "epoch": 4}, "got net, epoch"),
        ({"net": {"a": torch.ones(1), "b": "text"}}, "got b"),
    ],
)
def test_files_without_plain_weights(content: object, message: str, tmp_path) -> None:
    torch.save(content, tmp_path / "in.pth")
    with pytest.raises(ValueError, match=message) as error:
        read_state(tmp_path / "in.pth")
    assert str(tmp_path / "in.pth") in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_torch_cannot_read(tmp_path) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"not a checkpoint\n" * 9,
        "html": b"<!DOCTYPE html><html>404</html>",
        "cut": whole[: len(whole) // 2],
    }.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.pth: ") as error:
            read_state(path)
        assert "\n" not in str(error.value), name
    with pytest.raises(ValueError, match="got no such file$"):
        read_state(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="got a folder$"):
        read_state(tmp_path)


@pytest.mark.parametrize("container", ["net", "state_dict", "model", "model_state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_containers_prefixes_and_the_format_of_old_files(
    container: str | None, prefix: str, zipped: bool, tmp_path
) -> None:
    weights = {f"{prefix}a.weight": torch.ones(2), f"{prefix}b": torch.zeros(1)}
    content = {container: weights, "optim": {"state": {}}, "epoch": 7} if container else weights
    torch.save(content, tmp_path / "in.pth", _use_new_zipfile_serialization=zipped)
    assert set(read_state(tmp_path / "in.pth")) == {"a.weight", "b"}
