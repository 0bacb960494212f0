"""Decoders of Panoptic-DeepLab's two branches, of convolutions or of axial attention."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ASPP, Conv2d, ShapeSpec, get_norm
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn
from torch.nn import functional as F

from axial_d2.layers import AxialAttention2d, AxialBottleneck
from axial_d2.layers.folding import convolve_folded, has_hooks
from axial_d2.modeling.norms import logit_norm_factory, norm_factory


class Decoder(nn.Module):
    """Brings the last feature map back up, joining a shallower one at each step.

    Panoptic-DeepLab (CVPR 2020), figure 2: `top` on the deepest feature; then per step a bilinear
    resize to the next feature's size, that feature's projection beside it, and a fuse.
    """

    def __init__(
        self,
        *,
        top_feature: str,
        top: nn.Module,
        projections: Mapping[str, nn.Module],
        fuses: Mapping[str, nn.Module],
    ) -> None:
        """Puts the parts together.

        Args:
            top_feature: the deepest feature's name.
            top: what it goes through first.
            projections: by name of each shallower feature, deepest first.
            fuses: by the same names, from projection and resized map to the step's output.
        """
        super().__init__()
        self.top_feature = top_feature
        self.top = top
        self.projections = nn.ModuleDict(projections)
        self.fuses = nn.ModuleDict(fuses)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Takes features by name, gives (N, channels, h, w) at the shallowest one's size."""
        y = self.top(features[self.top_feature])
        for name, projection in self.projections.items():
            shallow = projection(features[name])
            y = F.interpolate(y, size=shallow.shape[-2:], mode="bilinear", align_corners=False)
            y = torch.cat([shallow, y], dim=1)
            fuse = self.fuses[name]
            # Part by part: a call of the whole would hold its input, the largest map, to its end.
            apart = type(fuse) is nn.Sequential and not has_hooks(fuse)
            for part in fuse if apart else (fuse,):
                y = part(y)
        return y


class FoldingConv2d(Conv2d):
    """Detectron2's convolution with norm and ReLU, whose norm it takes in for evaluation."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, **options: int) -> None:
        """Builds the three.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            norm: a name that Detectron2's `get_norm` knows.
            options: of `nn.Conv2d`.
        """
        super().__init__(
            in_channels,
            out_channels,
            bias=False,
            norm=get_norm(norm, out_channels),
            activation=F.relu,
            **options,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Takes (N, in_channels, H, W)."""
        folded = convolve_folded(self, self.norm, x)
        return super().forward(x) if folded is None else F.relu_(folded)


def separable_conv5(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    """A 5x5 depthwise-separable convolution, norm and ReLU after each of its two."""
    depthwise = FoldingConv2d(
        in_channels, in_channels, norm, kernel_size=5, padding=2, groups=in_channels
    )
    pointwise = FoldingConv2d(in_channels, out_channels, norm, kernel_size=1)
    for convolution in (depthwise, pointwise):
        c2_msra_fill(convolution)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))


def pointwise_conv(in_channels: int, out_channels: int, norm: str) -> nn.Module:
    """A 1x1 convolution with norm and ReLU."""
    convolution = FoldingConv2d(in_channels, out_channels, norm, kernel_size=1)
    c2_msra_fill(convolution)
    return convolution


