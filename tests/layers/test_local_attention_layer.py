"""Local 2-D attention as a layer: next to a plain one written here; sizes, strides, reach."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axial_d2.layers import AxialBottleneck, LocalAttention2d, LogitNorm
from axial_d2.layers.local_attention import FactoredWindowTable

SIZES = [(1, 1), (1, 7), (13, 1), (5, 8), (17, 11)]
KINDS = [False, True]


def attention(position_sensitive: bool = True, **options: object) -> LocalAttention2d:
    torch.manual_seed(0)
    return LocalAttention2d(
        **{"in_channels": 6, "out_channels": 8, "num_heads": 2, "window": 3}
        | {"position_sensitive": position_sensitive}
        | options
    )


class PlainLocalAttention(nn.Module):
    """The same by `F.unfold`, with torch's own batch norms, one head after the other."""

    def __init__(self, ours: LocalAttention2d) -> None:
        super().__init__()
        self.ours = ours
        self.logit_norms = nn.ModuleList(
            nn.BatchNorm1d(1, affine=False) for _ in ours.logit_norm.weight.flatten()
        )

    def table(self, name: str) -> Tensor:
        module = getattr(self.ours, name)
        if not isinstance(module, FactoredWindowTable):
            return module.weight.flatten(0, 1)  # (M * M, D)
        places = [(y, x) for y in range(self.ours.window) for x in range(self.ours.window)]
        return torch.stack([torch.cat([module.rows[y], module.columns[x]]) for y, x in places])

    def forward(self, x: Tensor) -> Tensor:
        ours, (height, width) = self.ours, x.shape[2:]
        heads, window, depth = ours.num_heads, ours.window, ours.value_depth
        qkv = ours.qkv_norm(F.conv2d(x, ours.qkv.weight)).split(heads * depth, dim=1)

        def unfolded(maps: Tensor) -> Tensor:
            columns = F.unfold(maps, window, padding=window // 2)
            return columns.unflatten(1, (depth, -1))  # (N, D, M * M, H * W)

        inside = F.unfold(torch.ones(1, 1, height, width), window, padding=window // 2)[0] > 0
        outputs: list[list[Tensor]] = [[], []]
        for g in range(heads):
            q, k, v = (part[:, g * depth : (g + 1) * depth] for part in qkv)
            q, k, v = q.flatten(2), unfolded(k), unfolded(v)
            terms = [
                torch.einsum("ndp,ndmp->nmp", q, k),
                torch.einsum("ndp,md->nmp", q, self.table("query_table")),
            ]
            if ours.position_sensitive:
                terms.append(torch.einsum("ndmp,md->nmp", k, self.table("key_table")))
            logits = torch.full_like(terms[0], -torch.inf)
            logits[:, inside] = sum(
                ours.logit_norm.weight[t, g]
                * self.logit_norms[t * heads + g](term[:, inside].flatten()[:, None]).view(
                    term.shape[0], -1
                )
                for t, term in enumerate(terms)
            )
            weights = logits.softmax(dim=1)
            outputs[0].append(torch.einsum("nmp,ndmp->ndp", weights, v))
            if ours.position_sensitive:
                rv = self.table("value_table")
                outputs[1].append(torch.einsum("nmp,md->ndp", weights, rv))
        maps = [torch.cat(o, dim=1).unflatten(2, (height, width)) for o in outputs if o]
        y = ours.content_norm(maps[0])
        return y + ours.position_norm(maps[1]) if ours.position_sensitive else y


@pytest.mark.parametrize("position_sensitive", KINDS)
@pytest.mark.parametrize("size", [(5, 8), (1, 7), (2, 3)])
@pytest.mark.parametrize("window", [3, 5])
def test_equals_a_plain_layer_in_training_and_evaluation(
    position_sensitive: bool, size: tuple[int, int], window: int
) -> None:
    ours = attention(position_sensitive, window=window).double()
    nn.init.uniform_(ours.logit_norm.weight, 0.5, 2)
    theirs = PlainLocalAttention(attention(position_sensitive, window=window)).double()
    theirs.ours.load_state_dict(ours.state_dict())
    for _ in range(2):
        x = torch.randn(2, 6, *size, dtype=torch.float64)
        results = []
        for layer in (ours, theirs):
            layer.zero_grad()
            y = layer(x)
            (y * torch.sin(torch.arange(y.numel()).view_as(y) + 1.0)).sum().backward()
            results.append(y)
        torch.testing.assert_close(*results, rtol=0, atol=1e-9)
        parameters = zip(ours.named_parameters(), theirs.ours.named_parameters(), strict=True)
        for (name, one), (_, other) in parameters:
            torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-8, msg=name)
    running = torch.cat([n.running_var for n in theirs.logit_norms])
    torch.testing.assert_close(ours.logit_norm.running_var.flatten(), running)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("position_sensitive", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["subsample", "avg_pool"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_any_size_and_stride(
    position_sensitive: bool, size: tuple[int, int], mode: str, stride: int
) -> None:
    options = {"in_channels": 8, "window": 7, "stride": stride, "stride_mode": mode}
    block = AxialBottleneck(
        in_channels=6,
        mid_channels=8,
        out_channels=16,
        stride=stride,
        attention=attention(position_sensitive, **options),
    )
    expected = [2, 16, *(-(-n // stride) for n in size)]
    x = torch.randn(2, 6, *size)
    assert list(block(x).shape) == expected
    assert list(block.eval()(x).shape) == expected


def test_strides_take_or_average_places_after_the_attention() -> None:
    plain = attention().eval()
    x = torch.randn(1, 6, 5, 7)
    y = plain(x)
    for mode in ("subsample", "avg_pool"):
        strided = attention(stride=2, stride_mode=mode).eval()
        strided.load_state_dict(plain.state_dict())
        if mode == "subsample":
            expected = y[:, :, ::2, ::2]
        else:
            expected = F.avg_pool2d(y, 2, ceil_mode=True, count_include_pad=False)
        assert torch.equal(strided(x), expected)


@pytest.mark.parametrize("position_sensitive", KINDS)
def test_a_place_sees_its_window_and_no_more(position_sensitive: bool) -> None:
    layer = attention(position_sensitive, window=5).eval()
    x = torch.randn(1, 6, 11, 13)
    changed = x.clone()
    changed[:, :, 4, 6] += 1
    moved = (layer(x) - layer(changed)).abs().amax(dim=(0, 1)) > 1e-7
    expected = torch.zeros(11, 13, dtype=torch.bool)
    expected[2:7, 4:9] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("position_sensitive", KINDS)
def test_moving_the_picture_moves_the_output(position_sensitive: bool) -> None:
    layer = attention(position_sensitive).eval()
    x = torch.randn(1, 6, 20, 21)
    moved = layer(x.roll((4, 3), dims=(2, 3)))
    inner = layer(x)[:, :, 2:-6, 2:-5]
    torch.testing.assert_close(inner, moved[:, :, 6:-2, 5:-2])


@pytest.mark.parametrize("position_sensitive", KINDS)
def test_every_parameter_gets_a_gradient(position_sensitive: bool) -> None:
    layer = attention(position_sensitive)
    y = layer(torch.randn(2, 6, 5, 7))
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().max() > 1e-4, name


def test_parameters() -> None:
    def shapes(layer: LocalAttention2d) -> dict[str, tuple[int, ...]]:
        return {n: tuple(p.shape) for n, p in layer.named_parameters() if "table" in n}

    plain, sensitive = attention(False, window=7), attention(True, window=7)
    assert shapes(plain) == {"query_table.rows": (7, 2), "query_table.columns": (7, 2)}
    tables = ("query_table", "key_table", "value_table")
    assert shapes(sensitive) == {f"{t}.weight": (7, 7, 4) for t in tables}
    assert plain.logit_norm.weight.shape == (2, 2)
    assert sensitive.logit_norm.weight.shape == (3, 2)
    for layer in (plain, sensitive):
        assert (layer.num_heads, layer.window) == (2, 7)
        assert (layer.in_channels, layer.out_channels) == (6, 8)
        assert (layer.query_depth, layer.value_depth) == (4, 4)
        assert layer.qkv.weight.shape == (24, 6, 1, 1)


def test_a_factored_table_by_hand() -> None:
    table = FactoredWindowTable(depth=2, window=3, std=1)
    table.rows.data = torch.tensor([[1.0], [2], [3]])
    table.columns.data = torch.tensor([[10.0], [20], [30]])
    assert table()[0].tolist() == [[1, 10], [1, 20], [1, 30]]
    assert table()[2].tolist() == [[3, 10], [3, 20], [3, 30]]


@pytest.mark.parametrize("position_sensitive", KINDS)
def test_half_precision_by_autocast(position_sensitive: bool) -> None:
    layer = attention(position_sensitive)
    x = torch.randn(2, 6, 9, 5)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
    rough.float().sum().backward()
    assert torch.isfinite(layer.qkv.weight.grad).all()
    # bfloat16 keeps 8 bits; three norms follow one another.
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_frozen_logit_norm_uses_what_it_has() -> None:
    layer = attention(logit_norm=lambda heads, **o: LogitNorm(heads, kind="FrozenBN", **o))
    layer.logit_norm.running_var.fill_(4)
    before = {k: v.clone() for k, v in layer.logit_norm.state_dict().items()}
    layer(torch.randn(2, 6, 5, 5)).sum().backward()
    for name, value in layer.logit_norm.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "window: expected an odd number of 1 or more, got 4"),
        ({"out_channels": 10}, "out_channels: expected a multiple of twice the 2 heads, got 10"),
        ({"stride": 0}, "stride: expected at least 1, got 0"),
        ({"stride_mode": "max"}, "stride_mode: expected one of subsample, avg_pool, got 'max'"),
        ({"backend": "kept"}, "backend: expected one of auto, blocked, reference"),
    ],
)
def test_options_that_cannot_work_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention(**options)
    with pytest.raises(ValueError, match="num_terms: expected 2 or 3, got 4"):
        LogitNorm(2, num_terms=4)
