"""The embedded dataset: repeatable, valid COCO panoptic files, with all that it promises.

conftest.py has imported axial_d2, and so applied the bridges, before Detectron2 is imported here.
"""

import hashlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from axial_d2.data.synthetic import CATEGORIES, generate, register, render
from axial_d2.data.synthetic.__main__ import main
from axial_d2.panoptic.encoding import rgb_to_id

NAMES = {category["id"]: category["name"] for category in CATEGORIES}
THINGS = {category["id"] for category in CATEGORIES if category["isthing"]}


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def truth(folder: Path) -> list[tuple[np.ndarray, dict]]:
    """(ids (H, W), annotation) of each picture of a split."""
    content = json.loads((folder / "panoptic.json").read_text())
    return [
        (rgb_to_id(cv2.imread(str(folder / "panoptic" / a["file_name"]))[..., ::-1]), a)
        for a in content["annotations"]
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """60 and 60 pictures in the folder below which the datasets are registered."""
    folder = tmp_path_factory.mktemp("datasets") / "synthetic_panoptic"
    states = generate(folder, images=60, val_images=60, size=(96, 192), progress=False)
    assert states == {"train": "written", "val": "written"}
    return folder


@pytest.mark.parametrize("split", ["train", "val"])
def test_files_are_valid_coco_panoptic(dataset, split):
    content = json.loads((dataset / split / "panoptic.json").read_text())
    assert content["categories"] == CATEGORIES
    assert len(content["images"]) == len(content["annotations"]) == 60
    for image, (ids, annotation) in zip(content["images"], truth(dataset / split), strict=True):
        picture = cv2.imread(str(dataset / split / "images" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3) == (96, 192, 3)
        assert ids.shape == (96, 192)
        assert annotation["image_id"] == image["id"]
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert len(segments) == len(annotation["segments_info"])
        assert set(np.unique(ids)) - {0} == set(segments)
        for number, segment in segments.items():
            rows, columns = np.nonzero(ids == number)
            assert segment["area"] == len(rows)
            left, top = columns.min(), rows.min()
            assert segment["bbox"] == [
                left,
                top,
                columns.max() - left + 1,
                rows.max() - top + 1,
            ]
            assert segment["category_id"] in NAMES
            assert not segment["iscrowd"] or segment["category_id"] in THINGS
        stuff = [s["category_id"] for s in segments.values() if s["category_id"] not in THINGS]
        assert len(stuff) == len(set(stuff)), "one segment for each stuff class"


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_class_and_crowd_and_void_appear(dataset, split):
    pictures, void = dict.fromkeys(NAMES.values(), 0), 0
    crowds, instances = 0, []
    for ids, annotation in truth(dataset / split):
        segments = annotation["segments_info"]
        for category in {s["category_id"] for s in segments if not s["iscrowd"]}:
            pictures[NAMES[category]] += 1
        crowds += any(s["iscrowd"] for s in segments)
        instances.append(sum(s["category_id"] in THINGS and not s["iscrowd"] for s in segments))
        void += np.mean(ids == 0)
    assert min(pictures.values()) >= 9, pictures  # 15 % of the pictures
    assert crowds >= 2
    assert 0.003 < void / 60 < 0.06
    assert 5 <= np.mean(instances) <= 9 and max(instances) <= 16


def test_things_touch_and_hide_each_other(dataset):
    """Instances of one class share borders, and some are cut in pieces by what stands before."""
    touching = pieces = 0
    for ids, annotation in truth(dataset / "train"):
        kind = {s["id"]: s["category_id"] for s in annotation["segments_info"]}
        pairs = np.concatenate(
            [
                np.stack([ids[:, 1:], ids[:, :-1]], -1).reshape(-1, 2),
                np.stack([ids[1:], ids[:-1]], -1).reshape(-1, 2),
            ]
        )
        pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        touching += any(kind.get(a) == kind.get(b) in THINGS for a, b in pairs)
        for number, category in kind.items():
            if category in THINGS:
                _, _, stats, _ = cv2.connectedComponentsWithStats((ids == number).astype(np.uint8))
                pieces += np.count_nonzero(stats[1:, cv2.CC_STAT_AREA] >= 8) > 1
    assert touching >= 15
    assert pieces >= 8


def test_small_and_large_instances(dataset):
    areas = [
        segment["area"] / ids.size
        for ids, annotation in truth(dataset / "train")
        for segment in annotation["segments_info"]
        if segment["category_id"] in THINGS and not segment["iscrowd"]
    ]
    assert np.quantile(areas, 0.1) < 0.015 and np.quantile(areas, 0.95) > 0.04
    assert min(areas) >= 0.0008, "what is smaller is void"


def test_color_alone_does_not_give_the_class(dataset):
    """The best guess from a pixel's colour (16 levels a channel) is far from enough."""
    names = sorted(NAMES)
    counts = {split: np.zeros((4096, len(names))) for split in ("train", "val")}
    for split, count in counts.items():
        for ids, annotation in truth(dataset / split):
            file = dataset / split / "images" / annotation["file_name"].replace(".png", ".jpg")
            levels = cv2.imread(str(file)).astype(int) // 16
            color = levels[..., 0] * 256 + levels[..., 1] * 16 + levels[..., 2]
            for segment in annotation["segments_info"]:
                where = ids == segment["id"]
                count[:, names.index(segment["category_id"])] += np.bincount(
                    color[where], minlength=4096
                )
    guess = counts["train"].argmax(axis=1)
    confusion = np.stack([counts["val"][guess == k].sum(axis=0) for k in range(len(names))])
    hit = np.diag(confusion)
    iou = hit / (confusion.sum(axis=0) + confusion.sum(axis=1) - hit)
    assert iou.mean() < 0.35


def test_same_seed_same_files_whatever_the_processes(tmp_path):
    def make(name, **changes):
        arguments = {"images": 5, "val_images": 3, "size": (64, 96), "seed": 3, "processes": 1}
        generate(tmp_path / name, progress=False, **(arguments | changes))
        return digest(tmp_path / name)

    first = make("a")
    assert len(first) == 2 * (5 + 3) + 4
    assert make("b", processes=2) == first
    other = make("c", seed=4)
    assert all(other[name] != first[name] for name in first)
    longer = make("d", images=7)
    assert longer["train/images/000005.jpg"] == first["train/images/000005.jpg"]
    assert first["train/images/000001.jpg"] != first["val/images/000001.jpg"]


@pytest.mark.parametrize("size", [(64, 64), (67, 131), (128, 70)])
def test_odd_and_upright_sizes(size):
    for index in range(6):
        scene = render(np.random.default_rng(index), *size)
        assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
        assert scene.panoptic.shape == size
        assert {s["id"] for s in scene.segments_info} == set(np.unique(scene.panoptic)) - {0}


def test_a_complete_set_is_kept_and_an_unfinished_one_redone(tmp_path, capsys):
    command = ["--output", str(tmp_path), "--images", "2", "--val-images", "1"]
    command += ["--size", "64", "64", "--processes", "1"]
    assert main(command) == 0
    assert f"wrote {tmp_path / 'train'}" in capsys.readouterr().out
    before = digest(tmp_path)
    stamp = (tmp_path / "train/panoptic.json").stat().st_mtime_ns

    assert main(command) == 0
    assert capsys.readouterr().out.count("kept what was there") == 2
    assert (tmp_path / "train/panoptic.json").stat().st_mtime_ns == stamp

    (tmp_path / "train/panoptic.json").unlink()  # as after a break
    (tmp_path / "val/images/000001.jpg").unlink()
    assert main(command) == 0
    assert capsys.readouterr().out.count("replaced") == 2
    assert digest(tmp_path) == before

    assert main([*command, "--seed", "1"]) == 0  # other parameters
    assert capsys.readouterr().out.count("replaced") == 2
    assert digest(tmp_path) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, "images must be a whole number from 1 on, got 0"),
        ({"val_images": 0}, "val_images must be a whole number from 1 on, got 0"),
        ({"size": (32, 256)}, "size must be .* from 64 to 4096 pixels, got \\(32, 256\\)"),
        ({"size": 128}, "size must be \\(height, width\\)"),
        ({"seed": -1}, "seed must be a whole number from 0 on, got -1"),
        ({"processes": 0}, "processes must be a whole number from 1 on, got 0"),
    ],
)
def test_wrong_arguments(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "set", **({"images": 1} | changes))
    assert not (tmp_path / "set").exists()


