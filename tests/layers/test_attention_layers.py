"""Axial attention as layers: sizes, spans, strides, what is kept."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from axial_d2 import ops
from axial_d2.layers import (
    AxialAttention1d,
    AxialAttention2d,
    AxialBottleneck,
    DropPath,
    LogitNorm,
    conv3_stem,
    conv7_stem,
    recomputed,
)

SIZES = [(1, 1), (1, 7), (13, 1), (5, 8), (17, 11)]


def attention(axis: str = "height", **options: object) -> AxialAttention1d:
    torch.manual_seed(0)
    return AxialAttention1d(
        in_channels=6, out_channels=8, axis=axis, num_heads=2, max_distance=4, **options
    )


@pytest.mark.parametrize("axis", ["height", "width"])
@pytest.mark.parametrize("span", [0, 3, 65])
@pytest.mark.parametrize("size", SIZES)
def test_any_size_and_span(axis: str, span: int, size: tuple[int, int]) -> None:
    layer = attention(axis, span=span)
    x = torch.randn(2, 6, *size)
    assert layer(x).shape == (2, 8, *size)
    assert layer.eval()(x).shape == (2, 8, *size)


def test_width_is_height_of_the_transposed_picture() -> None:
    height, width = attention("height").eval(), attention("width").eval()
    width.load_state_dict(height.state_dict())
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(width(x), height(x.mT).mT)


def test_strips_do_not_see_each_other() -> None:
    layer = attention("width").eval()
    x = torch.randn(1, 6, 4, 7)
    changed = x.clone()
    changed[:, :, 2] += 1
    same = [0, 1, 3]
    torch.testing.assert_close(layer(x)[:, :, same], layer(changed)[:, :, same])
    assert not torch.allclose(layer(x)[:, :, 2], layer(changed)[:, :, 2])


def test_moving_the_picture_along_a_strip_moves_the_output() -> None:
    layer = attention("height", span=5).eval()
    x = torch.randn(1, 6, 20, 3)
    moved = layer(x.roll(4, dims=2))
    torch.testing.assert_close(layer(x)[:, :, 2:-6], moved[:, :, 6:-2])


def test_parameters_depend_on_neither_size_nor_span() -> None:
    shapes = [
        {name: p.shape for name, p in attention(span=span).state_dict().items()}
        for span in (0, 3, 257)
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    default = AxialAttention1d(in_channels=16, out_channels=16, axis="width")
    assert default.query_table.weight.shape == (509, 1)
    assert default.value_table.weight.shape == (509, 2)


@pytest.mark.parametrize("mode", ["subsample", "avg_pool"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_strides_round_up(mode: str, size: tuple[int, int], stride: int) -> None:
    inner = AxialAttention2d(
        in_channels=8, out_channels=8, stride=stride, stride_mode=mode, num_heads=2
    )
    block = AxialBottleneck(
        in_channels=6, mid_channels=8, out_channels=16, stride=stride, attention=inner
    )
    expected = [-(-n // stride) for n in size]
    # Twice: the batch norm after a stride down to 1x1 needs more than one picture.
    assert list(block(torch.randn(2, 6, *size)).shape) == [2, 16, *expected]


def test_subsampling_takes_rows_after_the_height_and_columns_after_the_width_pass() -> None:
    layer = AxialAttention2d(in_channels=8, out_channels=8, stride=2, num_heads=2).eval()
    x = torch.randn(1, 8, 5, 6)
    by_hand = layer.width(layer.height(x)[:, :, [0, 2, 4]])[:, :, :, [0, 2, 4]]
    assert torch.equal(layer(x), by_hand)


def test_stems_quarter_the_picture() -> None:
    x = torch.randn(2, 3, 65, 31)
    assert conv7_stem(0.5)(x).shape == (2, 32, 17, 8)
    assert conv3_stem(0.5)(x).shape == (2, 64, 17, 8)


@pytest.mark.parametrize("span", [0, 3])
def test_the_logit_norm_is_batch_norm_without_its_shift(span: int) -> None:
    """Against torch's own batch norm on the explicit logits, over three training steps."""
    torch.manual_seed(0)
    norm, plain = LogitNorm(2).double(), nn.BatchNorm1d(6).double()
    nn.init.uniform_(norm.weight, 0.5, 2)
    plain.weight.data.copy_(norm.weight.detach().flatten())
    for _ in range(3):
        q, k = torch.randn(2, 3, 2, 7, 4, dtype=torch.float64)
        tables = torch.randn(2, 5, 4, dtype=torch.float64)
        scale = norm(q, k, *tables, span=span or None)
        terms = ops.reference.logit_terms(q, k, *tables)  # (3, B, G, L, L)
        inside = ops.reference.band(7, span or None)
        flat = terms.transpose(1, 2)[..., inside].flatten(0, 1).flatten(2)  # (3 G, B, pairs)
        flat = flat.transpose(0, 1)  # (B, 3 G, pairs)
        expected = plain(flat)
        # Same up to a constant per head and term, which the softmax cancels.
        got = flat * scale.flatten()[None, :, None]
        difference = got - expected
        torch.testing.assert_close(
            difference, difference[:1, :, :1].expand_as(difference), atol=1e-12, rtol=0
        )
    torch.testing.assert_close(norm.running_mean.flatten(), plain.running_mean)
    torch.testing.assert_close(norm.running_var.flatten(), plain.running_var)
    assert norm.num_batches_tracked == 3
    norm.eval()
    plain.eval()
    scale = norm(q, k, *tables, span=span or None).flatten()
    torch.testing.assert_close(scale, plain.weight / (plain.running_var + plain.eps).sqrt())


