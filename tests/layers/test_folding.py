"""Evaluation without gradients: norms folded into what stands beside them, and when not."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from axial_d2 import ops
from axial_d2.layers import (
    AxialAttention1d,
    AxialAttention2d,
    AxialBottleneck,
    ConvStem,
    LogitNorm,
    conv3_stem,
    pointwise,
)
from axial_d2.layers.folding import Folding, FoldingSequential, may_fold

DOUBLE = torch.float64


def randomize(module: nn.Module) -> nn.Module:
    """Norms as after a training: none of their numbers at its start."""
    torch.manual_seed(3)
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm2d, LogitNorm)):
            part.running_mean.normal_()
            part.running_var.uniform_(0.3, 2)
            nn.init.normal_(part.weight)
            if getattr(part, "bias", None) is not None:
                nn.init.normal_(part.bias)
    return module.double().eval()


def attention(**options) -> AxialAttention1d:
    settings = {"in_channels": 6, "out_channels": 8, "axis": "height", "num_heads": 2} | options
    torch.manual_seed(0)
    return randomize(AxialAttention1d(max_distance=5, **settings))


def bottleneck(stride: int = 2) -> AxialBottleneck:
    torch.manual_seed(0)
    axial = AxialAttention2d(in_channels=8, out_channels=8, num_heads=2, stride=stride)
    widths = {"in_channels": 6, "mid_channels": 8, "out_channels": 16}
    return randomize(AxialBottleneck(attention=axial, stride=stride, **widths))


def stem() -> ConvStem:
    torch.manual_seed(0)
    return randomize(conv3_stem(0.25))


MODULES = {
    "height": lambda: attention(),
    "width": lambda: attention(axis="width", span=5),
    "block": bottleneck,
    "stem": stem,
}


def picture(module: nn.Module, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    channels = next(m for m in module.modules() if isinstance(m, nn.Conv2d)).in_channels
    torch.manual_seed(1)
    return torch.randn(2, channels, 9, 7, dtype=DOUBLE).contiguous(memory_format=layout)


def both(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The result as the parts give it, and without gradients."""
    plain = module(x).detach()
    with torch.no_grad():
        return plain, module(x)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("backend", [b for b in ops.BACKENDS if b != "triton"])
def test_it_gives_the_same(name: str, layout: torch.memory_format, backend: str) -> None:
    module = MODULES[name]()
    x = picture(module, layout)
    kept = x.clone()
    with ops.use_backend(backend):
        plain, folded = both(module, x)
    torch.testing.assert_close(folded, plain, rtol=1e-10, atol=1e-10)
    assert not torch.equal(folded, plain)  # It did fold: the rounding differs.
    assert torch.equal(x, kept)


@pytest.mark.parametrize("axis", ["height", "width"])
@pytest.mark.parametrize("backend", ["compiled", "blocked"])
def test_sizes_in_turn(axis: str, backend: str) -> None:
    """The tables' rows of one length are kept, for as long as that length comes."""
    layer = attention(axis=axis)
    with ops.use_backend(backend):
        for size in ((9, 7), (9, 7), (3, 12), (1, 1), (9, 7)):
            plain, folded = both(layer, torch.randn(1, 6, *size, dtype=DOUBLE))
            torch.testing.assert_close(folded, plain, rtol=1e-10, atol=1e-10)


