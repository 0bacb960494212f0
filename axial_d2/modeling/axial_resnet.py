"""Axial-ResNet: a ResNet whose 3x3 convolutions are axial attention."""

import logging
from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from axial_d2 import ops
from axial_d2.layers import (
    AxialAttention2d,
    AxialBottleneck,
    FitsTablesOnLoad,
    LogitNorm,
    conv3_stem,
    conv7_stem,
    recomputed,
)
from axial_d2.layers.axial_attention import STRIDE_MODES
from axial_d2.modeling.norms import logit_norm_factory, norm_factory

logger = logging.getLogger(__name__)

BLOCKS = {26: (1, 2, 4, 1), 50: (3, 4, 6, 3)}
# Channels inside the blocks of each stage for L: twice ResNet-50's, the expansion being 2, not 4.
STAGE_CHANNELS = (128, 256, 512, 1024)
STEMS = {"conv3": conv3_stem, "conv7": conv7_stem}
STAGES = ("res2", "res3", "res4", "res5")


class AxialResNet(FitsTablesOnLoad, Backbone):
    """The backbone of Axial-DeepLab (ECCV 2020, section 3.3), in plain ResNet's stages.

    No convolution is dilated: for segmentation the last stage merely loses its stride.
    """

    @configurable
    def __init__(
        self,
        *,
        depth: int = 50,
        width_multiplier: float = 1.0,
        stem: str = "conv3",
        num_heads: int = 8,
        span: int = 0,
        max_distance: int = 254,
        stride_mode: str = "subsample",
        output_stride: int = 16,
        norm: str = "BN",
        drop_path: float = 0.0,
        checkpoint: bool = False,
        backend: str = "auto",
        freeze_at: int = 0,
        out_features: Sequence[str] = ("res2", "res3", "res5"),
    ) -> None:
        """Builds stem and stages.

        Args:
            depth: 26 or 50 layers.
            width_multiplier: of all widths; the paper's S, M, L, XL are 0.5, 0.75, 1, 2. Widths
                inside the blocks are rounded to a multiple of twice the heads.
            stem: "conv3" or "conv7".
            num_heads: of every attention layer.
            span: odd number of keys a query sees, 0 for the whole row or column.
            max_distance: the largest relative distance with a row of its own in the tables.
            stride_mode: "subsample" or "avg_pool", see `layers.AxialAttention2d`.
            output_stride: 16 or 32.
            norm: a name that Detectron2's `get_norm` knows.
            drop_path: rate of the last block; grows to it linearly from 0.
            checkpoint: recompute each block in the backward pass.
            backend: which implementation of axial attention.
            freeze_at: 1 freezes the stem, 2 also res2, up to 5.
            out_features: which of stem, res2, res3, res4, res5 to return; stages above the last
                of them are not built.

        Raises:
            ValueError: a value out of these ranges.
        """
        super().__init__()
        _check_one_of("DEPTH", depth, BLOCKS)
        _check_one_of("STEM", stem, STEMS)
        _check_one_of("OUTPUT_STRIDE", output_stride, (16, 32))
        _check_one_of("MODEL.BACKBONE.FREEZE_AT", freeze_at, range(6))
        if not out_features:
            raise ValueError("OUT_FEATURES: expected at least one feature, got none")
        for name in out_features:
            _check_one_of("OUT_FEATURES", name, ("stem", *STAGES))
        if width_multiplier <= 0 or num_heads < 1:
            raise ValueError(
                "WIDTH_MULTIPLIER and NUM_HEADS: expected to be positive, "
                f"got {width_multiplier} and {num_heads}"
            )
        _check_attention(span, backend, stride_mode, max_distance, drop_path)
        norm_of = norm_factory(norm, "MODEL.AXIAL_RESNET.NORM")
        self.checkpoint = checkpoint
        self.output_stride = output_stride
        self.stem = STEMS[stem](width_multiplier, norm_of)
        self._out_features = [f for f in ("stem", *STAGES) if f in out_features]
        self._out_feature_channels = {"stem": self.stem.out_channels}
        self._out_feature_strides = {"stem": 4}

        attention = {
            "num_heads": num_heads,
            "span": span,
            "max_distance": max_distance,
            "norm": norm_of,
            "logit_norm": logit_norm_factory(norm),
            "backend": backend,
        }
        in_channels, stride_so_far = self.stem.out_channels, 4
        rates = iter(_drop_path_rates(drop_path, sum(BLOCKS[depth])))
        plan = list(zip(STAGES, BLOCKS[depth], STAGE_CHANNELS, strict=True))
        for name, blocks, channels in plan[: _last_stage(self._out_features)]:
            stride = 1 if name == "res2" or stride_so_far == output_stride else 2
            mid_channels = _round_channels(channels * width_multiplier, 2 * num_heads)
            stage = nn.Sequential()
            for i in range(blocks):
                block_stride = stride if i == 0 else 1
                stage.append(
                    AxialBottleneck(
                        in_channels=in_channels,
                        mid_channels=mid_channels,
                        out_channels=2 * mid_channels,
                        stride=block_stride,
                        norm=norm_of,
                        drop_path=next(rates),
                        attention=AxialAttention2d(
                            in_channels=mid_channels,
                            out_channels=mid_channels,
                            stride=block_stride,
                            stride_mode=stride_mode,
                            **attention,
                        ),
                    )
                )
                in_channels = 2 * mid_channels
            stride_so_far *= stride
            self.add_module(name, stage)
            self._out_feature_channels[name] = in_channels
            self._out_feature_strides[name] = stride_so_far
        self._freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict:
        """Reads `MODEL.AXIAL_RESNET` and `MODEL.BACKBONE.FREEZE_AT`."""
        node = cfg.MODEL.AXIAL_RESNET
        if input_shape is not None and input_shape.channels not in (None, 3):
            raise ValueError(f"expected pictures of 3 channels, got {input_shape.channels}")
        _check_one_of("ATTENTION", node.ATTENTION, ("axial",))
        if cfg.MODEL.BACKBONE.FREEZE_AT > 0 and not cfg.MODEL.WEIGHTS:
            logger.warning(
                "MODEL.BACKBONE.FREEZE_AT is %d but MODEL.WEIGHTS is empty: the first stages stay "
                "at their random values. Set FREEZE_AT 0 to train from scratch.",
                cfg.MODEL.BACKBONE.FREEZE_AT,
            )
        return {
            "depth": node.DEPTH,
            "width_multiplier": node.WIDTH_MULTIPLIER,
            "stem": node.STEM,
            "num_heads": node.NUM_HEADS,
            "span": node.SPAN,
            "max_distance": node.MAX_DISTANCE,
            "stride_mode": node.STRIDE,
            "output_stride": node.OUTPUT_STRIDE,
            "norm": node.NORM,
            "drop_path": node.DROP_PATH,
            "checkpoint": node.CHECKPOINT,
            "backend": node.BACKEND,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "out_features": node.OUT_FEATURES,
        }

    @property
    def size_divisibility(self) -> int:
        """Detectron2 pads pictures to a multiple of this; the network itself takes any size."""
        return self.output_stride

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Computes the features.

        Args:
            x: (N, 3, H, W) normalised pictures, any H and W.

        Returns:
            By name the features asked for, (N, channels, ceil(H / stride), ceil(W / stride)).
        """
        if x.dim() != 4:
            raise ValueError(f"expected pictures as (N, 3, H, W), got {tuple(x.shape)}")
        features = {}
        x = self.stem(x)
        if "stem" in self._out_features:
            features["stem"] = x
        for name in STAGES[: _last_stage(self._out_features)]:
            for block in getattr(self, name):
                x = recomputed(block, x) if self.checkpoint else block(x)
            if name in self._out_features:
                features[name] = x
        return features

    def _freeze(self, freeze_at: int) -> None:
        parts = [self.stem, *(getattr(self, name, None) for name in STAGES)]
        for part in parts[:freeze_at]:
            if part is None:
                continue
            for parameter in part.parameters():
                parameter.requires_grad_(False)
            FrozenBatchNorm2d.convert_frozen_batchnorm(part)
            for module in part.modules():
                if isinstance(module, LogitNorm):
                    module.freeze()


@BACKBONE_REGISTRY.register()
def build_axial_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> AxialResNet:
    """Builds an `AxialResNet` from `MODEL.AXIAL_RESNET`."""
    return AxialResNet(cfg, input_shape)


def _check_one_of(key: str, value: object, allowed: Sequence | dict) -> None:
    if value not in allowed:
        name = key if "." in key else f"MODEL.AXIAL_RESNET.{key}"
        raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {value!r}")


def _check_attention(
    span: int, backend: str, stride_mode: str, max_distance: int, drop_path: float
) -> None:
    """Finds what the layers would refuse, to name the key: they know only their argument."""
    _check_one_of("STRIDE", stride_mode, STRIDE_MODES)
    if max_distance < 1:
        raise ValueError(
            f"MODEL.AXIAL_RESNET.MAX_DISTANCE: expected at least 1, got {max_distance}"
        )
    if not 0 <= drop_path < 1:
        raise ValueError(f"MODEL.AXIAL_RESNET.DROP_PATH: expected 0 <= rate < 1, got {drop_path}")
    for key, check, value in (
        ("SPAN", ops.check_span, span),
        ("BACKEND", ops.check_backend_name, backend),
    ):
        try:
            check(value)
        except ValueError as error:
            raise ValueError(f"MODEL.AXIAL_RESNET.{key}: {error}") from error


def _round_channels(channels: float, multiple: int) -> int:
    return max(multiple, round(channels / multiple) * multiple)


def _drop_path_rates(last: float, blocks: int) -> list[float]:
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]


def _last_stage(features: Sequence[str]) -> int:
    """How many stages must run to have the features."""
    return max((STAGES.index(f) + 1 for f in features if f in STAGES), default=0)
