"""The meta-architecture with its heads: training, prediction, and Detectron2's own in its place."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from model_configs import CLASSES, THINGS, scene, small_config
from torch import nn

from axial_d2.layers import AxialAttention1d, AxialBottleneck
from axial_d2.modeling import AxialDeepLab

DECODERS = [("conv", False), ("axial", False), ("conv", True), ("axial", True)]
LOSSES = {"loss_sem_seg", "loss_center", "loss_offset"}
# Detectron2's meta-architecture and heads on our backbone.
DETECTRON2 = (
    "MODEL.META_ARCHITECTURE",
    "PanopticDeepLab",
    "MODEL.SEM_SEG_HEAD.NAME",
    "PanopticDeepLabSemSegHead",
    "MODEL.INS_EMBED_HEAD.NAME",
    "PanopticDeepLabInsEmbedHead",
    # Its pyramid refuses any fixed size at which pictures may come; see INPUT.CROP_SIZE.
    "INPUT.CROP.ENABLED",
    False,
)


def build(decoder: str = "conv", aspp: bool = False, *options: object) -> AxialDeepLab:
    torch.manual_seed(0)
    keys = ("MODEL.AXIAL_DEEPLAB.DECODER", decoder, "MODEL.AXIAL_DEEPLAB.ASPP", aspp)
    return build_model(small_config(*keys, *options))


@pytest.mark.parametrize(("decoder", "aspp"), DECODERS)
def test_every_parameter_gets_a_gradient(decoder: str, aspp: bool) -> None:
    model = build(decoder, aspp)
    for block in model.modules():
        if isinstance(block, AxialBottleneck):
            nn.init.ones_(block.expand_norm.weight)
    # The last layers start near zero, which keeps gradients from all below.
    for parameter in model.parameters():
        if parameter.dim() == 4 and parameter.shape[0] in (1, 2, CLASSES):
            # Not larger: classes and offsets saturate, and even the reference's smallest gradient
            # comes to lie at the bound below.
            nn.init.normal_(parameter, std=0.1)
    losses = model([scene(61, 83), scene(50, 97)])
    assert set(losses) == LOSSES
    sum(losses.values()).backward()
    largest = max(p.grad.abs().max() for p in model.parameters())
    # See tests/modeling/test_axial_resnet.py.
    shifts = ("height.content_norm.bias", "height.position_norm.bias")
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith(shifts):
            assert parameter.grad.abs().max() > 1e-12 * largest, name


def test_the_axial_decoder_is_of_axial_blocks() -> None:
    def blocks(decoder: str) -> int:
        model = build(decoder)
        heads = [model.sem_seg_head, model.ins_embed_head]
        return sum(isinstance(m, AxialAttention1d) for h in heads for m in h.modules())

    assert blocks("conv") == 0
    # Two branches of two steps, each a height and a width pass.
    assert blocks("axial") == 8


@pytest.mark.parametrize(("decoder", "aspp"), DECODERS)
def test_predictions(decoder: str, aspp: bool) -> None:
    model = build(decoder, aspp).eval()
    # The picture's own size, another size, one that the stride does not divide, hardly any.
    sizes = [((48, 64), (48, 64)), ((48, 64), (97, 130)), ((33, 71), (33, 71)), ((1, 5), (2, 9))]
    for own, asked in sizes:
        inputs = {"image": torch.randint(0, 256, (3, *own)), "height": asked[0], "width": asked[1]}
        with torch.no_grad():
            (result,) = model([inputs])
        check_result(result, asked)
        maps = model.maps([inputs])[0]
        assert maps["center"].shape == (1, *asked)
        assert maps["offset"].shape == (2, *asked)


def check_result(result: dict, size: tuple[int, int]) -> None:
    assert result["sem_seg"].shape == (CLASSES, *size)
    ids, infos = result["panoptic_seg"]
    assert ids.shape == size
    assert {i["id"] for i in infos} == set(ids.unique().tolist()) - {0}
    for info in infos:
        assert info["area"] == int((ids == info["id"]).sum())
        assert info["isthing"] == (info["category_id"] in THINGS)
        assert 0 <= info["category_id"] < CLASSES
    things = [i for i in infos if i["isthing"]]
    instances = result["instances"]
    assert isinstance(instances, Instances)
    assert instances.image_size == size
    assert instances.pred_classes.tolist() == [i["category_id"] for i in things]
    assert instances.pred_masks.shape == (len(things), *size)
    assert instances.pred_masks.dtype == torch.bool
    for info, mask, box in zip(
        things, instances.pred_masks, instances.pred_boxes.tensor.tolist(), strict=True
    ):
        assert torch.equal(mask, ids == info["id"])
        y, x = mask.nonzero(as_tuple=True)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@pytest.mark.parametrize(
    "options", [{"things": False}, {"stuff": False}, {"things": False, "stuff": False}]
)
@pytest.mark.parametrize("others", [0, 1])
def test_pictures_without_things_stuff_or_truth(options: dict, others: int) -> None:
    model = build()
    batch = [scene(48, 64, **options)] * 2 + [scene(48, 64)] * (2 * others)
    losses = model(batch)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    if not others and not options.get("stuff", True) and not options.get("things", True):
        assert total == 0


class _Fixed(nn.Module):
    """Stands in for a head: gives the maps it was made with."""

    common_stride = 4

    def __init__(self, *maps: torch.Tensor) -> None:
        super().__init__()
        self.maps = maps

    def layers(self, features: object) -> object:
        return self.maps if len(self.maps) > 1 else self.maps[0]


def test_perfect_maps_at_a_quarter_of_the_size_give_the_picture_back() -> None:
    """Two touching squares of one class: borders on the cells' grid, so nothing may be lost."""
    truth = torch.zeros(32, 48, dtype=torch.long)
    truth[8:24, 8:24], truth[8:24, 24:40] = 1, 2
    semantic = torch.where(truth > 0, 1, 0)
    cells = semantic[2::4, 2::4]
    logits = 20.0 * nn.functional.one_hot(cells, CLASSES).permute(2, 0, 1)[None]
    # The left square's middle is at (15.5, 15.5), the right one's at (15.5, 31.5).
    y, x = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    middle_y, middle_x = 4 * y + 1.5, 4 * x + 1.5
    target_x = torch.where(truth[2::4, 2::4] == 2, 31.5, 15.5)
    offset = torch.stack([15.5 - middle_y, target_x - middle_x])[None] / 4
    heat = torch.zeros(1, 1, 8, 12)
    heat[0, 0, 3, 3], heat[0, 0, 3, 7] = 0.9, 0.8

    class Backbone(nn.Module):
        size_divisibility = 16

        def forward(self, x: torch.Tensor) -> dict:
            return {}

    model = AxialDeepLab(
        backbone=Backbone(),
        sem_seg_head=_Fixed(logits),
        ins_embed_head=_Fixed(heat, offset),
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        thing_ids=[1],
        stuff_area=1,
    ).eval()
    (same,) = model([{"image": torch.zeros(3, 32, 48)}])
    ids, infos = same["panoptic_seg"]
    assert [i["category_id"] for i in infos] == [0, 1, 1]
    expected = torch.where(truth == 0, 1, truth + 1)
    # A pixel on a border between thing and stuff is as near to either: compare inside.
    assert torch.equal(ids[10:22, 10:38], expected[10:22, 10:38])
    (doubled,) = model([{"image": torch.zeros(3, 32, 48), "height": 64, "width": 96}])
    large = expected.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(doubled["panoptic_seg"][0][20:44, 20:76], large[20:44, 20:76])
    scores = same["instances"].scores
    assert scores[0] > scores[1] > 0.5