def axial_block(
    in_channels: int,
    out_channels: int,
    norm: str,
    *,
    num_heads: int = 8,
    span: int = 0,
    max_distance: int = 254,
    backend: str = "auto",
) -> nn.Module:
    """One axial bottleneck, the axial decoder's step (Axial-DeepLab, appendix)."""
    norm_of = norm_factory(norm, "the head's NORM")
    mid_channels = max(1, out_channels // (4 * num_heads)) * 2 * num_heads
    return AxialBottleneck(
        in_channels=in_channels,
        mid_channels=mid_channels,
        out_channels=out_channels,
        norm=norm_of,
        attention=AxialAttention2d(
            in_channels=mid_channels,
            out_channels=mid_channels,
            num_heads=num_heads,
            span=span,
            max_distance=max_distance,
            norm=norm_of,
            logit_norm=logit_norm_factory(norm),
            backend=backend,
        ),
    )


def build_decoder(
    *,
    input_shape: Mapping[str, ShapeSpec],
    project_channels: Sequence[int],
    top_channels: int,
    channels: int,
    norm: str,
    fuse: Callable[[int, int, str], nn.Module] = separable_conv5,
    aspp_dilations: Sequence[int] = (),
    aspp_dropout: float = 0.0,
) -> Decoder:
    """Builds a decoder over the given features.

    Args:
        input_shape: channels and stride of each feature to use, by name.
        project_channels: of each feature but the deepest, shallowest first, as in Detectron2.
        top_channels: of the deepest feature after its 1x1 convolution or ASPP.
        channels: output channels of every step.
        norm: a name that Detectron2's `get_norm` knows.
        fuse: (in channels, out channels, norm) to a step's module.
        aspp_dilations: three dilations, or none for one 1x1 convolution in the ASPP's place.
        aspp_dropout: rate at the end of the ASPP.

    Raises:
        ValueError: the number of project_channels does not fit, or the norm is unknown.
    """
    norm_factory(norm, "the head's NORM")
    order = sorted(input_shape, key=lambda name: input_shape[name].stride)
    *shallow, deepest = order
    if len(project_channels) != len(shallow):
        raise ValueError(
            f"PROJECT_CHANNELS: expected one for each of {', '.join(shallow) or 'no feature'}, "
            f"got {list(project_channels)}"
        )
    in_channels = input_shape[deepest].channels
    if aspp_dilations:
        top: nn.Module = ASPP(
            in_channels,
            top_channels,
            list(aspp_dilations),
            norm=norm,
            activation=F.relu,
            dropout=aspp_dropout,
            use_depthwise_separable_conv=True,
        )
    else:
        top = pointwise_conv(in_channels, top_channels, norm)
    projections, fuses, current = {}, {}, top_channels
    for name, projected in reversed(list(zip(shallow, project_channels, strict=True))):
        projections[name] = pointwise_conv(input_shape[name].channels, projected, norm)
        fuses[name] = fuse(projected + current, channels, norm)
        current = channels
    return Decoder(top_feature=deepest, top=top, projections=projections, fuses=fuses)


def decoder_from_config(
    cfg: CfgNode, branch: CfgNode, input_shape: Mapping[str, ShapeSpec]
) -> Decoder:
    """Builds the decoder of `MODEL.SEM_SEG_HEAD` or of `MODEL.INS_EMBED_HEAD`.

    Raises:
        ValueError: a feature the backbone does not give, a common stride that is not the shallowest
            feature's, an unknown `MODEL.AXIAL_DEEPLAB.DECODER`, or another number of dilations than
            ASPP has.
    """
    if cfg.MODEL.AXIAL_DEEPLAB.ASPP and len(branch.ASPP_DILATIONS) != 3:
        raise ValueError(
            "ASPP_DILATIONS: expected three with MODEL.AXIAL_DEEPLAB.ASPP, got "
            f"{list(branch.ASPP_DILATIONS)}"
        )
    if not branch.IN_FEATURES:
        raise ValueError("IN_FEATURES: expected at least one feature of the backbone, got none")
    missing = [name for name in branch.IN_FEATURES if name not in input_shape]
    if missing:
        raise ValueError(
            f"IN_FEATURES: the backbone gives {', '.join(input_shape)}, not {', '.join(missing)}"
        )
    used = {name: input_shape[name] for name in branch.IN_FEATURES}
    shallowest = min(shape.stride for shape in used.values())
    if branch.COMMON_STRIDE != shallowest:
        raise ValueError(
            f"COMMON_STRIDE: expected {shallowest}, the stride of the shallowest of "
            f"{', '.join(used)}, got {branch.COMMON_STRIDE}"
        )
    return build_decoder(
        input_shape=used,
        project_channels=branch.PROJECT_CHANNELS,
        top_channels=branch.ASPP_CHANNELS,
        channels=branch.CONVS_DIM,
        norm=branch.NORM,
        fuse=_fuse_from_config(cfg),
        aspp_dilations=branch.ASPP_DILATIONS if cfg.MODEL.AXIAL_DEEPLAB.ASPP else (),
        aspp_dropout=branch.ASPP_DROPOUT,
    )


def _fuse_from_config(cfg: CfgNode) -> Callable[[int, int, str], nn.Module]:
    kind, node = cfg.MODEL.AXIAL_DEEPLAB.DECODER, cfg.MODEL.AXIAL_RESNET
    if kind == "conv":
        return separable_conv5
    if kind != "axial":
        raise ValueError(f"MODEL.AXIAL_DEEPLAB.DECODER: expected conv or axial, got {kind!r}")

    def fuse(in_channels: int, out_channels: int, norm: str) -> nn.Module:
        return axial_block(
            in_channels,
            out_channels,
            norm,
            num_heads=node.NUM_HEADS,
            span=node.SPAN,
            max_distance=node.MAX_DISTANCE,
            backend=node.BACKEND,
        )

    return fuse
