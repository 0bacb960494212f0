"""Mean and variance of the logits without the logits.

Sums of inner products are inner products of sums. With S over strips b, queries i and keys j:

    S q_bi . k_bj        = sum_b (sum_i q_bi) . (sum_j k_bj)
    S (q_bi . k_bj)^2    = sum_b < sum_i q_bi q_bi^T, sum_j k_bj k_bj^T >
    S q_bi . rq[j-i]     = sum_i (sum_b q_bi) . (sum_j rq[j-i])
    S (q_bi . rq[j-i])^2 = sum_i < sum_b q_bi q_bi^T, sum_j rq[j-i] rq[j-i]^T >

and for k . rk the same with i and j exchanged. O(B L D^2) instead of O(B L^2 D), and no L x L map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from axial_d2.ops import reference


def logit_moments(
    q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor, *, span: None = None
) -> tuple[Tensor, Tensor, int]:
    """Closed form of `reference.logit_moments` for the whole strip.

    Args:
        q: (B, G, L, D).
        k: (B, G, L, D).
        query_table: (2 * L - 1, D) or (G, 2 * L - 1, D), the row of distance 0 in the middle.
        key_table: like `query_table`.
        span: None.

    Returns:
        Mean (3, G), biased variance (3, G), count.
    """
    strips, _, length, _ = q.shape
    # The variance is a small difference of large sums where q and k are far from zero.
    dtype, wide = q.dtype, torch.float64
    q, k = q.to(wide), k.to(wide)
    strip_sums = [t.sum(dim=2) for t in (q, k)]  # (B, G, D)
    strip_squares = [t.mT @ t for t in (q, k)]  # (B, G, D, D)
    first = (strip_sums[0] * strip_sums[1]).sum(dim=(0, 2))
    second = (strip_squares[0] * strip_squares[1]).sum(dim=(0, 2, 3))
    by_place, by_row = [], []
    for t, table in ((q, query_table), (k, key_table)):
        places = t.permute(1, 2, 3, 0)  # (G, L, D, B)
        squares = (places @ places.mT).flatten(2)  # (G, L, D * D)
        by_place.append((places.sum(dim=3), squares))
        rows = (table if table.dim() == 3 else table[None]).to(wide)  # (1 or G, R, D)
        outer = rows[..., :, None] * rows[..., None, :]  # (1 or G, R, D, D)
        by_row.append((rows, outer.flatten(2)))  # (1 or G, R, D * D)
    mean, variance = from_sums(first, second, by_place, by_row, strips=strips, span=span)
    return mean.to(dtype), variance.to(dtype), strips * length * length


def from_sums(
    first: Tensor,
    second: Tensor,
    by_place: Sequence[tuple[Tensor, Tensor]],
    by_row: Sequence[tuple[Tensor, Tensor]],
    *,
    strips: int,
    span: int | None,
) -> tuple[Tensor, Tensor]:
    """The moments from sums over strips.

    Args:
        first: (G,) the sum of q.k over all pairs within the span.
        second: (G,) that of its square.
        by_place: of q, then of k: the sums over strips of the vectors, (G, L, D), and of their
            products' P entries, (G, L, P).
        by_row: of both tables: the rows of distances -(L - 1) .. L - 1, (1 or G, 2 L - 1, D), and
            their products, (1 or G, 2 L - 1, P), each as often as it occurs.
        strips: B.
        span: as for `axial_d2.ops.axial_attention`.

    Returns:
        Mean (3, G) and biased variance (3, G).
    """
    length = by_place[0][0].shape[1]
    half = reference.half_span(length, span)
    places = torch.arange(length, device=first.device)
    low, high = (places - half).clamp_min(0), (places + half).clamp_max(length - 1)
    # A query i meets the rows of distance low - i .. high - i, a key j of j - high .. j - low.
    windows = (
        (low - places + length - 1, high - places + length),
        (places - high + length - 1, places - low + length),
    )
    means, squares = [first], [second]
    for sums, rows, window in zip(by_place, by_row, windows, strict=True):
        for terms, one, other in zip((means, squares), sums, rows, strict=True):
            terms.append((one * _window_sums(other, *window)).sum(dim=(1, 2)))
    count = strips * reference.pairs_in_band(length, span)
    mean = torch.stack(means) / count  # (3, G)
    return mean, (torch.stack(squares) / count - mean.square()).clamp_min(0)


def _window_sums(rows: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Sums of successive rows.

    Args:
        rows: (T, R, C).
        starts: (L,) first row of each window.
        ends: (L,) the row after its last.

    Returns:
        (T, L, C).
    """
    before = torch.cat([torch.zeros_like(rows[:, :1]), rows.cumsum(dim=1)], dim=1)
    return before[:, ends] - before[:, starts]
