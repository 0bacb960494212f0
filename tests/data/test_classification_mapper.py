"""Crops for classification, next to torchvision's, and the mapper that applies them."""

import math

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from PIL import Image
from torchvision import transforms as tv

import axial_d2  # noqa: F401
from axial_d2.config import add_axial_config
from axial_d2.data import AxialDeepLabDatasetMapper, ClassificationMapper, build_mapper
from axial_d2.data.resized_crops import CenterCrop, RandomResizedCrop


def config(*options: object):
    cfg = get_cfg()
    add_axial_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "AxialClassifier"
    cfg.INPUT.CROP_SIZE, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.FORMAT = (24, 32), 37, "RGB"
    cfg.merge_from_list(list(options))
    return cfg


def picture(height: int, width: int) -> np.ndarray:
    """Smooth in parts, sharp in others."""
    y, x = np.mgrid[:height, :width]
    red = 255 * x / max(width - 1, 1)
    green = 255 * y / max(height - 1, 1)
    return np.stack([red, green, 255 * ((x // 7 + y // 5) % 2)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("size", [(61, 83), (83, 61), (300, 91), (37, 64), (20, 23), (37, 37)])
@pytest.mark.parametrize("crop", [(24, 32), (37, 37), (31, 17), (1, 1)])
def test_center_crop_is_torchvisions(size, crop):
    image = picture(*size)
    ours = CenterCrop(37, crop).get_transform(image).apply_image(image)
    theirs = tv.Compose([tv.Resize(37), tv.CenterCrop(crop)])(Image.fromarray(image))
    assert ours.shape == (*crop, 3)
    # Pillow keeps the corners of the window in single precision: a value now and then is rounded
    # the other way.
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 1
    assert (ours != np.asarray(theirs)).mean() < 0.03


def windows(height, width, *, draws=4000, **options):
    """Height and width of the windows drawn, in pixels of the source."""
    image = np.zeros((height, width, 3), np.uint8)
    crop = RandomResizedCrop((224, 192), **options)
    found = [crop.get_transform(image) for _ in range(draws)]
    return np.array([[224 * height / t.new_h, 192 * width / t.new_w] for t in found]), found


@pytest.mark.parametrize("size", [(375, 500), (640, 427)])
def test_windows_are_distributed_as_torchvisions(seed, size):
    ours, transforms = windows(*size)
    torch.manual_seed(seed)
    image = torch.empty(3, *size)
    draws = [tv.RandomResizedCrop.get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(4000)]
    theirs = np.array(draws, dtype=float)
    for values in (
        lambda h, w: h * w / (size[0] * size[1]),
        lambda h, w: np.log(w / h),
    ):
        a, b = values(*ours.T), values(*theirs[:, 2:].T)
        for level in (5, 25, 50, 75, 95):
            spread = np.percentile(b, 95) - np.percentile(b, 5)
            assert abs(np.percentile(a, level) - np.percentile(b, level)) < 0.04 * spread
    tops = np.array([t.top * size[0] / t.new_h for t in transforms])
    assert tops.mean() == pytest.approx(theirs[:, 0].mean(), rel=0.06)
    lefts = np.array([t.left * size[1] / t.new_w for t in transforms])
    assert lefts.mean() == pytest.approx(theirs[:, 1].mean(), rel=0.06)


def test_windows_keep_to_the_ranges(seed):
    found, _ = windows(300, 400, draws=300, area=(0.1, 0.3), aspect=(0.8, 2.5))
    share, aspect = found[:, 0] * found[:, 1] / 120000, found[:, 1] / found[:, 0]
    assert 0.098 < share.min() < 0.12 and 0.28 < share.max() < 0.303
    assert 0.79 < aspect.min() < 0.9 and 2.3 < aspect.max() < 2.53


@pytest.mark.parametrize("size", [(10, 900), (900, 10)])
def test_long_pictures_are_cropped_in_the_middle(seed, size):
    # No window of 8 % of the area fits with one of these shapes.
    found, transforms = windows(*size, draws=3)
    side = 10
    expected = [side, side * 4 / 3] if size[0] < size[1] else [side / (3 / 4), side]
    assert found == pytest.approx(np.array([expected] * 3), rel=0.03)
    t = transforms[0]
    assert t.top == (t.new_h - 224) // 2 and t.left == (t.new_w - 192) // 2


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (224, 224)])
def test_small_pictures_come_out_at_the_size(seed, size):
    image = picture(*size)
    for _ in range(20):
        out = RandomResizedCrop((24, 33)).get_transform(image).apply_image(image)
        assert out.shape == (24, 33, 3) and out.dtype == np.uint8


def test_crops_refuse_what_makes_no_sense():
    for options, message in (
        ({"size": (0, 3)}, "size: expected"),
        ({"size": (3, 3), "area": (0, 1)}, "area: expected 0 < low"),
        ({"size": (3, 3), "area": (0.5, 1.1)}, "area: expected"),
        ({"size": (3, 3), "aspect": (2, 1)}, "aspect: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            RandomResizedCrop(**options)
    with pytest.raises(ValueError, match="shorter_side: expected at least the window's 9"):
        CenterCrop(8, (3, 9))


def test_mapper_by_meta_architecture():
    for is_train in (True, False):
        assert isinstance(build_mapper(config(), is_train), ClassificationMapper)
    other = config("MODEL.META_ARCHITECTURE", "PanopticDeepLab")
    assert isinstance(build_mapper(other, False), AxialDeepLabDatasetMapper)


def test_what_the_mapper_gives(tmp_path, seed):
    image = picture(50, 70)
    Image.fromarray(image).save(tmp_path / "a.png")
    given = {"file_name": str(tmp_path / "a.png"), "label": 2}
    for is_train in (True, False):
        result = build_mapper(config(), is_train)(given)
        assert set(result) == {"file_name", "label", "image"} and result["label"] == 2
        assert result["image"].shape == (3, 24, 32) and result["image"].dtype == torch.uint8
    assert set(given) == {"file_name", "label"}
    expected = CenterCrop(37, (24, 32)).get_transform(image).apply_image(image)
    assert np.array_equal(result["image"].permute(1, 2, 0).numpy(), expected)
    bgr = build_mapper(config("INPUT.FORMAT", "BGR"), False)(given)["image"]
    assert torch.equal(bgr.flip(0), result["image"])


def test_training_flips_and_changes_colours_only_if_asked(tmp_path):
    Image.fromarray(picture(50, 70)).save(tmp_path / "a.png")
    plain = build_mapper(config("INPUT.RANDOM_FLIP", "none"), True).augmentations.augs
    assert [type(a) for a in plain] == [RandomResizedCrop]
    cfg = config("INPUT.COLOR_JITTER", 0.5, "INPUT.RESIZED_CROP.AREA", (0.25, 0.75))
    full = build_mapper(cfg, True).augmentations.augs
    assert [type(a).__name__ for a in full] == ["RandomResizedCrop", "ColorJitter", "RandomFlip"]
    assert full[0].area == (0.25, 0.75) and full[0].size == (24, 32)
    assert isinstance(full[2], T.RandomFlip) and full[2].horizontal
    # Red grows to the right in the picture, and in half of the crops to the left.
    np.random.seed(1)
    mapper = build_mapper(config(), True)
    crops = [mapper({"file_name": str(tmp_path / "a.png")})["image"][0].float() for _ in range(60)]
    flipped = sum((crop[:, 0] > crop[:, -1]).all().item() for crop in crops)
    assert 18 < flipped < 42


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "LA", "P", "1", "I;16"])
def test_pictures_of_any_kind_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    level = 255 if mode == "1" else 200  # "1" has black and white alone
    if mode == "I;16":
        Image.fromarray(np.full((40, 40), level, np.uint16)).save(path)
    else:
        plain = Image.new("RGB", (40, 40), (level,) * 3)
        plain.convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    image = build_mapper(config(), False)({"file_name": str(path), "label": 0})["image"]
    assert image.shape == (3, 24, 32)
    assert (image.float() - level).abs().max() <= 3  # jpg is not exact


def test_a_broken_picture_is_named(tmp_path):
    Image.fromarray(picture(50, 70)).save(tmp_path / "good.jpg")
    data = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    for file in ("half.jpg", "text.jpg", "gone.jpg"):
        with pytest.raises(ValueError, match=rf"cannot read the picture .*{file}"):
            build_mapper(config(), True)({"file_name": str(tmp_path / file), "label": 0})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.CROP_SIZE", (0, 0), r"expected \(height, width\) .* such as \(224, 224\)"),
        ("INPUT.MIN_SIZE_TEST", 31, "expected at least 32"),
        ("INPUT.RESIZED_CROP.AREA", (0.0, 1.0), "expected .* low <= high <= 1"),
        ("INPUT.RESIZED_CROP.AREA", (0.5,), "expected .* low <= high <= 1"),
        ("INPUT.RESIZED_CROP.ASPECT", (2.0, 1.0), "expected .* low <= high"),
        ("INPUT.COLOR_JITTER", 1.5, "expected 0 to 1"),
        ("INPUT.FORMAT", "L", "expected RGB or BGR"),
        ("INPUT.RANDOM_FLIP", "both", "expected horizontal, vertical, none"),
        ("MODEL.PIXEL_MEAN", [1.0], "expected 3 values"),
    ],
)
@pytest.mark.parametrize("is_train", [True, False])
def test_config_values_out_of_range_are_named(key, value, message, is_train):
    cfg = config(key, value)
    with pytest.raises(ValueError, match=f"{key}: {message}"):
        build_mapper(cfg, is_train)


def test_aspect_is_drawn_evenly_in_its_logarithm(seed):
    found, _ = windows(500, 500, draws=2000, area=(0.1, 0.1), aspect=(0.25, 4))
    logs = np.log(found[:, 1] / found[:, 0]) / math.log(4)
    assert np.percentile(logs, [10, 50, 90]) == pytest.approx([-0.8, 0, 0.8], abs=0.08)
