"""Attention as functions on tensors: for each a specification and its fast twins.

Axial attention here, specified in `reference`; local 2-D attention in `local`.

>>> from axial_d2 import ops
>>> content, position = ops.axial_attention(q, k, v, query_table, key_table, value_table, span=65)
"""

from collections.abc import Callable
from numbers import Integral

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
from axial_d2.ops.reference import at_least_single, no_autocast

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
        q: (B, G, L, Dq) queries: B strips, G heads, L positions.
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
    _check_inputs(q, k, query_table, key_table, logit_scale)
    _check_values(q, v, query_table, value_table)
    span = check_span(span, q.shape[2])
    chosen = choose_backend(backend, _sizes(q, v, span, query_table, key_table, value_table))
    record(chosen.name)
    return chosen.axial_attention(
        q, k, v, query_table, key_table, value_table, logit_scale=logit_scale, span=span
    )


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
    _check_inputs(q, k, query_table, key_table, None)
    _check_values(q, v, query_table, value_table)
    span = check_span(span, q.shape[2])
    chosen = choose_backend(backend, _sizes(q, v, span, query_table, key_table, value_table))
    record(chosen.name)
    tables = (query_table, key_table, value_table)

    def checked_scale(mean: Tensor, variance: Tensor, count: int) -> Tensor:
        scale = scale_of(mean, variance, count)
        _check_scale(scale, q, "scale_of's result")
        return scale

    if chosen.normalized_axial_attention is not None:
        return chosen.normalized_axial_attention(
            q, k, v, *tables, scale_of=checked_scale, span=span
        )
    # Sums over millions of logits: not in half precision, whatever autocast says.
    with no_autocast(q):
        inputs = (at_least_single(t) for t in (q, k, query_table, key_table))
        scale = checked_scale(*chosen.logit_moments(*inputs, span=span))
    return chosen.axial_attention(q, k, v, *tables, logit_scale=scale, span=span)


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
    span = check_span(span, q.shape[2])
    chosen = choose_backend(backend, _sizes(q, q, span, query_table, key_table))
    return chosen.logit_moments(q, k, query_table, key_table, span=span)


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


def _sizes(q: Tensor, v: Tensor, span: int | None, *tables: Tensor) -> AttentionSizes:
    folded = any(table.dim() == 3 for table in tables)
    return AttentionSizes(q, v, q.shape[1] if folded else 1, span)


def _check_inputs(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor, logit_scale: Tensor | None
) -> None:
    if q.dim() != 4 or 0 in q.shape[:3]:
        raise ValueError(f"q: expected (B, G, L, D) with none of B, G, L 0, got {tuple(q.shape)}")
    if k.shape != q.shape:
        raise ValueError(f"k: expected q's shape {tuple(q.shape)}, got {tuple(k.shape)}")
    _check_table("query_table", query_table, q.shape[1], q.shape[3])
    _check_table("key_table", key_table, q.shape[1], q.shape[3], query_table.shape[-2])
    if logit_scale is not None:
        _check_scale(logit_scale, q, "logit_scale")


def _check_scale(scale: Tensor, q: Tensor, name: str) -> None:
    if scale.shape != (3, q.shape[1]):
        raise ValueError(f"{name}: expected {(3, q.shape[1])}, got {tuple(scale.shape)}")


def _check_values(q: Tensor, v: Tensor, query_table: Tensor, value_table: Tensor) -> None:
    if v.shape[:3] != q.shape[:3] or v.dim() != 4:
        raise ValueError(f"v: expected {(*q.shape[:3], 'Dv')}, got {tuple(v.shape)}")
    _check_table("value_table", value_table, q.shape[1], v.shape[3], query_table.shape[-2])


def _check_table(name: str, table: Tensor, heads: int, depth: int, rows: int | None = None) -> None:
    fits = table.dim() in (2, 3) and table.shape[-1] == depth and table.shape[-2] % 2 == 1
    if not fits or (table.dim() == 3 and table.shape[0] != heads):
        raise ValueError(
            f"{name}: expected (rows, {depth}) or ({heads}, rows, {depth}) with an odd number of "
            f"rows, got {tuple(table.shape)}"
        )
    if rows is not None and table.shape[-2] != rows:
        raise ValueError(f"{name}: expected query_table's {rows} rows, got {table.shape[-2]}")