def test_sizes_in_threads_beside_each_other() -> None:
    layer = attention()
    pictures = [torch.randn(1, 6, size, 3, dtype=DOUBLE) for size in (4, 9, 13)]
    wanted = [layer(x).detach() for x in pictures]

    def attend(number: int) -> Tensor:
        with torch.no_grad():
            return layer(pictures[number % 3])

    with ThreadPoolExecutor(4) as pool:
        for number, got in enumerate(pool.map(attend, range(300))):
            torch.testing.assert_close(got, wanted[number % 3], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("most", [0, 10**6])
@pytest.mark.parametrize("channels_last", [False, True])
def test_small_maps_with_channels_last_take_a_product(
    most: int, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    products = []
    linear = pointwise.F.linear
    monkeypatch.setattr(pointwise, "PRODUCT_PLACES", most)
    monkeypatch.setattr(pointwise.F, "linear", lambda *a: products.append(1) or linear(*a))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 6, 9, 7, dtype=DOUBLE).contiguous(memory_format=layout)[:, :, ::2]
    weight, bias = torch.randn(4, 6, 1, 1, dtype=DOUBLE), torch.randn(4, dtype=DOUBLE)
    got = pointwise.pointwise(x, weight, bias)
    torch.testing.assert_close(got, nn.functional.conv2d(x, weight, bias), rtol=1e-12, atol=1e-12)
    assert len(products) == int(channels_last and most > 0)


@pytest.mark.parametrize("name", MODULES)
def test_every_change_of_a_tensor_is_seen(name: str) -> None:
    module = MODULES[name]()
    x = picture(module)
    for key, value in list(module.state_dict().items()):
        both(module, x)
        if value.is_floating_point():
            with torch.no_grad():
                dict([*module.named_parameters(), *module.named_buffers()])[key].mul_(0.7)
            torch.testing.assert_close(*both(module, x), rtol=1e-10, atol=1e-10)
    state = {k: v * 0.9 if v.is_floating_point() else v for k, v in module.state_dict().items()}
    module.load_state_dict(state)
    torch.testing.assert_close(*both(module, x), rtol=1e-10, atol=1e-10)
    norm = next(m for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_var = norm.running_var + 1
    torch.testing.assert_close(*both(module, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MODULES)
def test_training_after_an_evaluation_is_as_without_one(name: str) -> None:
    results = []
    for evaluate in (False, True):
        module = MODULES[name]()
        x = picture(module)
        if evaluate:
            state = copy.deepcopy(module.state_dict())
            both(module, x)
            assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())
        module.train()
        y = module(x)
        y.square().sum().backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.sub_(0.01 * parameter.grad)
        results.append([y, *both(module.eval(), x)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    torch.testing.assert_close(*results[1][1:], rtol=1e-10, atol=1e-10)


def test_training_mode_without_gradients_uses_the_batch() -> None:
    module = MODULES["block"]()
    x = picture(module)
    both(module, x)
    other = copy.deepcopy(module).train()
    expected = other(x).detach()
    module.train()
    with torch.no_grad():
        assert torch.equal(module(x), expected)
    assert torch.equal(module.reduce_norm.running_mean, other.reduce_norm.running_mean)


def test_hooks_are_called() -> None:
    module, seen = attention(), []
    x = picture(module)
    module.qkv_norm.register_forward_hook(lambda *args: seen.append(args[2].shape))
    plain, again = both(module, x)
    assert len(seen) == 2 and torch.equal(plain, again)
    module.qkv_norm._forward_hooks.clear()
    assert not torch.equal(both(module, x)[1], plain)


def test_it_does_not_happen_with_gradients_or_in_a_trace() -> None:
    norm = nn.BatchNorm2d(1)
    assert not may_fold(norm)
    with torch.no_grad():
        assert may_fold(norm)
        traced = torch.jit.trace(lambda x: x * float(may_fold(norm)), torch.ones(1))
        assert traced(torch.ones(1)) == 0


@pytest.mark.parametrize("norm", [lambda c: nn.GroupNorm(2, c), lambda c: nn.Identity()])
def test_other_norms_stay_themselves(norm) -> None:
    plain, again = both(attention(norm=norm), picture(attention()))
    assert torch.equal(plain, again)


def test_copies_and_pickles_start_anew() -> None:
    module = MODULES["block"]()
    x = picture(module)
    expected = both(module, x)[1]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.reduce._folding._kept is None
        with torch.no_grad():
            other.reduce.weight.mul_(2)
            assert not torch.equal(other(x), expected)
            assert torch.equal(module(x), expected)


def test_it_is_made_once() -> None:
    folding, made = Folding(), []
    tensor = torch.ones(2)
    for _ in range(3):
        folding.of([tensor, None], lambda: made.append(1))
    assert len(made) == 1
    tensor.add_(1)
    folding.of([tensor, None], lambda: made.append(1))
    with torch.inference_mode():
        inner = torch.ones(2)
        for _ in range(2):
            folding.of([inner], lambda: made.append(1))
    assert len(made) == 4


def test_a_change_while_it_is_made_is_seen() -> None:
    """By another thread, say."""
    folding, tensor = Folding(), torch.ones(2)

    def make() -> Tensor:
        made = 2 * tensor
        tensor.add_(1)
        return made

    folding.of([tensor], make)
    assert folding.of([tensor], lambda: 2 * tensor).equal(torch.full((2,), 4.0))


def test_tensors_that_move_to_shared_memory() -> None:
    """The old memory is given back: to read it would end the process."""
    module = FoldingSequential(nn.Conv2d(512, 512, 3, padding=1), nn.BatchNorm2d(512)).eval()
    x = torch.randn(1, 512, 3, 3)
    plain, _ = both(module, x)
    module.share_memory()
    torch.testing.assert_close(both(module, x)[1], plain)


def test_small_scales_in_half_precision() -> None:
    layer = attention(in_channels=64, out_channels=32, num_heads=4).float()
    with torch.no_grad():
        layer.logit_norm.weight[0] = 0.002
        layer.logit_norm.running_var.fill_(1)
        layer.qkv_norm.running_var.fill_(1e4)
        x = 100 * torch.randn(2, 64, 9, 3)
        plain = layer(x)
        half = layer.half()(x.half())
    assert (half - plain).abs().max() < 5e-3 * plain.abs().max()


@pytest.mark.parametrize(
    ("content", "apart"), [(0.5, False), (-0.5, False), (0.01, True), (0.0, True)]
)
def test_the_queries_take_in_their_scale_unless_it_is_tiny(content: float, apart: bool) -> None:
    layer = attention()
    with torch.no_grad():
        layer.logit_norm.weight.fill_(0.7)
        layer.logit_norm.weight[0, 1] = content  # Of q.k in the second head.
        folded = layer._folded()
    assert (folded.logit_scale is not None) == apart
    plain, together = both(layer, picture(layer))
    torch.testing.assert_close(together, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_what_a_recorder_makes_is_not_kept(mode: str) -> None:
    layer = attention()
    x = picture(layer)
    plain = layer(x).detach()
    with torch.no_grad():
        recorded = make_fx(layer, tracing_mode=mode, _allow_non_fake_inputs=True)(x)
        torch.testing.assert_close(recorded(x), plain, rtol=1e-10, atol=1e-10)
    plain, folded = both(layer, x)
    torch.testing.assert_close(folded, plain, rtol=1e-10, atol=1e-10)


def test_under_autocast_and_in_half_precision() -> None:
    module = attention(in_channels=16, out_channels=16).float()
    x = torch.randn(1, 16, 8, 8)
    plain, _ = both(module, x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert (module(x) - plain).abs().max() < 0.1 * plain.abs().max()
    with torch.no_grad():
        half = module.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half - plain).abs().max() < 0.1 * plain.abs().max()


def fused_step(layer: AxialAttention1d) -> None:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    layer(picture(layer)).square().mean().backward()
    with torch.no_grad():
        layer(picture(layer))  # Folded anew, between the gradients and the step.
    optimizer.step()


def other_memory_twice(layer: AxialAttention1d) -> None:
    for _ in range(2):
        layer.qkv.weight.data = layer.qkv.weight.data * 1.5


def through_numpy(layer: AxialAttention1d) -> None:
    layer.qkv.weight.detach().numpy()[:] *= 2


def another_eps(layer: AxialAttention1d) -> None:
    layer.qkv_norm.eps = 0.5
    layer.logit_norm.eps = 0.3


class WithReLU(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def another_norm(layer: AxialAttention1d) -> None:
    layer.qkv_norm = WithReLU(16).double().eval()


def another_projection(layer: AxialAttention1d) -> None:
    layer.qkv = Doubled(6, 16, 1, bias=False).double()


def another_forward(layer: AxialAttention1d) -> None:
    original = layer.qkv.forward
    layer.qkv.forward = lambda x: 3 * original(x)


def parts_around(layer: AxialAttention1d) -> None:
    layer.qkv = nn.Sequential(layer.qkv, nn.Tanh())


def parametrized(layer: AxialAttention1d) -> None:
    nn.utils.parametrizations.weight_norm(layer.qkv)
    both(layer, picture_of_six())
    with torch.no_grad():
        layer.qkv.parametrizations.weight.original0.mul_(3)


def picture_of_six() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 6, 9, 7, dtype=DOUBLE)


@pytest.mark.parametrize(
    "change",
    [
        *(fused_step, other_memory_twice, through_numpy, another_eps, another_norm),
        *(another_projection, another_forward, parts_around, parametrized),
    ],
)
def test_changes_that_torch_does_not_count(change: Callable[[AxialAttention1d], None]) -> None:
    layer = attention()
    x = picture_of_six()
    before, _ = both(layer, x)
    change(layer)
    plain, folded = both(layer, x)
    torch.testing.assert_close(folded, plain, rtol=1e-10, atol=1e-10)
    assert (plain - before).abs().max() > 1e-3


def test_a_folding_sequence_is_cut_and_extended_like_any() -> None:
    layers = stem().layers
    x = torch.randn(1, 3, 9, 7, dtype=DOUBLE)
    with torch.no_grad():
        for cut in (layers[:3], layers[:2], copy.deepcopy(layers).append(nn.Identity())):
            wanted = x
            for module in cut:
                wanted = module(wanted)
            torch.testing.assert_close(cut(x), wanted, rtol=1e-10, atol=1e-10)
