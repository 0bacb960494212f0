"""Mean and variance of the logits by the C++ operator: `moments`' closed form, banded as well.

Under a span the sums of products slide along the strip: what enters the band is added, what leaves
it is taken off. All in double precision, whatever the inputs', without copies of these.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import blocked, moments, reference
from axial_d2.ops.cpp_call import LIBRARY, call, pointers, view
from axial_d2.ops.reference import at_least_single


def logit_moments(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor, *, span: int | None = None
) -> tuple[Tensor, Tensor, int]:
    """The moments; see `axial_d2.ops.logit_moments`. Differentiable once."""
    length, depth = q.shape[-2:]
    if length <= blocked.CLOSED_FORM_FROM * depth:
        # The products are more than the logits, which matrices give fast.
        q, k = (t.flatten(0, 1) if t.dim() == 5 else t for t in (q, k))  # (B, G, L, D)
        return blocked.logit_moments(q, k, query_table, key_table, span=span)
    half = half_of(q, span)
    rows = reference.rows_in_use(query_table, key_table, length=length)
    dtype, result = at_least_single(q).dtype, q.dtype
    strips = [(t[None] if t.dim() == 4 else t).to(dtype) for t in (q, k)]
    first, second, *by_place = _Sums.apply(*strips, half)

    places = torch.arange(length, device=q.device)
    low, high = (places - half).clamp_min(0), (places + half).clamp_max(length - 1)
    # A query i meets the rows of distance low - i .. high - i, a key j of j - high .. j - low.
    starts = (low - places + length - 1, places - high + length - 1)
    ends = (high - places + length, places - low + length)
    one, other = torch.triu_indices(depth, depth, device=q.device)
    twice = torch.where(one == other, 1.0, 2.0).double()  # A product off the diagonal occurs twice.
    means, squares = [first], [second]
    for n, table in enumerate(rows):
        table = (table if table.dim() == 3 else table[None]).double()  # (1 or G, 2 L - 1, D)
        products = table[..., one] * table[..., other] * twice  # (1 or G, 2 L - 1, P)
        for terms, sums, kept in ((means, table, 0), (squares, products, 1)):
            met = moments.window_sums(sums, starts[n], ends[n])  # (1 or G, L, D or P)
            terms.append((by_place[2 * n + kept] * met).sum(dim=(1, 2)))
    count = strips[0].shape[0] * strips[0].shape[1] * int((high - low + 1).sum())
    mean = torch.stack(means) / count  # (3, G)
    variance = (torch.stack(squares) / count - mean.square()).clamp_min(0)
    return mean.to(result), variance.to(result), count


def half_of(q: Tensor, span: int | None) -> int:
    """The keys seen on either side of a query."""
    return q.shape[-2] - 1 if span is None else min(span // 2, q.shape[-2] - 1)


class _Sums(torch.autograd.Function):
    """Sums over strips in double precision, from (N, S, G, L, D) queries and keys.

    Per head, (G,), of q.k and of its square; by place of q, (G, L, D), and of its products with
    itself, (G, L, D (D + 1) / 2), the upper triangle; the same two of k.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, half: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(q, k)
        ctx.half = half
        return torch.ops.axial_d2.logit_sums(q, k, half)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sums = [t.contiguous() for t in grads]
        return (*torch.ops.axial_d2.logit_sums_backward(*sums, *ctx.saved_tensors, ctx.half), None)


_SIX = "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor"
LIBRARY.define(f"logit_sums(Tensor q, Tensor k, int half) -> ({_SIX})")
LIBRARY.define(
    "logit_sums_backward(Tensor first, Tensor second, Tensor q_sums, Tensor q_products, "
    "Tensor k_sums, Tensor k_products, Tensor q, Tensor k, int half) -> (Tensor, Tensor)"
)


@torch.library.register_fake("axial_d2::logit_sums", lib=LIBRARY)
def _sums_like(q: Tensor, k: Tensor, half: int) -> tuple[Tensor, ...]:
    heads, length, depth = q.shape[2:]
    places = [(heads, length, channels) for channels in (depth, depth * (depth + 1) // 2)]
    shapes = [(heads,), (heads,), *places, *places]
    return tuple(q.new_empty(shape, dtype=torch.float64) for shape in shapes)


@torch.library.register_fake("axial_d2::logit_sums_backward", lib=LIBRARY)
def _gradients_like(*arguments: Tensor | int) -> tuple[Tensor, Tensor]:
    q, k = arguments[6:8]
    return torch.empty_like(q), torch.empty_like(k)


def _run_forward(q: Tensor, k: Tensor, half: int) -> tuple[Tensor, ...]:
    sums = _sums_like(q, k, half)
    call("moments", q, half, [view(q), view(k)], pointers(sums))
    return sums


def _run_backward(*arguments: Tensor | int) -> tuple[Tensor, Tensor]:
    *sums, q, k, half = arguments
    grads = _gradients_like(*arguments)
    views = [view(q), view(k)]
    call("moments_backward", q, half, views, pointers(sums), [view(t) for t in grads])
    return grads


LIBRARY.impl("logit_sums", _run_forward, "CPU")
LIBRARY.impl("logit_sums_backward", _run_backward, "CPU")
