"""Mean and variance of the logits without the logits.

Sums of inner products are inner products of sums. With S over strips b, queries i and keys j:

    S q_bi . k_bj        = sum_b (sum_i q_bi) . (sum_j k_bj)
    S (q_bi . k_bj)^2    = sum_b < sum_i q_bi q_bi^T, sum_j k_bj k_bj^T >
    S q_bi . rq[j-i]     = sum_i (sum_b q_bi) . (sum_j rq[j-i])
    S (q_bi . rq[j-i])^2 = sum_i < sum_b q_bi q_bi^T, sum_j rq[j-i] rq[j-i]^T >

and for k . rk the same with i and j exchanged. O(B L D^2) instead of O(B L^2 D), and no L x L map.
"""

import torch
from torch import Tensor


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
    count = strips * length * length
    # The variance is a small difference of large sums where q and k are far from zero.
    dtype, wide = q.dtype, torch.float64
    q, k = q.to(wide), k.to(wide)
    strip_sums = [t.sum(dim=2) for t in (q, k)]  # (B, G, D)
    strip_squares = [t.mT @ t for t in (q, k)]  # (B, G, D, D)
    by_place = [t.permute(1, 2, 3, 0) for t in (q, k)]  # (G, L, D, B)
    place_sums = [t.sum(dim=3) for t in by_place]  # (G, L, D)
    place_squares = [t @ t.mT for t in by_place]  # (G, L, D, D)

    # A query i meets the rows of distance -i .. L - 1 - i, a key j those of j - L + 1 .. j.
    ends = torch.arange(length, device=q.device)
    starts = (length - 1 - ends, ends)
    row_sums, row_squares = [], []
    for table, start in zip((query_table, key_table), starts, strict=True):
        rows = (table if table.dim() == 3 else table[None]).to(wide)  # (1 or G, R, D)
        outer = rows[..., :, None] * rows[..., None, :]  # (1 or G, R, D, D)
        row_sums.append(window_sums(rows, start, start + length))
        row_squares.append(window_sums(outer, start, start + length))
    first = [(strip_sums[0] * strip_sums[1]).sum(dim=(0, 2))]
    second = [(strip_squares[0] * strip_squares[1]).sum(dim=(0, 2, 3))]
    for term in (0, 1):
        first.append((place_sums[term] * row_sums[term]).sum(dim=(1, 2)))
        second.append((place_squares[term] * row_squares[term]).sum(dim=(1, 2, 3)))
    mean = torch.stack(first) / count  # (3, G)
    variance = (torch.stack(second) / count - mean.square()).clamp_min(0)
    return mean.to(dtype), variance.to(dtype), count


def window_sums(rows: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Sums of successive rows.

    Args:
        rows: (T, R, ...).
        starts: (L,) first row of each window.
        ends: (L,) the row after its last.

    Returns:
        (T, L, ...).
    """
    before = torch.cat([torch.zeros_like(rows[:, :1]), rows.cumsum(dim=1)], dim=1)
    return before[:, ends] - before[:, starts]
