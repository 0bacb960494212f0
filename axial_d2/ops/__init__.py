"""Attention as functions on tensors: for each a specification and its fast twins.

Axial attention here, specified in `reference`; local 2-D attention in `local`.

>>> from axial_d2 import ops
>>> content, position = ops.axial_attention(q, k, v, query_table, key_table, value_table, span=65)
"""

import math
from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor

from axial_d2.ops.chooser import (
    BACKENDS,
    AttentionSizes,
    Backend,
    check_backend_name,
    choose_backend,
    record,
    record_backends,
    use_backend,
)
from axial_d2.ops.local import (
    LOCAL_BACKENDS,
    check_local_backend_name,
    check_window,
    local_attention,
    local_logit_moments,
)
from axial_d2.ops.reference import at_least_single, flat_strips, no_autocast

__all__ = [
    "BACKENDS",
    "LOCAL_BACKENDS",
    "AttentionSizes",
    "Backend",
    "axial_attention",
    "check_backend_name",
    "check_local_backend_name",
    "check_span",
    "check_window",
    "choose_backend",
    "local_attention",
    "local_logit_moments",
    "logit_moments",
    "normalized_axial_attention",
    "record_backends",
    "summed_axial_attention",
    "use_backend",
]


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
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Position-sensitive attention along strips (Axial-DeepLab, equation 4).

    With `o` a query's position and `p` a key's, per head:

        w      = softmax_p(s0 q_o . k_p + s1 q_o . rq[p - o] + s2 k_p . rk[p - o])
        content_o, position_o = sum_p w_p v_p, sum_p w_p rv[p - o]

    The paper's output is their sum; they come apart because each has its own norm.

    Args:
        q: (B, G, L, Dq) queries: B strips, G heads, L positions. Strips may also be in two
            dimensions, (N, S, G, L, Dq), S of each picture; k, v and the results then are too.
        k: (B, G, L, Dq) keys.
        v: (B, G, L, Dv) values.
        query_table: (2 * max_distance + 1, Dq), or (G, 2 * max_distance + 1, Dq): `rq`, whose row
            `key - query + max_distance` belongs to a pair; further apart, the end row.
        key_table: like `query_table`: `rk`.
        value_table: (2 * max_distance + 1, Dv), or (G, ..., Dv): `rv`.
        logit_scale: (3, G), the scales s0, s1, s2 of each head; None for ones.
        span: odd number of keys that a query sees, centred on it and cut off at the strip's ends;
            None or 0 for all.
        backend: "auto", or a key of `BACKENDS`.

    Returns:
        content and position, both (B, G, L, Dv).

    Raises:
        ValueError: shapes that don't fit together, a span that is even or negative, or a backend
            that is unknown or can't run.
    """
    tables = (query_table, key_table, value_table)
    chosen, span = _choose(backend, q, k, v, tables, logit_scale, span)
    results = chosen.axial_attention(
        *_strips(chosen, q, k, v), *tables, logit_scale=logit_scale, span=span
    )
    return _like(results[0], v), _like(results[1], v)


def summed_axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    *,
    logit_scale: Tensor | None = None,
    span: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """The sum of `axial_attention`'s two results, for where no norm stands between: equation 4.

    Args:
        q: as for `axial_attention`, like all that follow.
        k: see there.
        v: see there.
        query_table: see there.
        key_table: see there.
        value_table: see there.
        logit_scale: see there.
        span: see there.
        backend: see there.

    Returns:
        (B, G, L, Dv), in v's layout where the backend can.

    Raises:
        ValueError: as `axial_attention`.
    """
    tables = (query_table, key_table, value_table)
    chosen, span = _choose(backend, q, k, v, tables, logit_scale, span)
    arguments = (*_strips(chosen, q, k, v), *tables)
    if chosen.summed_axial_attention is not None and not torch.is_grad_enabled():
        total = chosen.summed_axial_attention(*arguments, logit_scale=logit_scale, span=span)
    else:
        content, position = chosen.axial_attention(*arguments, logit_scale=logit_scale, span=span)
        total = content + position
    return _like(total, v)


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
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`axial_attention` whose `logit_scale` comes from the logits' own moments: a norm in training.

    The same as `logit_moments`, then `scale_of`, then `axial_attention`; some backends do less work
    when they know of both. The moments are taken in at least single precision.

    Args:
        q: as for `axial_attention`, like all that follow.
        k: see there.
        v: see there.
        query_table: see there.
        key_table: see there.
        value_table: see there.
        scale_of: from mean (3, G), biased variance (3, G) and count to the scales (3, G).
        span: see there.
        backend: see there.

    Returns:
        content and position, both (B, G, L, Dv).

    Raises:
        ValueError: as `axial_attention`.
    """
    tables = (query_table, key_table, value_table)
    chosen, span = _choose(backend, q, k, v, tables, None, span)

    def checked_scale(mean: Tensor, variance: Tensor, count: int) -> Tensor:
        scale = scale_of(mean, variance, count)
        _check_scale(scale, q, "scale_of's result")
        return scale

    strips = _strips(chosen, q, k, v)
    if chosen.normalized_axial_attention is not None:
        results = chosen.normalized_axial_attention(
            *strips, *tables, scale_of=checked_scale, span=span
        )
    else:
        # Sums over millions of logits: not in half precision, whatever autocast says.
        with no_autocast(q):
            inputs = (at_least_single(t) for t in (*strips[:2], query_table, key_table))
            scale = checked_scale(*chosen.logit_moments(*inputs, span=span))
        results = chosen.axial_attention(*strips, *tables, logit_scale=scale, span=span)
    return _like(results[0], v), _like(results[1], v)


