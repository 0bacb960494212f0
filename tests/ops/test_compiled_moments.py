"""The compiled moments against the logits' own, in both precisions, with and without a span."""

import pytest
import torch
from torch import Tensor

from axial_d2.ops import compiled, compiled_moments, reference

pytestmark = pytest.mark.skipif(
    compiled._why_not_built() is not None, reason=f"not built: {compiled._why_not_built()}"
)


def moments_and_gradients(function, tensors: list[Tensor], span: int | None) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    length = leaves[0].shape[-2]
    rows = leaves[2:]
    if function is reference.logit_moments:
        rows = reference.rows_in_use(*rows, length=length)
    mean, variance, count = function(*leaves[:2], *rows, span=span)
    wave = torch.linspace(-1, 1, mean.numel(), dtype=mean.dtype).view_as(mean)
    grads = torch.autograd.grad((mean * wave + variance * wave.flip(0)).sum(), leaves)
    return [mean, variance, torch.tensor(float(count)), *grads]


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the operator ran, as a list of that length."""
    ran, run = [], compiled_moments._Sums.apply
    monkeypatch.setattr(compiled_moments._Sums, "apply", lambda *a: ran.append(1) or run(*a))
    return ran


def draw(strips, heads, length, depth, *, per_head=False, dtype=torch.float64, mean=0.0):
    generator = torch.Generator().manual_seed(length * 100 + depth)
    rows = (heads, 2 * 9 + 1, depth) if per_head else (2 * 9 + 1, depth)
    shapes = [(strips, heads, length, depth)] * 2 + [rows] * 2
    shift = [mean, -mean, 0.0, 0.0]
    return [
        (torch.randn(s, generator=generator, dtype=torch.float64) + m).to(dtype)
        for s, m in zip(shapes, shift, strict=True)
    ]


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize(
    "strips, heads, length, depth, span",
    [
        (1, 1, 5, 1, None), (9, 2, 13, 3, None), (17, 3, 29, 4, 7), (5, 2, 11, 5, 1),
        (8, 1, 21, 2, 39), (3, 2, 130, 8, 65), (23, 1, 9, 4, None),
    ],
)  # fmt: skip
def test_as_the_logits_have_them(strips, heads, length, depth, span, per_head, sums) -> None:
    tensors = draw(strips, heads, length, depth, per_head=per_head)
    wanted = moments_and_gradients(reference.logit_moments, tensors, span)
    got = moments_and_gradients(compiled_moments.logit_moments, tensors, span)
    assert sums
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("span", [None, 9])
def test_a_large_mean_in_single_precision(span, sums) -> None:
    tensors = draw(16, 2, 33, 6, dtype=torch.float32, mean=10.0)
    wanted = moments_and_gradients(reference.logit_moments, [t.double() for t in tensors], span)
    got = moments_and_gradients(compiled_moments.logit_moments, tensors, span)
    assert sums
    for one, other in zip(got, wanted, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_views_of_a_feature_map(sums) -> None:
    """(N, S, G, L, D) with any strides, read and differentiated where they lie."""
    x = torch.randn(2, 3 * 8, 5, 7, dtype=torch.float64)
    strips = x.permute(0, 3, 2, 1)  # (N, W, H, C): each column a strip
    q, k = (part.unflatten(3, (2, 4))[..., :2].transpose(2, 3) for part in strips.split(8, 3)[:2])
    flat = [q.flatten(0, 1), k.flatten(0, 1)]
    tables = [torch.randn(19, 2, dtype=torch.float64) for _ in range(2)]
    wanted = moments_and_gradients(reference.logit_moments, [*flat, *tables], 3)
    got = moments_and_gradients(compiled_moments.logit_moments, [q, k, *tables], 3)
    assert sums
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.reshape(other.shape), other, rtol=1e-10, atol=1e-10)


def test_short_strips_of_deep_heads_use_their_logits(sums) -> None:
    tensors = draw(6, 2, 7, 4)
    wanted = moments_and_gradients(reference.logit_moments, tensors, None)
    got = moments_and_gradients(compiled_moments.logit_moments, tensors, None)
    assert not sums
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_gradients_by_differences() -> None:
    tensors = [t.requires_grad_() for t in draw(2, 1, 7, 2)]

    def moments(*t: Tensor) -> Tensor:
        mean, variance, _ = compiled_moments.logit_moments(*t, span=5)
        return torch.stack([mean, variance])

    assert torch.autograd.gradcheck(moments, tensors)
