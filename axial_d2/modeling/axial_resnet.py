"""Axial-ResNet: a ResNet whose 3x3 convolutions are attention."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from axial_d2 import ops
from axial_d2.layers import (
    AxialAttention2d,
    AxialBottleneck,
    AxialStem,
    FitsTablesOnLoad,
    LocalAttention2d,
    LogitNorm,
    conv3_stem,
    conv7_stem,
    recomputed,
)
from axial_d2.layers.axial_attention import STRIDE_MODES, NormFactory
from axial_d2.modeling.norms import logit_norm_factory, norm_factory

logger = logging.getLogger(__name__)

BLOCKS = {26: (1, 2, 4, 1), 50: (3, 4, 6, 3)}
# Channels inside the blocks of each stage for L, and how many times as many come out. Axial blocks
# have twice ResNet-50's channels inside, local ones ResNet-50's own: the paper's two arrangements.
AXIAL_WIDTHS = ((128, 256, 512, 1024), 2)
LOCAL_WIDTHS = ((64, 128, 256, 512), 4)
ATTENTIONS = {"axial": AXIAL_WIDTHS, "local": LOCAL_WIDTHS, "ps_local": LOCAL_WIDTHS}
# Channels inside the blocks of the axial stem for L; twice as many come out.
AXIAL_STEM_CHANNELS = 64
CONV_STEMS = {"conv3": conv3_stem, "conv7": conv7_stem}
STEMS = (*CONV_STEMS, "axial")
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
STAGES = tuple(STRIDES)


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
        attention: str = "axial",
        num_heads: int = 8,
        span: int = 0,
        stem_span: int = 15,
        window: int = 7,
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
            stem: "conv3", "conv7", or "axial", which is at half the picture's size, not a quarter.
            attention: "axial"; "local", SASA's; or "ps_local", its position-sensitive form; see
                `layers.LocalAttention2d`. The local ones have half the channels inside the blocks
                and as many outside: with a multiplier of 1 those of ResNet-50.
            num_heads: of every attention layer.
            span: odd number of keys a query of axial attention sees, 0 for the whole row or column.
            stem_span: the same for the axial stem.
            window: rows and columns that a query of local attention sees, odd.
            max_distance: the largest relative distance with a row of its own in the tables.
            stride_mode: "subsample" or "avg_pool", see the attention layers.
            output_stride: 16 or 32.
            norm: a name that Detectron2's `get_norm` knows.
            drop_path: rate of the last block; grows to it linearly from 0.
            checkpoint: recompute each block in the backward pass.
            backend: which implementation of the attention.
            freeze_at: 1 freezes the stem, 2 also res2, up to 5.
            out_features: which of stem, res2, res3, res4, res5 to return; stages above the last
                of them are not built.

        Raises:
            ValueError: a value out of these ranges.
        """
        super().__init__()
        _check_one_of("DEPTH", depth, BLOCKS)
        _check_one_of("STEM", stem, STEMS)
        _check_one_of("ATTENTION", attention, ATTENTIONS)
        _check_one_of("STRIDE", stride_mode, STRIDE_MODES)
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
        _check_attention(attention, span, stem_span, window, backend)
        _check_rest(max_distance, drop_path)
        norm_of = norm_factory(norm, "MODEL.AXIAL_RESNET.NORM")
        self.checkpoint = checkpoint
        self.output_stride = output_stride
        common = {
            "stride_mode": stride_mode,
            "num_heads": num_heads,
            "norm": norm_of,
            "logit_norm": logit_norm_factory(norm),
            "backend": backend,
        }
        axial = common | {"max_distance": max_distance}

        def channels_of(channels: int) -> int:
            return _round_channels(channels * width_multiplier, 2 * num_heads)

        if stem == "axial":
            self.stem: nn.Module = AxialStem(
                mid_channels=channels_of(AXIAL_STEM_CHANNELS),
                out_channels=2 * channels_of(AXIAL_STEM_CHANNELS),
                span=stem_span,
                checkpoint=checkpoint,
                **axial,
            )
        else:
            self.stem = CONV_STEMS[stem](width_multiplier, norm_of)
        self._out_features = [f for f in ("stem", *STAGES) if f in out_features]
        self._out_feature_channels = {"stem": self.stem.out_channels}
        self._out_feature_strides = {"stem": self.stem.stride}

        attention_of: Callable[..., nn.Module] = partial(AxialAttention2d, span=span, **axial)
        if attention != "axial":
            kind = {"position_sensitive": attention == "ps_local", "window": window}
            attention_of = partial(LocalAttention2d, **kind, **common)
        stage_channels, expansion = ATTENTIONS[attention]
        in_channels, stride_so_far = self.stem.out_channels, self.stem.stride
        rates = iter(_drop_path_rates(drop_path, sum(BLOCKS[depth])))
        plan = list(zip(STAGES, BLOCKS[depth], stage_channels, strict=True))
        for name, blocks, channels in plan[: _last_stage(self._out_features)]:
            stride = min(STRIDES[name], output_stride) // stride_so_far
            widths = (in_channels, channels_of(channels), expansion * channels_of(channels))
            stage = _stage(
                widths, stride, [next(rates) for _ in range(blocks)], attention_of, norm_of
            )
            self.add_module(name, stage)
            in_channels = widths[-1]
            stride_so_far *= stride
            self._out_feature_channels[name] = in_channels
            self._out_feature_strides[name] = stride_so_far
        self._freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict:
        """Reads `MODEL.AXIAL_RESNET` and `MODEL.BACKBONE.FREEZE_AT`."""
        node = cfg.MODEL.AXIAL_RESNET
        if input_shape is not None and input_shape.channels not in (None, 3):
            raise ValueError(f"expected pictures of 3 channels, got {input_shape.channels}")
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
            "attention": node.ATTENTION,
            "num_heads": node.NUM_HEADS,
            "span": node.SPAN,
            "stem_span": node.STEM_SPAN,
            "window": node.WINDOW,
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
        if x.device.type != "cuda":
            # 1x1 convolutions are then products of matrices as they lie, and the rest follows.
            x = x.contiguous(memory_format=torch.channels_last)
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


