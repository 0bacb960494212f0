"""Position-sensitive axial attention in plain PyTorch: the specification.

Every faster implementation must equal what stands here, forward and backward, at any strip length.
Readable before fast: all three logit maps are held in memory at once.

One head, one strip of length L; `o` is the query's position, `p` the key's (Axial-DeepLab, ECCV
2020, equation 4):

    y_o = sum_p softmax_p(q_o . k_p + q_o . rq[p - o] + k_p . rk[p - o]) (v_p + rv[p - o])

Axis letters: B strips, G heads, L positions of a strip, D depth per head; `i` indexes queries and
`j` keys.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def relative_rows(length: int, max_distance: int, device: torch.device | None = None) -> Tensor:
    """The row of a position table that each query and key pair looks up.

    Args:
        length: L, the number of positions in a strip.
        max_distance: the largest distance the table holds; further ones use its end rows.
        device: where to put the result.

    Returns:
        (L, L) int64: `clip(key - query, -max_distance, max_distance) + max_distance`, queries down,
        keys across.
    """
    position = torch.arange(length, device=device)
    distance = position[None, :] - position[:, None]
    return distance.clamp(-max_distance, max_distance) + max_distance


def at_least_single(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is in float64: sums over a strip don't belong in half."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def no_autocast(like: Tensor) -> AbstractContextManager:
    """Switches autocast off on a tensor's device, for sums that don't belong in half precision."""
    if like.is_meta:  # Has no autocast to switch off.
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def is_recorded() -> bool:
    """Whether a tracer follows each operation, or tensors come without numbers."""
    keys = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(key) is not None for key in (keys.FAKE, keys.PROXY))


def is_concrete(tensor: Tensor) -> bool:
    """Whether it is a tensor with memory of its own: not a tracer's, a transform's or a GPU's."""
    return not (
        torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or is_recorded()
        or tensor.device.type not in ("cpu", "meta")
        or type(tensor) is not Tensor
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def band(length: int, span: int | None, device: torch.device | None = None) -> Tensor:
    """Which keys each query sees.

    Args:
        length: L, the number of positions in a strip.
        span: odd number of keys around a query, itself included; None for the whole strip.
        device: where to put the result.

    Returns:
        (L, L) bool, queries down, keys across.
    """
    if span is None:
        return torch.ones(length, length, dtype=torch.bool, device=device)
    position = torch.arange(length, device=device)
    return (position[None, :] - position[:, None]).abs() <= span // 2


def half_span(length: int, span: int | None) -> int:
    """How many keys a query can see on either side of it."""
    return length - 1 if span is None else min(span // 2, length - 1)


def pairs_in_band(length: int, span: int | None) -> int:
    """How many pairs `band` holds."""
    half = half_span(length, span)
    return length * (2 * half + 1) - half * (half + 1)  # the band, less its two cut corners


def counted(*tables: Tensor) -> list[Tensor]:
    """(R, D) as (1, R, D); (G, R, D) as it is."""
    return [t if t.dim() == 3 else t[None] for t in tables]


def rows_in_use(*tables: Tensor, length: int) -> list[Tensor]:
    """The rows of distances -(L - 1) .. L - 1, (1 or G, 2 L - 1, D), end rows repeated."""
    far = tables[0].shape[-2] // 2
    all_tables = counted(*tables)
    if far == length - 1:
        return all_tables
    distance = torch.arange(1 - length, length, device=tables[0].device).clamp_(-far, far)
    return [t[:, distance + far] for t in all_tables]


def flat_strips(*tensors: Tensor) -> tuple[Tensor, ...]:
    """(N, S, G, L, D) as (B, G, L, D); what is that already, as it is."""
    return tuple(t.flatten(0, 1) if t.dim() == 5 else t for t in tensors)


def pictures_of(*strips: Tensor) -> list[Tensor]:
    """(B, G, L, D) as (1, B, G, L, D); (N, S, G, L, D) as it is."""
    return [t[None] if t.dim() == 4 else t for t in strips]


def alike(tables: Sequence[Tensor], heads: int) -> Sequence[Tensor]:
    """(1 or G, R, D) tables, all of one number: G where one of them is per head."""
    if all(len(t) == len(tables[0]) for t in tables):
        return tables
    return [t.expand(heads, -1, -1) for t in tables]


def lookup(table: Tensor, rows: Tensor) -> Tensor:
    """Looks a position table up for every pair.

    Args:
        table: (R, D), shared by the heads, or (G, R, D).
        rows: (L, L), from `relative_rows`.

    Returns:
        (1, L, L, D) or (G, L, L, D).
    """
    shared = table if table.dim() == 3 else table[None]
    return shared[:, rows]


def logit_terms(q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor) -> Tensor:
    """The three terms of the logits, before any scale.

    Args:
        q: (B, G, L, D) queries.
        k: (B, G, L, D) keys.
        query_table: (R, D) or (G, R, D), `rq`.
        key_table: (R, D) or (G, R, D), `rk`.

    Returns:
        (3, B, G, L, L): q.k, q.rq and k.rk, queries before keys.
    """
    rows = relative_rows(q.shape[2], query_table.shape[-2] // 2, q.device)
    rq = lookup(query_table, rows).expand(q.shape[1], -1, -1, -1)  # (G, L, L, D)
    rk = lookup(key_table, rows).expand(q.shape[1], -1, -1, -1)  # (G, L, L, D)
    content = torch.einsum("bgid,bgjd->bgij", q, k)
    query_position = torch.einsum("bgid,gijd->bgij", q, rq)
    key_position = torch.einsum("bgjd,gijd->bgij", k, rk)
    return torch.stack([content, query_position, key_position])


def logit_moments(
    q: Tensor,
    k: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    *,
    span: int | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Mean and variance of each logit term, over strips and in-band pairs; see `axial_d2.ops`."""
    terms = logit_terms(q, k, query_table, key_table)
    inside = band(q.shape[2], span, q.device)
    count = q.shape[0] * int(inside.sum())
    mean = (terms * inside).sum(dim=(1, 3, 4)) / count  # (3, G)
    centred = (terms - mean[:, None, :, None, None]) * inside
    variance = centred.square().sum(dim=(1, 3, 4)) / count  # (3, G)
    return mean, variance, count


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
    """The attention itself; see `axial_d2.ops.axial_attention`."""
    terms = logit_terms(q, k, query_table, key_table)
    if logit_scale is not None:
        terms = terms * logit_scale.to(terms.dtype)[:, None, :, None, None]
    logits = terms.sum(dim=0)  # (B, G, L, L)
    inside = band(q.shape[2], span, q.device)
    weights = logits.masked_fill(~inside, float("-inf")).softmax(dim=-1)

    rows = relative_rows(q.shape[2], value_table.shape[-2] // 2, q.device)
    rv = lookup(value_table, rows).expand(q.shape[1], -1, -1, -1)  # (G, L, L, Dv)
    content = torch.einsum("bgij,bgjd->bgid", weights, v)
    position = torch.einsum("bgij,gijd->bgid", weights, rv)
    return content, position
