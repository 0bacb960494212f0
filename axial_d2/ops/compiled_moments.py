"""Mean and variance of the logits by the C++ operator: `moments`' closed form, banded as well.

Under a span the sums of products slide along the strip: what enters the band is added, what leaves
it is taken off. All in double precision, whatever the inputs', without copies of these.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import blocked, moments, reference
from axial_d2.ops.cpp_call import call, pointers, view
from axial_d2.ops.library import define
from axial_d2.ops.reference import at_least_single


def logit_moments(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor, *, span: int | None = None
) -> tuple[Tensor, Tensor, int]:
    """The moments; see `axial_d2.ops.logit_moments`. Differentiable once."""
    length, depth = q.shape[-2:]
    if length <= blocked.CLOSED_FORM_FROM * depth:
        # The products are more than the logits, which matrices give fast.
        q, k = reference.flat_strips(q, k)  # (B, G, L, D)
        return blocked.logit_moments(q, k, query_table, key_table, span=span)
    dtype, result = at_least_single(q).dtype, q.dtype
    q, k = (t.to(dtype) for t in reference.pictures_of(q, k))  # (N, S, G, L, D)
    first, second, *sums = _Sums.apply(q, k, reference.half_span(length, span))
    one, other = torch.triu_indices(depth, depth, device=q.device)
    twice = torch.where(one == other, 1.0, 2.0).double()  # A product off the diagonal occurs twice.
    by_row = []
    for rows in reference.rows_in_use(query_table, key_table, length=length):
        rows = rows.double()  # (1 or G, 2 L - 1, D)
        by_row.append((rows, rows[..., one] * rows[..., other] * twice))
    strips = q.shape[0] * q.shape[1]
    mean, variance = moments.from_sums(
        first, second, [sums[:2], sums[2:]], by_row, strips=strips, span=span
    )
    count = strips * reference.pairs_in_band(length, span)
    return mean.to(result), variance.to(result), count


class _Sums(torch.autograd.Function):
    """Sums over strips in double precision, from (N, S, G, L, D) queries and keys.

    Per head, (G,), of q.k and of its square; by place of q, (G, L, D), and of its products with
    itself, (G, L, D (D + 1) / 2), the upper triangle; the same two of k.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, half: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(q, k)
        ctx.half = half
        return _sums(q, k, half)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sums = [t.contiguous() for t in grads]
        return (*_sums_backward(*sums, *ctx.saved_tensors, ctx.half), None)


def _sums_like(q: Tensor, k: Tensor, half: int) -> tuple[Tensor, ...]:
    heads, length, depth = q.shape[2:]
    places = [(heads, length, channels) for channels in (depth, depth * (depth + 1) // 2)]
    shapes = [(heads,), (heads,), *places, *places]
    return tuple(q.new_empty(shape, dtype=torch.float64) for shape in shapes)


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


_sums = define(
    *("logit_sums", "Tensor q, Tensor k, int half", 6), on="CPU", run=_run_forward, fake=_sums_like
)
_sums_backward = define(
    "logit_sums_backward",
    "Tensor first, Tensor second, Tensor q_sums, Tensor q_products, Tensor k_sums, "
    "Tensor k_products, Tensor q, Tensor k, int half",
    2,
    on="CPU",
    run=_run_backward,
    fake=_gradients_like,
)
