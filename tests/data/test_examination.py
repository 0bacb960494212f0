"""check_dataset: each kind of fault found once with its example, the class balance, the verdict."""

import gc
import json
import os
import subprocess
import sys
import warnings
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
from axial_d2.data.check import (
    ClassBalance,
    DatasetReport,
    before_training,
    check_datasets,
    examination,
    examine_datasets,
    pictures,
    report_text,
    save_chart,
    verdict,
)
from axial_d2.data.check.findings import Tally
from axial_d2.data.check.text import folder_table
from axial_d2.engine import SetupError, check_and_report

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
    "box that differs from the pixels ": (
        lambda root: edit(root, lambda c: segments(c)[1].update(bbox=5)),
        "segment 300: expected [5, 8, 12, 8], came 5",
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
    "picture that occurs twice ": (
        lambda root: (
            edit(root, lambda c: c["images"][1].update(file_name="000.jpg")),
            (root / "images/001.png").unlink(),
        ),
        "images/000.jpg: the dataset names it again",
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
    kind = kind.strip()
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


def interrupt_at(monkeypatch, file):
    """Ctrl-C while the picture of this name is looked at."""
    examine_one = examination.examine

    def examine(record, *arguments, **options):
        if record.image_file.endswith(file):
            raise KeyboardInterrupt
        return examine_one(record, *arguments, **options)

    monkeypatch.setattr(examination, "examine", examine)


def test_broken_off_it_tells_what_was_found(tmp_path, register, monkeypatch):
    entry = write_dataset(tmp_path, (".png",) * 9)
    (tmp_path / "panoptic/001.png").write_bytes(b"no png")
    names = register(entry), register(entry)
    interrupt_at(monkeypatch, "004.png")
    (report,) = examine(*names)  # the second is not begun
    assert report.stopped and report.pictures == 4
    assert report.tally.counts == {"png that cannot be read": 1}
    assert report.balance[1].pictures == 3 and report.as_dict()["stopped_before_the_end"]
    assert "4 pictures so far" in report_text(report)
    assert verdict([report]).startswith("Stopped before the end. Training cannot start: 1 kind")
    stopped = report._replace(tally=Tally())
    assert verdict([stopped]) == "Stopped before the end. No error so far."
    assert not stopped.as_dict()["training_can_start"]


def test_numbers_of_small_instances_and_of_examples(tmp_path, register):
    entry = write_dataset(tmp_path, (".png",) * 5, crowd=())
    things = [int((truth(index) == key).sum()) for index in range(5) for key in (300, 9)]
    below = {size: sum(area < size for area in things) for size in (24, 96, 384)}
    name = register(entry)
    (report,) = examine(name, tiny=24)
    assert (report.small, report.instances) == (below, 10) and 0 < below[96] < 10
    assert f"instances: 10; pixels: 0 below 24, {below[96]} below 96" in report_text(report)
    (report,) = examine(name, tiny=96, examples=4)
    assert report.tally.counts == {"tiny instance": below[96]}
    assert len(report.tally.texts["tiny instance"]) == 4


def test_odd_numbers_that_mean_the_same(tmp_path, register):
    entry = write_dataset(tmp_path)

    def change(content):
        segments(content)[1].update(id=300.0, category_id=3.0, area=96.0)

    edit(tmp_path, change)
    text = (tmp_path / "panoptic.json").read_text()
    (tmp_path / "panoptic.json").write_bytes(text.replace(", ", ",\r\n").encode())
    (report,) = examine(register(entry))
    assert report.tally.counts == {} and report.balance[1].segments == 3


@pytest.mark.parametrize("value", ["300", None, [300], float("nan"), -300, 10**30])
def test_odd_ids(tmp_path, register, value):
    entry = write_dataset(tmp_path)
    edit(tmp_path, lambda c: segments(c)[1].update(id=value))
    (report,) = examine(register(entry))
    known = isinstance(value, int | float)
    kind = "segment that is not in the png" if known else "segment without its fields"
    assert report.tally.counts == {kind: 1, "id in the png that is not in the json": 1}
    assert "came 300 on 96 pixels" in report.tally.texts["id in the png that is not in the json"][0]


@pytest.mark.parametrize("value", [True, 0.5, float("nan"), float("inf"), "0", None])
def test_odd_iscrowd(tmp_path, register, value):
    entry = write_dataset(tmp_path)
    edit(tmp_path, lambda c: segments(c)[1].update(iscrowd=value))
    (report,) = examine(register(entry))
    assert "expected a number for iscrowd" in report.tally.texts["segment without its fields"][0]
    with pytest.raises(ValueError, match="iscrowd"):  # as the check says
        DatasetCatalog.get(report.name)


def test_truth_is_turned_as_training_turns_it(tmp_path, register):
    entry = write_dataset(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    Image.open(tmp_path / "panoptic/000.png").save(tmp_path / "panoptic/000.png", exif=exif)
    (report,) = examine(register(entry))
    (kind,) = report.tally.counts
    assert kind == "png whose size differs from the picture"
    assert "expected 33x24, came 24x33" in report.tally.texts[kind][0]


def test_file_names_from_windows(tmp_path, register):
    entry = write_dataset(tmp_path)
    (tmp_path / "images/a").mkdir()
    (tmp_path / "images/001.png").rename(tmp_path / "images/a/001.png")
    edit(tmp_path, lambda c: c["images"][1].update(file_name="a\\001.png"))
    (report,) = examine(register(entry))
    assert report.tally.texts["picture that is missing"][0].endswith("write / in the json, not \\")


def test_whatever_a_decoder_raises_is_told(tmp_path, register, monkeypatch):
    name = register(write_dataset(tmp_path))
    decode = pictures.decode_picture

    def damaged(path, **options):
        if path.endswith("001.png"):
            raise TypeError("'IFDRational' object cannot be interpreted as an integer")
        return decode(path, **options)

    monkeypatch.setattr(pictures, "decode_picture", damaged)
    (report,) = examine(name)
    text = "images/001.png: TypeError: 'IFDRational' object cannot"
    assert text in report.tally.texts["picture that cannot be read"][0]
    assert report.pictures == 3 and report.balance[0].pictures == 2


def test_boxes_and_pixels_of_coco_annotations(tmp_path, register):
    entry = write_coco_instances(tmp_path)
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text())
    first = content["annotations"]
    first[0]["bbox"] = [4, 10, 8, 14]  # the corners, not the size
    first[1]["bbox"][0] += 1.5  # programs round in different ways
    first[3]["segmentation"] = [[40, 4, 50, 4, 50, 9]]  # right of the picture
    first[4]["segmentation"] = [[1, 2, 3, 4]]
    first[5]["segmentation"] = {"size": [24, 34], "counts": [20, 4, 24 * 34 - 24]}
    first[5]["bbox"] = [0, 20, 1, 4]
    first[8]["bbox"] = "none"
    path.write_text(json.dumps(content))
    (tmp_path / "semantic/more.png").write_bytes((tmp_path / "semantic/p0.png").read_bytes())
    (report,) = examine(register(entry))
    assert report.tally.texts == {
        "box that differs from the pixels": [
            f"{entry['images']}/p0.png: annotation 0: expected about [4, 10, 4, 4], came "
            "[4, 10, 8, 14]",
            f"{entry['images']}/p2.png: annotation 2: expected about [18, 6, 4, 14], came none",
        ],
        "instance without pixels": [
            f"{entry['images']}/p1.png: annotation 0", f"{entry['images']}/p1.png: annotation 1",
        ],
        "mask without a picture": [f"{entry['semantic']}/more.png"],
    }  # fmt: skip


def test_datasets_that_share_a_folder_name_its_files_together(tmp_path, register):
    entry = write_dataset(tmp_path, (".png",) * 4)
    content = read_json(tmp_path)
    names = []
    for part in (slice(0, 2), slice(2, 3)):
        path = tmp_path / f"{part.start}.json"
        half = {key: content[key][part] for key in ("images", "annotations")}
        path.write_text(json.dumps({**content, **half}))
        names.append(register({**entry, "json": str(path)}))
    stray = [str(tmp_path / "images/003.png"), str(tmp_path / "panoptic/003.png")]
    first, second = examine(*names)
    assert first.tally.texts["file that no json names"] == stray
    assert "file that no json names" not in second.tally.counts  # told once
    (alone,) = examine(names[1])
    assert alone.tally.counts["file that no json names"] == 6


@pytest.fixture
def from_loader():
    """from_loader(load, **metadata) -> name; unregisters at the end."""
    names = []

    def register(load, **metadata):
        names.append(f"examination_{next(_numbers)}")
        DatasetCatalog.register(names[-1], load)
        MetadataCatalog.get(names[-1]).set(**metadata)
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


LOADERS = {
    "raises": (lambda: 1 // 0, "ZeroDivisionError: integer"),
    "no list": (lambda: None, "expected a list of dataset dicts, came a NoneType"),
    "no dicts": (lambda: [3], "dataset dict 0 is not as Detectron2 wants it: AttributeError"),
    "no file": (lambda: [{"image_id": 3}], "dataset dict 0 .* KeyError: 'file_name'"),
    "file None": (lambda: [{"file_name": None}], "dataset dict 0 .* TypeError: expected str"),
    "mask": (lambda: [{"file_name": "a", "sem_seg_file_name": 5}], "dataset dict 0 .* TypeError"),
    "size": (lambda: [{"file_name": "a", "width": "x", "height": 3}], "dataset dict 0 .* TypeE"),
    "empty": (list, "no image: 1 time\n    expected at least one, came none"),
}


@pytest.mark.parametrize("fault", LOADERS)
def test_loaders_of_others(from_loader, fault):
    load, expected = LOADERS[fault]
    name = from_loader(load, evaluator_type="sem_seg", stuff_classes=["a"], ignore_label=255)
    (report,) = examine(name)
    assert not report.fit and gc.isenabled()
    with pytest.raises(ValueError, match=expected):
        check_datasets([name])


def test_a_json_tells_what_another_loader_fails_over(tmp_path, from_loader):
    entry = write_dataset(tmp_path)
    edit(tmp_path, lambda c: segments(c)[0].update(category_id=999))
    folders = {"image_root": entry["images"], "panoptic_root": entry["panoptic"]}
    name = from_loader(lambda: {}[999], panoptic_json=entry["json"], **folders)
    (report,) = examine(name)
    assert report.tally.texts["the dataset cannot be loaded"] == ["KeyError: 999"]
    assert "000.png: segment 1: expected a category_id" in report.tally.texts["unknown category"][0]


def test_semantic_datasets_need_the_same_names_alone():
    category_findings = before_training.category_findings
    first = "cityscapes_fine_panoptic_train"
    assert category_findings(first, "cityscapes_fine_panoptic_val") == []
    assert category_findings(first, "cityscapes_fine_sem_seg_val") == []
    assert len(category_findings(first, "cityscapes_fine_instance_seg_val")) == 19


def test_chart_shows_the_classes(tmp_path, register):
    (report,) = examine(register(write_dataset(tmp_path)))
    save_chart([report], str(tmp_path / "chart.png"))
    pixels = np.asarray(Image.open(tmp_path / "chart.png").convert("RGB"))
    assert (pixels == (31, 119, 180)).all(axis=2).mean() > 0.1  # bars
    with pytest.raises(ValueError, match="no dataset has segments"):
        save_chart([], str(tmp_path / "none.png"))


def test_chart_of_odd_names_and_many_classes(tmp_path):
    names = ["$a$b", "x_^", "日本", *map(str, range(200))]
    balance = [
        ClassBalance(name, True, 1, i + 1, 0, 1 / len(names), 5) for i, name in enumerate(names)
    ]
    reports = [DatasetReport(name, "", 1, Tally(), balance) for name in ("_train", "val")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_chart(reports, str(tmp_path / "chart.svg"))
    text = (tmp_path / "chart.svg").read_text()
    assert "<!-- $a$b -->" in text and "<!-- _train -->" in text and "<!-- 59 -->" in text
    assert os.listdir(tmp_path) == ["chart.svg"]


def test_many_class_folders_are_cut_to_the_smallest_and_largest():
    text = folder_table({f"c{i}": 100 - i for i in range(100)}, bar="#")
    assert text.startswith("pictures of a class: 1 to 100; the 30 of 100 classes with the fewest")
    lines = text.splitlines()[3:]
    assert [line.split()[0] for line in lines] == [
        f"c{i}" for i in (*range(99, 69, -1), *range(29, -1, -1))
    ]
    assert lines[0].split()[1:] == ["1", "#"] and lines[-1].endswith(" " + "#" * 24)


def test_paths_are_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(examination, "examine", lambda *_, **__: pytest.fail("work was done"))
    call = {"config_file": None, "workers": 1, "tiny": 16, "examples": 3}
    for paths, message in (
        ({"json_file": str(tmp_path / "no/r.json")}, "--json: the folder .*/no does not exist"),
        ({"json_file": str(tmp_path)}, "--json: expected a file, got the folder"),
        ({"chart_file": str(tmp_path / "c.gif")}, "--chart: expected a file ending in .png, "),
    ):
        with pytest.raises(SetupError, match=message):
            check_and_report(["coco_2017_val_panoptic"], **call, **paths)


def test_the_command(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}  # bars cannot be shown
    entry = write_dataset(tmp_path / "data")
    config = tmp_path / "c.yaml"
    custom = [{"name": "examined_by_command", **entry}]
    datasets = {"CUSTOM": custom, "TRAIN": "('examined_by_command',)", "TEST": "()"}
    config.write_text(json.dumps({"DATASETS": datasets}))

    def run(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / "tools/check_dataset.py", *arguments],
            capture_output=True, text=True, cwd=tmp_path, env=environment,
        )  # fmt: skip

    (tmp_path / "data/images/000.jpg").unlink()
    done = run("--config-file", str(config), "--json", "r.json", "--chart", "c.png")
    assert done.returncode == 1 and "picture that is missing: 1 time" in done.stdout, done.stderr
    assert " ####" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Training cannot start: 1 kind of error in '")
    assert not json.loads((tmp_path / "r.json").read_text())[0]["training_can_start"]
    assert (tmp_path / "c.png").stat().st_size > 1000
    done = run("examined_by_comand", "--config-file", str(config))
    assert done.returncode == 2 and "close to it: examined_by_command" in done.stderr
    assert "Traceback" not in done.stderr
