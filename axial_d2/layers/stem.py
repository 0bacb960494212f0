"""What turns a picture into the first feature map, at a quarter of its size."""

from torch import Tensor, nn

from axial_d2.layers.axial_attention import NormFactory
from axial_d2.layers.bottleneck import init_convolution


class ConvStem(nn.Module):
    """Convolutions, the first with stride 2, each with norm and ReLU; then 3x3 max-pooling."""

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
        self.layers = nn.Sequential(*layers)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Takes (N, 3, H, W), gives (N, out_channels, ceil(H / 4), ceil(W / 4))."""
        return self.pool(self.layers(x))


def conv7_stem(width_multiplier: float, norm: NormFactory = nn.BatchNorm2d) -> ConvStem:
    """ResNet's stem, one 7x7 convolution of 64 channels for L: the paper's for ImageNet."""
    return ConvStem(channels=_widths(width_multiplier, 64), kernel_size=7, norm=norm)


def conv3_stem(width_multiplier: float, norm: NormFactory = nn.BatchNorm2d) -> ConvStem:
    """Three 3x3 convolutions of 64, 64 and 128 channels for L: the paper's for segmentation."""
    return ConvStem(channels=_widths(width_multiplier, 64, 64, 128), kernel_size=3, norm=norm)


def _widths(multiplier: float, *channels: int) -> tuple[int, ...]:
    return tuple(max(1, int(c * multiplier)) for c in channels)
