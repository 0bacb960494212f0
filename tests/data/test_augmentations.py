"""Augmentations: picture, labels and points move alike, and as Detectron2's own would."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform
from PIL import Image

import axial_d2  # noqa: F401
from axial_d2.data.augmentations import (
    ColorJitter,
    ColorMatrixTransform,
    PadTransform,
    RandomPad,
    RandomScaleCrop,
    ScaleCropTransform,
)

# Source size, resized size, window (top, left, height, width): odd, growing, shrinking, uneven.
WINDOWS = [
    ((23, 37), (23, 37), (3, 5, 11, 17)),
    ((23, 37), (46, 74), (13, 0, 33, 74)),
    ((23, 37), (31, 41), (0, 4, 31, 37)),
    ((40, 61), (17, 29), (2, 3, 13, 25)),
    ((40, 61), (40, 90), (39, 89, 1, 1)),
    ((7, 5), (1, 1), (0, 0, 1, 1)),
    ((1, 1), (9, 13), (2, 2, 7, 11)),
]


def _scale_crop(source, resized, window):
    top, left, height, width = window
    return ScaleCropTransform(*source, *resized, top, left, height, width)


def _cut(array, window):
    top, left, height, width = window
    return array[top : top + height, left : left + width]


@pytest.mark.parametrize(("source", "resized", "window"), WINDOWS)
@pytest.mark.parametrize("channels", [(3,), (1,), ()])
def test_scale_crop_is_resizing_all_then_cropping(source, resized, window, channels):
    picture = np.random.default_rng(0).integers(0, 256, (*source, *channels), dtype=np.uint8)
    ours = _scale_crop(source, resized, window).apply_image(picture)
    whole = T.ResizeTransform(*source, *resized, Image.BILINEAR).apply_image(picture)
    expected = _cut(whole, window)
    assert ours.dtype == np.uint8 and ours.shape == expected.shape
    # Pillow may round a coefficient of its fixed-point filter the other way.
    assert np.abs(ours.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("source", "resized", "window"), WINDOWS)
def test_labels_are_picked_under_the_pixels_centre(source, resized, window):
    ids = np.random.default_rng(1).integers(0, 2**24, source)
    ours = _scale_crop(source, resized, window).apply_segmentation(ids)
    top, left, height, width = window
    for i in range(height):
        for j in range(width):
            row = (2 * (top + i) + 1) * source[0] // (2 * resized[0])
            column = (2 * (left + j) + 1) * source[1] // (2 * resized[1])
            assert ours[i, j] == ids[row, column]


def test_float_picture():
    picture = np.random.default_rng(2).random((20, 30, 3))
    ours = _scale_crop((20, 30), (40, 60), (5, 7, 21, 33)).apply_image(picture)
    in_bytes = (picture * 255).round().astype(np.uint8)
    theirs = _scale_crop((20, 30), (40, 60), (5, 7, 21, 33)).apply_image(in_bytes)
    assert ours.shape == (21, 33, 3)
    # Bytes are rounded three times: when made, after the rows and after the columns.
    assert np.abs(ours * 255 - theirs).max() <= 1.51


def test_points_and_boxes():
    coords = np.array([[0.0, 0.0], [37.0, 23.0], [10.0, 11.5]])
    moved = _scale_crop((23, 37), (46, 111), (4, 6, 30, 60)).apply_coords(coords.copy())
    assert moved.tolist() == [[-6, -4], [105, 42], [24, 19]]
    padded = PadTransform(2, 3, 0, 0, [0]).apply_coords(coords.copy())
    assert (padded - coords).tolist() == [[3, 2]] * 3


def test_window_outside_of_the_picture():
    with pytest.raises(ValueError, match="window of 5x6 at row 8, column 0 .* within .* 12x12"):
        ScaleCropTransform(10, 10, 12, 12, 8, 0, 5, 6)
    with pytest.raises(ValueError, match=r"expected 10x10 pixels, came \(9, 10\)"):
        ScaleCropTransform(10, 10, 5, 5, 0, 0, 5, 5).apply_image(np.zeros((9, 10), np.uint8))


@pytest.mark.parametrize("scale", [0.3, 0.77, 1.0, 1.9])
@pytest.mark.parametrize("crop", [(31, 45), (64, 20), (200, 301)])
def test_picture_and_labels_agree(scale, crop, seed):
    """Ids painted into the picture are found under their labels after any chain of ours."""
    ids = np.kron(np.arange(1, 31).reshape(5, 6), np.ones((16, 14), int))  # (80, 84)
    colors = np.random.default_rng(3).integers(0, 256, (31, 3), dtype=np.uint8)
    colors[0] = 128
    labels = np.stack([ids, ids * 0, ids * 0], axis=2).astype(np.uint8)
    augmentations = T.AugmentationList(
        [
            RandomScaleCrop((scale, scale), crop),
            RandomPad(crop, colors[0].tolist()),
            T.RandomFlip(horizontal=True),
        ]
    )
    for _ in range(8):
        given = T.AugInput(colors[ids], sem_seg=labels)
        augmentations(given)
        assert given.image.shape == given.sem_seg.shape == (*crop, 3)
        found = given.sem_seg[..., 0]
        # Nearest may only differ from bilinear next to an edge, within the filter's reach.
        reach = int(np.ceil(max(1, 1 / scale))) + 1
        inner = np.ones(crop, bool)
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                inner &= np.roll(found, (dy, dx), (0, 1)) == found
        inner[:reach] = inner[-reach:] = inner[:, :reach] = inner[:, -reach:] = False
        difference = np.abs(given.image.astype(int) - colors[found])[inner]
        assert inner.any() or scale < 0.5
        assert difference.size == 0 or difference.max() <= 1


def test_size_is_a_uniform_factor_of_the_pictures_own(seed):
    augmentation = RandomScaleCrop((0.5, 2.0), (9, 9))
    factors = []
    for _ in range(400):
        transform = augmentation.get_transform(np.zeros((100, 200, 3), np.uint8))
        assert abs(transform.new_w - 2 * transform.new_h) <= 2
        factors.append(transform.new_h / 100)
    assert 0.5 <= min(factors) < 0.53 and 1.97 < max(factors) <= 2.0
    assert abs(np.mean(factors) - 1.25) < 0.08


def test_resize_gives_the_size_the_factor_is_taken_of(seed):
    augmentation = RandomScaleCrop((1.5, 1.5), (20, 30), T.ResizeShortestEdge((40,), 100, "choice"))
    transform = augmentation.get_transform(np.zeros((80, 100, 3), np.uint8))
    assert (transform.new_h, transform.new_w) == (60, 75)
    assert (transform.crop_h, transform.crop_w) == (20, 30)


def test_windows_and_paddings_reach_every_place(seed):
    places, paddings = set(), set()
    for _ in range(300):
        transform = RandomScaleCrop((1, 1), (8, 40)).get_transform(np.zeros((11, 30, 3), np.uint8))
        places.add((transform.top, transform.left))
        transform = RandomPad((8, 32), [0, 0, 0]).get_transform(np.zeros((8, 29, 3), np.uint8))
        paddings.add((transform.top, transform.left, transform.bottom, transform.right))
    assert places == {(top, 0) for top in range(4)}
    assert paddings == {(0, left, 0, 3 - left) for left in range(4)}


def test_nothing_to_do_costs_nothing():
    picture = np.zeros((10, 12, 3), np.uint8)
    assert isinstance(RandomScaleCrop((1, 1), (10, 12)).get_transform(picture), NoOpTransform)
    assert isinstance(RandomPad((5, 12), [0]).get_transform(picture), NoOpTransform)


def test_padding():
    transform = PadTransform(1, 2, 3, 0, [103.53, 116.28, 123.675])
    image = transform.apply_image(np.full((2, 3, 3), 7, np.uint8))
    assert image.shape == (6, 5, 3) and image.dtype == np.uint8
    assert (image[1:3, 2:] == 7).all() and image[0, 0].tolist() == [104, 116, 124]
    labels = transform.apply_segmentation(np.full((2, 3), 70000))
    assert labels.sum() == 6 * 70000 and (labels[1:3, 2:] == 70000).all()


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_color_jitter_matrix_against_its_definition(image_format, monkeypatch):
    monkeypatch.setattr(np.random, "uniform", lambda low, high, n=None: 0.5 if n is None else
                        np.array([0.5, -0.25, 1.0]))  # fmt: skip
    picture = np.random.default_rng(4).integers(60, 190, (16, 20, 3), dtype=np.uint8)
    transform = ColorJitter(0.5, image_format).get_transform(picture)
    came = transform.apply_image(picture)[..., :: 1 if image_format == "RGB" else -1]
    x = picture.astype(float)[..., :: 1 if image_format == "RGB" else -1]
    brightness, contrast, saturation, hue = 1.1, 0.95, 1.2, np.deg2rad(18 * 0.5 * 0.5)
    mean = picture[::4, ::4].mean() * brightness
    x = x * brightness
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    x = grey + saturation * (x - grey)
    # Turned about the axis (1, 1, 1): the part along it stays, the rest turns in its plane.
    along = x.mean(axis=2, keepdims=True)
    across = np.cross(np.ones(3) / np.sqrt(3), x)
    x = along + np.cos(hue) * (x - along) + np.sin(hue) * across
    x = (x - mean) * contrast + mean
    assert np.abs(came - x.clip(0, 255)).max() <= 0.51


def test_color_jitter_keeps_labels_and_grey(seed):
    picture = np.repeat(np.arange(0, 250, 5, dtype=np.uint8).reshape(5, 10, 1), 3, axis=2)
    labels = np.arange(50).reshape(5, 10)
    for strength in (0.0, 1.0):
        transform = ColorJitter(strength).get_transform(picture)
        out = transform.apply_image(picture)
        assert transform.apply_segmentation(labels) is labels
        # An ungreyed grey would be a colour cast that no jitter is meant to bring.
        assert (np.ptp(out.astype(int), axis=2) <= 1).all()
    assert (ColorJitter(0.0).get_transform(picture).apply_image(picture) == picture).all()


def test_color_jitter_of_one_channel(seed):
    picture = np.random.default_rng(5).integers(0, 256, (9, 11, 1), dtype=np.uint8)
    transform = ColorJitter(1.0, "L").get_transform(picture)
    gain, shift = transform.matrix[0]
    expected = (picture * gain + shift).round().clip(0, 255)
    assert (transform.apply_image(picture) == expected).all()
    with pytest.raises(ValueError, match="expected uint8 of 1 channels"):
        transform.apply_image(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="expected uint8 of 3 channels, came float64"):
        ColorMatrixTransform(np.eye(3, 4)).apply_image(np.zeros((2, 2, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomScaleCrop((0, 1)), "scale: expected 0 < low <= high"),
        (lambda: RandomScaleCrop((2, 1)), "scale: expected"),
        (lambda: RandomScaleCrop((1, 1), (0, 4)), "crop_size: expected"),
        (lambda: ColorJitter(1.5), "strength: expected 0 to 1, came 1.5"),
        (lambda: ColorJitter(0.5, "YUV-BT.601"), "image_format: expected RGB, BGR or L"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
