"""Axial attention on the CPU by a C++ operator that is built at its first use.

Eight strips (without AVX four, single precision with AVX-512 sixteen) are worked on side by side,
one to a lane of the vector registers; four queries at a time, whose logits stay in the first cache
and are computed again in the backward pass. Of memory it takes the results and, per thread, one
group of strips and the tables. A span does the work of its band. How: `cpp/axial_attention.cpp`.

Tensors are read and written where they lie, whatever their strides: a feature map needs no copy to
be cut into strips of either axis.
"""

import logging
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from axial_d2.ops import compiled_moments, cpp_build, reference
from axial_d2.ops.cpp_call import SOURCE, View, call, pointers, view
from axial_d2.ops.library import define
from axial_d2.ops.reference import at_least_single, half_span

logger = logging.getLogger(__name__)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

logit_moments = compiled_moments.logit_moments


def why_not(dtype: torch.dtype, device: torch.device) -> str | None:
    """The reason why the operator can't run on such tensors, or None."""
    if device.type != "cpu":
        return f"it runs on the CPU, the tensors are on {device.type}"
    if dtype not in DTYPES:
        return f"it has no form for {dtype}"
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return "an exported model can't hold it"
    return _why_not_built()


@torch.compiler.assume_constant_result
def _why_not_built() -> str | None:
    # `torch.compile` asks this once and does not look into it.
    return _built_or_why_not()


@cache
def _built_or_why_not() -> str | None:
    try:
        cpp_build.load(SOURCE)
    except cpp_build.NotBuilt as error:
        logger.info("axial attention without its compiled operator: %s", error)
        return str(error)
    logger.info("axial attention on the CPU runs its compiled operator")
    return None


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
    operands = _operands((q, k, v, query_table, key_table, value_table), logit_scale)
    content, position = _Attention.apply(*operands, half_span(q.shape[-2], span))
    return content.view(v.shape).to(v.dtype), position.view(v.shape).to(v.dtype)


def summed_axial_attention(
    *inputs: Tensor, logit_scale: Tensor | None = None, span: int | None = None
) -> Tensor:
    """See `axial_d2.ops.summed_axial_attention`, whose inputs these are. Without a gradient."""
    operands = _operands(inputs, logit_scale)
    v, half = inputs[2], half_span(inputs[0].shape[-2], span)
    total, _ = _forward(*operands, half, False)
    return total.view(v.shape).to(v.dtype)


def _operands(inputs: Sequence[Tensor], logit_scale: Tensor | None) -> list[Tensor]:
    """In at least single precision: q, k, v as (N, S, G, L, D), rows (T, 2 L - 1, D), scale."""
    q, k, v, *tables = inputs
    heads, length = q.shape[-3:-1]
    scale = q.new_ones(3, heads) if logit_scale is None else logit_scale
    rows = reference.alike(reference.rows_in_use(*tables, length=length), heads)
    dtype = at_least_single(q).dtype
    strips = reference.pictures_of(q, k, v)
    return [*(t.to(dtype) for t in strips), *(t.to(dtype) for t in (*rows, scale))]


class _Attention(torch.autograd.Function):
    """Content and position, (N, S, G, L, Dv), from `_operands`."""

    @staticmethod
    def forward(ctx: FunctionCtx, *operands: Tensor | int) -> tuple[Tensor, Tensor]:
        *tensors, half = operands
        ctx.save_for_backward(*tensors)
        ctx.half = half
        return _forward(*tensors, half, True)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, content_grad: Tensor, position_grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        grads = _backward(content_grad, position_grad, *ctx.saved_tensors, ctx.half)
        return (*grads, None)


def _results(v: Tensor, apart: bool) -> tuple[Tensor, Tensor]:
    # `empty_like` keeps the order of the strides: results lie as the values do.
    return torch.empty_like(v), torch.empty_like(v) if apart else v.new_empty(0)


def _gradients(q: Tensor, k: Tensor, v: Tensor, *rows: Tensor) -> list[Tensor]:
    """Where the gradients go; those of the rows still per head, (G, 2 L - 1, D)."""
    per_head = [t.new_empty(q.shape[2], *t.shape[1:]) for t in rows[:3]]
    return [*(torch.empty_like(t) for t in (q, k, v)), *per_head, torch.empty_like(rows[3])]


def _fake_forward(
    q: Tensor, k: Tensor, v: Tensor, rq: Tensor, rk: Tensor, rv: Tensor, scale: Tensor, half: int,
    apart: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _results(v, apart)


def _fake_backward(
    content_grad: Tensor, position_grad: Tensor, q: Tensor, k: Tensor, v: Tensor,
    rq: Tensor, rk: Tensor, rv: Tensor, scale: Tensor, half: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    return tuple(torch.empty_like(t) for t in (q, k, v, rq, rk, rv, scale))


def _run_forward(
    q: Tensor, k: Tensor, v: Tensor, rq: Tensor, rk: Tensor, rv: Tensor, scale: Tensor, half: int,
    apart: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    results = _results(v, apart)
    rows = [t.contiguous() for t in (rq, rk, rv, scale)]
    target = [view(t) for t in results] if apart else [view(results[0]), View()]
    views = [view(t) for t in (q, k, v)]
    sizes = {"value_depth": v.shape[-1], "tables": rows[0].shape[0]}
    call("forward", q, half, views, pointers(rows), target, **sizes)
    return results


def _run_backward(
    content_grad: Tensor, position_grad: Tensor, q: Tensor, k: Tensor, v: Tensor,
    rq: Tensor, rk: Tensor, rv: Tensor, scale: Tensor, half: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    rows = [t.contiguous() for t in (rq, rk, rv, scale)]
    grads = _gradients(q, k, v, *rows)
    views = [view(t) for t in (q, k, v, content_grad, position_grad)]
    targets = [view(t) for t in grads[:3]]
    sizes = {"value_depth": v.shape[-1], "tables": rows[0].shape[0]}
    call("backward", q, half, views, pointers(rows), targets, pointers(grads[3:]), **sizes)
    if rq.shape[0] == 1:
        grads[3:6] = [t.sum(dim=0, keepdim=True) for t in grads[3:6]]
    return tuple(grads)


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor rq, Tensor rk, Tensor rv, Tensor scale, int half"
_forward = define(
    *("axial_attention", f"{_INPUTS}, bool apart", 2),
    on="CPU",
    run=_run_forward,
    fake=_fake_forward,
)
_backward = define(
    *("axial_attention_backward", f"Tensor content_grad, Tensor position_grad, {_INPUTS}", 7),
    on="CPU",
    run=_run_backward,
    fake=_fake_backward,
)