def test_strange_files_are_left_alone(tmp_path, capsys):
    (tmp_path / "val").mkdir()
    (tmp_path / "val/panoptic.json").write_text("{}")
    assert main(["--output", str(tmp_path), "--images", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'val'} holds something") and error.count("\n") == 1
    assert (tmp_path / "val/panoptic.json").read_text() == "{}"
    assert not (tmp_path / "train").exists()


def test_output_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--output", str(tmp_path / "file"), "--images", "1"]) == 1
    assert f"cannot write to {tmp_path / 'file'}" in capsys.readouterr().err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "python -m axial_d2.data.synthetic --output" in capsys.readouterr().out


@pytest.fixture
def registered(dataset):
    """The datasets moved to this test's files, and back."""
    register(dataset.parent)
    yield dataset
    register()


def test_registered_datasets_load(registered):
    register(registered.parent)  # a second time is no error
    for split in ("train", "val"):
        name = f"synthetic_panoptic_{split}"
        records = DatasetCatalog.get(name)
        assert len(records) == 60
        metadata = MetadataCatalog.get(name)
        assert metadata.evaluator_type == "coco_panoptic_seg"
        assert metadata.thing_classes == [category["name"] for category in CATEGORIES]
        assert metadata.panoptic_json == str(registered / split / "panoptic.json")
        things = set(metadata.thing_dataset_id_to_contiguous_id.values())
        assert things and 0 not in things, "things are not first"
        for segment in records[0]["segments_info"]:
            assert segment["isthing"] == (segment["category_id"] in things)
        assert os.path.isfile(records[0]["file_name"])


def test_classes_are_known_before_the_files_and_loading_says_how_to_make_them(tmp_path):
    register(tmp_path)
    try:
        metadata = MetadataCatalog.get("synthetic_panoptic_train")
        assert len(metadata.stuff_classes) == len(CATEGORIES)
        with pytest.raises(FileNotFoundError) as caught:
            DatasetCatalog.get("synthetic_panoptic_train")
        command = f"python -m axial_d2.data.synthetic --output {tmp_path / 'synthetic_panoptic'}"
        assert command in str(caught.value)
    finally:
        register()
