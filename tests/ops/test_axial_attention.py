"""`ops.axial_attention` against a loop written here, one query and one key at a time."""

import math

import pytest
import torch
from torch import Tensor

from axial_d2 import ops
from axial_d2.ops import chooser


def by_loops(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rq: Tensor,
    rk: Tensor,
    rv: Tensor,
    scale: Tensor,
    span: int | None,
) -> tuple[Tensor, Tensor, list[list[list[float]]]]:
    """Content, position, and per head and term every in-band logit."""
    strips, heads, length, _ = q.shape
    content, position = torch.zeros_like(v), torch.zeros_like(v)
    terms: list[list[list[float]]] = [[[] for _ in range(heads)] for _ in range(3)]
    reach = length if not span else (span - 1) // 2
    for b in range(strips):
        for g in range(heads):
            tables = [t if t.dim() == 2 else t[g] for t in (rq, rk, rv)]
            far = (tables[0].shape[0] - 1) // 2
            for o in range(length):
                weights, values = [], []
                for p in range(length):
                    if abs(p - o) > reach:
                        continue
                    row = max(-far, min(far, p - o)) + far
                    logits = [
                        float(q[b, g, o] @ k[b, g, p]),
                        float(q[b, g, o] @ tables[0][row]),
                        float(k[b, g, p] @ tables[1][row]),
                    ]
                    for t in range(3):
                        terms[t][g].append(logits[t])
                    weights.append(math.exp(sum(float(scale[t, g]) * logits[t] for t in range(3))))
                    values.append((v[b, g, p], tables[2][row]))
                for weight, (value, where) in zip(weights, values, strict=True):
                    content[b, g, o] += weight / sum(weights) * value
                    position[b, g, o] += weight / sum(weights) * where
    return content, position, terms


def draw(
    strips: int, heads: int, length: int, depth: int, distance: int, folded: bool = False
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(length * 100 + distance)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    table = (heads, 2 * distance + 1) if folded else (2 * distance + 1,)
    return (
        normal(strips, heads, length, depth),
        normal(strips, heads, length, depth),
        normal(strips, heads, length, 2 * depth),
        normal(*table, depth),
        normal(*table, depth),
        normal(*table, 2 * depth),
        normal(3, heads),
    )


# One position, primes, longer than the table, spans shorter and longer than the strip.
CASES = [(1, 3, None), (2, 1, 0), (5, 4, None), (7, 2, None), (7, 6, 3), (11, 3, 5), (5, 9, 21)]


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("length", "distance", "span"), CASES)
def test_equals_loops(length: int, distance: int, span: int | None, folded: bool) -> None:
    *inputs, scale = draw(2, 3, length, 2, distance, folded)
    content, position, terms = by_loops(*inputs, scale, span)
    got = ops.axial_attention(*inputs, logit_scale=scale, span=span)
    torch.testing.assert_close(got[0], content)
    torch.testing.assert_close(got[1], position)

    mean, variance, count = ops.logit_moments(inputs[0], inputs[1], *inputs[3:5], span=span)
    flat = torch.tensor(terms, dtype=torch.float64)  # (3, G, pairs)
    assert count == flat.shape[2]
    torch.testing.assert_close(mean, flat.mean(dim=2))
    torch.testing.assert_close(variance, flat.var(dim=2, unbiased=False))


def test_no_scale_means_ones() -> None:
    *inputs, _ = draw(2, 2, 5, 3, 4)
    plain = ops.axial_attention(*inputs)
    scaled = ops.axial_attention(*inputs, logit_scale=torch.ones(3, 2, dtype=torch.float64))
    assert torch.equal(plain[0], scaled[0])
    assert torch.equal(plain[1], scaled[1])


