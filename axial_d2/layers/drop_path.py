"""Stochastic depth."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Leaves a residual branch out at random in training, picture by picture.

    Kept branches are divided by the chance of being kept, so that the expectation stays (Huang et
    al., Deep Networks with Stochastic Depth, ECCV 2016).
    """

    def __init__(self, rate: float = 0.0) -> None:
        """Sets the chance of being left out.

        Args:
            rate: 0 (never) to 1, 1 excluded.

        Raises:
            ValueError: the rate is out of that range.
        """
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate: expected 0 <= rate < 1, got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Takes and gives (N, ...)."""
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        mask = torch.empty(x.shape[0], *[1] * (x.dim() - 1), device=x.device).bernoulli_(keep)
        return x * (mask / keep).to(x.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