@pytest.mark.parametrize("crop", [(49, 65), (48, 64)])
def test_detectron2s_own_panoptic_deeplab_runs_on_the_backbone(crop: tuple[int, int]) -> None:
    model = build_model(small_config(*DETECTRON2))
    losses = model([scene(*crop), scene(*crop)])
    assert set(losses) == LOSSES
    sum(losses.values()).backward()
    model.eval()
    with torch.no_grad():
        (result,) = model([{k: scene(*crop)[k] for k in ("image", "height", "width")}])
    assert result["panoptic_seg"][0].shape == crop


def test_our_meta_architecture_takes_detectron2s_heads() -> None:
    options = list(DETECTRON2)
    options[1] = "AxialDeepLab"
    model = build_model(small_config(*options))
    assert set(model([scene(49, 65)] * 2)) == LOSSES
    with torch.no_grad():
        (result,) = model.eval()([{"image": torch.zeros(3, 49, 65)}])
    check_result(result, (49, 65))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.AXIAL_DEEPLAB.DECODER", "mlp", "DECODER: expected conv or axial, got 'mlp'"),
        ("MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [8], "PROJECT_CHANNELS: expected one for each"),
        ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 8, "COMMON_STRIDE: expected 4"),
        ("MODEL.SEM_SEG_HEAD.LOSS_TYPE", "focal", "LOSS_TYPE: expected one of cross_entropy"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4, "NUM_CLASSES: expected 5, .* got 4"),
        ("MODEL.SEM_SEG_HEAD.LOSS_TOP_K", 20.0, "LOSS_TOP_K: expected a share"),
        ("MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL", 4, "NMS_KERNEL: expected an odd number, got 4"),
        ("MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE", 0, "TOP_K_INSTANCE: expected at least 1"),
        ("DATASETS.TRAIN", (), "DATASETS.TRAIN: expected the dataset"),
        ("DATASETS.TRAIN", ("voc_2007_val",), "DATASETS.TRAIN: .*'voc_2007_val' is neither panop"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res4"], "IN_FEATURES: the backbone gives"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", [], "IN_FEATURES: expected at least one feature"),
    ],
)
def test_values_that_cannot_work_are_named(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(small_config(key, value))


@pytest.mark.parametrize("dilations", [[], [6]])
def test_aspp_has_three_dilations(dilations: list[int]) -> None:
    with pytest.raises(ValueError, match="ASPP_DILATIONS: expected three"):
        build("conv", True, "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", dilations)


def test_plain_cross_entropy() -> None:
    model = build("conv", False, "MODEL.SEM_SEG_HEAD.LOSS_TYPE", "cross_entropy")
    assert torch.isfinite(model([scene(48, 64)] * 2)["loss_sem_seg"])
