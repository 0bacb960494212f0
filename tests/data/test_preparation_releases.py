"""What is made of COCO's, ADE20K's and ImageNet's downloads, worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from miniature_releases import (
    HEIGHT,
    WIDTH,
    regions,
    write_ade20k,
    write_coco,
    write_imagenet,
)
from PIL import Image

from axial_d2.data import register_image_folder
from axial_d2.data.datasets import load_image_folder
from axial_d2.data.preparation import RECIPES
from axial_d2.data.preparation.ade20k import THINGS, class_names


def prepare(name, root):
    return RECIPES[name].prepare(str(root), workers=2)


def read(path):
    return np.asarray(Image.open(path))


def test_coco_masks_by_hand(tmp_path):
    base = write_coco(tmp_path)
    assert [(o.made, o.kept) for o in prepare("coco", tmp_path)] == [(4, 0), (4, 0)]
    ids = regions(1)
    # By the order of COCO's 133 categories: sky, grass, person, car; stuff alone counts from 1.
    whole = read(base / "panoptic_semseg_val2017/000000000002.png")
    assert [whole[ids == k][0] for k in range(5)] == [255, 119, 125, 0, 2]
    stuff = read(base / "panoptic_stuff_val2017/000000000002.png")
    assert [stuff[ids == k][0] for k in range(5)] == [255, 40, 46, 0, 0]
    for key in range(5):
        assert len(set(whole[ids == key].tolist())) == 1


def test_coco_is_unpacked_once(tmp_path):
    base = write_coco(tmp_path, zipped=True)
    assert [(o.made, o.kept) for o in prepare("coco", tmp_path)] == [(2, 0), (4, 0)] * 2
    (base / "panoptic_train2017/000000000001.png").write_bytes(b"cut off")
    assert [(o.made, o.kept) for o in prepare("coco", tmp_path)] == [(1, 1), (0, 4), (0, 2), (0, 4)]
    assert not list(tmp_path.rglob("*.part"))


def test_coco_faults_are_named(tmp_path):
    base = write_coco(tmp_path)
    Image.new("RGB", (9, 8)).save(base / "panoptic_train2017/000000000001.png")
    Image.new("RGB", (WIDTH, HEIGHT), (77, 0, 0)).save(base / "panoptic_val2017/000000000002.png")
    train, val = prepare("coco", tmp_path)
    assert "000000000001.png: expected colours of the json's size" in train.failed[0]
    assert "000000000002.png: holds the id 77" in val.failed[0]
    with pytest.raises(ValueError, match="panoptic_annotations_trainval2017.zip"):
        prepare("coco", tmp_path / "empty")


def test_ade20k_by_hand(tmp_path):
    base = write_ade20k(tmp_path)
    assert [(o.made, o.kept) for o in prepare("ade20k", tmp_path)] == [(3, 0), (3, 0)]
    assert [(o.made, o.kept) for o in prepare("ade20k", tmp_path)] == [(0, 3), (0, 3)]
    content = json.loads((base / "ade20k_panoptic_val.json").read_text())
    assert len(content["categories"]) == 150
    assert sum(c["isthing"] for c in content["categories"]) == 100
    assert (
        content["categories"][7]["name"] == "class 8, also 8"
        and content["categories"][7]["isthing"]
    )
    annotation = content["annotations"][1]
    png = read(base / "ade20k_panoptic_val" / annotation["file_name"]).astype(int)
    ids = png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2]
    truth = regions(1)
    truth[0:6, 40:50] = 0  # a bed without an instance is void, as in other projects' files
    categories = {}
    for segment in annotation["segments_info"]:
        mask = ids == segment["id"]
        assert segment["area"] == mask.sum() and len(set(truth[mask].tolist())) == 1
        categories[truth[mask][0]] = segment["category_id"]
    assert categories == {1: 0, 2: 3, 3: 7, 4: 12}
    assert not ids[truth == 0].any()


def test_ade20k_instance_classes():
    assert len(THINGS) == len(set(THINGS)) == 100 and list(THINGS) == sorted(THINGS)
    assert THINGS[0] == 8 and THINGS[-1] == 150


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: (b / "objectInfo150.txt").unlink(), "ADEChallengeData2016.zip, which has it"),
        (lambda b: (b / "objectInfo150.txt").write_text("a b\n"), "expected 150 tab-separated"),
        (lambda b: [p.unlink() for p in b.glob("images/training/*")], "expected the pictures of"),
    ],
)
def test_ade20k_downloads_that_are_missing(tmp_path, damage, message):
    damage(write_ade20k(tmp_path))
    with pytest.raises(ValueError, match=message):
        prepare("ade20k", tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "is not there"),
        (lambda p: Image.new("L", (WIDTH, HEIGHT)).save(p), "expected colours of 64x48"),
        (lambda p: Image.new("RGB", (9, 9)).save(p), "expected colours of 64x48"),
        (lambda p: Image.new("RGB", (WIDTH, HEIGHT), (101, 1, 0)).save(p), "came [101]"),
    ],
)
def test_ade20k_masks_that_are_wrong(tmp_path, damage, message):
    base = write_ade20k(tmp_path)
    path = base / "annotations_instance/training/ADE_tra_00000002.png"
    damage(path)
    train, val = prepare("ade20k", tmp_path)
    assert len(train.failed) == 1 and str(path) in train.failed[0] and not val.failed
    assert message in train.failed[0]
    assert not (base / "ade20k_panoptic_train.json").exists()


def test_imagenet_pictures_go_to_their_classes(tmp_path):
    base = write_imagenet(tmp_path)
    (outcome,) = prepare("imagenet", tmp_path)
    assert (outcome.made, outcome.kept) == (4, 0)
    found = sorted(str(p.relative_to(base / "val")) for p in (base / "val").rglob("*.JPEG"))
    assert found == [
        "n01440764/ILSVRC2012_val_00000001.JPEG",
        "n01440764/ILSVRC2012_val_00000003.JPEG",
        "n01443537/ILSVRC2012_val_00000002.JPEG",
        "n01443537/ILSVRC2012_val_00000004.JPEG",
    ]
    (outcome,) = prepare("imagenet", tmp_path)
    assert (outcome.made, outcome.kept) == (0, 4)
    register_image_folder("tests_imagenet_val", base / "val")
    assert [d["label"] for d in load_image_folder(base / "val")] == [0, 0, 1, 1]


def test_imagenet_without_its_devkit(tmp_path):
    base = write_imagenet(tmp_path)
    devkit = base / "ILSVRC2012_devkit_t12.tar.gz"
    devkit.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is not ImageNet's devkit"):
        prepare("imagenet", tmp_path)
    devkit.unlink()
    with pytest.raises(ValueError, match="the classes of the validation pictures are in"):
        prepare("imagenet", tmp_path)
    with pytest.raises(ValueError, match="validation pictures in .* came nothing"):
        prepare("imagenet", tmp_path / "empty")
    assert len(list((base / "val").glob("*.JPEG"))) == 4


def test_class_names(tmp_path):
    path = Path(write_ade20k(tmp_path), "objectInfo150.txt")
    assert class_names(str(path))[149] == "class 150, also 150"
