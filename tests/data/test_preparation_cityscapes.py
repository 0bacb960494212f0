"""What is made of Cityscapes' download equals what its own scripts make."""

import json
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
from cityscapesscripts.preparation.json2labelImg import json2labelImg
from miniature_cityscapes import PICTURES, write_download
from PIL import Image

from axial_d2.data.preparation import RECIPES
from axial_d2.data.preparation.work import run, segments_of, write_png


def prepare(root):
    return RECIPES["cityscapes"].prepare(str(root), workers=2)


def test_files_equal_the_official_converters(tmp_path, capsys):
    base = write_download(tmp_path)
    outcomes = prepare(tmp_path)
    assert not any(outcome.failed for outcome in outcomes)
    official = tmp_path / "official"
    official.mkdir()
    convert2panoptic(str(base / "gtFine"), str(official), False, list(PICTURES))
    for split, names in PICTURES.items():
        ours = json.loads((base / f"gtFine/cityscapes_panoptic_{split}.json").read_text())
        theirs = json.loads((official / f"cityscapes_panoptic_{split}.json").read_text())
        assert ours == theirs
        assert len(ours["annotations"]) == len(names)
        for annotation in ours["annotations"]:
            assert {s["iscrowd"] for s in annotation["segments_info"]} == {0, 1}
            paths = [
                folder / f"cityscapes_panoptic_{split}" / annotation["file_name"]
                for folder in (base / "gtFine", official)
            ]
            a, b = (np.asarray(Image.open(path)) for path in paths)
            assert np.array_equal(a, b)
        for path in (base / "gtFine" / split).rglob("*_polygons.json"):
            json2labelImg(str(path), str(tmp_path / "label.png"), "trainIds")
            ours = Image.open(str(path).replace("polygons.json", "labelTrainIds.png"))
            assert np.array_equal(np.asarray(ours), np.asarray(Image.open(tmp_path / "label.png")))


def test_a_second_run_mends_what_is_wrong_alone(tmp_path):
    base = write_download(tmp_path)
    assert [o.made for o in prepare(tmp_path)] == [3, 4, 2, 3]
    assert [(o.made, o.kept) for o in prepare(tmp_path)] == [(0, 3), (0, 4), (0, 2), (0, 3)]
    (png, *_) = (base / "gtFine/cityscapes_panoptic_train").iterdir()
    png.write_bytes(png.read_bytes()[:90])  # as a full disk leaves it
    (base / "gtFine/cityscapes_panoptic_val.json").write_text("{")
    (base / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelTrainIds.png").unlink()
    assert [o.made for o in prepare(tmp_path)] == [0, 1, 1, 1]
    assert [o.made for o in prepare(tmp_path)] == [0, 0, 0, 0]
    assert not list(tmp_path.rglob("*.part"))


def test_failures_are_named_and_the_json_waits(tmp_path):
    base = write_download(tmp_path)
    broken = base / "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png"
    broken.write_bytes(b"no png")
    other = base / "gtFine/val/lindau/lindau_000000_000019_gtFine_polygons.json"
    other.write_text(json.dumps({"imgHeight": 4, "imgWidth": 4}))
    labels, panoptic, labels_val, _ = prepare(tmp_path)
    assert not labels.failed and len(panoptic.failed) == 1
    assert str(broken) in panoptic.failed[0] and "1 FAILED" in panoptic.text()
    assert str(other) in labels_val.failed[0]
    assert not (base / "gtFine/cityscapes_panoptic_train.json").exists()


def test_missing_downloads_are_named(tmp_path):
    with pytest.raises(ValueError, match="gtFine_trainvaltest.zip"):
        prepare(tmp_path)


def test_progress_and_order(capsys):
    def double(item):
        if item == 5:
            raise ValueError("five is no good")
        return 2 * item, 1, 0

    outcome, results = run("doubling", range(20), double, workers=3)
    assert results == [2 * i for i in range(20) if i != 5]
    assert outcome.failed == ("five is no good",) and outcome.made == 19
    assert "doubling" in capsys.readouterr().err


def test_segments_by_hand():
    ids = np.array([[0, 7, 7], [300, 7, 0], [300, 0, 7]])
    assert segments_of(ids) == [
        {"id": 7, "area": 4, "bbox": [1, 0, 2, 3]},
        {"id": 300, "area": 2, "bbox": [0, 1, 1, 2]},
    ]
    assert segments_of(np.zeros((2, 3), dtype=int)) == []


def test_nothing_is_half_written(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x.png"
    assert write_png(str(path), np.zeros((3, 4), dtype=np.uint8))
    monkeypatch.setattr(Image.Image, "save", lambda self, part, format: Path(part).touch())
    with pytest.raises(OSError, match=r"x\.png: what was written"):
        write_png(str(path), np.ones((3, 4), dtype=np.uint8))
    assert [p.name for p in path.parent.iterdir()] == ["x.png"]
    assert not np.asarray(Image.open(path)).any()
