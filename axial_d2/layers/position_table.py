"""Learned relative positions."""

import torch
from torch import Tensor, nn


class RelativePositionTable(nn.Module):
    """One learned vector per relative distance, shared by the heads of a layer.

    The length depends on neither the input's size nor the span: a checkpoint loads at any
    resolution, and distances beyond the table use its end rows.
    """

    def __init__(self, *, depth: int, max_distance: int, std: float) -> None:
        """Draws the vectors from a normal distribution.

        Args:
            depth: D, the length of each vector.
            max_distance: the largest distance with a row of its own; 2 * max_distance + 1 rows.
            std: standard deviation of the initial values.

        Raises:
            ValueError: depth or max_distance below 1.
        """
        super().__init__()
        if depth < 1 or max_distance < 1:
            raise ValueError(
                f"expected depth and max_distance of at least 1, got {depth} and {max_distance}"
            )
        self.weight = nn.Parameter(torch.empty(2 * max_distance + 1, depth))
        nn.init.normal_(self.weight, std=std)

    def forward(self) -> Tensor:
        """Returns the table, (2 * max_distance + 1, D), row `key - query + max_distance`."""
        return self.weight

    def extra_repr(self) -> str:
        rows, depth = self.weight.shape
        return f"rows={rows}, depth={depth}"
