"""Multi-scale and flip testing: fixed maps, a recomputation in numpy, and what must not change."""

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from model_configs import CLASSES, scene, small_config
from torch import nn
from torch.nn import functional as F

from axial_d2.modeling import AxialDeepLab
from axial_d2.modeling.tta import MultiScaleFlip

ON = ("TEST.AUG.ENABLED", True)


def build(*options: object) -> AxialDeepLab:
    """A model whose maps are far from flat, with instances in them."""
    torch.manual_seed(0)
    model = build_model(small_config(*options))
    last = [
        model.sem_seg_head.head[1],
        model.ins_embed_head.center_head[1],
        model.ins_embed_head.offset_head[1],
    ]
    for predictor in last:
        nn.init.normal_(predictor.weight, std=1.0)
    with torch.no_grad():
        model.sem_seg_head.head[1].bias[1] += 20  # a thing, which else is nowhere the likeliest
    return model.eval()


def picture(height: int, width: int) -> dict:
    return {"image": scene(height, width)["image"]}


def run(model: AxialDeepLab, *inputs: dict) -> list[dict]:
    with torch.no_grad():
        return model(list(inputs))


class _Identity(nn.Module):
    """A backbone that hands the padded picture on."""

    size_divisibility = 16

    def forward(self, x: torch.Tensor) -> dict:
        return {"picture": x}


class _Spot(nn.Module):
    """Stands in for both heads: finds the spot in the picture as it came, and points to it.

    The picture's first channel is a spot on nothing, the second 1 left and 0 right of a border.
    """

    common_stride = 4
    num_classes = 2

    def __init__(self, branch: str) -> None:
        super().__init__()
        self.branch = branch
        self.seen: list[tuple[int, ...]] = []

    def layers(self, features: dict) -> object:
        (image,) = features["picture"]
        self.seen.append(tuple(image.shape[1:]))
        side, border = (F.avg_pool2d(image[i][None], 4) for i in (0, 1))  # (1, h, w)
        if self.branch == "semantic":
            return torch.stack([border[0], 1 - border[0]])[None] * 4
        y, x = torch.meshgrid(*(torch.arange(n) for n in image.shape[1:]), indexing="ij")
        spot = image[0] / image[0].sum()
        at = torch.stack([(spot * y).sum(), (spot * x).sum()])
        middles = [torch.arange(n) * 4 + 1.5 for n in side.shape[1:]]
        middle = torch.stack(torch.meshgrid(*middles, indexing="ij"))
        return side[None] / side.max(), (at.view(2, 1, 1) - middle)[None] / 4


def spot_model(scales: tuple[float, ...], flip: bool) -> AxialDeepLab:
    return AxialDeepLab(
        backbone=_Identity(),
        sem_seg_head=_Spot("semantic"),
        ins_embed_head=_Spot("instance"),
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        thing_ids=[1],
        stuff_area=1,
        augmentation=MultiScaleFlip(scales=scales, flip=flip),
    ).eval()