def logit_moments(
    q: Tensor,
    k: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    *,
    span: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, int]:
    """Mean and variance of the three logit terms, for the norm on the logits.

    Args:
        q: (B, G, L, Dq) queries.
        k: (B, G, L, Dq) keys.
        query_table: as for `axial_attention`.
        key_table: as for `axial_attention`.
        span: as for `axial_attention`; only pairs within it count.
        backend: "auto", or a key of `BACKENDS`.

    Returns:
        The mean (3, G) and the biased variance (3, G) of q.k, q.rq and k.rk per head, and the
        number of values each was taken over.

    Raises:
        ValueError: as `axial_attention`.
    """
    _check_inputs(q, k, query_table, key_table, None)
    span = check_span(span, q.shape[-2])
    chosen = choose_backend(backend, _sizes(q, q, span, query_table, key_table))
    return chosen.logit_moments(*_strips(chosen, q, k), query_table, key_table, span=span)


def check_span(span: int | None, length: int | None = None) -> int | None:
    """Brings a span to its plain form.

    Args:
        span: odd and positive, or None or 0 for the whole strip.
        length: L; from 2 L - 1 on a span covers the whole strip.

    Returns:
        The span, or None where every query sees the whole strip.

    Raises:
        ValueError: the span is even or negative, or not a whole number.
    """
    if span is None or (span == 0 and not isinstance(span, bool)):
        return None
    whole = isinstance(span, Integral) and not isinstance(span, bool)
    if not whole or span < 0 or span % 2 == 0:
        raise ValueError(f"span: expected an odd number, or 0 or None for global, got {span!r}")
    if length is not None and span >= 2 * length - 1:
        return None
    return int(span)


def _choose(
    backend: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: tuple[Tensor, Tensor, Tensor],
    logit_scale: Tensor | None,
    span: int | None,
) -> tuple[Backend, int | None]:
    """Checks the arguments; the backend that is to run, and the span in its plain form."""
    _check_inputs(q, k, *tables[:2], logit_scale)
    _check_values(q, v, tables[0], tables[2])
    span = check_span(span, q.shape[-2])
    chosen = choose_backend(backend, _sizes(q, v, span, *tables))
    record(chosen.name)
    return chosen, span


def _strips(chosen: Backend, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tensors if chosen.takes_pictures else flat_strips(*tensors)


def _like(result: Tensor, v: Tensor) -> Tensor:
    """(B, G, L, D) as (N, S, G, L, D) where v is that."""
    return result if result.dim() == v.dim() else result.unflatten(0, v.shape[:2])


def _sizes(q: Tensor, v: Tensor, span: int | None, *tables: Tensor) -> AttentionSizes:
    folded = any(table.dim() == 3 for table in tables)
    *strips, heads, length, depth = q.shape
    return AttentionSizes(
        strips=math.prod(strips),
        heads=heads,
        length=length,
        depth=depth,
        value_depth=v.shape[-1],
        tables=heads if folded else 1,
        span=span,
        dtype=q.dtype,
        device=q.device,
    )


def _check_inputs(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor, logit_scale: Tensor | None
) -> None:
    if q.dim() not in (4, 5) or 0 in q.shape[:-1]:
        raise ValueError(
            f"q: expected (B, G, L, D) or (N, S, G, L, D), with none of B, N, S, G, L 0, "
            f"got {tuple(q.shape)}"
        )
    if k.shape != q.shape:
        raise ValueError(f"k: expected q's shape {tuple(q.shape)}, got {tuple(k.shape)}")
    heads, depth = q.shape[-3], q.shape[-1]
    _check_table("query_table", query_table, heads, depth)
    _check_table("key_table", key_table, heads, depth, query_table.shape[-2])
    if logit_scale is not None:
        _check_scale(logit_scale, q, "logit_scale")


def _check_scale(scale: Tensor, q: Tensor, name: str) -> None:
    if scale.shape != (3, q.shape[-3]):
        raise ValueError(f"{name}: expected {(3, q.shape[-3])}, got {tuple(scale.shape)}")


def _check_values(q: Tensor, v: Tensor, query_table: Tensor, value_table: Tensor) -> None:
    if v.shape[:-1] != q.shape[:-1]:
        raise ValueError(f"v: expected {(*q.shape[:-1], 'Dv')}, got {tuple(v.shape)}")
    _check_table("value_table", value_table, q.shape[-3], v.shape[-1], query_table.shape[-2])


def _check_table(name: str, table: Tensor, heads: int, depth: int, rows: int | None = None) -> None:
    fits = table.dim() in (2, 3) and table.shape[-1] == depth and table.shape[-2] % 2 == 1
    if not fits or (table.dim() == 3 and table.shape[0] != heads):
        raise ValueError(
            f"{name}: expected (rows, {depth}) or ({heads}, rows, {depth}) with an odd number of "
            f"rows, got {tuple(table.shape)}"
        )
    if rows is not None and table.shape[-2] != rows:
        raise ValueError(f"{name}: expected query_table's {rows} rows, got {table.shape[-2]}")
