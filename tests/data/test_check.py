"""The check of datasets before training: damaged copies, each with its one clear error."""

import logging
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from tiny_panoptic import CATEGORIES, ids_to_rgb, read_json, truth, write_dataset, write_json

import axial_d2  # noqa: F401
from axial_d2.data import check_datasets, register_coco_panoptic
from axial_d2.data.check import before_training

SAMPLE = Path(__file__).parents[2] / "../shared/data/coco_panoptic_sample"
_numbers = count()


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch):
    """Detectron2's setup_logger, where another test called it, keeps records from rising."""
    monkeypatch.setattr(logging.getLogger("axial_d2"), "propagate", True)


@pytest.fixture
def register():
    """A function (folder) -> name of the dataset there; unregisters at the end."""
    names = []

    def register(root):
        names.append(f"check_test_{next(_numbers)}")
        register_coco_panoptic(
            names[-1], root / "images", root / "panoptic", root / "panoptic.json"
        )
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _edit(change):
    """A damage to the json: `change` gets its content."""

    def damage(root):
        content = read_json(root)
        change(content)
        write_json(root, content)

    return damage


def _truncate(path):
    def damage(root):
        data = (root / path).read_bytes()
        (root / path).write_bytes(data[: len(data) * 2 // 3])

    return damage


def _png(change, mode=None):
    """A damage to the second png: `change` gets its ids."""

    def damage(root):
        png = Image.fromarray(ids_to_rgb(change(truth(1))))
        (png.convert(mode) if mode else png).save(root / "panoptic/001.png")

    return damage


def _segment(content, index=0):
    return content["annotations"][1]["segments_info"][index]


def _turn(root):
    """Stores the first picture lying on its side, with the EXIF entry that sets it upright."""
    picture = Image.open(root / "images/000.jpg")
    exif = picture.getexif()
    exif[274] = 6
    picture.save(root / "images/000.jpg", exif=exif)


DAMAGES = {
    "missing picture": (
        lambda root: (root / "images/001.png").unlink(),
        ["picture that is missing: 1 time", "images/001.png, which is not there"],
    ),
    "stale extension": (
        lambda root: (root / "images/000.jpg").rename(root / "images/000.jpeg"),
        ["picture that is missing", "but 000.jpeg is: the json's file_name must carry"],
    ),
    "missing png": (
        lambda root: (root / "panoptic/001.png").unlink(),
        ["png that is missing: 1 time", "panoptic/001.png, which is not there"],
    ),
    "picture size": (
        _edit(lambda c: c["images"][0].update(width=40)),
        ["picture whose size differs from the json", "expected 40x24, came 33x24"],
    ),
    "EXIF rotation": (
        _turn,
        ["size differs from the json", "expected 33x24, came 24x33 after it is turned as its EXIF"],
    ),
    "png size": (
        _png(lambda ids: ids[:, 1:]),
        ["png whose size differs from the picture", "expected 33x24, came 32x24"],
    ),
    "png in grey": (
        _png(lambda ids: ids, mode="L"),
        ["png not in colours", "R + 256 G + 65536 B", "came mode L"],
    ),
    "id not in png": (
        _edit(lambda c: _segment(c).update(id=77777)),
        ["segment that is not in the png: 1 time", "expected pixels with the id 77777"],
    ),
    "id not in json": (
        _edit(lambda c: c["annotations"][1]["segments_info"].pop(1)),
        ["id in the png that is not in the json: 1 time", "came 300 on 96 pixels"],
    ),
    "unknown category": (
        _edit(lambda c: _segment(c).update(category_id=12345)),
        ["unknown category: 1 time", "001.png: segment 1: expected a category_id", "came 12345"],
    ),
    "image id twice": (
        _edit(lambda c: c["images"][1].update(id=10)),
        ["image id used twice", "001.png: expected an id of its own, came 10, which 000.jpg has"],
    ),
    "segment id twice": (
        _edit(lambda c: _segment(c, 1).update(id=1)),
        ["segment id used twice in a picture", "001.png: expected ids of their own, came 1 again"],
    ),
    "segment id 0": (
        _edit(lambda c: _segment(c).update(id=0)),
        ["segment with the id 0", "came 0, which is void"],
    ),
    "two annotations": (
        _edit(lambda c: c["annotations"][1].update(image_id=10)),
        ["image with several annotations", "image without annotation: 1 time\n    001.png"],
    ),
    "no annotation": (
        _edit(lambda c: c["annotations"].pop(2)),
        ["image without annotation: 1 time", "002.jpeg: expected one, came none"],
    ),
    "annotation of no image": (
        _edit(lambda c: c["images"].pop(2)),
        ["annotation that belongs to no image: 1 time", "came image_id 12"],
    ),
    "truncated jpg": (
        _truncate("images/000.jpg"),
        ["picture that cannot be read: 1 time", "images/000.jpg: image file is truncated"],
    ),
    "truncated png": (
        _truncate("panoptic/001.png"),
        ["png that cannot be read: 1 time", "panoptic/001.png"],
    ),
    "not a picture": (
        lambda root: (root / "images/001.png").write_text("<html>404</html>"),
        ["picture that cannot be read", "images/001.png: cannot identify image file"],
    ),
    "wrong area": (
        _edit(lambda c: _segment(c, 1).update(area=95)),
        ["segment whose area differs", "segment 300: expected 96 pixels, came 95"],
    ),
    "no area": (
        _edit(lambda c: _segment(c).pop("area")),
        ["segment without its fields", "expected a number for area"],
    ),
    "no width": (
        _edit(lambda c: c["images"][1].pop("width")),
        ["image without its fields", "width: expected a whole number, came None"],
    ),
    "instances json": (
        _edit(lambda c: c.update(annotations=[{"segmentation": []}])),
        ["the dataset cannot be loaded", "lacks 'segments_info'"],
    ),
}


def test_good_dataset_passes_and_is_remembered(tmp_path, register, caplog, monkeypatch):
    write_dataset(tmp_path)
    name = register(tmp_path)
    with caplog.at_level("INFO", logger="axial_d2"):
        check_datasets([name, name])
    assert f"'{name}': 3 pictures, no fault found" in caplog.text
    monkeypatch.setattr(before_training, "examine", lambda *_: pytest.fail("looked again"))
    check_datasets([name])


def test_changed_json_is_looked_at_again(tmp_path, register):
    write_dataset(tmp_path)
    name = register(tmp_path)
    check_datasets([name])
    DAMAGES["no annotation"][0](tmp_path)
    with pytest.raises(ValueError, match="image without annotation"):
        check_datasets([name])


def test_failure_is_not_remembered(tmp_path, register):
    write_dataset(tmp_path)
    name = register(tmp_path)
    moved = (tmp_path / "images/000.jpg").rename(tmp_path / "elsewhere.jpg")
    with pytest.raises(ValueError, match="picture that is missing"):
        check_datasets([name])
    moved.rename(tmp_path / "images/000.jpg")
    check_datasets([name])


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_copy(tmp_path, register, damage):
    write_dataset(tmp_path)
    name = register(tmp_path)
    change, expected = DAMAGES[damage]
    change(tmp_path)
    with pytest.raises(ValueError) as error:
        check_datasets([name])
    message = str(error.value)
    assert f"The data of '{name}' ({tmp_path / 'panoptic.json'}) are not right" in message
    for text in expected:
        assert text in message


def test_many_faults_are_one_error_with_counts(tmp_path, register):
    write_dataset(tmp_path, (".png",) * 7)
    name = register(tmp_path)
    for index in range(5):
        (tmp_path / f"images/{index:03}.png").unlink()
    DAMAGES["unknown category"][0](tmp_path)
    with pytest.raises(ValueError) as error:
        check_datasets([name])
    message = str(error.value)
    assert "picture that is missing: 5 times" in message and "... and 2 more" in message
    assert "unknown category: 1 time" in message
    assert message.count("which is not there") == 3


def test_empty_picture_is_allowed_but_told(tmp_path, register, caplog):
    write_dataset(tmp_path)
    _edit(lambda c: c["annotations"][1].update(segments_info=[]))(tmp_path)
    _png(np.zeros_like)(tmp_path)
    with caplog.at_level("WARNING", logger="axial_d2"):
        check_datasets([register(tmp_path)])
    assert "1 of 3 pictures have no segment, the first: " in caplog.text


def test_sample_of_many(tmp_path, register, caplog):
    write_dataset(tmp_path, (".png",) * 8)
    name = register(tmp_path)
    for index in range(8):
        _truncate(f"panoptic/{index:03}.png")(tmp_path)
    messages = []
    for _ in range(2):
        with caplog.at_level("INFO", logger="axial_d2"), pytest.raises(ValueError) as error:
            check_datasets([name], max_decoded=3)
        messages.append(str(error.value))
    assert "png that cannot be read: 3 times" in messages[0]
    assert messages[0] == messages[1]
    assert "a sample of 3 (seeded" in caplog.text


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        (CATEGORIES[::-1], ["position 0: expected 'road' (stuff), came 'person' (thing)"]),
        (CATEGORIES[:3], ["position 3: expected 'person' (thing), came no class"]),
        (
            [{**CATEGORIES[0], "isthing": 1}, *CATEGORIES[1:]],
            ["position 0: expected 'road' (stuff), came 'road' (thing)"],
        ),
    ],
)
def test_categories_of_train_and_test_disagree(tmp_path, register, categories, expected):
    write_dataset(tmp_path / "train")
    write_dataset(tmp_path / "test")
    change = _edit(lambda c: c.update(categories=categories))
    change(tmp_path / "test")
    train, test = register(tmp_path / "train"), register(tmp_path / "test")
    with pytest.raises(ValueError) as error:
        check_datasets([train, test])
    message = str(error.value)
    assert f"expected are the categories of '{train}'" in message
    for text in expected:
        assert text in message


