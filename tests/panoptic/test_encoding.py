import numpy as np
import pytest

from axial_d2.panoptic import id_to_rgb, rgb_to_id
from axial_d2.panoptic.encoding import boxes_of, compact_ids


def test_worked_values():
    rgb = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [7, 5, 3]]], dtype=np.uint8)
    ids = rgb_to_id(rgb)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[1, 256], [65536, 7 + 5 * 256 + 3 * 65536]]
    assert np.array_equal(id_to_rgb(ids), rgb)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (0, 4), (4, 0)])
def test_round_trip(shape):
    ids = np.random.default_rng(0).integers(0, 256**3, shape)
    rgb = id_to_rgb(ids)
    assert rgb.dtype == np.uint8 and rgb.shape == (*shape, 3)
    assert np.array_equal(rgb_to_id(rgb), ids)
    assert np.array_equal(rgb_to_id(rgb[::-1]), ids[::-1])  # not contiguous


def test_extremes():
    assert rgb_to_id(np.full((1, 1, 3), 255, np.uint8)).item() == 256**3 - 1
    assert id_to_rgb(np.array([256**3 - 1, 0])).tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rgb_to_id(np.zeros((2, 2), np.uint8)), ValueError, r"rgb .*\(H, W, 3\).*\(2, 2\)"),
        (lambda: rgb_to_id(np.zeros((2, 2, 3), np.int64)), TypeError, "rgb .*uint8.*int64"),
        (lambda: id_to_rgb(np.array([-1])), ValueError, r"ids .*0\.\.16777215.*-1"),
        (lambda: id_to_rgb(np.array([256**3])), ValueError, r"ids .*16777216"),
        (lambda: id_to_rgb(np.array([0.5])), TypeError, "ids .*integers.*float64"),
    ],
)
def test_guards(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 7), (8, 3), (0, 5), (3, 0)])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_boxes_and_compact_ids_of_random_maps(shape, count):
    random = np.random.default_rng(count)
    for _ in range(20):
        ids = random.choice(256**3, count, replace=False)[random.integers(0, count, shape)]
        present, index = compact_ids(ids)
        expected, inverse = np.unique(ids, return_inverse=True)
        assert np.array_equal(present, expected)
        assert np.array_equal(index, inverse.reshape(shape))
        boxes = []
        for key in expected:
            y, x = np.nonzero(ids == key)
            boxes.append([x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1])
        assert boxes_of(index, len(present)) == boxes
