"""Every backend against the reference, forward and backward, at awkward sizes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from axial_d2 import ops
from axial_d2.analysis.memory import PeakMemory
from axial_d2.layers import AxialAttention2d
from axial_d2.ops import blocked, blocks, compiled, kept

# `test_triton` has those of its own: its kernels are for another device.
FAST = [name for name in ops.BACKENDS if name not in ("reference", "triton")]
# Strips, length, distances in the table, span: one position, primes, a table shorter than the
# strip, spans shorter and longer than it.
CASES = [(3, 1, 2, None), (4, 7, 9, None), (5, 13, 4, None), (3, 11, 20, 5), (2, 6, 3, 3)]


def draw(
    strips: int,
    length: int,
    distance: int,
    folded: bool | tuple[bool, bool, bool],
    *,
    heads: int = 2,
    depth: int = 3,
    value_depth: int = 6,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    by_table = (folded,) * 3 if isinstance(folded, bool) else folded
    tables = [(heads, 2 * distance + 1) if f else (2 * distance + 1,) for f in by_table]
    strip = (strips, heads, length)
    shapes = [
        (*strip, depth),
        (*strip, depth),
        (*strip, value_depth),
        (*tables[0], depth),
        (*tables[1], depth),
        (*tables[2], value_depth),
        (3, heads),
    ]
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    ]


def strips_and_pairs(q: Tensor, span: int | None) -> int:
    """Logits per head, counted one by one."""
    strips, _, length, _ = q.shape
    near = [abs(i - j) <= (span or 2 * length) // 2 for i in range(length) for j in range(length)]
    return strips * sum(near)


def run(backend: str, inputs: list[Tensor], span: int | None) -> tuple[list[Tensor], list[Tensor]]:
    for t in inputs:
        t.grad = None
    *tensors, scale = inputs
    with ops.record_backends() as ran:
        outputs = list(ops.axial_attention(*tensors, logit_scale=scale, span=span, backend=backend))
    assert ran == [backend]
    mean, variance, _ = ops.logit_moments(
        tensors[0], tensors[1], *tensors[3:5], span=span, backend=backend
    )
    outputs += [mean, variance]

    def scale_of(mean: Tensor, variance: Tensor, count: int) -> Tensor:
        assert count == strips_and_pairs(tensors[0], span)
        return scale * (variance + 0.1).rsqrt() + 0.1 * mean

    with ops.record_backends() as ran:
        outputs += ops.normalized_axial_attention(
            *tensors, scale_of=scale_of, span=span, backend=backend
        )
    assert ran == [backend]
    sum((o * torch.sin(torch.arange(o.numel()).view_as(o) + 1.0)).sum() for o in outputs).backward()
    return outputs, [t.grad.clone() for t in inputs]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("block_floats", [1, 200, 1 << 18])
@pytest.mark.parametrize(("strips", "length", "distance", "span"), CASES)
def test_equals_the_reference(
    backend: str,
    strips: int,
    length: int,
    distance: int,
    span: int | None,
    folded: bool,
    block_floats: int,
    closed_form: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_FLOATS", block_floats)
    monkeypatch.setattr(blocked, "MOMENT_FLOATS", block_floats)
    monkeypatch.setattr(blocked, "CLOSED_FORM_FROM", 0 if closed_form else 1000)
    inputs = draw(strips, length, distance, folded)
    expected, got = run("reference", inputs, span), run(backend, inputs, span)
    for one, other in zip([*expected[0], *expected[1]], [*got[0], *got[1]], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("span", [None, 5])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("depth", "value_depth"), [(1, 1), (16, 17), (20, 5)])
@pytest.mark.parametrize(
    "folded", [(False, True, False), (True, False, True), (False, False, True)]
)
def test_equals_the_reference_at_any_depth_and_with_some_tables_folded(
    backend: str,
    span: int | None,
    heads: int,
    depth: int,
    value_depth: int,
    folded: tuple[bool, bool, bool],
) -> None:
    inputs = draw(3, 7, 4, folded, heads=heads, depth=depth, value_depth=value_depth)
    expected, got = run("reference", inputs, span), run(backend, inputs, span)
    for one, other in zip([*expected[0], *expected[1]], [*got[0], *got[1]], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_results_may_be_changed_in_place(backend: str) -> None:
    *inputs, _ = draw(2, 5, 6, False)
    content, position = ops.axial_attention(*inputs, backend=backend)
    content += position
    content.sum().backward()
    assert all(t.grad is not None for t in inputs)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_scales_of_the_wrong_shape_are_refused(backend: str) -> None:
    *inputs, _ = draw(2, 5, 6, False)
    with pytest.raises(ValueError, match=r"scale_of's result: expected \(3, 2\), got \(2,\)"):
        ops.normalized_axial_attention(
            *inputs, scale_of=lambda mean, variance, count: mean[0], backend=backend
        )


@pytest.mark.parametrize("backend", FAST)
def test_gradients_keep_their_precision_where_keys_and_values_have_a_mean(backend: str) -> None:
    inputs = draw(6, 65, 64, False)
    for i in (1, 2):
        inputs[i] = (inputs[i].detach() + 3).requires_grad_()
    *tensors, scale = inputs

    def gradient(name: str, dtype: torch.dtype) -> Tensor:
        cast = [t.detach().to(dtype).requires_grad_() for t in tensors]
        results = ops.axial_attention(*cast, logit_scale=0.1 * scale.to(dtype), backend=name)
        wave = torch.sin(torch.arange(results[0].numel()).view_as(results[0]) + 1.0).to(dtype)
        sum((r * wave).sum() for r in results).backward()
        return cast[0].grad.double()

    exact = gradient("reference", torch.float64)
    errors = [(gradient(b, torch.float32) - exact).norm() for b in ("reference", backend)]
    assert errors[1] <= 2 * errors[0]


@pytest.mark.parametrize("backend", FAST)
def test_single_precision_is_as_good_as_the_references(backend: str) -> None:
    exact_inputs = draw(6, 33, 12, False)
    exact = run("reference", exact_inputs, None)
    single = [t.detach().float().requires_grad_() for t in exact_inputs]
    plain, fast = run("reference", single, None), run(backend, single, None)
    for true, eager, ours in zip(
        [*exact[0], *exact[1]], [*plain[0], *plain[1]], [*fast[0], *fast[1]], strict=True
    ):
        eager_error = (eager - true).abs().max()
        # Twice the reference's own error, or four roundings of the largest value.
        bound = max(2 * eager_error, 4 * torch.finfo(torch.float32).eps * true.abs().max())
        assert (ours - true).abs().max() <= bound


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("mean", "spread"), [(10, 1), (3, 0.01)])
@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("span", [None, 7])
def test_moments_survive_a_large_mean(
    backend: str,
    mean: float,
    spread: float,
    span: int | None,
    closed_form: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocked, "CLOSED_FORM_FROM", 0 if closed_form else 1000)
    inputs = draw(8, 21, 30, False)
    # Rounded to single precision first: this is about the sums, not about the inputs.
    q, k = ((mean + spread * t.detach()).float().double() for t in inputs[:2])
    tables = [t.detach().float().double() for t in inputs[3:5]]
    _, exact, _ = ops.logit_moments(q, k, *tables, span=span, backend="reference")
    single = [t.float() for t in (q, k, *tables)]
    _, eager, _ = ops.logit_moments(*single, span=span, backend="reference")
    _, ours, _ = ops.logit_moments(*single, span=span, backend=backend)
    errors = [((m.double() - exact) / exact).abs().max() for m in (eager, ours)]
    # By blocks the logits themselves are in single precision, as the reference's are.
    assert errors[1] <= max(2 * errors[0], 1e-5)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("span", [None, 7])
def test_moments_in_autocast_and_of_half_precision_are_summed_in_single(
    backend: str, span: int | None
) -> None:
    tensors = [
        t.detach().float() for i, t in enumerate(draw(40, 21, 30, False)) if i in (0, 1, 3, 4)
    ]
    _, exact, _ = ops.logit_moments(*tensors, span=span, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, inside, _ = ops.logit_moments(*tensors, span=span, backend=backend)
    torch.testing.assert_close(inside, exact, rtol=1e-6, atol=0)
    rounded = [t.half() for t in tensors]
    _, exact, _ = ops.logit_moments(*(t.float() for t in rounded), span=span, backend=backend)
    _, half, _ = ops.logit_moments(*rounded, span=span, backend=backend)
    torch.testing.assert_close(half, exact.half(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("backend", FAST)
def test_half_precision_accumulates_in_single(backend: str) -> None:
    inputs = [t.detach().to(torch.bfloat16) for t in draw(4, 40, 60, False)]
    exact = ops.axial_attention(
        *(t.double() for t in inputs[:-1]), logit_scale=inputs[-1].double(), backend="reference"
    )
    for backend_name, factor in (("reference", 1), (backend, 2)):
        rough = ops.axial_attention(*inputs[:-1], logit_scale=inputs[-1], backend=backend_name)
        errors = [float((r - e).abs().max()) for r, e in zip(rough, exact, strict=True)]
        if factor == 1:
            eager_errors = errors
        assert all(e <= factor * b for e, b in zip(errors, eager_errors, strict=True))


@pytest.mark.parametrize("backend", [*FAST, "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_norm_takes_its_moments_in_single_precision_inside_autocast(
    backend: str, dtype: torch.dtype
) -> None:
    *inputs, scale = (t.detach().to(dtype) for t in draw(4, 21, 30, False))
    seen = []

    def scale_of(mean: Tensor, variance: Tensor, count: int) -> Tensor:
        seen.append((mean, variance))
        return scale.float() * (variance + 1e-5).rsqrt()

    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            ops.normalized_axial_attention(*inputs, scale_of=scale_of, backend=backend)
    assert len(seen) == 2
    exact = ops.logit_moments(*(t.double() for t in (*inputs[:2], *inputs[3:5])))
    for moments in seen:
        for got, want in zip(moments, exact, strict=False):
            assert got.dtype == torch.float32
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


def test_maps_are_kept_only_where_they_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_why_not_built", lambda: "there is no compiler")
    *inputs, scale = (t.detach().float() for t in draw(3, 7, 9, False))
    with ops.record_backends() as ran:
        ops.axial_attention(*inputs, logit_scale=scale)
    assert ran == ["kept"]
    # 64^2 times (4 maps of 511 strips, and rows of 1 + 1 + 2 channels) is MOST_KEPT to the number.
    large = [torch.zeros(512, 1, 64, d) for d in (1, 1, 2)]
    tables = [torch.zeros(3, d) for d in (1, 1, 2)]
    with ops.record_backends() as ran:
        ops.axial_attention(*(t[1:] for t in large), *tables)
        ops.axial_attention(*large, *tables)
    assert ran == ["kept", "blocked"]
    message = f"'kept' can't run here: .* {4 * 64**2 * 513} numbers .* more than {kept.MOST_KEPT}; "
    with pytest.raises(ValueError, match=message):
        ops.axial_attention(*large, *tables, backend="kept")
    # Few strips, long and deep: small maps, but a row of each table for every pair.
    thin = [torch.zeros(1, 1, 400, d) for d in (32, 32, 64)]
    with ops.record_backends() as ran:
        ops.axial_attention(*thin, *(torch.zeros(3, d) for d in (32, 32, 64)))
    assert ran == ["blocked"]


@pytest.mark.parametrize("backend", FAST)
def test_a_backward_pass_inside_autocast_stays_in_single_precision(backend: str) -> None:
    *inputs, scale = (t.detach().float().requires_grad_() for t in draw(3, 9, 12, False))

    def scale_of(mean: Tensor, variance: Tensor, count: int) -> Tensor:
        return scale * (variance + 1e-5).rsqrt()

    def gradients(inside: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            pairs = [
                ops.axial_attention(*inputs, logit_scale=scale, backend=backend),
                ops.normalized_axial_attention(*inputs, scale_of=scale_of, backend=backend),
                ops.logit_moments(*inputs[:2], *inputs[3:5], backend=backend)[:2],
            ]
            return [torch.autograd.grad((a.sin() + b.cos()).sum(), inputs[0])[0] for a, b in pairs]

    for got, wanted in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_the_reference_takes_half_precision_with_a_scale_in_single() -> None:
    *inputs, scale = (t.detach() for t in draw(2, 5, 6, False))
    half = [t.to(torch.bfloat16) for t in inputs]
    content, _ = ops.axial_attention(*half, logit_scale=scale.float(), backend="reference")
    assert content.dtype == torch.bfloat16


def test_working_memory_is_of_one_thread_and_one_kind() -> None:
    """`blocked` keeps its working memory from call to call."""
    cases = [
        [t.detach().to(kind) for t in draw(3, length, 4, True)]
        for length, kind in ((9, torch.float32), (5, torch.float64), (1, torch.float32))
    ]

    def attend(number: int) -> list[Tensor]:
        *tensors, scale = cases[number % len(cases)]
        with (torch.inference_mode, torch.no_grad, torch.enable_grad)[number // 3 % 3]():
            return list(ops.axial_attention(*tensors, logit_scale=scale, backend="blocked"))

    wanted = [
        ops.axial_attention(*tensors, logit_scale=scale, backend="reference")
        for *tensors, scale in cases
    ]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(attend, range(198)))
    for number, got in enumerate([*results, *map(attend, range(18))]):
        for one, other in zip(got, wanted[number % len(cases)], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", FAST)
def test_fake_tensors_leave_no_trace(backend: str) -> None:
    *tensors, scale = (t.detach() for t in draw(3, 9, 4, True))

    def attend(inputs: list[Tensor], scale: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(ops.axial_attention(*inputs, logit_scale=scale, backend=backend))

    wanted = attend(tensors, scale)
    for _ in range(2):
        with FakeTensorMode() as mode:
            fake = attend([mode.from_tensor(t) for t in tensors], mode.from_tensor(scale))
            assert fake[0].shape == wanted[0].shape
        for one, other in zip(attend(tensors, scale), wanted, strict=True):
            torch.testing.assert_close(one, other)


def test_torch_export_takes_a_layer() -> None:
    layer = AxialAttention2d(in_channels=8, out_channels=16, num_heads=2, stride=2).eval()
    x = torch.randn(1, 8, 9, 7)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradients", [False, True])
def test_few_strips_take_no_memory_for_windows_of_the_tables(gradients: bool) -> None:
    """Of one strip and many heads they would be 64 times what the result needs."""
    q, k = torch.randn(2, 1, 8, 64, 16)
    q.requires_grad_(gradients)
    v = torch.randn(1, 8, 64, 64)
    tables = [torch.randn(127, d) for d in (16, 16, 64)]
    with PeakMemory([q, k, v, *tables]) as memory:
        content, _ = ops.axial_attention(q, k, v, *tables, backend="blocked")
        if gradients:
            content.sum().backward()
    working = 4 * 8 * (blocks.BLOCK_FLOATS if gradients else blocks.BLOCK_FLOATS // 2)
    assert memory.peak < working + 12 * 4 * v.numel() < 4 * 8 * 64 * 64 * 64


@pytest.mark.parametrize(("strips", "length"), [(1, 512), (3, 300)])
def test_long_strips_take_no_memory_for_windows_of_the_tables(strips: int, length: int) -> None:
    q, k = torch.randn(2, strips, 1, length, 32)
    inputs = [q, k, torch.randn(strips, 1, length, 64)]
    inputs += [torch.randn(2 * length - 1, d) for d in (32, 32, 64)]
    inputs = [t.requires_grad_() for t in inputs]
    with PeakMemory(inputs) as memory:
        ops.axial_attention(*inputs, backend="blocked")[0].sum().backward()
    # Three maps, one spread over lines, and twice what goes in and comes out.
    map_, own = strips * length**2, sum(t.numel() for t in inputs)
    assert memory.peak < 4 * (3 + 3) * map_ + 4 * 4 * own < 4 * length**2 * 128


def test_a_transform_over_values() -> None:
    *tensors, _ = (t.detach() for t in draw(3, 9, 4, True))
    q, k, v, *tables = tensors
    for backend in ("blocked", "kept"):

        def attend(v: Tensor, backend: str = backend) -> Tensor:
            with torch.no_grad():
                return ops.summed_axial_attention(q, k, v, *tables, backend=backend)

        both = torch.func.vmap(attend)(torch.stack([v, 2 * v]))
        torch.testing.assert_close(both[0], attend(v))
        torch.testing.assert_close(both[1], attend(2 * v))


def test_no_channels() -> None:
    inputs = [torch.randn(40, 3, 60, 0)] * 3 + [torch.randn(119, 0)] * 3
    content, _ = ops.axial_attention(*inputs, backend="blocked")
    assert content.shape == (40, 3, 60, 0)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (1, 2, 3, 0)])
def test_tensors_may_lie_in_any_order(order: tuple[int, ...]) -> None:
    """Of the last one no product takes the matrices where they lie."""
    *tensors, _ = (t.detach() for t in draw(5, 9, 4, True))
    back = [order.index(n) for n in range(4)]
    laid = [t.permute(order).contiguous().permute(back).requires_grad_() for t in tensors[:3]]
    plain = [t.requires_grad_() for t in tensors]
    results = []
    for inputs in (plain, [*laid, *plain[3:]]):
        content, position = ops.axial_attention(*inputs, backend="blocked")
        # An expanded gradient, too.
        results.append([content, position])
        results[-1] += torch.autograd.grad(content.sum() + 2 * position.square().sum(), inputs)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_graph_with_sizes_left_open() -> None:
    tensors = [t.detach() for t in draw(3, 9, 4, True)][:-1]

    def attend(*inputs: Tensor) -> Tensor:
        return sum(ops.axial_attention(*inputs, backend="blocked"))

    graph = make_fx(attend, tracing_mode="symbolic")(*tensors)
    torch.testing.assert_close(graph(*tensors), attend(*tensors))


def test_a_transform_that_fails_leaves_no_trace() -> None:
    *tensors, _ = (t.detach() for t in draw(3, 9, 4, True))

    def attend(q: Tensor) -> Tensor:
        return ops.summed_axial_attention(q, *tensors[1:], backend="blocked")

    with torch.no_grad():
        wanted = attend(tensors[0])
        with pytest.raises(RuntimeError, match="[Bb]atching rule|vmap"):
            torch.func.vmap(attend)(torch.stack([tensors[0]] * 2))
        torch.testing.assert_close(attend(tensors[0]), wanted)
