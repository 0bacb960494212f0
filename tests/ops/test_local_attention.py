"""Local 2-D attention: against loops written here, the bounded form against the plain one."""

import math

import pytest
import torch
from torch import Tensor

from axial_d2 import ops
from axial_d2.analysis import PeakMemory
from axial_d2.ops import tiles

# Map and window: one place, lines, primes, nothing but the place itself, wider than the map; tiles
# that end beyond the map by more than the window reaches (9 with 1, 25 with 3).
CASES = [
    ((1, 1), 7),
    ((1, 9), 3),
    ((7, 1), 5),
    ((9, 3), 1),
    ((4, 6), 3),
    ((3, 2), 9),
    ((11, 17), 7),
]
KINDS = ["local", "ps_local"]


def draw(
    kind: str, size: tuple[int, int], window: int, *, pictures: int = 2, depth: int = 3
) -> tuple[list[Tensor], Tensor]:
    """q, k, v and as many tables as the kind has, and scales."""
    generator = torch.Generator().manual_seed(100 * size[0] + size[1])

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    table = (window, window)
    inputs = [normal(pictures, 2, *size, d) for d in (depth, depth, 5)] + [normal(*table, depth)]
    if kind == "ps_local":
        inputs += [normal(*table, depth), normal(*table, 5)]
    return inputs, normal(3 if kind == "ps_local" else 2, 2)


def by_loops(inputs: list[Tensor], scale: Tensor) -> tuple[Tensor, Tensor, list]:
    """Content, position, and per term and head every logit: one query and one key at a time."""
    q, k, v, rq, *rest = inputs
    rk, rv = rest or (None, None)
    pictures, heads, height, width, _ = q.shape
    reach = (rq.shape[0] - 1) // 2
    content, position = torch.zeros_like(v), torch.zeros_like(v)
    terms: list = [[[] for _ in range(heads)] for _ in scale]
    for n in range(pictures):
        for g in range(heads):
            for y in range(height):
                for x in range(width):
                    seen = []
                    for dy in range(-reach, reach + 1):
                        for dx in range(-reach, reach + 1):
                            if not (0 <= y + dy < height and 0 <= x + dx < width):
                                continue
                            query, key = q[n, g, y, x], k[n, g, y + dy, x + dx]
                            place = (dy + reach, dx + reach)
                            logits = [float(query @ key), float(query @ rq[place])]
                            if rk is not None:
                                logits.append(float(key @ rk[place]))
                            for t, logit in enumerate(logits):
                                terms[t][g].append(logit)
                            weight = math.exp(
                                sum(float(scale[t, g]) * logit for t, logit in enumerate(logits))
                            )
                            where = 0 if rv is None else rv[place]
                            seen.append((weight, v[n, g, y + dy, x + dx], where))
                    total = sum(weight for weight, _, _ in seen)
                    for weight, value, where in seen:
                        content[n, g, y, x] += weight / total * value
                        position[n, g, y, x] += weight / total * where
    return content, position, terms


@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "window"), CASES[:-1])
def test_equals_loops(kind: str, size: tuple[int, int], window: int, backend: str) -> None:
    inputs, scale = draw(kind, size, window)
    inputs, scale = [t.detach() for t in inputs], scale.detach()
    content, position, terms = by_loops(inputs, scale)
    got = ops.local_attention(*inputs, logit_scale=scale, backend=backend)
    torch.testing.assert_close(got[0], content, rtol=1e-12, atol=1e-12)
    if kind == "local":
        assert got[1] is None
    else:
        torch.testing.assert_close(got[1], position, rtol=1e-12, atol=1e-12)
    values = torch.tensor(terms, dtype=torch.float64)  # (T, G, pairs)
    moments = ops.local_logit_moments(*inputs[:2], *inputs[3:5], backend=backend)
    torch.testing.assert_close(moments[0], values.mean(dim=2), rtol=1e-12, atol=1e-12)
    variance = values.var(dim=2, correction=0)
    torch.testing.assert_close(moments[1], variance, rtol=1e-12, atol=1e-12)
    assert moments[2] == values.shape[2]


