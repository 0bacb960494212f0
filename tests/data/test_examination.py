"""check_dataset: each kind of fault found once with its example, the class balance, the verdict."""

import json
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from own_forms import write_coco_instances, write_mask_folders
from PIL import Image
from tiny_panoptic import WIDTH, ids_to_rgb, read_json, truth, write_dataset, write_json

from axial_d2.config import add_axial_config
from axial_d2.data import register_custom, register_image_folder
from axial_d2.data.check import examine_datasets, report_text, save_chart, verdict

ROOT = Path(__file__).parents[2]
_numbers = count()


@pytest.fixture
def register():
    """register(entry) -> name; unregisters at the end."""
    names = []

    def register(entry):
        names.append(f"examination_{next(_numbers)}")
        cfg = get_cfg()
        add_axial_config(cfg)
        cfg.DATASETS.CUSTOM = [{"name": names[-1], **entry}]
        register_custom(cfg)
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def examine(*names, **options):
    return list(examine_datasets(names, **{"workers": 2, **options}))


def edit(root, change):
    content = read_json(root)
    change(content)
    write_json(root, content)


def segments(content, index=0):
    return content["annotations"][index]["segments_info"]


def test_a_clean_dataset(tmp_path, register):
    entry = write_dataset(tmp_path)
    (report,) = examine(register(entry))
    assert report.fit and report.tally.counts == {} and report.pictures == 3
    assert "no fault found" in report_text(report)
    assert verdict([report]) == "Training can start."
    road, car, sky, person = report.balance
    assert [c.name for c in report.balance] == ["road", "car", "sky", "person"]
    assert (car.isthing, car.pictures, car.segments, car.crowds, car.median_area) == (
        True, 3, 3, 0, 96,
    )  # fmt: skip
    assert (person.segments, person.crowds) == (2, 1)  # one of the persons is a crowd
    assert sum(c.share for c in report.balance) == pytest.approx(1)
    assert report.void == pytest.approx(2 / WIDTH)
    areas = {key: (truth(0) == key).sum() for key in (1, 300)}
    assert road.share > car.share and areas[300] == 96
    assert sky.crowds == road.crowds == 0


