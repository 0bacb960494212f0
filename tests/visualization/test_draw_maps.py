"""Pictures of centres and offsets, and pictures side by side."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from axial_d2 import visualization
from axial_d2.visualization import draw_centers, draw_offsets, enlarge, stack_pictures

GREY = np.full((30, 40, 3), 200, np.uint8)
SCALE = 24  # 960 / 40


def at(drawn, row, column):
    """The middle of an enlarged pixel."""
    return drawn[row * SCALE + SCALE // 2, column * SCALE + SCALE // 2].astype(int)


def test_heat_is_bright_where_it_is_high_and_the_picture_dimmed_elsewhere():
    heat = torch.zeros(1, 30, 40)
    heat[0, 10:13, 20:23] = 1.0
    heat[0, 20:23, 5:8] = 0.5
    drawn = draw_centers(GREY, heat)
    assert drawn.shape == (30 * SCALE, 40 * SCALE, 3)
    assert at(drawn, 2, 2).tolist() == [90, 90, 90]  # 0.45 of 200
    assert at(drawn, 11, 21).sum() > at(drawn, 21, 6).sum() > 0
    red, _, blue = at(drawn, 21, 6)
    assert red > 1.5 * blue  # OpenCV's maps are BGR: not swapped


def test_peaks_are_ringed_at_row_and_column():
    heat = np.zeros((30, 40), np.float32)
    ring = np.abs(
        draw_centers(GREY, heat, torch.tensor([[7, 31]])).astype(int)
        - draw_centers(GREY, heat).astype(int)
    ).sum(axis=2)
    rows, columns = np.nonzero(ring)
    assert (rows.mean() / SCALE, columns.mean() / SCALE) == pytest.approx((7.5, 31.5), abs=0.05)
    assert np.array_equal(
        draw_centers(GREY, heat, torch.zeros(0, 2)), draw_centers(GREY, heat, None)
    )


def test_heat_beyond_its_range_and_half_precision_are_drawn():
    heat = torch.full((1, 30, 40), 3.0, dtype=torch.bfloat16)
    heat[0, 15:] = -3.0
    drawn = draw_centers(GREY, heat)
    assert at(drawn, 28, 2).tolist() == [90, 90, 90]
    assert at(drawn, 2, 2).sum() > 500


def test_offsets_have_the_hue_of_their_direction():
    offset = np.zeros((2, 30, 40), np.float32)
    for number, (dy, dx) in enumerate([(0, 5), (5, 0), (0, -5), (-5, 0)]):
        offset[:, 15:, 10 * number : 10 * number + 10] = np.array([dy, dx])[:, None, None]
    drawn = draw_offsets(torch.from_numpy(offset))
    right, down, left, up = (at(drawn, 22, 10 * n + 5) for n in range(4))
    # A quarter turn each from red; a half tone may be rounded either way.
    expected = [(255, 0, 0), (128, 255, 0), (0, 255, 255), (128, 0, 255)]
    assert np.abs(np.array([right, down, left, up]) - expected).max() <= 1
    assert at(drawn, 12, 30).tolist() == [255, 255, 255]  # no offset: no colour


def test_strength_is_the_length():
    offset = np.zeros((2, 30, 40), np.float32)
    offset[1] = np.linspace(0, 10, 40)
    drawn = draw_offsets(offset)
    whiteness = [at(drawn, 20, column)[1] for column in (5, 15, 25, 39)]
    assert whiteness == sorted(whiteness, reverse=True) and whiteness[-1] == 0


def test_only_masked_pixels_are_coloured():
    offset = np.ones((2, 30, 40), np.float32)
    mask = np.zeros((30, 40), bool)
    mask[20:, 20:] = True
    plain, over_picture = draw_offsets(offset, mask), draw_offsets(offset, mask, GREY)
    assert at(plain, 25, 5).tolist() == [40, 40, 40]
    assert at(over_picture, 25, 5).tolist() == [90, 90, 90]
    assert at(plain, 25, 30).tolist() == at(over_picture, 25, 30).tolist() != [40, 40, 40]


def test_no_thing_at_all_and_the_smallest_map():
    drawn = draw_offsets(np.zeros((2, 30, 40)), np.zeros((30, 40), bool))
    assert at(drawn, 25, 5).tolist() == [40, 40, 40]
    assert draw_offsets(np.zeros((2, 1, 1))).shape == (960, 960, 3)


def test_wheel_shows_direction_in_the_corner():
    drawn = draw_offsets(np.zeros((2, 30, 40)), np.zeros((30, 40), bool))
    radius = round(0.08 * 30 * SCALE)
    centre = 4 + radius
    assert drawn[centre, centre + radius - 3].tolist()[0] == 255  # right: red
    assert drawn[centre, centre + radius - 3].tolist()[2] < 30
    assert drawn[centre, centre - radius + 3].tolist()[0] < 30  # left: cyan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_centers(GREY, np.zeros((3, 30, 40))), r"center: expected \(H, W\)"),
        (lambda: draw_centers(GREY, np.zeros((30, 41))), "center: expected the picture's size"),
        (lambda: draw_offsets(np.zeros((30, 40))), r"offset: expected \(2, H, W\)"),
        (lambda: draw_offsets(np.zeros((2, 30, 40)), np.ones((3, 4))), "mask: expected"),
        (lambda: draw_offsets(np.zeros((2, 3, 4)), None, GREY), "offset: expected the picture"),
        (lambda: stack_pictures([]), "at least one"),
        (lambda: stack_pictures([GREY], ["a", "b"]), "titles: expected 1.* got 2"),
    ],
)
def test_wrong_shapes_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_pictures_side_by_side():
    small = np.full((10, 5, 3), 250, np.uint8)
    sheet = stack_pictures([GREY, small])
    assert sheet.shape == (30, 40 + 8 + 5, 3)
    assert (sheet[:, :40] == 200).all() and (sheet[:10, 48:] == 250).all()
    titled = stack_pictures([GREY, GREY], ["one", "two"])
    assert titled.shape == (30 + 36, 88, 3)
    assert (titled[36:, :40] == 200).all() and titled[:36, :40].max() > 200


def test_enlarging_repeats_ids_and_smooths_pictures():
    seg = np.array([[1, 70000]])
    assert enlarge(seg, 3, smooth=False).tolist() == [[1, 1, 1, 70000, 70000, 70000]] * 3
    ramp = enlarge(np.array([[0, 90]], np.float32), 3)
    assert ramp.shape == (3, 6) and 0 < ramp[0, 2] < ramp[0, 3] < 90


def test_drawing_libraries_are_imported_only_when_drawing():
    folder = Path(visualization.__file__).parent
    imported = set()
    for node in (n for path in folder.glob("*.py") for n in ast.parse(path.read_text()).body):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert not imported & {"cv2", "matplotlib", "PIL", "detectron2"}
    assert "numpy" in imported
