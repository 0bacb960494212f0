"""pq_compute, panopticapi's function, over the counting of cityscapesscripts."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from axial_d2 import import_hooks, panoptic_quality
from axial_d2.panoptic_quality import pq_compute

CATEGORIES = [
    {"id": 1, "name": "car", "isthing": 1},
    {"id": 2, "name": "bus", "isthing": 1},
    {"id": 9, "name": "sky", "isthing": 0},
]


def write(root, name, pictures, *, area=True, crowd=()):
    """Files of a set of pictures: lists of rows of ids, id = category * 10 + number; 0 is void."""
    folder = root / name
    folder.mkdir()
    annotations = []
    for number, rows in enumerate(pictures):
        ids = np.array(rows)
        Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=-1).astype(np.uint8)).save(
            folder / f"{number}.png"
        )
        segments = []
        for k in np.unique(ids[ids > 0]).tolist():
            segments.append({"id": k, "category_id": k // 10})
            if area:
                segments[-1].update(area=int((ids == k).sum()), iscrowd=int(k in crowd))
        annotations.append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
        )
    content = {"annotations": annotations, "categories": CATEGORIES, "images": []}
    (root / f"{name}.json").write_text(json.dumps(content))
    return str(root / f"{name}.json")


# One car of 6, one of 2, sky; one pixel is void.
TRUTH = [[10, 10, 10, 90], [10, 10, 10, 90], [11, 11, 0, 90]]


def test_by_hand(tmp_path):
    # The large car loses a pixel: IoU 5/6. The small one is missed. A bus where the sky was: sky
    # keeps 2 of 3, and the bus lies on sky, so it is a false alarm.
    predicted = [[10, 10, 10, 90], [10, 10, 0, 90], [0, 0, 0, 20]]
    result = pq_compute(write(tmp_path, "t", [TRUTH]), write(tmp_path, "p", [predicted]))
    assert result["per_class"][1] == pytest.approx(
        {"pq": 5 / 6 / 1.5, "sq": 5 / 6, "rq": 1 / 1.5, "tp": 1, "fp": 0, "fn": 1}
    )
    assert result["per_class"][2] == {"pq": 0, "sq": 0, "rq": 0, "tp": 0, "fp": 1, "fn": 0}
    assert result["per_class"][9]["pq"] == pytest.approx(2 / 3)
    assert result["All"]["n"] == 3 and result["Things"]["n"] == 2 and result["Stuff"]["n"] == 1
    assert result["All"]["pq"] == pytest.approx((5 / 9 + 0 + 2 / 3) / 3)
    assert result["Things"]["pq"] == pytest.approx(5 / 18)


def test_void_and_crowds_are_no_false_alarms(tmp_path):
    predicted = [[10, 10, 10, 90], [10, 10, 10, 90], [12, 12, 20, 90]]  # a bus on void
    truth = write(tmp_path, "t", [TRUTH], crowd=(11,))
    result = pq_compute(truth, write(tmp_path, "p", [predicted]))
    assert result["per_class"][1]["fp"] == result["per_class"][1]["fn"] == 0
    assert result["per_class"][2] == {"pq": 0, "sq": 0, "rq": 0, "tp": 0, "fp": 0, "fn": 0}
    assert result["All"] == {"pq": 1, "sq": 1, "rq": 1, "n": 2}


@pytest.mark.parametrize(("only", "absent"), [(90, "Things"), (10, "Stuff")])
def test_group_that_is_nowhere_is_nan(tmp_path, only, absent):
    rows = [[only, only], [only, 0]]
    result = pq_compute(write(tmp_path, "t", [rows]), write(tmp_path, "p", [rows]))
    assert result["All"]["pq"] == 1
    assert math.isnan(result[absent]["pq"]) and result[absent]["n"] == 0


def test_area_and_iscrowd_may_be_left_out(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    predicted = [[10, 10, 10, 90], [10, 10, 0, 90], [0, 0, 0, 20]]
    full = pq_compute(write(tmp_path / "a", "t", [TRUTH]), write(tmp_path, "p", [predicted]))
    bare = write(tmp_path / "b", "t", [TRUTH], area=False)
    assert pq_compute(bare, str(tmp_path / "p.json")) == full


def test_pool_of_processes_counts_the_same(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 10, 11, 20, 90], size=(5, 6, 7)).tolist()
    found = np.where(rng.random((5, 6, 7)) < 0.8, truth, 90).tolist()
    files = write(tmp_path, "t", truth), write(tmp_path, "p", found)
    alone = pq_compute(*files)
    monkeypatch.setattr(panoptic_quality, "_FEW", 1)
    monkeypatch.setattr(panoptic_quality.os, "cpu_count", lambda: 2)
    pooled = pq_compute(*files)
    for label, expected in alone["per_class"].items():
        assert pooled["per_class"][label] == pytest.approx(expected)


def test_picture_without_prediction_is_named(tmp_path):
    truth = write(tmp_path, "t", [TRUTH, TRUTH])
    with pytest.raises(ValueError, match="1 of 2 pictures .* image_id 1"):
        pq_compute(truth, write(tmp_path, "p", [TRUTH]))


def test_error_names_the_package_where_none_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(panoptic_quality, "is_found", lambda name: False)
    with pytest.raises(ImportError, match="pip install cityscapesscripts"):
        pq_compute("t.json", "p.json")
    assert import_hooks.is_found("cityscapesscripts")
