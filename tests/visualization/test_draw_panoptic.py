"""The panoptic overlay, on pictures small enough to know every pixel of."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from axial_d2.visualization import draw_panoptic, drawing_scale
from axial_d2.visualization.panoptic import list_segments

METADATA = SimpleNamespace(
    stuff_classes=["sky-other-merged", "car", "road"],
    stuff_colors=[[0, 0, 255], [200, 40, 40], [128, 128, 128]],
    thing_dataset_id_to_contiguous_id={9: 1},
    label_divisor=1000,
)
INFOS = [
    {"id": 1, "category_id": 0, "isthing": False},
    {"id": 2, "category_id": 1, "isthing": True, "score": 0.873},
    {"id": 3, "category_id": 1, "isthing": True, "iscrowd": 1},
]


def ids(height=40, width=60):
    """Sky, two cars side by side in it, and void below."""
    seg = np.ones((height, width), np.int64)
    seg[10:20, 5:25] = 2
    seg[10:20, 25:50] = 3
    seg[30:] = 0
    return seg


def grey(seg):
    return np.full((*seg.shape, 3), 100, np.uint8)


def inside(drawn, seg, number, row=0):
    """The colour most frequent in a segment: text and outline cover less than half."""
    scale = drawn.shape[0] // seg.shape[0]
    pixels = drawn[np.repeat(np.repeat(seg == number, scale, 0), scale, 1)]
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    return colors[counts.argmax()].tolist()


def test_colours_are_the_classes_and_void_is_dark():
    seg = ids()
    drawn = draw_panoptic(grey(seg), torch.from_numpy(seg), INFOS, METADATA)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (40 * 16, 60 * 16, 3)  # 960 is the first multiple of 60 from 960 on
    # 0.55 of the colour and 0.45 of the picture's 100
    assert inside(drawn, seg, 1) == [45, 45, 185]
    assert inside(drawn, seg, 2) == [155, 67, 67]
    assert inside(drawn, seg, 0) == [40, 40, 40]


def test_instances_of_a_class_differ_and_are_drawn_the_same_every_time():
    seg = ids()
    first = draw_panoptic(grey(seg), seg, INFOS, METADATA)
    assert inside(first, seg, 2) != inside(first, seg, 3)
    assert np.array_equal(first, draw_panoptic(grey(seg), seg, INFOS[::-1], METADATA))


def test_ids_do_not_matter_so_that_truth_and_prediction_look_alike():
    seg = ids()
    renumbered = np.where(seg > 0, seg * 70000, 0)
    infos = [{**info, "id": info["id"] * 70000} for info in INFOS]
    assert np.array_equal(
        draw_panoptic(grey(seg), seg, INFOS, METADATA),
        draw_panoptic(grey(seg), renumbered, infos, METADATA),
    )


def test_outlines_run_between_all_segments():
    seg = ids()
    drawn = draw_panoptic(grey(seg), seg, [{**i, "isthing": True} for i in INFOS], METADATA)
    white = (drawn == 255).all(axis=2)
    # Row 15 of the picture runs through sky, both cars and sky: borders at columns 5, 25 and 50.
    # Its text stands elsewhere: the top line of the enlarged row is looked at.
    columns = np.flatnonzero(white[10 * 16 + 20])
    for border in (5, 25, 50):
        assert {border * 16 - 1, border * 16} <= set(columns.tolist())


def test_detectron2s_own_encoding_is_understood():
    seg = ids()
    encoded = np.select([seg == 1, seg == 2, seg == 3], [0, 1001, 1002], -1)
    plain = [{k: v for k, v in i.items() if k in ("id", "category_id", "isthing")} for i in INFOS]
    assert np.array_equal(
        draw_panoptic(grey(seg), torch.from_numpy(encoded), None, METADATA),
        draw_panoptic(grey(seg), seg, plain, METADATA),
    )


def test_names_tell_score_and_crowd_and_lose_cocos_endings():
    texts = {s.id: s.text for s in list_segments(ids(), INFOS, METADATA)}
    assert texts == {1: "sky", 2: "car 87%", 3: "car (crowd)"}


def test_segments_without_a_pixel_are_left_out_and_the_largest_comes_first():
    infos = [*INFOS, {"id": 77, "category_id": 2, "isthing": False}]
    assert [s.id for s in list_segments(ids(), infos, METADATA)] == [1, 3, 2]


def test_names_are_written_within_their_segment():
    seg = ids()
    bare = draw_panoptic(grey(seg), seg, INFOS, METADATA)
    # A grey picture has one colour per segment; what else is there, is outline and text.
    text = (bare != np.array(inside(bare, seg, 2))).any(axis=2)[10 * 16 + 2 : 20 * 16 - 2]
    text = text[:, 5 * 16 + 2 : 25 * 16 - 2]
    assert 100 < text.sum() < 0.5 * text.size


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (37, 2)])
def test_odd_sizes_and_no_segment(shape):
    seg = np.zeros(shape, np.int64)
    drawn = draw_panoptic(grey(seg), seg, [], METADATA)
    assert drawn.shape[:2] == tuple(side * drawing_scale(*shape) for side in shape)
    assert (drawn == 40).all()


def test_one_pixel_segments_and_a_hundred_instances():
    seg = np.arange(1, 101).reshape(10, 10)
    infos = [{"id": i, "category_id": 1, "isthing": True} for i in range(1, 101)]
    drawn = draw_panoptic(grey(seg), seg, infos, METADATA)
    assert drawn.shape == (960, 960, 3)


def test_large_pictures_keep_their_size():
    assert drawing_scale(1024, 2048) == drawing_scale(960, 3) == 1
    assert drawing_scale(427, 640) == 2
    assert drawing_scale(128, 256) == 4


def test_shapes_that_do_not_agree_are_told():
    with pytest.raises(ValueError, match=r"panoptic_seg: expected the picture's size \(4, 5\)"):
        draw_panoptic(np.zeros((4, 5, 3)), np.zeros((5, 4), int), [], METADATA)
    with pytest.raises(ValueError, match=r"image_rgb: expected \(H, W, 3\), got \(4, 5\)"):
        draw_panoptic(np.zeros((4, 5)), np.zeros((4, 5), int), [], METADATA)