@pytest.mark.parametrize("length", [1, 4, 9])
def test_a_span_that_covers_the_strip_is_global(length: int) -> None:
    *inputs, scale = draw(2, 2, length, 2, 20)
    everything = ops.axial_attention(*inputs, logit_scale=scale)
    covering = ops.axial_attention(*inputs, logit_scale=scale, span=2 * length - 1)
    assert torch.equal(everything[0], covering[0])
    assert torch.equal(everything[1], covering[1])
    if length > 1:
        short = ops.axial_attention(*inputs, logit_scale=scale, span=2 * length - 3)
        assert not torch.allclose(everything[0], short[0])


def test_moving_the_input_moves_the_output_away_from_the_ends() -> None:
    *inputs, scale = draw(1, 2, 24, 2, 4)
    moved = [t.roll(3, dims=2) for t in inputs[:3]]
    plain = ops.axial_attention(*inputs, logit_scale=scale, span=7)
    shifted = ops.axial_attention(*moved, *inputs[3:], logit_scale=scale, span=7)
    for before, after in zip(plain, shifted, strict=True):
        # A query 3 from an end or from the seam of the roll sees the same keys in both.
        torch.testing.assert_close(before[:, :, 3:-6], after[:, :, 6:-3])


def test_gradients_are_those_of_the_function() -> None:
    inputs = [t.requires_grad_() for t in draw(1, 2, 5, 2, 2)]

    def outputs(*tensors: Tensor) -> Tensor:
        return torch.stack(ops.axial_attention(*tensors[:-1], logit_scale=tensors[-1], span=3))

    def moments(*tensors: Tensor) -> Tensor:
        mean, variance, _ = ops.logit_moments(*tensors, span=3)
        return torch.stack([mean, variance])

    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradcheck(moments, [*inputs[:2], *inputs[3:5]])


@pytest.mark.parametrize("span", [2, 64, -1, -65, 2.5, True, False, "abc", float("nan")])
def test_a_span_that_cannot_be_centred_is_refused(span: float) -> None:
    *inputs, _ = draw(1, 1, 3, 1, 2)
    with pytest.raises(ValueError, match=r"span: expected an odd number.*got"):
        ops.axial_attention(*inputs, span=span)


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (1, 2, 5), "q: expected"),
        (0, (1, 2, 0, 2), "q: expected"),
        (1, (1, 2, 6, 2), "k: expected q's shape"),
        (2, (1, 2, 6, 4), "v: expected"),
        (3, (8, 2), "query_table: expected .* odd number"),
        (4, (9, 3), "key_table: expected"),
        (5, (3, 9, 4), "value_table: expected"),
        (4, (7, 2), "key_table: expected query_table's 9 rows, got 7"),
        (5, (11, 4), "value_table: expected query_table's 9 rows, got 11"),
    ],
)
def test_shapes_that_do_not_fit_are_named(index: int, shape: tuple, message: str) -> None:
    inputs = list(draw(1, 2, 5, 2, 4)[:-1])
    inputs[index] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        ops.axial_attention(*inputs)


def test_the_chooser_says_which_backend_ran() -> None:
    *inputs, _ = draw(1, 1, 3, 1, 2)
    with ops.record_backends() as ran:
        ops.axial_attention(*inputs)
        with ops.use_backend("reference"):
            ops.axial_attention(*inputs)
    ops.axial_attention(*inputs)
    assert len(ran) == 2
    assert ran[1] == "reference"


def test_a_backend_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = ops.BACKENDS["reference"]
    picky = ops.Backend(
        "picky", reference.axial_attention, reference.logit_moments, lambda sizes: "it rains"
    )
    monkeypatch.setattr(chooser, "BACKENDS", {"picky": picky, "reference": reference})
    *inputs, _ = draw(1, 1, 3, 1, 2)
    with pytest.raises(ValueError, match="'picky' can't run here: it rains"):
        ops.axial_attention(*inputs, backend="picky")
    with ops.record_backends() as ran:
        ops.axial_attention(*inputs)
    assert ran == ["reference"]
    with pytest.raises(ValueError, match="expected one of auto, picky, reference, got 'fast'"):
        ops.axial_attention(*inputs, backend="fast")
