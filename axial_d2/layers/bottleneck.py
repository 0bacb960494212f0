"""The residual block of Axial-ResNet."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axial_d2.layers.axial_attention import NormFactory
from axial_d2.layers.drop_path import DropPath
from axial_d2.layers.folding import FoldingSequential, convolve
from axial_d2.layers.layout import subsampled


class AxialBottleneck(nn.Module):
    """A ResNet bottleneck whose 3x3 convolution is an attention (Axial-DeepLab, figure 2).

    1x1, norm, ReLU; attention, ReLU; 1x1, norm; plus the shortcut, ReLU.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        attention: nn.Module,
        stride: int = 1,
        norm: NormFactory = nn.BatchNorm2d,
        drop_path: float = 0.0,
    ) -> None:
        """Puts the block together around its attention.

        Args:
            in_channels: channels of the input.
            mid_channels: channels of the attention, in and out.
            out_channels: channels of the output.
            attention: maps (N, mid_channels, H, W) to the same channels at ceil(size / stride).
            stride: the attention's stride, which the shortcut must match.
            norm: makes the norm of that many channels.
            drop_path: chance of leaving the branch out in training.
        """
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, mid_channels, kernel_size=1, bias=False)
        self.reduce_norm = norm(mid_channels)
        self.attention = attention
        self.expand = nn.Conv2d(mid_channels, out_channels, kernel_size=1, bias=False)
        self.expand_norm = norm(out_channels)
        self.drop_path = DropPath(drop_path)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = FoldingSequential(
                SubsampledConv(in_channels, out_channels, stride=stride),
                norm(out_channels),
            )
            init_convolution(self.shortcut[0])
        init_convolution(self.reduce)
        init_convolution(self.expand)
        # The block starts as its shortcut (Goyal et al., arXiv 1706.02677, section 5.1).
        # A frozen norm, whose weight is a buffer, would stay at zero for ever.
        if isinstance(getattr(self.expand_norm, "weight", None), nn.Parameter):
            nn.init.zeros_(self.expand_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (N, in_channels, H, W), gives (N, out_channels, ceil(H / stride), ...)."""
        branch = convolve(self.reduce, self.reduce_norm, x)
        branch = self.relu(self.attention(self.relu(branch)))
        branch = convolve(self.expand, self.expand_norm, branch)
        branch, shortcut = self.drop_path(branch), self.shortcut(x)
        total = branch + shortcut if torch.is_grad_enabled() else branch.add_(shortcut)
        return self.relu(total)


class SubsampledConv(nn.Conv2d):
    """A strided 1x1 convolution that takes every s-th row and column first, then the convolution.

    The same numbers and names as torch's own, whose backward pass on the CPU kills the process
    ("double free or corruption", torch 2.14) with channels last, an even size and few channels
    that come in, such as a picture's three.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        """Builds the convolution, without bias.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            stride: both axes shrink to ceil(size / stride).
        """
        super().__init__(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Takes (N, in_channels, H, W), gives (N, out_channels, ceil(H / stride), ...)."""
        step = self.stride[0]
        return F.conv2d(subsampled(x, rows=step, columns=step), weight, bias)


def init_convolution(convolution: nn.Conv2d) -> None:
    """He initialisation for a convolution that a ReLU follows."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
