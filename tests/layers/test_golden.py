"""Layers and blocks against stored results of the public PyTorch implementation, in float64."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from axial_d2 import ops
from axial_d2.checkpoint.csrhddlam import convert_state
from axial_d2.layers import AxialAttention1d, AxialAttention2d, AxialBottleneck

GOLDEN = Path(__file__).parents[1] / "golden"

# Zero in exact arithmetic, so stored as noise: the softmax cancels the logit norm's shift, and the
# width pass's qkv norm cancels a shift of the height pass's output.
ZERO_GRADIENTS = ("attention.height.content_norm.bias", "attention.height.position_norm.bias")


def read(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def build(name: str, metadata: dict[str, str]) -> nn.Module:
    if name.startswith("attention"):
        return AxialAttention1d(
            in_channels=int(metadata["in_planes"]),
            out_channels=int(metadata["out_planes"]),
            axis=metadata["axis"],
            num_heads=int(metadata["groups"]),
            max_distance=int(metadata["kernel_size"]) - 1,
        )
    planes, stride = int(metadata["planes"]), int(metadata["stride"])
    attention = AxialAttention2d(
        in_channels=planes,
        out_channels=planes,
        stride=stride,
        stride_mode="avg_pool",
        num_heads=int(metadata["groups"]),
        max_distance=int(metadata["kernel_size"]) - 1,
    )
    return AxialBottleneck(
        in_channels=int(metadata["inplanes"]),
        mid_channels=planes,
        out_channels=2 * planes,
        stride=stride,
        attention=attention,
    )


def relative_error(ours: Tensor, golden: Tensor) -> float:
    return float((ours.detach() - golden).abs().max() / golden.abs().max())


@pytest.mark.parametrize("name", ["attention_height", "attention_width", "block_stride2"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("backend", ops.BACKENDS)
def test_equals_the_public_implementation(
    name: str, dtype: torch.dtype, bound: float, backend: str
) -> None:
    with ops.use_backend(backend), ops.record_backends() as ran:
        check_equal(name, dtype, bound)
    assert set(ran) == {backend}


def check_equal(name: str, dtype: torch.dtype, bound: float) -> None:
    """Outputs, gradients and running statistics, against those stored."""
    tensors, metadata = read(name)
    layer = build(name, metadata).to(dtype)
    layer.load_state_dict(convert_state(part(tensors, "state.")))
    x = tensors["input"].to(dtype).requires_grad_()

    with torch.no_grad():
        assert relative_error(layer.eval()(x), tensors["eval_output"]) < bound
    output = layer.train()(x)
    assert relative_error(output, tensors["train_output"]) < bound

    (output * tensors["loss_weight"].to(dtype)).sum().backward()
    golden = part(tensors, "grad.")

    gradient_bound = bound
    assert relative_error(x.grad, golden.pop("input")) < gradient_bound
    parameters = dict(layer.named_parameters())
    largest = max(float(g.abs().max()) for g in golden.values())
    converted = convert_state(golden)
    assert set(converted) == set(parameters)
    for key, gradient in converted.items():
        if key in ZERO_GRADIENTS:
            assert float(parameters[key].grad.abs().max()) < bound * largest
        else:
            assert relative_error(parameters[key].grad, gradient) < gradient_bound, key

    for key, value in convert_state(part(tensors, "after.")).items():
        assert relative_error(layer.state_dict()[key], value) < bound, key
