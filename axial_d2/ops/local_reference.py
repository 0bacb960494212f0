"""Local 2-D attention in plain PyTorch: the specification of `ops.local_attention`.

Readable before fast: the keys and values of every window are held at once, m^2 times the map.

One head; `o` is a query's place in the map, `p` that of a key in the m x m window around it:

    y_o = sum_p softmax_p(q_o . k_p + q_o . rq[p - o] + k_p . rk[p - o]) (v_p + rv[p - o])

Places outside the map do not exist: they are neither keys nor values.

Axis letters: N images, G heads, H rows, W columns, D depth per head, M the window's side; T terms
of the logits.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from axial_d2.ops.reference import no_autocast


def windows(x: Tensor, window: int) -> Tensor:
    """The M x M places around each place, zeros outside the map.

    Args:
        x: (N, G, H, W, D).
        window: M, odd.

    Returns:
        (N, G, H, W, M, M, D): the last M x M are key - query + M // 2, rows before columns.
    """
    reach = window // 2
    padded = F.pad(x, (0, 0, reach, reach, reach, reach))  # (N, G, H + M - 1, W + M - 1, D)
    unfolded = padded.unfold(2, window, 1).unfold(3, window, 1)  # (N, G, H, W, D, M, M)
    return unfolded.permute(0, 1, 2, 3, 5, 6, 4)  # (N, G, H, W, M, M, D)


def in_map(height: int, width: int, window: int, device: torch.device | None = None) -> Tensor:
    """Which places of each window lie in the map: (H, W, M, M) bool."""
    ones = torch.ones(1, 1, height, width, 1, device=device)
    return windows(ones, window)[0, 0, ..., 0] > 0


def logit_terms(q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor | None) -> Tensor:
    """The terms of the logits, before any scale.

    Args:
        q: (N, G, H, W, D).
        k: (N, G, H, W, D).
        query_table: (M, M, D), `rq`.
        key_table: (M, M, D), `rk`, or None for no such term.

    Returns:
        (T, N, G, H, W, M, M): q.k, q.rq and, with a key table, k.rk.
    """
    keys = windows(k, query_table.shape[0])
    terms = [
        torch.einsum("nghwd,nghwijd->nghwij", q, keys),
        torch.einsum("nghwd,ijd->nghwij", q, query_table),
    ]
    if key_table is not None:
        terms.append(torch.einsum("nghwijd,ijd->nghwij", keys, key_table))
    return torch.stack(terms)


def local_logit_moments(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    """Mean and variance of each term over the pairs in the map; see `ops.local_logit_moments`."""
    with no_autocast(q):
        terms = logit_terms(q, k, query_table, key_table)
    inside = in_map(q.shape[2], q.shape[3], query_table.shape[0], q.device)
    count = q.shape[0] * int(inside.sum())
    mean = (terms * inside).sum(dim=(1, 3, 4, 5, 6)) / count  # (T, G)
    centred = (terms - mean[:, None, :, None, None, None, None]) * inside
    return mean, centred.square().sum(dim=(1, 3, 4, 5, 6)) / count, count


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor | None,
    value_table: Tensor | None,
    *,
    logit_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The attention itself; see `axial_d2.ops.local_attention`."""
    window = query_table.shape[0]
    terms = logit_terms(q, k, query_table, key_table)
    if logit_scale is not None:
        terms = terms * logit_scale.to(terms.dtype)[:, None, :, None, None, None, None]
    logits = terms.sum(dim=0)  # (N, G, H, W, M, M)
    outside = ~in_map(q.shape[2], q.shape[3], window, q.device)
    weights = logits.masked_fill(outside, float("-inf")).flatten(4).softmax(dim=-1)
    weights = weights.unflatten(4, (window, window))  # (N, G, H, W, M, M)
    content = torch.einsum("nghwij,nghwijd->nghwd", weights, windows(v, window))
    if value_table is None:
        return content, None
    return content, torch.einsum("nghwij,ijd->nghwd", weights, value_table)
