"""Datasets of class folders: what is found in them, how they are registered, what is refused."""

import logging
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torchvision.datasets import ImageFolder

import axial_d2  # noqa: F401
from axial_d2.config import add_axial_config
from axial_d2.data import (
    check_datasets,
    check_names,
    classes_of,
    is_image_folder,
    register_custom,
    register_image_folder,
)
from axial_d2.data.datasets import load_image_folder

ROOT = Path(__file__).parents[2]
_numbers = count()


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch):
    """Detectron2's setup_logger, where another test called it, keeps records from rising."""
    monkeypatch.setattr(logging.getLogger("axial_d2"), "propagate", True)


@pytest.fixture
def name():
    """A name that no other test uses; taken out of the catalogs afterwards."""
    name = f"image_folder_test_{next(_numbers)}"
    yield name
    for other in [n for n in DatasetCatalog.list() if n.startswith(name)]:
        DatasetCatalog.remove(other)
        MetadataCatalog.remove(other)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_axial_config(cfg)
    return cfg


def write(root: Path, *files: str) -> Path:
    """Writes a small picture under each name."""
    for number, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), 9 * number, np.uint8)).save(path)
    return root


def test_the_same_as_torchvisions_image_folder(tmp_path):
    # Upper case before lower case; a folder in a class folder; extensions in capitals.
    root = write(
        tmp_path, "n02/b.JPEG", "n02/a.jpg", "n01/x/2.png", "n01/1.png", "N03/c.webp", "a b/d.bmp"
    )
    (root / "n02/notes.txt").write_text("no picture")
    (root / "labels.txt").write_text("no class")
    dicts = load_image_folder(root)
    theirs = ImageFolder(str(root))
    assert sorted((d["file_name"], d["label"]) for d in dicts) == sorted(theirs.samples)
    assert [d["label"] for d in dicts] == sorted(d["label"] for d in dicts)
    assert len(dicts) == 6 and set(dicts[0]) == {"file_name", "label"}


def test_registration_knows_the_classes_and_is_lazy_about_pictures(tmp_path, name):
    root = write(tmp_path, "dog/1.jpg", "cat/1.jpg", ".cache/1.jpg")
    (root / "emu").mkdir()
    register_image_folder(name, root)
    metadata = MetadataCatalog.get(name)
    assert metadata.classes == ["cat", "dog", "emu"]
    assert (metadata.evaluator_type, metadata.image_root) == ("image_classification", str(root))
    assert is_image_folder(name) and not is_image_folder("coco_2017_val_panoptic")
    with pytest.raises(
        ValueError, match=rf"'{name}': expected pictures .*\.jpg.* came none in emu"
    ):
        DatasetCatalog.get(name)
    write(root, "emu/1.jpg")
    assert [d["label"] for d in DatasetCatalog.get(name)] == [0, 1, 2]


def test_register_again_and_replace(tmp_path, name, caplog):
    first, second = write(tmp_path / "a", "x/1.jpg"), write(tmp_path / "b", "x/1.jpg", "y/1.jpg")
    register_image_folder(name, first)
    metadata = MetadataCatalog.get(name)
    register_image_folder(name, first)
    assert MetadataCatalog.get(name) is metadata
    with caplog.at_level("INFO", logger="axial_d2"):
        register_image_folder(name, second)
    assert f"'{name}' is now in {second}, before in {first}" in caplog.text
    assert classes_of(name) == ["x", "y"]
    write(second, "z/1.jpg")  # the same root, but another class by now
    register_image_folder(name, second)
    assert classes_of(name) == ["x", "y", "z"] and len(DatasetCatalog.get(name)) == 3
    with pytest.raises(ValueError, match="'coco_2017_val' is registered already"):
        register_image_folder("coco_2017_val", second)


def test_roots_that_are_not_right(tmp_path, name):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "loose", "b.jpg", "a.jpg")
    write(tmp_path / "raw", "ILSVRC2012_val_00000001.JPEG")
    for folder, message in (
        ("gone", f"each class at {tmp_path}/gone, came nothing"),
        ("loose/a.jpg", "came a file"),
        ("empty", f"in {tmp_path}/empty, came an empty one"),
        ("loose", r"came 2 pictures \(a\.jpg, \.\.\.\) that no folder says the class of$"),
        ("raw", "came 1 pictures .*ImageNet's own archive of validation pictures .*imagenet.md"),
    ):
        with pytest.raises(ValueError, match=message):
            register_image_folder(name, tmp_path / folder)
        assert name not in DatasetCatalog.list()


def test_custom_from_file_and_command_line(tmp_path, name, cfg):
    root = write(tmp_path / "data", "x/1.jpg", "y/1.jpg")
    entries = [{"name": name, "root": str(root)}]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"DATASETS": {"IMAGE_FOLDERS": entries, "TRAIN": [name]}}))
    cfg.merge_from_file(str(file))
    register_custom(cfg)
    register_custom(cfg)
    check_names(cfg)
    assert len(DatasetCatalog.get(name)) == 2
    entries = [{"name": f"{name}_line", "root": str(root)}]
    cfg.merge_from_list(["DATASETS.IMAGE_FOLDERS", repr(entries)])
    register_custom(cfg)
    assert classes_of(f"{name}_line") == ["x", "y"]
    # What a training run writes beside its results must be readable again.
    again = get_cfg()
    add_axial_config(again)
    again.merge_from_other_cfg(type(cfg).load_cfg(cfg.dump()))
    assert again.DATASETS.IMAGE_FOLDERS == entries
    assert tuple(again.INPUT.RESIZED_CROP.AREA) == (0.08, 1.0)


