"""Every stem with every attention, in every respect; the paper's counts."""

from collections import Counter
from unittest.mock import patch

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from model_configs import small_config
from torch import nn

from axial_d2.layers import (
    AxialAttention1d,
    AxialBottleneck,
    AxialStem,
    LocalAttention2d,
    LogitNorm,
)
from axial_d2.modeling import AxialResNet
from axial_d2.modeling.axial_resnet import ATTENTIONS, STEMS

ALL = ("stem", "res2", "res3", "res4", "res5")
VARIANTS = [(stem, attention) for stem in STEMS for attention in ATTENTIONS]
variants = pytest.mark.parametrize(("stem", "attention"), VARIANTS)


def small(stem: str, attention: str, **options: object) -> AxialResNet:
    torch.manual_seed(0)
    return AxialResNet(
        **{"stem": stem, "attention": attention, "depth": 26, "width_multiplier": 0.125}
        | {"max_distance": 20, "window": 5, "out_features": ALL}
        | options
    )


def with_open_branches(net: AxialResNet) -> AxialResNet:
    """Branches start at zero, which keeps gradients from what is in them."""
    for block in net.modules():
        if isinstance(block, AxialBottleneck):
            nn.init.ones_(block.expand_norm.weight)
    return net


@variants
def test_features_have_the_shape_they_announce(stem: str, attention: str) -> None:
    for output_stride, stride_mode in ((16, "subsample"), (32, "avg_pool")):
        net = small(stem, attention, stride_mode=stride_mode, output_stride=output_stride).eval()
        shapes = net.output_shape()
        first = 2 if stem == "axial" else 4
        assert [s.stride for s in shapes.values()] == [first, 4, 8, 16, output_stride]
        for size in ((1, 1), (37, 53), (64, 5)):
            with torch.no_grad():
                features = net(torch.randn(1, 3, *size))
            assert list(features) == list(ALL)
            for name, feature in features.items():
                expected = [-(-n // shapes[name].stride) for n in size]
                assert list(feature.shape) == [1, shapes[name].channels, *expected]
                assert torch.isfinite(feature).all()


@variants
def test_every_parameter_gets_a_gradient(stem: str, attention: str) -> None:
    # Two heads: with one query channel each, the norms cancel the scales of the norm before them.
    net = with_open_branches(small(stem, attention, num_heads=2)).double()
    features = net(torch.randn(2, 3, 33, 47, dtype=torch.float64))
    sum(f.square().mean() for f in features.values()).backward()
    # Zero in exact arithmetic: the next batch norm takes a constant per channel away again.
    shifts = ("height.content_norm.bias", "height.position_norm.bias")
    largest = max(p.grad.abs().max() for p in net.parameters())
    for name, parameter in net.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith(shifts):
            assert parameter.grad.abs().max() > 1e-7 * largest, name


@variants
def test_checkpointing_leaves_gradients_and_running_statistics_alone(
    stem: str, attention: str
) -> None:
    results = []
    for checkpoint in (False, True):
        net = with_open_branches(small(stem, attention, checkpoint=checkpoint)).double()
        runs: Counter[str] = Counter()
        for name, block in net.named_modules():
            if isinstance(block, AxialBottleneck):
                block.register_forward_pre_hook(
                    lambda *_, name=name, runs=runs: runs.update([name])
                )
        torch.manual_seed(3)
        features = net(torch.randn(2, 3, 17, 31, dtype=torch.float64))
        sum(f.square().mean() for f in features.values()).backward()
        results.append(({n: p.grad for n, p in net.named_parameters()}, net.state_dict()))
        assert len(runs) == (11 if stem == "axial" else 8)
        assert set(runs.values()) == {2 if checkpoint else 1}, runs
    for one, other in zip(*results, strict=True):
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-9, msg=name)


@variants
def test_evaluation_is_the_same_every_time_and_for_every_picture_alone(
    stem: str, attention: str
) -> None:
    net = with_open_branches(small(stem, attention, drop_path=0.5)).double().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(2, 3, 19, 30, dtype=torch.float64)
    with torch.no_grad():
        first, again, alone = net(x), net(x), net(x[1:])
    for name, feature in first.items():
        assert torch.equal(again[name], feature)
        torch.testing.assert_close(alone[name], feature[1:], rtol=1e-9, atol=1e-9)
        # Not the same for all: the second picture has a feature of its own.
        assert not torch.allclose(feature[0], feature[1])
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("norm", ["SyncBN", "naiveSyncBN", "FrozenBN", "GN"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_norms_of_the_stand_alone_stem_and_of_every_attention(attention: str, norm: str) -> None:
    # GN's 32 groups must divide every width.
    net = small("axial", attention, norm=norm, width_multiplier=0.5, out_features=("res2",))
    kinds = {m.kind for m in net.modules() if isinstance(m, LogitNorm)}
    assert kinds == {"BN" if norm == "GN" else norm}
    feature = net(torch.randn(2, 3, 13, 18))["res2"]
    assert feature.shape == (2, 128, 4, 5)
    assert torch.isfinite(feature).all()


@variants
def test_frozen_stages_neither_learn_nor_move(stem: str, attention: str) -> None:
    net = small(stem, attention, freeze_at=2)
    frozen = [net.stem, net.res2]
    assert not any(p.requires_grad for part in frozen for p in part.parameters())
    assert all(p.requires_grad for part in (net.res3, net.res5) for p in part.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for part in frozen for m in part.modules())
    assert any(isinstance(m, FrozenBatchNorm2d) for m in net.stem.modules())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.randn(2, 3, 32, 32))["res5"].sum().backward()
    moved = {k for k, v in net.state_dict().items() if not torch.equal(before[k], v)}
    assert moved
    assert not any(k.startswith(("stem", "res2")) for k in moved)


@variants
def test_only_conv_stems_have_convolutions_larger_than_1x1(stem: str, attention: str) -> None:
    net = small(stem, attention)
    sizes = {m.kernel_size for m in net.modules() if isinstance(m, nn.Conv2d)}
    larger = {"conv3": {(3, 3)}, "conv7": {(7, 7)}, "axial": set()}[stem]
    assert sizes == larger | {(1, 1)}
    assert (stem == "axial") == (not any(isinstance(m, nn.MaxPool2d) for m in net.modules()))


@variants
def test_a_local_net_computed_plainly_is_the_same(stem: str, attention: str) -> None:
    nets = [small(stem, attention, backend=b).double() for b in ("reference", "auto")]
    x = torch.randn(2, 3, 23, 37, dtype=torch.float64)
    one, other = (net(x) for net in nets)
    for name in ALL:
        torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "MODEL.AXIAL_RESNET.WINDOW: window: expected an odd number"),
        ({"stem_span": 4}, "MODEL.AXIAL_RESNET.STEM_SPAN: span: expected an odd number"),
        (
            {"attention": "local", "backend": "kept"},
            "MODEL.AXIAL_RESNET.BACKEND: backend: expected one of auto, blocked, reference for",
        ),
        ({"attention": "sasa"}, "MODEL.AXIAL_RESNET.ATTENTION: expected one of axial, local, ps_"),
    ],
)
def test_values_that_cannot_work_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**{"stem": "conv7", "attention": "axial"} | options)


