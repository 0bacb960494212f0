"""The decoders' convolutions: Detectron2's numbers and names, the norm folded in evaluation."""

import copy
from unittest.mock import Mock

import pytest
import torch
from detectron2.layers import DepthwiseSeparableConv2d
from torch import Tensor, nn
from torch.nn import functional as F

from axial_d2.modeling.decoders import Decoder, pointwise_conv, separable_conv5


def pair(norm: str) -> tuple[nn.Module, nn.Module]:
    """Ours and Detectron2's, from the same seed."""
    torch.manual_seed(5)
    ours = separable_conv5(32, 64, norm)
    torch.manual_seed(5)
    theirs = DepthwiseSeparableConv2d(
        *(32, 64),
        kernel_size=5,
        padding=2,
        norm1=norm,
        activation1=F.relu,
        norm2=norm,
        activation2=F.relu,
    )
    for name, value in theirs.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
            ours.state_dict()[name].copy_(value)
    return ours.double(), theirs.double()


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "GN", "SyncBN"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_as_detectron2s(norm: str, layout: torch.memory_format) -> None:
    ours, theirs = pair(norm)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    x = torch.randn(2, 32, 7, 9, dtype=torch.float64).contiguous(memory_format=layout)
    if norm != "SyncBN":  # It has no training on a CPU.
        for module in (ours, theirs):
            module.zero_grad()
            module(x).square().sum().backward()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
    for module in (ours, theirs):
        module.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


def test_the_norm_is_folded_and_the_input_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pointwise_conv(6, 8, "BN").double().eval()
    nn.init.normal_(module.norm.weight)
    module.norm.running_mean.normal_()
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    before = x.clone()
    calls: list[Tensor] = []
    plain = module(x)
    seen = module.norm.register_forward_hook(lambda *a: calls.append(a[2]))
    with torch.no_grad():
        module(x)
        assert len(calls) == 1  # A hook wants to see it.
        seen.remove()
        called = AssertionError("the norm was called by itself")
        monkeypatch.setattr(F, "batch_norm", Mock(side_effect=called))
        folded = module(x)
        twin = copy.deepcopy(module)
        torch.testing.assert_close(twin(x), folded)
    torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)


def test_hooks_on_a_fuse_are_called() -> None:
    fuse = separable_conv5(12, 8, "BN")
    decoder = Decoder(
        top_feature="deep",
        top=pointwise_conv(6, 8, "BN"),
        projections={"shallow": pointwise_conv(5, 4, "BN")},
        fuses={"shallow": fuse},
    )
    features = {"deep": torch.randn(1, 6, 2, 3), "shallow": torch.randn(1, 5, 4, 5)}
    plain = decoder(features)
    calls: list[Tensor] = []
    fuse.register_forward_hook(lambda *a: calls.append(a[2]))
    torch.testing.assert_close(decoder(features), plain)
    assert len(calls) == 1
