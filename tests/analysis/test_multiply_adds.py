"""The formulas against counted operations of the reference, and against numbers worked by hand."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from axial_d2 import ops
from axial_d2.analysis import MultiplyAdds, count_multiply_adds
from axial_d2.layers import AxialAttention1d, AxialAttention2d, AxialBottleneck, LocalAttention2d

# Odd, even, prime; not 1, whose products torch does not do, and so not count, as such.
SIZES = [(2, 3), (5, 7), (6, 3), (13, 2)]


def total(module: nn.Module, size: tuple[int, int], channels: int = 16) -> MultiplyAdds:
    x = torch.zeros(2, channels, *size)
    counts = count_multiply_adds(module, lambda: module(x))
    return sum(counts.values(), MultiplyAdds(0, 0))


def counted(module: nn.Module, size: tuple[int, int], channels: int = 16) -> int:
    """What torch counts of matrix products and convolutions, all pairs of the reference."""
    x = torch.zeros(2, channels, *size)
    with ops.use_backend("reference"), FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() // 2  # It counts a multiply-add as two.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("axis", ["height", "width"])
def test_a_layer_is_what_the_reference_multiplies(axis: str, size: tuple[int, int]) -> None:
    layer = AxialAttention1d(in_channels=16, out_channels=32, axis=axis, num_heads=2).eval()
    length = size[0] if axis == "height" else size[1]
    count = total(layer, size)
    assert count.paper == count.done == counted(layer, size)
    # By hand: the convolution, and per pair three products of 8 and two of 16 for each of 2 heads.
    places = 2 * size[0] * size[1]
    assert count.done == places * 16 * 64 + places * length * 2 * (3 * 8 + 2 * 16)


@pytest.mark.parametrize("mode", ["subsample", "avg_pool"])
@pytest.mark.parametrize("size", SIZES)
def test_a_stride_of_both_kinds(mode: str, size: tuple[int, int]) -> None:
    kwargs = {"in_channels": 16, "out_channels": 16, "num_heads": 2}
    strided = AxialAttention2d(**kwargs, stride=2, stride_mode=mode).eval()
    whole = AxialAttention2d(**kwargs).eval()
    assert total(strided, size).done == counted(strided, size)
    # The paper counts what a layer without a stride does.
    assert total(strided, size).paper == total(whole, size).paper == counted(whole, size)


def test_a_span_counts_the_keys_that_exist() -> None:
    """Five places, span 3: 3 pairs each for the paper, of which the two ends lack one."""
    layer = AxialAttention1d(
        in_channels=16, out_channels=16, axis="width", num_heads=1, span=3
    ).eval()
    convolution = 2 * 5 * 16 * 32
    each = 3 * 8 + 2 * 16
    assert total(layer, (1, 5)) == (convolution + 2 * 15 * each, convolution + 2 * 13 * each)
    # A span beyond the strip is the strip.
    layer.span = 99
    assert total(layer, (1, 5)) == 2 * (convolution + 2 * 25 * each,)


@pytest.mark.parametrize("span", [1, 3, 5, 9, 21])
@pytest.mark.parametrize("size", [(1, 6), (5, 7), (4, 2)])
def test_spans_pair_by_pair(size: tuple[int, int], span: int) -> None:
    """Both passes of a strided layer, every query and key in turn."""
    height, width = size
    rows = range(0, height, 2)  # The stride stands between the passes.

    def pairs(length: int) -> int:
        places = range(length)
        return sum(abs(query - key) <= span // 2 for query in places for key in places)

    net = AxialAttention2d(in_channels=16, out_channels=16, num_heads=2, span=span, stride=2)
    convolutions = (height * width + len(rows) * width) * 16 * 32
    attended = width * pairs(height) + len(rows) * pairs(width)
    done = convolutions + attended * 2 * (3 * 4 + 2 * 8)
    assert total(net.eval(), size).done == 2 * done


@pytest.mark.parametrize(("sensitive", "products"), [(False, 3), (True, 5)])
def test_local_attention(sensitive: bool, products: int) -> None:
    """Windows of 3 x 3 on 2 x 4 places: a row sees 2; an outer column 2, an inner 3."""
    layer = LocalAttention2d(
        in_channels=16,
        out_channels=16,
        window=3,
        position_sensitive=sensitive,
        num_heads=2,
        stride=2,
    ).eval()
    convolution = 2 * 8 * 16 * 48
    pairs = (2 + 2) * (2 + 3 + 3 + 2)
    expected = (2 * 8 * 9 * 16 * products, 2 * pairs * 16 * products)
    assert total(layer, (2, 4)) == tuple(convolution + e for e in expected)


@pytest.mark.parametrize("size", [(5, 7), (2, 3)])
def test_convolutions_and_linear_layers_around_it(size: tuple[int, int]) -> None:
    attention = AxialAttention2d(in_channels=16, out_channels=16, num_heads=2, stride=2)
    net = nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1, groups=4, bias=False),
        AxialBottleneck(
            in_channels=16, mid_channels=16, out_channels=32, attention=attention, stride=2
        ),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    ).eval()
    assert total(net, size, channels=8).done == counted(net, size, channels=8)


def test_a_layer_that_is_used_twice_counts_twice() -> None:
    layer = nn.Linear(3, 4)
    counts = count_multiply_adds(layer, lambda: layer(layer(torch.ones(1, 3))[:, :3]))
    assert counts == {"": (24, 24)}


def test_a_layer_that_is_not_called_is_named() -> None:
    class ByOtherHands(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.hidden.weight.T

    net = ByOtherHands(4, 4)
    net.hidden = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="hidden: not called"):
        count_multiply_adds(net, lambda: net(torch.ones(1, 4)))


def test_a_layer_without_formula_is_named_and_nothing_stays_behind() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.ConvTranspose2d(1, 1, 2)))
    with pytest.raises(ValueError, match=r"1\.0: no formula .* ConvTranspose2d \(.* weight, bias"):
        count_multiply_adds(net, lambda: None)
    assert not any(module._forward_hooks for module in net.modules())
