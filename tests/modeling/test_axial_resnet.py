"""The backbone: sizes, options, gradients, freezing, and the stored network of the original."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from golden_comparison import NET, QUANTITIES, compare
from model_configs import small_config
from torch import nn

from axial_d2.layers import AxialAttention1d, AxialBottleneck, LogitNorm
from axial_d2.modeling import AxialResNet

ALL = ("stem", "res2", "res3", "res4", "res5")


def small(**options: object) -> AxialResNet:
    torch.manual_seed(0)
    return AxialResNet(
        **{"depth": 26, "width_multiplier": 0.125, "max_distance": 20, "out_features": ALL}
        | options
    )


@pytest.mark.parametrize("output_stride", [16, 32])
@pytest.mark.parametrize("stem", ["conv3", "conv7"])
@pytest.mark.parametrize("stride_mode", ["subsample", "avg_pool"])
@pytest.mark.parametrize("size", [(64, 64), (37, 101), (1, 1), (97, 5)])
def test_features_have_the_shape_they_announce(
    output_stride: int, stem: str, stride_mode: str, size: tuple[int, int]
) -> None:
    net = small(output_stride=output_stride, stem=stem, stride_mode=stride_mode).eval()
    with torch.no_grad():
        features = net(torch.randn(2, 3, *size))
    shapes = net.output_shape()
    assert list(features) == list(shapes) == list(ALL)
    assert [s.stride for s in shapes.values()] == [4, 4, 8, 16, output_stride]
    assert net.size_divisibility == output_stride
    for name, feature in features.items():
        expected = [-(-n // shapes[name].stride) for n in size]
        assert list(feature.shape) == [2, shapes[name].channels, *expected]


@pytest.mark.parametrize(("span", "stride_mode"), [(0, "subsample"), (5, "avg_pool")])
def test_every_parameter_gets_a_gradient(span: int, stride_mode: str) -> None:
    net = small(span=span, stride_mode=stride_mode)
    for block in net.modules():
        if isinstance(block, AxialBottleneck):
            # Zero at the start, which keeps gradients from the branch.
            nn.init.ones_(block.expand_norm.weight)
    features = net(torch.randn(2, 3, 49, 64))
    sum(f.square().mean() for f in features.values()).backward()
    # Zero in exact arithmetic: the next batch norm takes a constant per channel away again. After
    # a stride it is only nearly so, as the norm's statistics are then taken elsewhere.
    shifts = ("height.content_norm.bias", "height.position_norm.bias")
    largest = max(p.grad.abs().max() for p in net.parameters())
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name.endswith(shifts):
            assert parameter.grad.abs().max() < 1e-4 * largest, name
        else:
            assert parameter.grad.abs().max() > 1e-7 * largest, name


def test_blocks_and_widths() -> None:
    def blocks(net: AxialResNet) -> list[int]:
        return [len(getattr(net, f"res{i}")) for i in (2, 3, 4, 5)]

    assert blocks(small()) == [1, 2, 4, 1]
    net = AxialResNet(
        depth=50, width_multiplier=0.5, max_distance=1, out_features=("res2", "res3", "res5")
    )
    assert blocks(net) == [3, 4, 6, 3]
    assert [s.channels for s in net.output_shape().values()] == [128, 256, 1024]
    heights = [m for m in net.res2.modules() if isinstance(m, AxialAttention1d)]
    assert heights[0].query_depth == 4
    assert heights[0].value_depth == 8
    # Any multiplier: widths inside the blocks become multiples of twice the heads.
    odd = small(width_multiplier=0.3)
    assert odd.res2[0].attention.height.out_channels == 32
    with torch.no_grad():
        assert odd.eval()(torch.randn(1, 3, 32, 32))["res2"].shape[1] == 64


def test_checkpointing_leaves_gradients_and_running_statistics_alone() -> None:
    results = []
    for checkpoint in (False, True):
        net = small(checkpoint=checkpoint, drop_path=0.3).double()
        torch.manual_seed(3)
        features = net(torch.randn(2, 3, 33, 47, dtype=torch.float64))
        sum(f.square().mean() for f in features.values()).backward()
        results.append(({n: p.grad for n, p in net.named_parameters()}, net.state_dict()))
    for one, other in zip(*results, strict=True):
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-12, msg=name)


def test_checkpointing_works_above_a_frozen_stem() -> None:
    net = small(checkpoint=True, freeze_at=1)
    net(torch.randn(2, 3, 32, 32))["res5"].sum().backward()
    assert net.res2[0].reduce.weight.grad is not None


def test_a_frozen_norm_from_scratch_lets_the_attention_learn() -> None:
    net = small(norm="FrozenBN", out_features=("res2",))
    net(torch.randn(2, 3, 32, 32))["res2"].sum().backward()
    assert net.res2[0].attention.height.qkv.weight.grad.abs().max() > 0


def test_the_narrowest_net_has_a_stem() -> None:
    assert small(width_multiplier=0.001).stem.out_channels == 1


def test_frozen_stages() -> None:
    net = small(freeze_at=2)
    frozen, free = [net.stem, net.res2], [net.res3, net.res4, net.res5]
    assert not any(p.requires_grad for part in frozen for p in part.parameters())
    assert all(p.requires_grad for part in free for p in part.parameters())
    assert any(isinstance(m, FrozenBatchNorm2d) for m in net.res2.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for part in frozen for m in part.modules())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.randn(2, 3, 32, 32))["res5"].sum().backward()
    after = net.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved
    assert not any(k.startswith(("stem", "res2")) for k in moved)


@pytest.mark.parametrize(
    ("norm", "kind"),
    [("BN", "BN"), ("naiveSyncBN", "naiveSyncBN"), ("FrozenBN", "FrozenBN"), ("GN", "BN")],
)
def test_norms(norm: str, kind: str) -> None:
    # GN's 32 groups must divide every width: a multiplier at which they do.
    net = small(norm=norm, width_multiplier=0.5)
    kinds = {m.kind for m in net.modules() if isinstance(m, LogitNorm)}
    assert kinds == {kind}
    assert net(torch.randn(2, 3, 32, 32))["res5"].shape == (2, 1024, 2, 2)


def test_only_the_stages_asked_for_run() -> None:
    net = small(out_features=("res3",))
    assert not hasattr(net, "res4")
    assert list(net(torch.randn(1, 3, 32, 32))) == ["res3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 34}, "MODEL.AXIAL_RESNET.DEPTH: expected one of 26, 50, got 34"),
        ({"stem": "conv5"}, "STEM: expected one of conv3, conv7, axial, got 'conv5'"),
        ({"output_stride": 8}, "OUTPUT_STRIDE: expected one of 16, 32, got 8"),
        ({"out_features": ("res6",)}, "OUT_FEATURES: expected one of stem"),
        ({"out_features": ()}, "OUT_FEATURES: expected at least one"),
        ({"freeze_at": 6}, "FREEZE_AT: expected one of"),
        ({"width_multiplier": 0}, "expected to be positive"),
        ({"norm": "LayerN"}, "NORM: expected a norm that Detectron2 knows"),
        ({"norm": ""}, "NORM: expected a norm that Detectron2 knows"),
        ({"span": 64}, "MODEL.AXIAL_RESNET.SPAN: span: expected an odd number"),
        ({"drop_path": 1.0}, "MODEL.AXIAL_RESNET.DROP_PATH: expected 0 <= rate < 1, got 1.0"),
        ({"max_distance": 0}, "MODEL.AXIAL_RESNET.MAX_DISTANCE: expected at least 1, got 0"),
        ({"stride_mode": "max"}, "MODEL.AXIAL_RESNET.STRIDE: expected one of subsample"),
        ({"backend": "fast"}, "MODEL.AXIAL_RESNET.BACKEND: backend: expected one of"),
    ],
)
def test_values_that_cannot_work_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_from_config() -> None:
    cfg = small_config("MODEL.AXIAL_RESNET.SPAN", 7, "MODEL.AXIAL_RESNET.OUT_FEATURES", ["res4"])
    net = build_backbone(cfg, ShapeSpec(channels=3))
    assert isinstance(net, AxialResNet)
    assert list(net.output_shape()) == ["res4"]
    assert {m.span for m in net.modules() if isinstance(m, AxialAttention1d)} == {7}
    with pytest.raises(
        ValueError, match=r"ATTENTION: expected one of axial, local, ps_local, got 'sasa'"
    ):
        build_backbone(small_config("MODEL.AXIAL_RESNET.ATTENTION", "sasa"))


def test_equals_the_public_network_in_double_precision() -> None:
    errors = compare(NET, torch.float64)
    assert [error for error in errors if not error.value < 1e-9] == []
    # Of the parameters that are stored, none has a gradient of zero.
    assert {error.quantity for error in errors} == set(QUANTITIES) - {"gradients that are zero"}