def test_from_config() -> None:
    keys = {
        "STEM": "axial",
        "STEM_SPAN": 9,
        "ATTENTION": "ps_local",
        "WINDOW": 3,
        "STRIDE": "avg_pool",
    }
    net = build_backbone(
        small_config(*(x for k, v in keys.items() for x in (f"MODEL.AXIAL_RESNET.{k}", v)))
    )
    assert isinstance(net.stem, AxialStem)
    assert {m.span for m in net.modules() if isinstance(m, AxialAttention1d)} == {9}
    local = [m for m in net.modules() if isinstance(m, LocalAttention2d)]
    assert {(m.window, m.position_sensitive, m.stride_mode) for m in local} == {
        (3, True, "avg_pool")
    }


# Parameters with 509-row tables and a classifier of 1000 classes: S, M, L, XL.
PARAMETERS = {
    (26, "conv7"): (6_378_408, 13_190_344, 22_417_896, 83_484_264),
    (26, "conv3"): (6_408_552, 13_260_904, 22_545_768, 84_010_344),
    (26, "axial"): (6_429_416, 13_288_288, 22_577_112, 84_031_928),
    # The paper's: 12.4 (S), 25.6 (M), 44.6 (L) and, stand-alone S, 12.5 million.
    (50, "conv7"): (12_480_232, 26_520_808, 45_762_280, 174_737_128),
    (50, "conv3"): (12_510_376, 26_591_368, 45_890_152, 175_263_208),
    (50, "axial"): (12_531_240, 26_618_752, 45_921_496, 175_284_792),
}