def _stage(
    widths: tuple[int, int, int],
    stride: int,
    drop_path: Sequence[float],
    attention_of: Callable[..., nn.Module],
    norm: NormFactory,
) -> nn.Sequential:
    """As many blocks as rates of drop path; widths into the first, inside and out of all."""
    in_channels, mid_channels, out_channels = widths
    stage = nn.Sequential()
    for i, rate in enumerate(drop_path):
        block_stride = stride if i == 0 else 1
        attention = attention_of(
            in_channels=mid_channels, out_channels=mid_channels, stride=block_stride
        )
        stage.append(
            AxialBottleneck(
                in_channels=in_channels if i == 0 else out_channels,
                mid_channels=mid_channels,
                out_channels=out_channels,
                attention=attention,
                stride=block_stride,
                norm=norm,
                drop_path=rate,
            )
        )
    return stage


@BACKBONE_REGISTRY.register()
def build_axial_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> AxialResNet:
    """Builds an `AxialResNet` from `MODEL.AXIAL_RESNET`."""
    return AxialResNet(cfg, input_shape)


def _check_one_of(key: str, value: object, allowed: Sequence | dict) -> None:
    if value not in allowed:
        name = key if "." in key else f"MODEL.AXIAL_RESNET.{key}"
        raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {value!r}")


def _check_attention(attention: str, span: int, stem_span: int, window: int, backend: str) -> None:
    """Finds what the layers would refuse, to name the key: they know only their argument."""
    local = attention != "axial"
    for key, check, value in (
        ("SPAN", ops.check_span, span),
        ("STEM_SPAN", ops.check_span, stem_span),
        ("WINDOW", ops.check_window, window),
        ("BACKEND", ops.check_local_backend_name if local else ops.check_backend_name, backend),
    ):
        try:
            check(value)
        except ValueError as error:
            raise ValueError(f"MODEL.AXIAL_RESNET.{key}: {error}") from error


def _check_rest(max_distance: int, drop_path: float) -> None:
    if max_distance < 1:
        raise ValueError(
            f"MODEL.AXIAL_RESNET.MAX_DISTANCE: expected at least 1, got {max_distance}"
        )
    if not 0 <= drop_path < 1:
        raise ValueError(f"MODEL.AXIAL_RESNET.DROP_PATH: expected 0 <= rate < 1, got {drop_path}")


def _round_channels(channels: float, multiple: int) -> int:
    return max(multiple, round(channels / multiple) * multiple)


def _drop_path_rates(last: float, blocks: int) -> list[float]:
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]


def _last_stage(features: Sequence[str]) -> int:
    """How many stages must run to have the features."""
    return max((STAGES.index(f) + 1 for f in features if f in STAGES), default=0)
