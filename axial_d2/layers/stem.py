"""What turns a picture into the first feature map."""

from torch import Tensor, nn

from axial_d2.layers.axial_attention import AxialAttention2d, NormFactory
from axial_d2.layers.bottleneck import AxialBottleneck, init_convolution
from axial_d2.layers.folding import FoldingSequential
from axial_d2.layers.logit_norm import LogitNorm
from axial_d2.layers.recompute import recomputed


class ConvStem(nn.Module):
    """Convolutions, the first with stride 2, each with norm and ReLU; then 3x3 max-pooling."""

    stride = 4

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        kernel_size: int,
        in_channels: int = 3,
        norm: NormFactory = nn.BatchNorm2d,
    ) -> None:
        """Builds one convolution per entry of `channels`.

        Args:
            channels: output channels of each convolution.
            kernel_size: of every convolution, odd.
            in_channels: channels of the picture.
            norm: makes the norm of that many channels.

        Raises:
            ValueError: no convolution, one without channels, or an even kernel.
        """
        super().__init__()
        if not channels or min(channels) < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"expected at least one convolution of 1 channel or more and an odd kernel, "
                f"got channels {channels} and kernel size {kernel_size}"
            )
        self.out_channels = channels[-1]
        layers: list[nn.Module] = []
        for i, out_channels in enumerate(channels):
            convolution = nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride=2 if i == 0 else 1,
                padding=kernel_size // 2,
                bias=False,
            )
            init_convolution(convolution)
            layers += [convolution, norm(out_channels), nn.ReLU(inplace=True)]
            in_channels = out_channels
        self.layers = FoldingSequential(*layers)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (N, 3, H, W), gives (N, out_channels, ceil(H / 4), ceil(W / 4))."""
        return self.pool(self.layers(x))


class AxialStem(nn.Module):
    """Three axial bottlenecks, the first with stride 2: a stem with no convolution but 1x1.

    The stem of the stand-alone network ("Full Axial-Attention" in Axial-DeepLab's table 1). There
    is no pooling: the first block of the next stage has the second stride.
    """

    stride = 2

    def __init__(
        self,
        *,
        mid_channels: int,
        out_channels: int,
        in_channels: int = 3,
        stride_mode: str = "subsample",
        num_heads: int = 8,
        span: int | None = 15,
        max_distance: int = 254,
        norm: NormFactory = nn.BatchNorm2d,
        logit_norm: NormFactory = LogitNorm,
        backend: str = "auto",
        checkpoint: bool = False,
    ) -> None:
        """Builds the blocks.

        Args:
            mid_channels: channels of the attention, a multiple of twice the heads.
            out_channels: channels of the output of each block.
            in_channels: channels of the picture.
            stride_mode: as for `AxialAttention2d`, like those up to `backend`.
            num_heads: see there.
            span: see there; the paper's is 15.
            max_distance: see there.
            norm: see there.
            logit_norm: see there.
            backend: see there.
            checkpoint: recompute each block in the backward pass.

        Raises:
            ValueError: as `AxialAttention2d`.
        """
        super().__init__()
        self.out_channels = out_channels
        self.checkpoint = checkpoint
        self.blocks = nn.Sequential()
        for i in range(3):
            stride = 2 if i == 0 else 1
            attention = AxialAttention2d(
                in_channels=mid_channels,
                out_channels=mid_channels,
                stride=stride,
                stride_mode=stride_mode,
                num_heads=num_heads,
                span=span,
                max_distance=max_distance,
                norm=norm,
                logit_norm=logit_norm,
                backend=backend,
            )
            self.blocks.append(
                AxialBottleneck(
                    in_channels=in_channels if i == 0 else out_channels,
                    mid_channels=mid_channels,
                    out_channels=out_channels,
                    attention=attention,
                    stride=stride,
                    norm=norm,
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """Takes (N, 3, H, W), gives (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        for block in self.blocks:
            x = recomputed(block, x) if self.checkpoint else block(x)
        return x


def conv7_stem(width_multiplier: float, norm: NormFactory = nn.BatchNorm2d) -> ConvStem:
    """ResNet's stem, one 7x7 convolution of 64 channels for L: the paper's for ImageNet."""
    return ConvStem(channels=_widths(width_multiplier, 64), kernel_size=7, norm=norm)


def conv3_stem(width_multiplier: float, norm: NormFactory = nn.BatchNorm2d) -> ConvStem:
    """Three 3x3 convolutions of 64, 64 and 128 channels for L: the paper's for segmentation."""
    return ConvStem(channels=_widths(width_multiplier, 64, 64, 128), kernel_size=3, norm=norm)


def _widths(multiplier: float, *channels: int) -> tuple[int, ...]:
    return tuple(max(1, int(c * multiplier)) for c in channels)
