"""AxialClassifier: what it pools, what it learns from, which backbones and pictures it takes."""

import math

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import Backbone
from torch import nn

from axial_d2.config import add_axial_config
from axial_d2.modeling import AxialClassifier

CLASSES = 7


def small_config(*options: object) -> CfgNode:
    """A tiny classifier on the CPU, with further keys and values."""
    cfg = get_cfg()
    add_axial_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "AxialClassifier"
    cfg.MODEL.AXIAL_CLASSIFIER.NUM_CLASSES = CLASSES
    cfg.MODEL.BACKBONE.NAME = "build_axial_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    node = cfg.MODEL.AXIAL_RESNET
    node.DEPTH, node.WIDTH_MULTIPLIER, node.MAX_DISTANCE = 26, 0.125, 20
    node.STEM, node.OUTPUT_STRIDE, node.OUT_FEATURES = "conv7", 32, ["res5"]
    cfg.merge_from_list(list(options))
    return cfg


def pictures(*sizes: tuple[int, int]) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    return [
        {"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)}
        | {"label": (3 * i + 1) % CLASSES}
        for i, size in enumerate(sizes)
    ]


class Stages(Backbone):
    """Two features that depend on the picture alone, so that the average is known."""

    def __init__(self, **shapes: tuple[int, int]) -> None:
        super().__init__()
        self.shapes = {n: ShapeSpec(channels=c, stride=s) for n, (c, s) in shapes.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.shapes

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            name: x.repeat(1, -(-shape.channels // 3), 1, 1)[:, : shape.channels]
            for name, shape in self.shapes.items()
        }


def classifier(backbone: Backbone, **options: object) -> AxialClassifier:
    normal = {"pixel_mean": [10.0, 20.0, 30.0], "pixel_std": [2.0, 4.0, 8.0]}
    return AxialClassifier(backbone=backbone, num_classes=CLASSES, **normal, **options)


def test_scores_are_the_softmax_of_the_linear_layer_on_the_average(seed):
    model = classifier(Stages(res5=(3, 32))).eval()
    batch = pictures((5, 7), (5, 7))
    outputs = model(batch)
    for given, output in zip(batch, outputs, strict=True):
        image = given["image"].double()
        average = [
            (image[c].mean().item() - mean) / std
            for c, mean, std in ((0, 10, 2), (1, 20, 4), (2, 30, 8))
        ]
        logits = [
            sum(w * a for w, a in zip(row, average, strict=True)) + bias
            for row, bias in zip(model.fc.weight.tolist(), model.fc.bias.tolist(), strict=True)
        ]
        powers = [math.exp(value - max(logits)) for value in logits]
        assert set(output) == {"scores"} and output["scores"].shape == (CLASSES,)
        assert output["scores"].tolist() == pytest.approx(
            [power / sum(powers) for power in powers], abs=1e-5
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_torchs_cross_entropy(seed, smoothing):
    model = classifier(Stages(res5=(3, 32)), label_smoothing=smoothing)
    batch = pictures((4, 3), (4, 3), (4, 3))
    losses = model(batch)
    scores = [o["scores"].log().tolist() for o in model.eval()(batch)]
    # The target: 1 - smoothing on the label, and the smoothing spread evenly over all classes.
    expected = sum(
        -(1 - smoothing) * row[x["label"]] - smoothing * sum(row) / CLASSES
        for x, row in zip(batch, scores, strict=True)
    ) / len(batch)
    assert set(losses) == {"loss_cls"}
    assert losses["loss_cls"].item() == pytest.approx(expected, rel=1e-4)
    torch_loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    assert losses["loss_cls"].item() == pytest.approx(
        torch_loss(torch.tensor(scores), torch.tensor([x["label"] for x in batch])).item(), rel=1e-4
    )


@pytest.mark.parametrize(
    ("shapes", "deepest"),
    [
        ({"res5": (8, 32), "res2": (4, 4)}, "res5"),
        ({"stem": (3, 4), "res2": (4, 4)}, "res2"),
        ({"res5": (8, 16), "res4": (4, 16)}, "res5"),
        ({"p2": (4, 4), "p6": (4, 64), "p5": (4, 32)}, "p6"),
        ({"a": (4, 4), "b": (4, 4)}, "b"),
    ],
)
def test_the_deepest_feature_counts(shapes, deepest):
    model = classifier(Stages(**shapes))
    assert model.feature == deepest
    assert model.fc.in_features == shapes[deepest][0]


def test_pictures_of_several_sizes_are_refused():
    model = classifier(Stages(res5=(3, 32)))
    for mode in (True, False):
        with pytest.raises(ValueError, match=r"one size .*padding.*\(4, 4\), \(4, 5\)"):
            model.train(mode)(pictures((4, 5), (4, 4), (4, 5)))


def test_labels_that_are_no_class_are_refused():
    model = classifier(Stages(res5=(3, 32)))
    for label in (-1, CLASSES):
        batch = [pictures((4, 4))[0] | {"label": label, "file_name": "a.jpg"}]
        with pytest.raises(ValueError, match=rf"expected 0 to 6 .* got {label} of a\.jpg"):
            model(batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.AXIAL_CLASSIFIER.NUM_CLASSES", 0), "NUM_CLASSES: expected 1 or more, got 0"),
        (("MODEL.AXIAL_CLASSIFIER.LABEL_SMOOTHING", 1.0), "LABEL_SMOOTHING: expected 0 <= share"),
        (("MODEL.AXIAL_CLASSIFIER.LABEL_SMOOTHING", -0.1), "LABEL_SMOOTHING: expected 0 <= share"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_model(small_config(*options))


@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_axial_resnet_trains_every_parameter(seed, size):
    model = build_model(small_config("MODEL.AXIAL_CLASSIFIER.LABEL_SMOOTHING", 0.1))
    for module in model.modules():
        # The norms that end the blocks start at 0, and hide the blocks.
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    model(pictures(size, size, size))["loss_cls"].backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not without
    names = {name.split(".")[0] for name in model.state_dict()}
    assert names == {"backbone", "fc"}
    assert model.fc.weight.shape == (CLASSES, 256)


def test_detectron2s_resnet_is_a_backbone(seed):
    cfg = small_config("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.NORM", "BN")
    cfg.merge_from_list(["MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.RESNETS.DEPTH", 50])
    cfg.merge_from_list(["MODEL.RESNETS.STRIDE_IN_1X1", False])
    cfg.MODEL.AXIAL_CLASSIFIER.NUM_CLASSES = 1000
    model = build_model(cfg)
    # torchvision's ResNet-50 for ImageNet has 25,557,032 parameters.
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    loss = model(pictures((33, 40), (33, 40)))["loss_cls"]
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    (output,) = model.eval()(pictures((33, 40)))
    assert output["scores"].sum().item() == pytest.approx(1, abs=1e-5)


def test_linear_layer_starts_as_torchvisions(seed):
    weight = build_model(small_config()).fc.weight
    bound = 1 / math.sqrt(weight.shape[1])
    assert 0.9 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_bfloat16_autocast_gives_float32_probabilities(seed):
    model = build_model(small_config()).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        (output,) = model(pictures((32, 32)))
    assert output["scores"].dtype == torch.float32
    assert output["scores"].sum().item() == pytest.approx(1, abs=1e-5)
