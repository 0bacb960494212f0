"""The two branches on top of the backbone: classes, and centres with offsets."""

from collections.abc import Mapping

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.panoptic_deeplab.panoptic_seg import INS_EMBED_BRANCHES_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from axial_d2.modeling.decoders import Decoder, decoder_from_config, separable_conv5
from axial_d2.panoptic import (
    center_loss,
    cross_entropy,
    hard_pixel_cross_entropy,
    offset_loss,
    resize_offsets,
)

LOSS_TYPES = ("cross_entropy", "hard_pixel_mining")


class _Prediction(nn.Sequential):
    """A 5x5 depthwise-separable convolution, then 1x1 to the result."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, norm: str) -> None:
        predictor = nn.Conv2d(mid_channels, out_channels, kernel_size=1)
        # Nearly zero: training starts from even odds, no centres and no offsets.
        nn.init.normal_(predictor.weight, std=0.001)
        nn.init.zeros_(predictor.bias)
        super().__init__(separable_conv5(in_channels, mid_channels, norm), predictor)


@SEM_SEG_HEADS_REGISTRY.register()
class AxialDeepLabSemSegHead(nn.Module):
    """Classes: decoder, 5x5 depthwise-separable convolution, 1x1 (Panoptic-DeepLab, section 3.1).

    Called as Detectron2's `PanopticDeepLabSemSegHead` is, and exchangeable with it.
    """

    @configurable
    def __init__(
        self,
        *,
        decoder: Decoder,
        decoder_channels: int,
        head_channels: int,
        num_classes: int,
        norm: str,
        common_stride: int,
        loss_weight: float = 1.0,
        loss_type: str = "hard_pixel_mining",
        loss_top_k: float = 0.2,
        ignore_value: int = 255,
    ) -> None:
        """Puts the branch together.

        Args:
            decoder: from features to (N, decoder_channels, h, w).
            decoder_channels: see there.
            head_channels: between decoder and predictor.
            num_classes: C.
            norm: a name that Detectron2's `get_norm` knows.
            common_stride: pixels of the padded picture per cell of the decoder's output.
            loss_weight: factor on the loss.
            loss_type: "cross_entropy", or "hard_pixel_mining" for the mean over the hardest pixels.
            loss_top_k: their share, 0 to 1.
            ignore_value: label of pixels without truth.

        Raises:
            ValueError: an unknown loss type, a share out of range, or no class.
        """
        super().__init__()
        if loss_type not in LOSS_TYPES:
            raise ValueError(
                f"LOSS_TYPE: expected one of {', '.join(LOSS_TYPES)}, got {loss_type!r}"
            )
        if not 0 < loss_top_k <= 1:
            raise ValueError(f"LOSS_TOP_K: expected a share, 0 < k <= 1, got {loss_top_k}")
        if num_classes < 1:
            raise ValueError(f"NUM_CLASSES: expected at least 1, got {num_classes}")
        self.decoder = decoder
        self.head = _Prediction(decoder_channels, head_channels, num_classes, norm)
        self.num_classes = num_classes
        self.common_stride = common_stride
        self.loss_weight = loss_weight
        self.loss_type = loss_type
        self.loss_top_k = loss_top_k
        self.ignore_value = ignore_value

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
        """Reads `MODEL.SEM_SEG_HEAD` and `MODEL.AXIAL_DEEPLAB`."""
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "decoder": decoder_from_config(cfg, node, input_shape),
            "decoder_channels": node.CONVS_DIM,
            "head_channels": node.HEAD_CHANNELS,
            "num_classes": node.NUM_CLASSES,
            "norm": node.NORM,
            "common_stride": node.COMMON_STRIDE,
            "loss_weight": node.LOSS_WEIGHT,
            "loss_type": node.LOSS_TYPE,
            "loss_top_k": node.LOSS_TOP_K,
            "ignore_value": node.IGNORE_VALUE,
        }

    def forward(
        self,
        features: Mapping[str, Tensor],
        targets: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """In training (None, losses); else (logits (N, C, H, W) at the padded size, {}).

        Args:
            features: of the backbone, by name.
            targets: (N, H, W) int64 classes.
            weights: (N, H, W) factor of each pixel's loss; None for ones.
        """
        logits = self.layers(features)
        if self.training:
            return None, self.losses(logits, targets, weights)
        return _resize(logits, _times(logits, self.common_stride)), {}

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (N, C, h, w), one cell per common stride."""
        return self.head(self.decoder(features))

    def losses(
        self, predictions: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted loss of logits (N, C, h, w) against (N, H, W) classes."""
        logits = _resize(predictions, targets.shape[-2:])
        if self.loss_type == "cross_entropy":
            loss = cross_entropy(logits, targets, weights=weights, ignore_label=self.ignore_value)
        else:
            loss = hard_pixel_cross_entropy(
                logits,
                targets,
                weights=weights,
                top_k_percent=self.loss_top_k,
                ignore_label=self.ignore_value,
            )
        return {"loss_sem_seg": loss * self.loss_weight}


@INS_EMBED_BRANCHES_REGISTRY.register()
class AxialDeepLabInsEmbedHead(nn.Module):
    """Instance centres, and each pixel's offset to its own (Panoptic-DeepLab, section 3.1).

    Called as Detectron2's `PanopticDeepLabInsEmbedHead` is, and exchangeable with it.

    Offsets are resized by keeping each cell's vote for a place (`panoptic.grouping`), never
    bilinearly: between two instances that would vote for places between their centres.
    """

    @configurable
    def __init__(
        self,
        *,
        decoder: Decoder,
        decoder_channels: int,
        head_channels: int,
        norm: str,
        common_stride: int,
        center_loss_weight: float = 200.0,
        offset_loss_weight: float = 0.01,
    ) -> None:
        """Puts the branch together.

        Args:
            decoder: from features to (N, decoder_channels, h, w).
            decoder_channels: see there.
            head_channels: between decoder and predictors.
            norm: a name that Detectron2's `get_norm` knows.
            common_stride: pixels of the padded picture per cell of the decoder's output.
            center_loss_weight: factor on the heat-map's squared error.
            offset_loss_weight: factor on the offsets' absolute error in pixels.
        """
        super().__init__()
        self.decoder = decoder
        self.center_head = _Prediction(decoder_channels, head_channels, 1, norm)
        self.offset_head = _Prediction(decoder_channels, head_channels, 2, norm)
        self.common_stride = common_stride
        self.center_loss_weight = center_loss_weight
        self.offset_loss_weight = offset_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
        """Reads `MODEL.INS_EMBED_HEAD` and `MODEL.AXIAL_DEEPLAB`."""
        node = cfg.MODEL.INS_EMBED_HEAD
        return {
            "decoder": decoder_from_config(cfg, node, input_shape),
            "decoder_channels": node.CONVS_DIM,
            "head_channels": node.HEAD_CHANNELS,
            "norm": node.NORM,
            "common_stride": node.COMMON_STRIDE,
            "center_loss_weight": node.CENTER_LOSS_WEIGHT,
            "offset_loss_weight": node.OFFSET_LOSS_WEIGHT,
        }

    def forward(
        self,
        features: Mapping[str, Tensor],
        center_targets: Tensor | None = None,
        center_weights: Tensor | None = None,
        offset_targets: Tensor | None = None,
        offset_weights: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor], dict[str, Tensor]]:
        """In training (None, None, losses, losses); else heat-map and offsets at the padded size.

        Args:
            features: of the backbone, by name.
            center_targets: (N, 1, H, W) heat-map, 0 to 1.
            center_weights: (N, H, W), 0 where there is no truth.
            offset_targets: (N, 2, H, W), dy and dx in pixels.
            offset_weights: (N, H, W), 0 where no instance is.
        """
        center, offset = self.layers(features)
        if self.training:
            return (
                None,
                None,
                self.center_losses(center, center_targets, center_weights),
                self.offset_losses(offset, offset_targets, offset_weights),
            )
        size = _times(center, self.common_stride)
        return _resize(center, size), resize_offsets(offset * self.common_stride, size), {}, {}

    def layers(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Heat-map (N, 1, h, w), and offsets (N, 2, h, w) in units of the common stride."""
        y = self.decoder(features)
        return self.center_head(y), self.offset_head(y)

    def center_losses(
        self, predictions: Tensor, targets: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """The weighted loss of (N, 1, h, w) against (N, 1, H, W)."""
        heatmap = _resize(predictions, targets.shape[-2:])
        return {"loss_center": center_loss(heatmap, targets, weights) * self.center_loss_weight}

    def offset_losses(
        self, predictions: Tensor, targets: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """The weighted loss of (N, 2, h, w), units of the stride, against (N, 2, H, W) pixels."""
        offset = resize_offsets(predictions * self.common_stride, targets.shape[-2:])
        return {"loss_offset": offset_loss(offset, targets, weights) * self.offset_loss_weight}


def _times(maps: Tensor, stride: int) -> tuple[int, int]:
    return maps.shape[-2] * stride, maps.shape[-1] * stride


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
