"""The stored results of the public PyTorch implementation, next to ours.

For tests/layers/test_golden.py, tests/modeling/test_axial_resnet.py and dev/golden_errors.py.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from axial_d2.checkpoint.csrhddlam import convert_state
from axial_d2.layers import AxialAttention1d, AxialAttention2d, AxialBottleneck

GOLDEN = Path(__file__).parent / "golden"
LAYERS = ("attention_height", "attention_width", "block_stride2")
NET = "net26_s0125"
QUANTITIES = (
    "evaluation output",
    "training output",
    "input's gradient",
    "parameters' gradients",
    "gradients that are zero",
    "running statistics",
)

# Zero in exact arithmetic, so stored as noise: the softmax cancels the logit norm's shift, and the
# width pass's qkv norm cancels a shift of the height pass's output.
ZERO_GRADIENTS = ("attention.height.content_norm.bias", "attention.height.position_norm.bias")


def relative_error(ours: Tensor, golden: Tensor) -> float:
    """The largest difference, relative to the stored tensor's largest value."""
    return float((ours.detach() - golden).abs().max() / golden.abs().max())


class Error(NamedTuple):
    """One comparison.

    Attributes:
        quantity: one of `QUANTITIES`.
        name: of the tensor.
        value: the largest difference, relative to the stored tensor's largest value; of gradients
            that are zero, ours relative to the largest gradient of all.
    """

    quantity: str
    name: str
    value: float


def read(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file of tests/golden."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of that prefix, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def build(name: str, metadata: dict[str, str], state: dict[str, Tensor]) -> nn.Module:
    """Our module of the same kind, with the stored weights.

    Args:
        name: of the file.
        metadata: of the file.
        state: the stored weights by our names.
    """
    if name == NET:
        return _Net(state, num_classes=int(metadata["num_classes"]))
    heads, rows = int(metadata["groups"]), int(metadata["kernel_size"]) - 1
    if name.startswith("attention"):
        layer: nn.Module = AxialAttention1d(
            in_channels=int(metadata["in_planes"]),
            out_channels=int(metadata["out_planes"]),
            axis=metadata["axis"],
            num_heads=heads,
            max_distance=rows,
        )
    else:
        planes, stride = int(metadata["planes"]), int(metadata["stride"])
        layer = AxialBottleneck(
            in_channels=int(metadata["inplanes"]),
            mid_channels=planes,
            out_channels=2 * planes,
            stride=stride,
            attention=AxialAttention2d(
                in_channels=planes,
                out_channels=planes,
                stride=stride,
                stride_mode="avg_pool",
                num_heads=heads,
                max_distance=rows,
            ),
        )
    layer.load_state_dict(state)
    return layer


class _Net(nn.Module):
    """The stored network: backbone, global average, classifier; its names are the importer's."""

    def __init__(self, state: dict[str, Tensor], *, num_classes: int) -> None:
        super().__init__()
        from axial_d2.modeling import AxialResNet

        net = AxialResNet(
            depth=26,
            width_multiplier=0.125,
            stem="conv7",
            stride_mode="avg_pool",
            output_stride=32,
            out_features=("res5",),
        )
        for name, value in state.items():
            # Tables as long as the original's, so that gradients compare row by row.
            if name.endswith("_table.weight"):
                net.get_submodule(name.rpartition(".")[0]).weight = nn.Parameter(value.clone())
        for name, child in net.named_children():
            self.add_module(name, child)
        self._net = [net]  # Not a submodule a second time.
        self.fc = nn.Linear(net.output_shape()["res5"].channels, num_classes)
        self.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self._net[0](x)["res5"].mean(dim=(2, 3)))


def compare(name: str, dtype: torch.dtype) -> list[Error]:
    """Runs ours on the stored input and compares all that is stored.

    Args:
        name: of a file of tests/golden.
        dtype: float64 or float32, of weights and input.

    Returns:
        Every comparison. Every stored gradient and running statistic is among them; the files of
        layers have those of all parameters.
    """
    tensors, metadata = read(name)
    layer = build(name, metadata, convert_state(part(tensors, "state."))).to(dtype)
    x = tensors["input"].to(dtype).requires_grad_()
    with torch.no_grad():
        errors = [_error("evaluation output", "", layer.eval()(x), tensors["eval_output"])]
    output = layer.train()(x)
    errors.append(_error("training output", "", output, tensors["train_output"]))

    (output * tensors["loss_weight"].to(dtype)).sum().backward()
    golden = part(tensors, "grad.")
    errors.append(_error("input's gradient", "input", x.grad, golden.pop("input")))
    errors += _gradient_errors(name, dict(layer.named_parameters()), golden)

    ours = layer.state_dict()
    for key, value in convert_state(part(tensors, "after.")).items():
        errors.append(_error("running statistics", key, ours[key], value))
    return errors


def _gradient_errors(
    name: str, parameters: dict[str, nn.Parameter], golden: dict[str, Tensor]
) -> list[Error]:
    largest = max(float(g.abs().max()) for g in golden.values())
    gradients = convert_state(golden)
    if name != NET:
        assert set(gradients) == set(parameters)
    errors = []
    for key, gradient in gradients.items():
        ours = parameters[key].grad
        if key.endswith(ZERO_GRADIENTS):
            value = float(ours.abs().max()) / largest
            errors.append(Error("gradients that are zero", key, value))
        else:
            errors.append(_error("parameters' gradients", key, ours, gradient))
    return errors


def _error(quantity: str, name: str, ours: Tensor, golden: Tensor) -> Error:
    value = relative_error(ours, golden)
    return Error(quantity, name, value)
