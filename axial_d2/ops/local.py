"""Local 2-D attention as functions: checks, then the implementation asked for."""

from types import ModuleType

from torch import Tensor

from axial_d2.ops import local_blocked, local_reference

# By the names that the axial backends have; "auto" is "blocked".
LOCAL_BACKENDS: dict[str, ModuleType] = {
    "auto": local_blocked,
    "blocked": local_blocked,
    "reference": local_reference,
}


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor | None = None,
    value_table: Tensor | None = None,
    *,
    logit_scale: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Self-attention within the m x m window around each place of a map.

    With `o` a query's place and `p` one of its window, per head:

        w      = softmax_p(s0 q_o . k_p + s1 q_o . rq[p - o] + s2 k_p . rk[p - o])
        content_o, position_o = sum_p w_p v_p, sum_p w_p rv[p - o]

    With all three tables this is the 2-D form of Axial-DeepLab (ECCV 2020, equation 3); with the
    query's alone, stand-alone self-attention (Ramachandran et al., NeurIPS 2019, equation 4).
    Windows end at the border: there is neither key nor value outside the map.

    Args:
        q: (N, G, H, W, Dq) queries: N images, G heads.
        k: (N, G, H, W, Dq) keys.
        v: (N, G, H, W, Dv) values.
        query_table: (m, m, Dq), `rq`, m odd: at key - query + m // 2, rows before columns.
        key_table: (m, m, Dq), `rk`, or None for no such term.
        value_table: (m, m, Dv), `rv`, or None for no position output.
        logit_scale: (T, G), the scales of each head, T = 3 with a key table, else 2; None for ones.
        backend: "auto" or "blocked", in bounded memory, or "reference".

    Returns:
        content (N, G, H, W, Dv), and position, the same or None.

    Raises:
        ValueError: shapes that don't fit together, a window that is even or not square, or an
            unknown backend.
    """
    check_local_backend_name(backend)
    _check_inputs(q, k, query_table, key_table)
    if v.dim() != 5 or v.shape[:4] != q.shape[:4]:
        raise ValueError(f"v: expected {(*q.shape[:4], 'Dv')}, got {tuple(v.shape)}")
    if value_table is not None:
        _check_table("value_table", value_table, v.shape[4], query_table.shape[0])
    scales = (2 if key_table is None else 3, q.shape[1])
    if logit_scale is not None and logit_scale.shape != scales:
        raise ValueError(f"logit_scale: expected {scales}, got {tuple(logit_scale.shape)}")
    return LOCAL_BACKENDS[backend].local_attention(
        q, k, v, query_table, key_table, value_table, logit_scale=logit_scale
    )


def local_logit_moments(
    q: Tensor,
    k: Tensor,
    query_table: Tensor,
    key_table: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, int]:
    """Mean and variance of the logit terms of `local_attention`, for the norm on the logits.

    Computed without autocast: in the precision of q and k.

    Args:
        q: (N, G, H, W, Dq) queries.
        k: (N, G, H, W, Dq) keys.
        query_table: as for `local_attention`.
        key_table: as for `local_attention`.
        backend: as for `local_attention`.

    Returns:
        The mean (T, G) and the biased variance (T, G) of q.k, q.rq and, with a key table, k.rk per
        head, over the pairs of a query and a key of its window that lies in the map; and how many
        pairs there are.

    Raises:
        ValueError: as `local_attention`.
    """
    check_local_backend_name(backend)
    _check_inputs(q, k, query_table, key_table)
    return LOCAL_BACKENDS[backend].local_logit_moments(q, k, query_table, key_table)


def check_local_backend_name(backend: str) -> None:
    """Raises ValueError unless `backend` is one that local attention has."""
    if backend not in LOCAL_BACKENDS:
        known = ", ".join(LOCAL_BACKENDS)
        raise ValueError(f"backend: expected one of {known} for local attention, got {backend!r}")


def check_window(window: int) -> int:
    """Returns the window's side if it is odd and positive, else raises ValueError."""
    if not isinstance(window, int) or isinstance(window, bool) or window < 1 or window % 2 == 0:
        raise ValueError(f"window: expected an odd number of 1 or more, got {window!r}")
    return window


def _check_inputs(q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor | None) -> None:
    if q.dim() != 5 or 0 in q.shape[:4]:
        raise ValueError(
            f"q: expected (N, G, H, W, D) with none of N, G, H, W 0, got {tuple(q.shape)}"
        )
    if k.shape != q.shape:
        raise ValueError(f"k: expected q's shape {tuple(q.shape)}, got {tuple(k.shape)}")
    _check_table("query_table", query_table, q.shape[4])
    if key_table is not None:
        _check_table("key_table", key_table, q.shape[4], query_table.shape[0])


def _check_table(name: str, table: Tensor, depth: int, window: int | None = None) -> None:
    side = table.shape[0] if window is None else window
    if side % 2 == 0 or table.shape != (side, side, depth):
        wanted = "(m, m" if window is None else f"({window}, {window}"
        raise ValueError(
            f"{name}: expected {wanted}, {depth}) with an odd m, got {tuple(table.shape)}"
        )