KINDS = {
    "box that differs from the pixels": (
        lambda root: edit(root, lambda c: segments(c)[1].update(bbox=[5, 8, 12, 9])),
        "segment 300: expected [5, 8, 12, 8], came [5, 8, 12, 9]",
    ),
    "category that is never used": (
        lambda root: edit(
            root, lambda c: c["categories"].append({"id": 99, "name": "tree", "isthing": 0})
        ),
        "'tree' (id 99)",
    ),
    "stuff class with several segments in a picture": (
        lambda root: edit(root, lambda c: segments(c)[1].update(category_id=7)),
        "000.png: expected one segment of category 7 ('road'), came 300 too",
    ),
    "stuff segment that is a crowd": (
        lambda root: edit(root, lambda c: segments(c)[0].update(iscrowd=1)),
        "000.png: segment 1",
    ),
    "file that no json names": (
        lambda root: Image.new("RGB", (9, 9)).save(root / "images/another.png"),
        "images/another.png",
    ),
    "picture that occurs twice": (
        lambda root: (root / "images/002.jpeg").write_bytes((root / "images/000.jpg").read_bytes()),
        "images/002.jpeg: the same as ",
    ),
    "tiny instance": (None, "000.jpg: person of 56 pixels"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_warnings(tmp_path, register, kind):
    entry = write_dataset(tmp_path, crowd=())
    damage, example = KINDS[kind]
    if damage:
        damage(tmp_path)
    (report,) = examine(register(entry), **({} if damage else {"tiny": 57}))
    assert list(report.tally.counts) == [kind]
    assert example in "\n".join(report.tally.texts[kind])
    assert report.fit and "Training can start (1 kind of warning in '" in verdict([report])
    assert " warnings\n" in report_text(report) and "ERRORS" not in report_text(report)


def test_pictures_without_things_segments_and_truth(tmp_path, register):
    entry = write_dataset(tmp_path)
    ids = truth(0)
    ids[(ids == 300) | (ids == 9)] = 1
    Image.fromarray(ids_to_rgb(ids)).save(tmp_path / "panoptic/000.png")
    Image.fromarray(ids_to_rgb(np.zeros_like(ids))).save(tmp_path / "panoptic/001.png")

    def change(content):
        content["annotations"][0]["segments_info"] = [
            {**s, "area": int((ids == s["id"]).sum()), "bbox": None}
            for s in segments(content)
            if s["id"] in (1, 70000)
        ]
        content["annotations"][1]["segments_info"] = []

    edit(tmp_path, change)
    (report,) = examine(register(entry))
    assert report.tally.texts == {
        "picture without any thing": [str(tmp_path / "images/000.jpg")],
        "picture without any segment": [str(tmp_path / "images/001.png")],
        "picture that is mostly void": [f"{tmp_path / 'images/001.png'}: 100%"],
    }


def test_errors_are_counted_and_the_rest_is_examined(tmp_path, register):
    entry = write_dataset(tmp_path, (".png",) * 5)
    (tmp_path / "images/000.png").unlink()
    (tmp_path / "panoptic/001.png").write_bytes(b"no png")
    edit(tmp_path, lambda c: segments(c, 2)[1].update(area=95, category_id=12345))
    (report,) = examine(register(entry))
    assert set(report.tally.kinds(warnings=False)) == {
        "picture that is missing",
        "png that cannot be read",
        "unknown category",
        "segment whose area differs (PQ is computed from the json's)",
    }
    assert not report.fit
    assert verdict([report]) == f"Training cannot start: 4 kinds of errors in '{report.name}'."
    assert report.balance[1].pictures == 2  # those of the pictures that could be read


def test_two_datasets_are_compared(tmp_path, register):
    train, val = write_dataset(tmp_path / "train"), write_dataset(tmp_path / "val")
    # Both may name the pictures of one folder.
    shared = {**val, "images": train["images"]}
    names = register(train), register(shared)
    first, second = examine(*names)
    assert first.tally.counts == {}
    assert second.tally.counts == {"picture that another dataset has too": 3}
    assert f"of '{names[0]}'" in second.tally.texts["picture that another dataset has too"][0]
    edit(tmp_path / "val", lambda c: c["categories"].reverse())
    first, second = examine(register(train), register(val))
    assert second.tally.counts["category that differs"] == 4 and not second.fit


def test_one_worker_finds_what_four_find(tmp_path, register):
    entry = write_dataset(tmp_path, (".png", ".jpg") * 8)
    for index in (0, 5, 14):
        (tmp_path / f"panoptic/{index:03}.png").write_bytes(b"no png")
    name = register(entry)
    one, four = (examine(name, workers=workers)[0].as_dict() for workers in (1, 4))
    assert one == four and one["findings"]["png that cannot be read"]["count"] == 3


def test_masks_and_annotations(tmp_path, register):
    names = [
        register(write_mask_folders(tmp_path / "masks")),
        register(write_coco_instances(tmp_path / "coco")),
    ]
    masks, coco = examine(*names)
    assert masks.fit and coco.fit
    assert {c.name: (c.segments, c.crowds) for c in masks.balance} == {
        "sky": (3, 0), "car": (6, 3), "road": (3, 0), "person": (3, 0),
    }  # fmt: skip
    (tmp_path / "masks/semantic/b/p0.png").write_bytes(b"no png")
    Image.new("L", (9, 9), 23).save(tmp_path / "coco/semantic/p1.png")
    (tmp_path / "coco/images/p2.png").unlink()
    masks, coco = examine(*names)
    assert masks.tally.counts["truth that cannot be read"] == 1
    assert "p0.png" in masks.tally.texts["truth that cannot be read"][0]
    assert coco.tally.counts["picture that is missing"] == 1
    assert not masks.fit and not coco.fit


def test_class_folders(tmp_path):
    for kind, number in (("cat", 3), ("dog", 4)):
        (tmp_path / kind).mkdir()
        for index in range(number):
            Image.new("RGB", (8, 8 + index + 4 * number)).save(tmp_path / kind / f"{index}.png")
    name = f"examination_{next(_numbers)}"
    register_image_folder(name, tmp_path)
    try:
        (report,) = examine(name)
        assert report.fit and report.tally.counts == {} and report.pictures == 7
        assert report.folders == {"cat": 3, "dog": 4}
        assert "pictures of a class: 3 to 4" in report_text(report)
        save_chart([report], str(tmp_path / "chart.png"))
        (tmp_path / "dog/2.png").write_bytes(b"no png")  # not the first of its class
        (tmp_path / "dog/3.png").write_bytes((tmp_path / "cat/0.png").read_bytes())
        (report,) = examine(name)
        assert report.tally.counts == {
            "picture that cannot be read": 1,
            "picture that occurs twice": 1,
        }
        assert "dog/2.png: cannot identify" in report.tally.texts["picture that cannot be read"][0]
        for path in (tmp_path / "cat").iterdir():
            path.unlink()
        (report,) = examine(name)
        assert "in cat" in report.tally.texts["class folder without a picture"][0]
        assert report.tally.counts["picture that cannot be read"] == 1  # the others are looked at
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_chart_shows_the_classes(tmp_path, register):
    (report,) = examine(register(write_dataset(tmp_path)))
    save_chart([report], str(tmp_path / "chart.png"))
    pixels = np.asarray(Image.open(tmp_path / "chart.png").convert("RGB"))
    assert (pixels == (31, 119, 180)).all(axis=2).mean() > 0.1  # bars
    with pytest.raises(ValueError, match="no dataset has segments"):
        save_chart([], str(tmp_path / "none.png"))


def test_the_command(tmp_path):
    entry = write_dataset(tmp_path / "data")
    config = tmp_path / "c.yaml"
    custom = [{"name": "examined_by_command", **entry}]
    datasets = {"CUSTOM": custom, "TRAIN": "('examined_by_command',)", "TEST": "()"}
    config.write_text(json.dumps({"DATASETS": datasets}))

    def run(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / "tools/check_dataset.py", *arguments],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip

    (tmp_path / "data/images/000.jpg").unlink()
    done = run("--config-file", str(config), "--json", "r.json", "--chart", "c.png")
    assert done.returncode == 1 and "picture that is missing: 1 time" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Training cannot start: 1 kind of error in '")
    assert not json.loads((tmp_path / "r.json").read_text())[0]["training_can_start"]
    assert (tmp_path / "c.png").stat().st_size > 1000
    done = run("examined_by_comand", "--config-file", str(config))
    assert done.returncode == 2 and "close to it: examined_by_command" in done.stderr
    assert "Traceback" not in done.stderr