def classifier(**options: object) -> nn.Sequential:
    """An ImageNet network without memory for its weights."""
    # Drawing weights takes most of the time, without memory too.
    draws = ("normal_", "kaiming_normal_", "kaiming_uniform_")
    idle = patch.multiple(nn.init, **dict.fromkeys(draws, lambda tensor, **options: tensor))
    with torch.device("meta"), idle:
        net = AxialResNet(output_stride=32, out_features=("res5",), **options)
        fc = nn.Linear(net.output_shape()["res5"].channels, 1000)
    return nn.Sequential(net, fc)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("depth", "stem"), PARAMETERS)
def test_parameters_of_all_widths(depth: int, stem: str) -> None:
    counts = [
        parameters(classifier(depth=depth, stem=stem, width_multiplier=width))
        for width in (0.5, 0.75, 1, 2)
    ]
    assert counts == list(PARAMETERS[depth, stem])


def multiply_adds(model: nn.Sequential, size: int) -> int:
    """As the paper counts: every layer before its stride, full windows and spans at the border.

    With `avg_pool` this is what is computed but for the borders.
    """
    total = 0

    def convolution(module: nn.Conv2d, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        total += output.shape[2] * output.shape[3] * module.weight.numel()

    def attention(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        height, width = inputs[0].shape[2:]
        queries, values = (module.num_heads * d for d in (module.query_depth, module.value_depth))
        if isinstance(module, AxialAttention1d):
            length = height if module.axis == "height" else width
            keys, terms, outputs = min(module.span or length, length), 3, 2
        else:
            keys, terms = module.window**2, module.logit_norm.weight.shape[0]
            outputs = 2 if module.position_sensitive else 1
        total += height * width * keys * (terms * queries + outputs * values)

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(convolution)
        elif isinstance(module, AxialAttention1d | LocalAttention2d):
            module.register_forward_hook(attention)
    model.eval()[0](torch.empty(1, 3, size, size, device="meta"))
    return total + model[1].weight.numel()


@pytest.mark.parametrize(
    ("options", "expected", "paper"),
    [
        # Parameters and multiply-adds; the paper's in millions and billions (table 1).
        ({"attention": "local"}, (18_038_416, 3_483_158_528), (18.0, 3.5)),
        ({"attention": "ps_local"}, (18_112_176, 3_670_013_952), (18.0, 3.7)),
        ({"width_multiplier": 0.5}, (12_480_232, 2_842_942_464), (12.4, 2.8)),
        # Stand-alone: the span of 15 acts in all stages. Global ones would make 4.24 billion.
        (
            {"width_multiplier": 0.5, "stem": "axial", "span": 15},
            (12_531_240, 3_422_274_560),
            (12.5, 3.3),
        ),
    ],
)
def test_the_papers_sizes_at_224(
    options: dict, expected: tuple[int, int], paper: tuple[float, float]
) -> None:
    model = classifier(
        **{"stem": "conv7", "stride_mode": "avg_pool", "backend": "reference"} | options
    )
    counts = (parameters(model), multiply_adds(model, 224))
    assert counts == expected
    assert counts[0] / 1e6 == pytest.approx(paper[0], rel=0.02)
    assert counts[1] / 1e9 == pytest.approx(paper[1], rel=0.04)


def test_local_blocks_have_the_widths_of_resnet() -> None:
    model = classifier(stem="conv7", attention="local")
    stages = [getattr(model[0], name) for name in ALL[1:]]
    assert model[0].stem.out_channels == 64
    assert [stage[0].reduce.out_channels for stage in stages] == [64, 128, 256, 512]
    assert [stage[0].expand.out_channels for stage in stages] == [256, 512, 1024, 2048]
    assert [stage[-1].attention.query_depth for stage in stages] == [8, 16, 32, 64]