def run(
    backend: str, inputs: list[Tensor], scale: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    leaves = [t for t in (*inputs, scale) if t is not None]
    for t in leaves:
        t.grad = None
    outputs = list(ops.local_attention(*inputs, logit_scale=scale, backend=backend))
    outputs += ops.local_logit_moments(*inputs[:2], *inputs[3:5], backend=backend)[:2]
    outputs = [o for o in outputs if o is not None]
    sum((o * torch.sin(torch.arange(o.numel()).view_as(o) + 1.0)).sum() for o in outputs).backward()
    return [o.detach() for o in outputs], [t.grad.clone() for t in leaves]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_floats", [1, 3000, 1 << 20])
@pytest.mark.parametrize(("size", "window"), [*CASES, ((9, 23), 19), ((2, 25), 3)])
def test_blocks_equal_the_reference_forward_and_backward(
    kind: str,
    size: tuple[int, int],
    window: int,
    block_floats: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "BLOCK_FLOATS", block_floats)
    inputs, scale = draw(kind, size, window)
    if block_floats == 3000:  # Without scales once.
        scale = None
    expected, got = run("reference", inputs, scale), run("blocked", inputs, scale)
    for one, other in zip([*expected[0], *expected[1]], [*got[0], *got[1]], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(kind: str) -> None:
    inputs, scale = draw(kind, (2, 3), 3, pictures=1, depth=2)

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        attended = ops.local_attention(*tensors[:-1], logit_scale=tensors[-1])
        moments = ops.local_logit_moments(*tensors[:2], *tensors[3:-1][:2])[:2]
        return tuple(t for t in (*attended, *moments) if t is not None)

    assert torch.autograd.gradcheck(outputs, (*inputs, scale), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_wider_than_the_map_is_attention_over_the_whole_map(kind: str) -> None:
    """Without positions, next to torch's own attention."""
    inputs, _ = draw(kind, (4, 5), 9)
    q, k, v, *tables = (t.detach() for t in inputs)
    content, _ = ops.local_attention(q, k, v, *(torch.zeros_like(t) for t in tables))
    flat = (t.flatten(2, 3) for t in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*flat, scale=1.0)
    torch.testing.assert_close(content.flatten(2, 3), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_a_few_maps_whatever_the_window(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "BLOCK_FLOATS", 1 << 12)
    monkeypatch.setattr(tiles, "LONGEST_SIDE", 4)
    peaks = {}
    for backend, window in (("blocked", 3), ("blocked", 7), ("reference", 7)):
        inputs, scale = draw(kind, (24, 32), window, pictures=1, depth=5)
        with PeakMemory([t for t in inputs if t is not None]) as storage:
            outputs = ops.local_attention(*inputs, logit_scale=scale, backend=backend)
            moments = ops.local_logit_moments(*inputs[:2], *inputs[3:5], backend=backend)
            sum(o.sum() for o in (*outputs, *moments[:2]) if o is not None).backward()
        peaks[backend, window] = storage.peak / (inputs[0].numel() * 8)
    # In maps of queries: outputs, scaled queries, gradients, and what a tile needs.
    assert peaks["blocked", 7] < 14
    assert peaks["blocked", 7] < 1.3 * peaks["blocked", 3]
    assert peaks["reference", 7] > 49


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "window"), [((1, 1), 31), ((3, 2), 31), ((17, 13), 15)])
def test_wide_windows_take_less_memory_than_all_pairs(
    kind: str, size: tuple[int, int], window: int
) -> None:
    """At the block size that users have: what a window has beyond the map costs nothing."""
    peaks = []
    for backend in ("blocked", "reference"):
        inputs, scale = draw(kind, size, window, pictures=1, depth=4)
        with PeakMemory(inputs) as storage:
            outputs = ops.local_attention(*inputs, logit_scale=scale, backend=backend)
            moments = ops.local_logit_moments(*inputs[:2], *inputs[3:5], backend=backend)
            sum(o.sum() for o in (*outputs, *moments[:2]) if o is not None).backward()
        # Gradients of the tables are as large as the tables, whatever the map.
        peaks.append(storage.peak - 2 * sum(t.numel() * 8 for t in inputs[3:]))
    assert peaks[0] < peaks[1] / 2


@pytest.mark.parametrize(("window", "by_key"), [(7, False), (7, True), (9, False), (9, True)])
def test_a_block_is_no_larger_than_asked_for(
    window: int, by_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "BLOCK_FLOATS", 40_000)
    grid = tiles.Grid(61, 130, window, by_key)
    rows, columns = grid.tile
    assert max(rows, columns) <= tiles.LONGEST_SIDE
    seen = torch.zeros(3, 2, 61, 130, 1)
    for block in grid.blocks(heads=3, pictures=2):
        queries, keys = (f(torch.ones(3, 2, 61, 130, 1)) for f in (block.queries, block.keys))
        assert (queries @ keys.mT).numel() <= 40_000
        if by_key:
            assert keys.numel() * window**2 <= 40_000
        here = torch.zeros(3, 2, 61, 130, 1)
        block.put_queries(here, queries)
        seen += here
    # Every place of every head once.
    assert torch.equal(seen, torch.ones_like(seen))


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_as_good_as_the_references(kind: str) -> None:
    inputs, scale = draw(kind, (13, 19), 7)
    exact = run("reference", inputs, scale)
    single = [t.detach().float().requires_grad_() for t in (*inputs, scale)]
    plain, fast = (run(b, single[:-1], single[-1]) for b in ("reference", "blocked"))
    sizes = [t.abs().max() for t in (*exact[0], *exact[1])]
    mean, variance = (len(exact[0]) - i for i in (2, 1))
    sizes[mean] = exact[0][variance].sqrt().max()  # The mean of the logits is near zero.
    for size, true, eager, ours in zip(
        sizes, [*exact[0], *exact[1]], [*plain[0], *plain[1]], [*fast[0], *fast[1]], strict=True
    ):
        # Twice the reference's own error, or four roundings of the largest value.
        rounding = torch.finfo(torch.float32).eps * size
        bound = max(2 * (eager - true).abs().max(), 4 * rounding)
        assert (ours - true).abs().max() <= bound


@pytest.mark.parametrize("block_floats", [10_000, 1 << 20])
def test_moments_survive_a_large_mean(block_floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The smaller holds one head's tiles, the larger both heads'.
    monkeypatch.setattr(tiles, "BLOCK_FLOATS", block_floats)
    inputs, _ = draw("ps_local", (13, 19), 7)
    # Rounded to single precision first: this is about the sums, not about the inputs.
    q, k = ((100 + t.detach()).float().double() for t in inputs[:2])
    tables = [t.detach().float().double() for t in inputs[3:5]]
    _, exact, _ = ops.local_logit_moments(q, k, *tables, backend="reference")
    single = [t.float() for t in (q, k, *tables)]
    errors = [
        ((ops.local_logit_moments(*single, backend=b)[1].double() - exact) / exact).abs().max()
        for b in ("reference", "blocked")
    ]
    assert errors[1] <= max(2 * errors[0], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_accumulates_in_single(kind: str) -> None:
    inputs, scale = draw(kind, (13, 19), 7)
    rough = [t.detach().bfloat16() for t in (*inputs, scale)]
    exact = ops.local_attention(
        *(t.double() for t in rough[:-1]), logit_scale=rough[-1].double(), backend="reference"
    )
    results = {
        b: ops.local_attention(*rough[:-1], logit_scale=rough[-1], backend=b)
        for b in ("reference", "blocked")
    }
    for true, plain, ours in zip(exact, results["reference"], results["blocked"], strict=True):
        if true is not None:
            assert ours.dtype == torch.bfloat16
            assert (ours - true).abs().max() <= 2 * (plain - true).abs().max()


def test_a_backward_pass_inside_autocast_stays_in_single_precision() -> None:
    inputs, scale = draw("ps_local", (5, 7), 3)
    inputs = [t.detach().float().requires_grad_() for t in inputs]

    def gradient(inside: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            content, position = ops.local_attention(*inputs, logit_scale=scale.detach().float())
            mean, variance, _ = ops.local_logit_moments(*inputs[:2], *inputs[3:5])
            loss = (content.sin() + position.cos()).sum() + (mean + variance).sum()
            return torch.autograd.grad(loss, inputs[0])[0]

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: (2, 3, 4, 5)}, r"q: expected \(N, G, H, W, D\) with none .* got \(2, 3, 4, 5\)"),
        ({1: (2, 2, 4, 6, 4)}, r"k: expected q's shape \(2, 2, 4, 6, 3\), got \(2, 2, 4, 6, 4\)"),
        ({2: (2, 2, 6, 4, 5)}, r"v: expected \(2, 2, 4, 6, 'Dv'\), got"),
        ({3: (4, 4, 3)}, r"query_table: expected \(m, m, 3\) with an odd m, got \(4, 4, 3\)"),
        ({3: (3, 5, 3)}, r"query_table: expected \(m, m, 3\) with an odd m, got \(3, 5, 3\)"),
        ({4: (5, 5, 3)}, r"key_table: expected \(3, 3, 3\) with an odd m, got \(5, 5, 3\)"),
        ({5: (3, 3, 3)}, r"value_table: expected \(3, 3, 5\) with an odd m, got \(3, 3, 3\)"),
        ({6: (2, 2)}, r"logit_scale: expected \(3, 2\), got \(2, 2\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change: dict[int, tuple], message: str) -> None:
    inputs, scale = draw("ps_local", (4, 6), 3)
    inputs.append(scale)
    for place, shape in change.items():
        inputs[place] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        ops.local_attention(*inputs[:-1], logit_scale=inputs[-1])


def test_options_that_cannot_work_are_named() -> None:
    inputs, _ = draw("local", (4, 6), 3)
    with pytest.raises(ValueError, match="backend: expected one of auto, blocked, reference"):
        ops.local_attention(*inputs, backend="kept")
    for window in (0, -1, 4, 7.0, True):
        with pytest.raises(ValueError, match="window: expected an odd number of 1 or more"):
            ops.check_window(window)
    assert ops.check_window(7) == 7
