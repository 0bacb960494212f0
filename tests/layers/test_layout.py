"""How maps lie in memory, and their gradients: what torch's fast kernels ask for."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from axial_d2 import ops
from axial_d2.layers import (
    AxialAttention1d,
    AxialAttention2d,
    AxialBottleneck,
    LocalAttention2d,
)
from axial_d2.layers.layout import feature_map, layout_of, same_layout_backward, subsampled
from axial_d2.modeling.axial_resnet import AxialResNet

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def canonical(x: Tensor, layout: torch.memory_format) -> bool:
    return x.stride() == torch.empty(x.shape, memory_format=layout, device="meta").stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("steps", [(2, 1), (1, 2), (2, 2), (3, 2)])
@pytest.mark.parametrize("size", [(7, 8), (1, 5), (2, 5), (5, 1)])
def test_subsampled(
    layout: torch.memory_format, pictures: int, steps: tuple[int, int], size: tuple[int, int]
) -> None:
    rows, columns = steps
    x = torch.randn(pictures, 3, *size).contiguous(memory_format=layout).requires_grad_()
    y = subsampled(x, rows=rows, columns=columns)
    assert torch.equal(y, x[:, :, ::rows, ::columns])
    assert canonical(y, layout)
    assert y.data_ptr() != x.data_ptr()
    seen: list[Tensor] = []
    x.register_hook(seen.append)
    wave = torch.randn_like(y)
    y.backward(wave)
    expected = torch.zeros(x.shape)
    expected[:, :, ::rows, ::columns] = wave
    assert torch.equal(x.grad, expected)
    assert canonical(seen[0], layout)


def test_nothing_is_taken_with_steps_of_one() -> None:
    x = torch.randn(1, 3, 4, 5)
    assert subsampled(x) is x


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pictures", [1, 2])
def test_feature_map(layout: torch.memory_format, pictures: int) -> None:
    # As the results of a height pass lie: columns first in the shape, rows first in memory.
    strips = torch.randn(pictures, 5, 6, 8).transpose(1, 2)
    odd = strips.as_strided(strips.shape, (1, *strips.stride()[1:])) if pictures == 1 else strips
    y = feature_map(odd, layout)
    assert torch.equal(y, strips.permute(0, 3, 1, 2))
    assert canonical(y, layout)


def test_the_gradient_lies_as_the_map_does() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    seen: list[Tensor] = []
    y = x * 2
    y.register_hook(seen.append)
    same_layout_backward(y).backward(torch.randn(2, 3, 4, 5))
    assert canonical(seen[0], torch.channels_last)


def test_the_layout_of_a_part() -> None:
    x = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    assert layout_of(x[:, :, ::2, ::2]) is torch.channels_last
    assert layout_of(x.contiguous()[:, :, ::2, ::2]) is torch.contiguous_format


def layer_of(kind: str) -> nn.Module:
    if kind == "local":
        return LocalAttention2d(in_channels=16, out_channels=16, window=3)
    return AxialAttention1d(in_channels=16, out_channels=16, axis=kind)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["height", "width", "local"])
@pytest.mark.parametrize("training", [False, True])
def test_a_layer_keeps_the_layout(layout: torch.memory_format, kind: str, training: bool) -> None:
    layer = layer_of(kind).train(training)
    x = torch.randn(1, 16, 6, 7).contiguous(memory_format=layout)
    with torch.set_grad_enabled(training):
        assert canonical(layer(x), layout)


def attention(kind: str, stride: int, stride_mode: str) -> nn.Module:
    options = {"in_channels": 16, "out_channels": 16, "stride": stride, "num_heads": 2}
    if kind == "axial":
        return AxialAttention2d(**options, stride_mode=stride_mode)
    return LocalAttention2d(**options, stride_mode=stride_mode, window=3)


@pytest.mark.parametrize("kind", ["axial", "local"])
@pytest.mark.parametrize(("stride", "mode"), [(1, "subsample"), (2, "subsample"), (2, "avg_pool")])
@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("size", [(5, 6), (1, 5), (5, 1)])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_the_same_in_both_layouts(
    kind: str, stride: int, mode: str, pictures: int, size: tuple[int, int], training: bool
) -> None:
    # Torch's batch norm gives wrong ones (torch 2.14) where a dimension of size 1 has another
    # stride than it would and the gradient lies in the other layout.
    torch.manual_seed(0)
    block = AxialBottleneck(
        in_channels=12,
        mid_channels=16,
        out_channels=24,
        attention=attention(kind, stride, mode),
        stride=stride,
    )
    for parameter in block.parameters():  # The last norm's start is zero.
        nn.init.normal_(parameter)
    block = block.double().train(training)
    x = torch.randn(pictures, 12, *size, dtype=torch.float64)
    gradients = []
    for layout, other in (LAYOUTS, LAYOUTS[::-1]):
        here = x.contiguous(memory_format=layout).requires_grad_()
        y = block(here)
        wave = torch.sin(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape)
        inputs = [here, *block.parameters()]
        wave = wave.contiguous(memory_format=other)
        gradients.append(torch.autograd.grad(y, inputs, wave))
    assert max(g.abs().max() for g in gradients[0]) > 0.1
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-10)


class Watched(TorchDispatchMode):
    """Collects maps that convolutions and norms meet in another layout."""

    def __init__(self, layout: torch.memory_format = torch.channels_last) -> None:
        super().__init__()
        self.layout = layout
        self.calls = 0
        self.found: list[tuple] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if "convolution" in name or "batch_norm" in name or "threshold" in name:
            self.calls += 1
            # The third argument of a convolution's backward pass is its weight.
            maps = [t for t in args[:2] if isinstance(t, Tensor) and t.dim() == 4]
            if name == "convolution":
                maps = maps[:1]
            outputs = result if isinstance(result, tuple) else (result,)
            maps += [t for t in outputs[:1] if isinstance(t, Tensor) and t.dim() == 4]
            # One channel, or one place, lies alike in both.
            maps = [t for t in maps if t.shape[1] > 1 and t.shape[2] * t.shape[3] > 1]
            bad = [t for t in maps if not canonical(t, self.layout)]
            self.found += [(name, tuple(t.shape), t.stride()) for t in bad]
        return result


@pytest.mark.parametrize("kind", ["height", "width", "local"])
@pytest.mark.parametrize(("layout", "other"), [LAYOUTS, LAYOUTS[::-1]])
def test_a_gradient_from_elsewhere_is_laid_before_the_norms(
    kind: str, layout: torch.memory_format, other: torch.memory_format
) -> None:
    layer = layer_of(kind)
    x = torch.randn(2, 16, 6, 7).contiguous(memory_format=layout).requires_grad_()
    with Watched(layout) as watched:
        layer(x).backward(torch.randn(2, 16, 6, 7).contiguous(memory_format=other))
    assert watched.calls > 5
    assert watched.found == []


@pytest.mark.parametrize(
    ("attention", "backend"), [("axial", "auto"), ("axial", "blocked"), ("ps_local", "auto")]
)
@pytest.mark.parametrize("stride_mode", ["subsample", "avg_pool"])
@pytest.mark.parametrize("pictures", [1, 2])
def test_a_network_is_all_channels_last(
    attention: str, backend: str, stride_mode: str, pictures: int
) -> None:
    torch.manual_seed(0)
    network = AxialResNet(
        depth=26,
        attention=attention,
        width_multiplier=0.125,
        stride_mode=stride_mode,
        output_stride=32,
        num_heads=2,
        out_features=("res5",),
    )
    # Rows are odd on the way down, columns even at first; more places than products are for.
    x = torch.randn(pictures, 3, 257, 264)
    with ops.use_backend(backend):
        network.eval()
        with torch.no_grad(), Watched() as watched:
            network(x)
        assert watched.calls > 10
        assert watched.found == []
        network.train()
        with Watched() as watched:
            y = network(x)["res5"]
            (y * torch.randn_like(y)).sum().backward()
    assert watched.calls > 100
    assert watched.found == []