def test_a_frozen_logit_norm_neither_learns_nor_moves() -> None:
    layer = attention(logit_norm=lambda heads: LogitNorm(heads, kind="FrozenBN"))
    before = {k: v.clone() for k, v in layer.logit_norm.state_dict().items()}
    layer(torch.randn(2, 6, 5, 5)).sum().backward()
    assert layer.logit_norm.weight.grad is None
    for name, value in layer.logit_norm.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(ValueError, match="kind: expected one of BN.*got 'LN'"):
        LogitNorm(2, kind="LN")


def test_recomputing_changes_neither_results_nor_running_statistics() -> None:
    def step(recompute: bool) -> tuple[torch.Tensor, dict, dict]:
        block = AxialBottleneck(
            in_channels=6,
            mid_channels=8,
            out_channels=16,
            attention=AxialAttention2d(in_channels=8, out_channels=8, num_heads=2),
            drop_path=0.5,
        ).double()
        nn.init.ones_(block.expand_norm.weight)
        torch.manual_seed(2)
        x = torch.randn(4, 6, 5, 7, dtype=torch.float64)
        y = recomputed(block, x) if recompute else block(x)
        y.square().sum().backward()
        gradients = {n: p.grad for n, p in block.named_parameters()}
        return y.detach(), gradients, block.state_dict()

    torch.manual_seed(1)
    plain = step(False)
    torch.manual_seed(1)
    again = step(True)
    torch.testing.assert_close(plain[0], again[0], rtol=0, atol=0)
    for one, other in zip(plain[1:], again[1:], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-12, msg=name)


def test_recomputing_for_each_of_two_losses() -> None:
    layer = attention().train()
    x = torch.randn(2, 6, 5, 5, requires_grad=True)
    y = recomputed(layer, x)
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    second = torch.autograd.grad(y.square().sum(), x)[0]
    plain = layer(x)
    torch.testing.assert_close(first, torch.autograd.grad(plain.sum(), x, retain_graph=True)[0])
    torch.testing.assert_close(second, torch.autograd.grad(plain.square().sum(), x)[0])


def test_half_precision_by_autocast() -> None:
    layer = attention()
    x = torch.randn(2, 6, 9, 5)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
    rough.float().sum().backward()
    assert torch.isfinite(layer.qkv.weight.grad).all()
    # bfloat16 keeps 8 bits; three norms follow one another.
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_drop_path() -> None:
    x = torch.ones(1000, 2)
    torch.manual_seed(0)
    kept = DropPath(0.25)(x)
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(kept[:, 0], kept[:, 1])
    assert abs(kept.mean() - 1) < 0.1
    assert torch.equal(DropPath(0.25).eval()(x), x)
    with pytest.raises(ValueError, match="rate: expected 0 <= rate < 1, got 1"):
        DropPath(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": "depth"}, "axis: expected one of height, width, got 'depth'"),
        ({"span": 4}, "span: expected an odd number"),
        ({"backend": "cuda"}, "backend: expected one of auto"),
    ],
)
def test_options_that_cannot_work_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention(**options)


def test_channels_the_heads_cannot_share_are_named() -> None:
    with pytest.raises(ValueError, match="multiple of twice the 8 heads, got 24"):
        AxialAttention1d(in_channels=8, out_channels=24, axis="height")
    with pytest.raises(ValueError, match="stride_mode: expected one of subsample, avg_pool"):
        AxialAttention2d(in_channels=16, out_channels=16, stride_mode="max_pool")


# In a process of its own: torch's strided 1x1 convolution does not fail here, it dies.
_TRAINS_A_STEM = """
import torch
from axial_d2.layers import AxialStem
stem = AxialStem(mid_channels=8, out_channels=16, num_heads=2, max_distance=4)
stem = stem.to(memory_format=torch.channels_last)
for _ in range(3):
    stem(torch.randn(2, 3, 48, 64)).square().mean().backward()
print("trained")
"""


def test_an_axial_stem_trains_with_channels_last() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TRAINS_A_STEM], capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("trained\n"), done.stderr[-1000:]


@pytest.mark.parametrize("size", SIZES)
def test_a_shortcut_strides_as_torch_does(size: tuple[int, int]) -> None:
    block = AxialBottleneck(
        in_channels=3, mid_channels=4, out_channels=6, attention=nn.Identity(), stride=2
    )
    convolution = block.shortcut[0]
    x = torch.randn(2, 3, *size)
    expected = nn.functional.conv2d(x, convolution.weight, stride=2)
    torch.testing.assert_close(convolution(x), expected)
