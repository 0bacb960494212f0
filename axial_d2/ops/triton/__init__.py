"""Axial attention on CUDA by Triton kernels: no map of logits in device memory, either way.

The backward pass computes the logits again, once each for queries, keys and tables, so that no two
programs add to one number: results don't depend on the order of programs. Operands are of the
inputs' type, sums in single precision. How: `kernels`.

Triton's interpreter (TRITON_INTERPRET=1, set before the first use) runs the same kernels on the
CPU, for tests.
"""

import importlib.util
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import reference
from axial_d2.ops.reference import half_span
from axial_d2.ops.triton import operators
from axial_d2.ops.triton.sizes import interpreted

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Up to this many channels of a head a tile's vectors, rows and sums stay on the chip.
MOST_CHANNELS = 128


def why_not(dtype: torch.dtype, device: torch.device, channels: int) -> str | None:
    """The reason why the kernels can't run on such tensors, or None.

    Args:
        dtype: of the queries.
        device: of the queries.
        channels: the larger number of a query's and a value's.
    """
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"its kernels run on CUDA, the tensors are on {device.type}"
    if dtype not in DTYPES:
        return f"it has no form for {dtype}"
    if channels > MOST_CHANNELS:
        return f"a head has {channels} channels, more than {MOST_CHANNELS}"
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return "an exported model can't hold it"
    if not _installed():
        return "triton is not installed"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs compute capability 8.0 (Ampere)"
    return None


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    *,
    logit_scale: Tensor | None = None,
    span: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The attention; see `axial_d2.ops.axial_attention`. Differentiable once."""
    scale = q.new_ones(3, q.shape[-3]) if logit_scale is None else logit_scale
    strips = reference.pictures_of(q, k, v)
    tables = _tables(q, query_table, key_table, value_table)
    half = half_span(q.shape[-2], span)
    content, position = _Attention.apply(*strips, *tables, scale.float(), half)
    return content.view(v.shape), position.view(v.shape)


def logit_moments(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor, *, span: int | None = None
) -> tuple[Tensor, Tensor, int]:
    """The moments; see `axial_d2.ops.logit_moments`. Differentiable once."""
    mean, variance, count = _moments(q, k, query_table, key_table, span)
    return mean.to(q.dtype), variance.to(q.dtype), count


def normalized_axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    *,
    scale_of: Callable[[Tensor, Tensor, int], Tensor],
    span: int | None = None,
) -> tuple[Tensor, Tensor]:
    """See `axial_d2.ops.normalized_axial_attention`. Differentiable once.

    The moments are those of the operands as they are: of half precision, too, a product is exact in
    single precision.
    """
    scale = scale_of(*_moments(q, k, query_table, key_table, span))
    tables = (query_table, key_table, value_table)
    return axial_attention(q, k, v, *tables, logit_scale=scale, span=span)


def _moments(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor, span: int | None
) -> tuple[Tensor, Tensor, int]:
    """Mean (3, G) and biased variance (3, G) in single precision, and the count."""
    length, half = q.shape[-2], half_span(q.shape[-2], span)
    q, k = reference.pictures_of(q, k)
    mean, variance = _Moments.apply(q, k, *_tables(q, query_table, key_table), half)
    return mean, variance, q.shape[0] * q.shape[1] * reference.pairs_in_band(length, span)


def _tables(q: Tensor, *tables: Tensor) -> list[Tensor]:
    """As (T, R, D) in q's type."""
    return [t.to(q.dtype) for t in reference.alike(reference.counted(*tables), q.shape[-3])]


class _Attention(torch.autograd.Function):
    """Content and position, (N, S, G, L, Dv)."""

    @staticmethod
    def forward(ctx: FunctionCtx, *operands: Tensor | int) -> tuple[Tensor, Tensor]:
        *tensors, half = operands
        content, position, sums = operators.attention(*tensors, half)
        ctx.save_for_backward(*tensors, sums)
        ctx.half = half
        return content, position

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, content_grad: Tensor, position_grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        grads = operators.attention_backward(
            content_grad, position_grad, *ctx.saved_tensors, ctx.half
        )
        return (*grads, None)


class _Moments(torch.autograd.Function):
    """Mean and biased variance, (3, G), single precision, from q, k, (T, R, D) tables, half."""

    @staticmethod
    def forward(ctx: FunctionCtx, *operands: Tensor | int) -> tuple[Tensor, Tensor]:
        *tensors, half = operands
        mean, variance = operators.moments(*tensors, half)
        ctx.save_for_backward(*tensors, mean)
        ctx.half = half
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, mean_grad: Tensor, variance_grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        grads = operators.moments_backward(mean_grad, variance_grad, *ctx.saved_tensors, ctx.half)
        return (*grads, None)
