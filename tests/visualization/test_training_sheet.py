"""The sheet of a training picture: each panel shows the right pixels."""

import numpy as np
import pytest

from axial_d2.panoptic.targets import panoptic_targets
from axial_d2.visualization import drawing_scale, training_sheet
from axial_d2.visualization.training_sheet import _STRIPE_COLORS

HEIGHT, WIDTH = 96, 128
COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def sheet(**settings):
    """A car (class 1) and a crowd of cars on a road (0), void at the left edge."""
    ids = np.full((HEIGHT, WIDTH), 1)
    ids[:, :20] = 0
    ids[30:60, 40:70] = 2
    ids[30:60, 90:120] = 3
    segments = [
        {"id": 1, "category_id": 0, "iscrowd": 0},
        {"id": 2, "category_id": 1, "iscrowd": 0},
        {"id": 3, "category_id": 1, "iscrowd": 1},
    ]
    targets = panoptic_targets(ids, segments, ignore_label=255, thing_ids=[1], sigma=3, **settings)
    image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    drawn = training_sheet(
        image, targets, names=["road", "car", "sky"], colors=COLORS, thing_ids=[1], title="one"
    )
    scale = drawing_scale(HEIGHT, WIDTH)
    panel_height, panel_width = HEIGHT * scale, WIDTH * scale
    rows = (drawn.shape[0] - 34) // 2  # below the head, two rows of a title and a panel
    assert drawn.shape[1] == 4 * panel_width + 3 * 8

    def pixel(number, row, column):
        """Of a panel, by the picture's pixel."""
        top = 34 + number // 4 * rows + rows - panel_height
        left = number % 4 * (panel_width + 8)
        return drawn[top + row * scale + scale // 2, left + column * scale + scale // 2].astype(int)

    return pixel


def is_striped(pixel):
    return pixel.max() == pixel.min() and pixel[0] in _STRIPE_COLORS


def test_panels():
    pixel = sheet()
    assert pixel(0, 10, 60).tolist() == [120, 120, 120]
    road, car = pixel(1, 80, 100), pixel(1, 32, 42)
    assert road[0] > road[1] + 80 and car[1] > car[0] + 80
    assert is_striped(pixel(1, 50, 5))  # void has no class
    red, _, blue = pixel(2, 44, 57)
    assert red > blue + 50  # the heat-map beside the car's centre
    assert pixel(3, 32, 42).max() == 255  # offsets are drawn in full brightness
    assert is_striped(pixel(3, 50, 5))
    assert pixel(4, 80, 100).tolist() == [120] * 3 and is_striped(pixel(4, 50, 5))
    for number in (5, 6):  # a crowd teaches neither centre nor offsets
        assert is_striped(pixel(number, 45, 105)) and is_striped(pixel(number, 50, 5))
        assert pixel(number, 45, 45).tolist() == [120] * 3


def test_higher_weights_stand_out():
    pixel = sheet(small_instance_area=5000, small_instance_weight=3)
    red, green, blue = pixel(4, 45, 45)
    assert red > green + 50 > blue
    assert pixel(4, 80, 100).tolist() == [120] * 3


def test_what_is_taught_nowhere_is_striped():
    pixel = sheet(ignore_stuff_in_offset=True)
    assert is_striped(pixel(6, 80, 100)) and not is_striped(pixel(6, 45, 45))


def test_maps_of_another_size():
    targets = panoptic_targets(np.ones((4, 5), int), [], ignore_label=255, thing_ids=[1])
    with pytest.raises(ValueError, match=r"sem_seg: expected the picture's size \(5, 5\)"):
        training_sheet(
            np.zeros((5, 5, 3)), targets, names=["a"], colors=[(1, 2, 3)], thing_ids=[], title=""
        )