@pytest.mark.parametrize("scales", [(1.0,), (0.5,), (2.0,), (0.5, 0.75, 1.0, 1.25, 1.5)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("answer", [1, 3])
def test_offsets_lead_to_the_same_pixel_from_every_scale_and_side(
    scales: tuple[float, ...], flip: bool, answer: int
) -> None:
    """43 columns: with padding right of them, which mirrored lies at the picture's left."""
    height, width = 36, 43
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    # Wide enough for every scale to have its middle where it is, and within the picture.
    spot = torch.exp(-((y - 14) ** 2 + (x - 29) ** 2) / (2 * 3.0**2))
    image = torch.stack([spot, (x < 12).float(), torch.zeros(height, width)])
    model = spot_model(scales, flip)
    size = (answer * height, answer * width)
    (maps,) = model.maps([{"image": image, "height": size[0], "width": size[1]}])
    y, x = (np.arange(n) for n in size)
    # Maps of a single look are not moved: their cells cover a whole number of pixels of the answer.
    tolerance = 0.05 * answer if flip or len(scales) > 1 or scales == (1.0,) else 0.5
    # The middle of pixel (14, 29) in an answer of another size.
    target = (answer * 14.5 - 0.5, answer * 29.5 - 0.5)
    assert np.abs(maps["offset"][0].numpy() - (target[0] - y)[:, None]).max() < tolerance
    assert np.abs(maps["offset"][1].numpy() - (target[1] - x)).max() < tolerance
    # The border of the two classes stays between columns 11 and 12, the peak where the spot is.
    left = int((maps["sem_seg"].argmax(dim=0)[size[0] // 2] == 0).sum())
    assert abs(left - 12 * answer) <= 2 * answer
    peak = divmod(int(maps["center"].argmax()), size[1])
    # To half a cell of the largest scale.
    assert np.abs(np.subtract(peak, target)).max() <= (2 / max(scales) + 1) * answer
    sides = 2 if flip else 1
    assert len(model.sem_seg_head.seen) == sides * len(scales)
    expected = {tuple(-(-round(n * s) // 16) * 16 for n in (height, width)) for s in scales}
    assert set(model.sem_seg_head.seen) == expected


def by_hand(model: AxialDeepLab, image: torch.Tensor, scale: float, mirrored: bool) -> tuple:
    """One view's raw maps in numpy, the picture resized, mirrored, then padded."""
    size = [round(n * scale) for n in image.shape[1:]]
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    array = (resized.numpy() - model.pixel_mean.numpy()) / model.pixel_std.numpy()
    array = array[:, :, ::-1] if mirrored else array
    padded = [-(-n // 16) * 16 for n in size]
    array = np.pad(array, ((0, 0), *((0, p - n) for p, n in zip(padded, size, strict=True))))
    with torch.no_grad():
        features = model.backbone(torch.from_numpy(array.copy())[None])
        sem_seg = model.sem_seg_head.layers(features)[0].numpy()
        center, offset = (m[0].numpy() for m in model.ins_embed_head.layers(features))
    return sem_seg, center, offset, size


@pytest.mark.parametrize("size", [(48, 64), (37, 53)])
def test_equals_a_recomputation_in_numpy(size: tuple[int, int]) -> None:
    scales, answer = (0.5, 1.0, 1.5), (2 * size[0], size[1])
    model = build(*ON, "TEST.AUG.SCALES", scales)
    image = picture(*size)["image"]
    inputs = {"image": image, "height": answer[0], "width": answer[1]}
    found = model.augmentation(model._coarse_maps, inputs)
    rows, columns = found.center.shape[1:]
    top = [round(n * 1.5) for n in size]
    # A cell is four pixels of the picture at the largest scale.
    assert (rows, columns) == tuple(-(-n // 16) * 4 for n in top)
    middle = [
        (np.arange(n) + 0.5) * whole / n
        for n, whole in zip((rows, columns), found.extent, strict=True)
    ]
    probability = heat = shift = 0
    for scale in scales:
        for mirrored in (False, True):
            sem_seg, center, offset, own = by_hand(model, image, scale, mirrored)
            cell = [4 * a / n for a, n in zip(answer, own, strict=True)]  # in pixels of the answer
            there = [middle[0], answer[1] - middle[1] if mirrored else middle[1]]
            where = [[(k + 0.5) * c for k in range(64)] for c in cell]

            def blend(maps: np.ndarray, there: list = there, where: list = where) -> np.ndarray:
                for axis in (0, 1):
                    known = where[axis][: maps.shape[1 + axis]]
                    maps = np.apply_along_axis(
                        lambda line, axis=axis, known=known: np.interp(there[axis], known, line),
                        1 + axis,
                        maps,
                    )
                return maps

            share = np.exp(blend(sem_seg))
            probability = probability + share / share.sum(axis=0)
            heat = heat + blend(center)
            at = [
                np.clip((p // c).astype(int), 0, n - 1)
                for p, c, n in zip(there, cell, center.shape[1:], strict=True)
            ]
            moved = offset[:, at[0][:, None], at[1]] * 4
            ratio = [a / n for a, n in zip(answer, own, strict=True)]
            to_y = ((at[0] + 0.5) * cell[0])[:, None] + moved[0] * ratio[0]
            to_x = (at[1] + 0.5) * cell[1] + moved[1] * ratio[1]
            to_x = answer[1] - to_x if mirrored else to_x
            shift = shift + np.stack([to_y - middle[0][:, None], to_x - middle[1]])
    views = 2 * len(scales)
    assert np.allclose(found.sem_seg.numpy(), np.log(probability / views), atol=1e-4)
    assert np.allclose(found.center.numpy(), heat / views, atol=1e-4)
    assert np.allclose(found.offset.numpy(), shift / views, atol=1e-2)
    # Merged once, from these; scores too.
    (merged,), plain = run(model, inputs), model._predict(found)
    assert torch.equal(merged["panoptic_seg"][0], plain["panoptic_seg"][0])
    assert torch.equal(merged["instances"].scores, plain["instances"].scores)
    assert len(merged["instances"])


def same(a: dict, b: dict) -> bool:
    return (
        torch.equal(a["sem_seg"], b["sem_seg"])
        and torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0])
        and a["panoptic_seg"][1] == b["panoptic_seg"][1]
        and torch.equal(a["instances"].scores, b["instances"].scores)
        and torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)
    )


def test_one_look_at_the_size_itself_is_the_plain_prediction() -> None:
    plain = build()
    once = build(*ON, "TEST.AUG.SCALES", (1.0,), "TEST.AUG.FLIP", False)
    inputs = [picture(37, 53), {**picture(48, 64), "height": 97, "width": 130}]
    for alone in inputs:
        assert same(*run(once, alone), *run(plain, alone))
    # Pictures are looked at one by one, whatever else is in the batch.
    for together, alone in zip(run(once, *inputs), inputs, strict=True):
        assert same(together, *run(plain, alone))
    assert not same(*run(build(*ON), inputs[0]), *run(plain, inputs[0]))


def test_sem_seg_is_a_distribution() -> None:
    (result,) = run(build(*ON, "TEST.AUG.SCALES", (1.0, 0.5)), picture(48, 64))
    assert result["sem_seg"].shape == (CLASSES, 48, 64)
    total = result["sem_seg"].exp().sum(dim=0)
    # Between cells logarithms are interpolated, as logits are: the sum is at most 1.
    assert (total <= 1 + 1e-5).all() and (total > 0.3).all()
    ids, infos = result["panoptic_seg"]
    assert ids.shape == (48, 64) and len(infos) == int(ids.max())


@pytest.mark.parametrize("scales", [(1.0, 2.0), (0.75, 2.0), (1.0,)])
def test_a_mirrored_picture_gives_the_mirrored_prediction(scales: tuple[float, ...]) -> None:
    """Also where a smaller scale is padded: the padding lies right of both views' pictures."""
    model = build(*ON, "TEST.AUG.SCALES", scales)
    image = picture(32, 48)["image"]
    (one,), (other,) = model.maps([{"image": image}]), model.maps([{"image": image.flip(-1)}])
    back = {k: other[k].flip(-1) for k in ("sem_seg", "center", "offset")}
    back["offset"][1] *= -1
    for key, tolerance in (("sem_seg", 1e-3), ("center", 1e-3), ("offset", 1e-2)):
        assert (one[key] - back[key]).abs().max() < tolerance, key
        assert one[key].std() > 100 * tolerance
    differ = one["sem_seg"].argmax(dim=0) != back["sem_seg"].argmax(dim=0)
    assert differ.float().mean() < 0.01  # equals at a border may be decided by rounding
    # Not so with one side alone: the network itself is not symmetric.
    alone = build()
    (one,), (other,) = run(alone, {"image": image}), run(alone, {"image": image.flip(-1)})
    assert (one["sem_seg"] - other["sem_seg"].flip(-1)).abs().max() > 0.1


def test_training_does_not_look_at_the_keys() -> None:
    torch.manual_seed(0)
    plain = build_model(small_config())
    torch.manual_seed(0)
    augmented = build_model(small_config(*ON))
    batch = [scene(48, 64)] * 2
    a, b = plain(batch), augmented(batch)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert plain.state_dict().keys() == augmented.state_dict().keys()


def test_gradients_of_the_views_are_not_kept() -> None:
    (result,) = build(*ON, "TEST.AUG.SCALES", (1.0, 0.5))([picture(32, 32)])
    assert not result["sem_seg"].requires_grad


@pytest.mark.parametrize(
    "scales",
    [(), (0.0,), (1.0, -0.5), (float("nan"),), (float("inf"),), ("1.0",), (True,), [[1.0]]],
)
def test_scales_that_are_none_name_the_key(scales: object) -> None:
    with pytest.raises(
        ValueError, match=r"TEST\.AUG\.SCALES: expected one positive number or more"
    ):
        build_model(small_config(*ON, "TEST.AUG.SCALES", scales))
    build_model(small_config("TEST.AUG.SCALES", scales))  # not read


def test_the_largest_scale_comes_first_whatever_the_order() -> None:
    views = MultiScaleFlip(scales=[0.5, 2, 1.0], flip=True).views
    assert views == [(s, mirrored) for s in (2.0, 1.0, 0.5) for mirrored in (False, True)]
    assert MultiScaleFlip(scales=(0.5,), flip=False).views == [(0.5, False)]


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 2)])
def test_hardly_any_picture(size: tuple[int, int]) -> None:
    model = build(*ON, "TEST.AUG.SCALES", (0.1, 0.5, 1.0, 2.0))
    (result,) = run(model, {"image": torch.randint(0, 256, (3, *size)), "height": 3, "width": 11})
    assert result["panoptic_seg"][0].shape == (3, 11)
    assert torch.isfinite(result["sem_seg"]).all()


def test_default_predictor_gives_what_the_model_gives(tmp_path) -> None:  # noqa: ANN001
    options = ("INPUT.MIN_SIZE_TEST", 40, "INPUT.MAX_SIZE_TEST", 200, "INPUT.FORMAT", "RGB")
    options += ("TEST.AUG.SCALES", (0.5, 1.0))
    model = build(*ON, *options)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    options += ("MODEL.WEIGHTS", str(tmp_path / "weights.pth"))
    predictor = DefaultPredictor(small_config(*ON, *options))
    assert [s for s, _ in predictor.model.augmentation.views] == [1.0, 1.0, 0.5, 0.5]
    image = picture(60, 81)["image"].permute(1, 2, 0).numpy()
    found = predictor(np.ascontiguousarray(image[:, :, ::-1]))
    resized = predictor.aug.get_transform(image).apply_image(image)
    assert resized.shape[:2] == (40, 54)
    tensor = torch.from_numpy(resized.astype(np.float32).transpose(2, 0, 1))
    (expected,) = run(model, {"image": tensor, "height": 60, "width": 81})
    assert same(found, expected)
    plain = DefaultPredictor(small_config(*options))
    assert not same(plain(np.ascontiguousarray(image[:, :, ::-1])), found)
