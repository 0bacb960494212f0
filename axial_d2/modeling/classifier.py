"""Image classification on any backbone: ImageNet pre-training of the segmentation models."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from axial_d2.data.datasets.custom import register_custom
from axial_d2.ops.reference import at_least_single


@META_ARCH_REGISTRY.register()
class AxialClassifier(nn.Module):
    """A backbone, the average of its deepest feature, and one linear layer (Axial-DeepLab, 4.1).

    Any backbone of Detectron2 fits: Axial-ResNet, or a plain ResNet to compare with.

    Pictures are never padded, neither to one size nor to the backbone's divisibility: the average,
    and the backbone's attention, would take the padding for a part of the picture. So the pictures
    of one batch must be of one size.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        num_classes: int = 1000,
        label_smoothing: float = 0.0,
    ) -> None:
        """Puts the model together.

        The linear layer keeps torch's own initial values, uniform within 1 / sqrt(channels) either
        way, as torchvision's ResNets and the public PyTorch code of Axial-DeepLab do.

        Args:
            backbone: gives the features. The one of the largest stride counts, of several with that
                stride the one of the most channels: res5, whatever the output stride.
            pixel_mean: per channel, taken from the picture's values of 0 to 255.
            pixel_std: per channel, divides what is left.
            num_classes: of the dataset.
            label_smoothing: share of the target that is spread evenly over all classes, from 0 to
                below 1.

        Raises:
            ValueError: a number out of its range.
        """
        super().__init__()
        if num_classes < 1:
            raise ValueError(
                f"MODEL.AXIAL_CLASSIFIER.NUM_CLASSES: expected 1 or more, got {num_classes}"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                "MODEL.AXIAL_CLASSIFIER.LABEL_SMOOTHING: expected 0 <= share < 1, got "
                f"{label_smoothing}"
            )
        self.backbone = backbone
        shapes = backbone.output_shape()
        self.feature = _deepest(shapes)
        self.fc = nn.Linear(shapes[self.feature].channels, num_classes)
        self.label_smoothing = label_smoothing
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Reads `MODEL.AXIAL_CLASSIFIER` and builds the backbone.

        Registers the datasets that the config names, where they are there: their class names are of
        use to a prediction, but it does not need them.
        """
        register_custom(cfg, need_pictures=False)
        node = cfg.MODEL.AXIAL_CLASSIFIER
        return {
            "backbone": build_backbone(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "num_classes": node.NUM_CLASSES,
            "label_smoothing": node.LABEL_SMOOTHING,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """The loss in training, probabilities otherwise.

        Args:
            batched_inputs: per picture a dict with `image`, (3, H, W), 0 to 255, all of one size,
                and in training `label`, the index of its class.

        Returns:
            In training {"loss_cls": mean cross-entropy}. Otherwise per picture a dict with
            `scores`, (classes,) float32 probabilities that sum up to 1.

        Raises:
            ValueError: pictures of several sizes, or a label that is no class.
        """
        logits = self.logits(self._images(batched_inputs))
        if self.training:
            labels = self._labels(batched_inputs)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            return {"loss_cls": loss}
        return [{"scores": scores} for scores in logits.softmax(dim=1)]

    def logits(self, images: Tensor) -> Tensor:
        """Scores before the softmax.

        Args:
            images: (N, 3, H, W), normalised by pixel_mean and pixel_std.

        Returns:
            (N, classes), float32 under autocast too, float64 of a model in float64.
        """
        pooled = self.backbone(images)[self.feature].mean(dim=(2, 3))  # (N, C)
        return at_least_single(self.fc(pooled))

    def _images(self, batched_inputs: list[dict]) -> Tensor:
        images = [x["image"].to(self.device) for x in batched_inputs]
        sizes = sorted({tuple(image.shape[-2:]) for image in images})
        if len(sizes) > 1:
            raise ValueError(
                "expected the pictures of a batch to be of one size (the average over padding "
                f"would be wrong), got (height, width) {', '.join(map(str, sizes))}"
            )
        return (torch.stack(images) - self.pixel_mean) / self.pixel_std

    def _labels(self, batched_inputs: list[dict]) -> Tensor:
        classes = self.fc.out_features
        labels = [int(x["label"]) for x in batched_inputs]
        for x, label in zip(batched_inputs, labels, strict=True):
            if not 0 <= label < classes:
                raise ValueError(
                    f"label: expected 0 to {classes - 1} (MODEL.AXIAL_CLASSIFIER.NUM_CLASSES is "
                    f"{classes}), got {label} of {x.get('file_name', 'a picture')}"
                )
        return torch.tensor(labels, device=self.device)


def _deepest(shapes: dict[str, ShapeSpec]) -> str:
    """The name of the feature of the largest stride, then of the most channels, then the last."""
    names = list(shapes)
    return max(names, key=lambda n: (shapes[n].stride, shapes[n].channels, names.index(n)))