def test_mistakes_in_the_list(tmp_path, name, cfg):
    good = {"name": name, "root": str(write(tmp_path, "x/1.jpg"))}
    for value, message in (
        ([good["root"]], "entry 1: expected a mapping .* name, root, came a str"),
        ([{"name": name}], "entry 1: root missing in"),
        ([good | {"images": "x"}], "entry 1: .* came 'images' too"),
        ([good, good], f"the name '{name}' occurs 2 times"),
        ([good | {"root": "/no/such"}], "each class at /no/such, came nothing"),
    ):
        cfg.DATASETS.IMAGE_FOLDERS = value
        with pytest.raises(ValueError, match=message) as error:
            register_custom(cfg)
        assert str(error.value).startswith("DATASETS.IMAGE_FOLDERS is not right:")
        assert "IMAGE_FOLDERS:\n    - {name: my_train" in str(error.value)


def test_a_prediction_needs_no_folder(tmp_path, name, cfg):
    cfg.DATASETS.IMAGE_FOLDERS = [{"name": name, "root": str(tmp_path / "later")}]
    register_custom(cfg, need_pictures=False)
    assert name in DatasetCatalog.list() and not hasattr(MetadataCatalog.get(name), "classes")
    write(tmp_path / "later", "x/1.jpg")
    register_custom(cfg)
    assert MetadataCatalog.get(name).classes == ["x"]


def test_check_finds_faults_and_differences(tmp_path, name):
    good = write(tmp_path / "good", "a/1.jpg", "b/1.jpg", "c/1.jpg")
    other = write(tmp_path / "other", "b/1.jpg", "b2/1.jpg", "c/1.jpg")
    bad = write(tmp_path / "bad", "a/1.jpg", "b/1.jpg", "c/1.jpg")
    data = (bad / "b/1.jpg").read_bytes()
    (bad / "b/1.jpg").write_bytes(data[: len(data) // 2])
    hollow = write(tmp_path / "hollow", "a/1.jpg")
    (hollow / "b").mkdir()
    names = {}
    for root in (good, other, bad, hollow):
        names[root.name] = f"{name}_{root.name}"
        register_image_folder(names[root.name], root)
    check_datasets([names["good"]])
    for folder, message in (
        ("other", f"3 class folders of '{names['good']}'; lacks a, has besides b2"),
        ("bad", r"picture that cannot be read: 1 time\n.*bad/b/1\.jpg"),
        ("hollow", "class folder without a picture: 1 time\n.* came none in b"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            check_datasets([names["good"], names[folder]])
        assert f"The data of '{names[folder]}' ({tmp_path / folder}) are not right" in str(
            error.value
        )


def test_many_differences_are_told_by_examples(tmp_path, name):
    write(tmp_path / "a", *(f"class{i}/1.jpg" for i in range(9)))
    write(tmp_path / "b", "class0/1.jpg")
    for folder in "ab":
        register_image_folder(f"{name}_{folder}", tmp_path / folder)
    with pytest.raises(ValueError, match="lacks class1, class2, class3 and 5 more$"):
        try:
            check_datasets([f"{name}_a", f"{name}_b"])
        except ValueError as error:
            raise ValueError(str(error).splitlines()[2]) from None


def test_datasets_of_other_code_bring_their_classes(name, caplog):
    DatasetCatalog.register(name, list)
    metadata = MetadataCatalog.get(name).set(evaluator_type="image_classification")
    with pytest.raises(ValueError, match=f"'{name}': expected `classes` in its metadata"):
        classes_of(name)
    metadata.classes = ["x", "y"]
    with caplog.at_level("INFO", logger="axial_d2"):
        check_datasets([name])
    assert classes_of(name) == ["x", "y"] and "has no image_root" in caplog.text


def test_imagenet_is_registered_without_a_look_at_the_disk(tmp_path):
    for split, files in (
        ("train", ("n1/1.JPEG", "n0/1.JPEG", "n0/2.JPEG")),
        ("val", ("n0/1.JPEG",)),
    ):
        write(tmp_path / "late/imagenet" / split, *files)
    code = f"""
import os
import axial_d2
from detectron2.data import DatasetCatalog, MetadataCatalog
from axial_d2.data import classes_of, register_custom
assert MetadataCatalog.get("imagenet_val").evaluator_type == "image_classification"
assert not hasattr(MetadataCatalog.get("imagenet_val"), "classes")
try:
    DatasetCatalog.get("imagenet_val")
except ValueError as error:
    print(error)
os.rename({str(tmp_path / "late")!r}, {str(tmp_path / "here")!r})
print([d["label"] for d in DatasetCatalog.get("imagenet_train")])
print(MetadataCatalog.get("imagenet_train").classes, classes_of("imagenet_val"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"DETECTRON2_DATASETS": str(tmp_path / "here"), "PATH": "", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    error, labels, classes = done.stdout.splitlines()
    assert "'imagenet_val': expected a folder" in error and "here/imagenet/val" in error
    assert "DETECTRON2_DATASETS names the folder" in error
    assert labels == "[0, 0, 1]" and classes == "['n0', 'n1'] ['n0']"
