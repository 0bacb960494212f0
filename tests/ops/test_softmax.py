"""A softmax from powers of two, in one pass where no logit is large."""

import pytest
import torch
from torch import Tensor

from axial_d2 import ops
from axial_d2.ops.softmax import LOG2_E, powers


def softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax, and the sums that it was divided by."""
    out = torch.empty_like(logits)
    scaled = logits * LOG2_E
    sums = powers(scaled, logits.new_ones(logits.shape[-1], 1), out=out)
    return out / sums, sums


@pytest.mark.parametrize("keys", [1, 7, 14, 56])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 30.0, -30.0, 300.0, -300.0, 1e4, -1e4])
def test_equals_torchs(keys: int, dtype: torch.dtype, offset: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(5, 6, keys, generator=generator, dtype=dtype) + offset
    logits[0, 0] -= offset  # A row that lies elsewhere.
    bound = 1e-12 if dtype == torch.float64 else 1e-6
    wanted = logits.double().softmax(dim=-1).to(dtype)
    # What adding the offset rounded is no error of the softmax.
    bound += abs(offset) * torch.finfo(dtype).eps
    torch.testing.assert_close(softmax(logits)[0], wanted, rtol=4 * bound, atol=bound)


def test_the_largest_is_looked_for_only_where_it_must_be() -> None:
    logits = torch.randn(4, 5)
    _, sums = softmax(logits)
    torch.testing.assert_close(sums, logits.exp().sum(dim=-1, keepdim=True))
    _, sums = softmax(logits + 100)
    assert (sums >= 1).all() and (sums <= 5).all()  # The largest power is 1.


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_a_number_stays_in_its_row(bad: float) -> None:
    logits = torch.randn(3, 4)
    logits[1, 2] = bad
    weights, _ = softmax(logits)
    torch.testing.assert_close(weights, logits.softmax(dim=-1), equal_nan=True)
    assert weights[1].isnan().any() and weights[[0, 2]].isfinite().all()


def test_rows_of_minus_infinity() -> None:
    logits = torch.randn(3, 4)
    logits[0, :3] = logits[1] = -torch.inf
    torch.testing.assert_close(softmax(logits)[0], logits.softmax(dim=-1), equal_nan=True)


@pytest.mark.parametrize("backend", ["blocked", "kept"])
@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("span", [None, 5])
def test_attention_with_large_logits(backend: str, size: float, span: int | None) -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = [(6, 2, 9, d) for d in (3, 3, 5)] + [(17, d) for d in (3, 3, 5)]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    for t in inputs[:2]:
        t *= size
    inputs = [t.requires_grad_() for t in inputs]
    results = []
    for name in (backend, "reference"):
        content, position = ops.axial_attention(*inputs, span=span, backend=name)
        gradients = torch.autograd.grad((content * position).sum(), inputs)
        results.append([content, position, *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * size)