def test_category_ids_may_differ_where_the_classes_do_not(tmp_path, register):
    write_dataset(tmp_path / "train")
    write_dataset(tmp_path / "test")

    def renumber(content):
        for category in content["categories"]:
            category["id"] += 100
        for annotation in content["annotations"]:
            for segment in annotation["segments_info"]:
                segment["category_id"] += 100

    _edit(renumber)(tmp_path / "test")
    check_datasets([register(tmp_path / "train"), register(tmp_path / "test")])


def test_datasets_of_other_kinds_are_passed_over(caplog):
    with caplog.at_level("INFO", logger="axial_d2"):
        check_datasets(["voc_2007_val"])
    assert "'voc_2007_val' is not one of segmentation and is not checked" in caplog.text


def test_no_way_round_is_offered_where_there_is_none(tmp_path, register):
    write_dataset(tmp_path)
    name = register(tmp_path)
    _edit(lambda c: _segment(c, 1).update(area=95))(tmp_path)
    with pytest.raises(ValueError, match="DATASETS.CHECK False"):
        check_datasets([name])
    (tmp_path / "images/001.png").unlink()
    with pytest.raises(ValueError) as error:
        check_datasets([name])
    assert str(error.value).endswith("Right the data.")


def test_names():
    with pytest.raises(ValueError, match="no dataset is registered under the name 'nothing_such'"):
        check_datasets(["nothing_such"])


@pytest.mark.parametrize(
    "name",
    ["coco_2017_val_panoptic", "cityscapes_fine_panoptic_val", "cityscapes_fine_sem_seg_val"]
    + ["coco_2017_val"],
)
def test_built_in_dataset_that_is_not_there(name):
    with pytest.raises(ValueError, match=f"The data of '{name}' .* are not right:\n.*cannot be"):
        check_datasets([name])


def test_loaders_own_advice_is_told(tmp_path):
    def load():
        raise FileNotFoundError("make it with: python -m the_generator")

    name = f"check_test_{next(_numbers)}"
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        panoptic_json=str(tmp_path / "gone.json"), evaluator_type="coco_panoptic_seg"
    )
    try:
        with pytest.raises(ValueError, match="cannot be loaded: 1 time\n    make it with: python"):
            check_datasets([name])
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"{SAMPLE.name} is not beside the repository")
def test_coco_sample_passes(register):
    check_datasets([register(SAMPLE.resolve())])
