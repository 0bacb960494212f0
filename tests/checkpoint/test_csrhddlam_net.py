"""Architectures told by shapes, and that our widths are the original's."""

import pytest
import torch

from axial_d2.checkpoint.csrhddlam_net import (
    Architecture,
    check_state,
    convert_net,
    detect,
    expected_shapes,
)
from axial_d2.modeling import AxialResNet

# The original's models, and its channels written out by hand: stem, inside the blocks, features.
MODELS = {
    "axial26s": (26, (1, 2, 4, 1), 0.5, 32, (64, 128, 256, 512)),
    "axial50s": (50, (3, 4, 6, 3), 0.5, 32, (64, 128, 256, 512)),
    "axial50m": (50, (3, 4, 6, 3), 0.75, 48, (96, 192, 384, 768)),
    "axial50l": (50, (3, 4, 6, 3), 1.0, 64, (128, 256, 512, 1024)),
}
# By its layers: the input's size at 224 x 224; the first block of a stage comes before its stride.
LENGTHS = ((56, 56), (56, 28), (28, 14), (14, 7))


def zeros(blocks: tuple[int, ...], width: float) -> dict[str, torch.Tensor]:
    """A state of those shapes that takes no memory, tables as long as the original's."""
    state = {}
    for name, shape in expected_shapes(Architecture(blocks, width, 7)).items():
        if name.endswith("relative"):
            stage, block = int(name[5]), int(name.split(".")[1])
            shape = (shape[0], 2 * LENGTHS[stage - 1][block > 0] - 1)
        state[name] = torch.zeros(()).expand(shape)
    return state


@pytest.mark.parametrize("name", MODELS)
def test_the_originals_models_are_told_apart_and_have_our_shapes(name: str) -> None:
    depth, blocks, width, stem, inside = MODELS[name]
    state = zeros(blocks, width)
    assert detect(state) == Architecture(blocks, width, 7)
    assert state["conv1.weight"].shape[0] == stem
    for stage, channels in enumerate(inside, 1):
        table = state[f"layer{stage}.0.hight_block.relative"]
        assert table.shape[0] == channels // 8 * 2
    converted, config = convert_net(state)
    with torch.device("meta"):
        net = AxialResNet(
            depth=depth,
            width_multiplier=width,
            stem="conv7",
            max_distance=55,
            output_stride=32,
            stride_mode="avg_pool",
            out_features=("res5",),
        )
    ours = {f"backbone.{n}": v.shape for n, v in net.state_dict().items()}
    ours |= {"fc.weight": (7, 2 * inside[-1]), "fc.bias": (7,)}
    assert {n: tuple(v.shape) for n, v in converted.items()} == {
        n: tuple(s) for n, s in ours.items()
    }
    node = config["MODEL"]["AXIAL_RESNET"]
    assert (node["DEPTH"], node["WIDTH_MULTIPLIER"], node["MAX_DISTANCE"]) == (depth, width, 55)


def test_one_wrong_shape_does_not_mislead_the_width() -> None:
    state = zeros((1, 2, 4, 1), 0.5)
    state["conv1.weight"] = torch.zeros(()).expand(64, 3, 7, 7)
    net = detect(state)
    assert net.width_multiplier == 0.5
    with pytest.raises(ValueError, match=r"1 differ:\n  shape: conv1.weight: expected \(32, 3"):
        check_state(state, net)


def test_a_long_list_is_whole() -> None:
    state = {n: v for n, v in zeros((1, 2, 4, 1), 0.5).items() if ".bn_output." not in n}
    # 8 blocks, 2 axes, 4 fields without the count of batches.
    with pytest.raises(ValueError, match=r"64 differ:(\n  missing: [^\n]*){64}$"):
        check_state(state, detect(state))


def test_counts_of_batches_may_be_absent_and_index_buffers_present() -> None:
    state = zeros((1, 2, 4, 1), 0.125)
    bare = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    bare["layer1.0.hight_block.flatten_index"] = torch.zeros(56 * 56, dtype=torch.long)
    assert convert_net(bare)[0].keys() == convert_net(state)[0].keys()
