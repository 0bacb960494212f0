"""Datasets registered by function and by config."""

import json
import logging
import os
from itertools import count
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiny_panoptic import CATEGORIES, HEIGHT, WIDTH, read_json, write_dataset, write_json

import axial_d2  # noqa: F401
from axial_d2.config import add_axial_config
from axial_d2.data import check_names, read_class_list, register_coco_panoptic, register_custom
from axial_d2.data.datasets import load_coco_panoptic_json, panoptic_metadata
from axial_d2.data.datasets.coco_panoptic import read_panoptic_json

SAMPLE = Path(__file__).parents[2] / "../shared/data/coco_panoptic_sample"
_numbers = count()


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch):
    """Detectron2's setup_logger, where another test called it, keeps records from rising."""
    monkeypatch.setattr(logging.getLogger("axial_d2"), "propagate", True)


@pytest.fixture
def name():
    """A name that no other test uses; taken out of the catalogs afterwards."""
    name = f"registration_test_{next(_numbers)}"
    yield name
    for other in [n for n in DatasetCatalog.list() if n.startswith(name)]:
        DatasetCatalog.remove(other)
        MetadataCatalog.remove(other)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_axial_config(cfg)
    return cfg


def test_dicts(tmp_path):
    paths = write_dataset(tmp_path)
    dicts = load_coco_panoptic_json(**paths)
    assert [os.path.basename(d["file_name"]) for d in dicts] == ["000.jpg", "001.png", "002.jpeg"]
    first = dicts[0]
    assert (first["image_id"], first["height"], first["width"]) == (10, HEIGHT, WIDTH)
    assert first["pan_seg_file_name"] == str(tmp_path / "panoptic" / "000.png")
    fields = [
        (s["id"], s["category_id"], s["iscrowd"], s["isthing"]) for s in first["segments_info"]
    ]
    # Contiguous ids in the json's order: road 0, car 1, sky 2, person 3.
    assert fields == [(1, 0, 0, False), (300, 1, 0, True), (70000, 2, 0, False), (9, 3, 1, True)]
    assert first["segments_info"][1]["area"] == 8 * 12
    assert first["segments_info"][1]["bbox"] == [5, 8, 12, 8]


def test_metadata_where_things_do_not_come_first():
    fields = panoptic_metadata(CATEGORIES)
    assert fields["thing_classes"] == fields["stuff_classes"] == ["road", "car", "sky", "person"]
    assert fields["thing_dataset_id_to_contiguous_id"] == {3: 1, 5: 3}
    assert fields["stuff_dataset_id_to_contiguous_id"] == {7: 0, 11: 2}
    assert fields["thing_colors"][:2] == [[128, 64, 128], [0, 0, 142]]
    assert (fields["ignore_label"], fields["label_divisor"]) == (255, 1000)
    assert fields["evaluator_type"] == "coco_panoptic_seg"


def test_generated_colors_are_distinct_and_always_the_same():
    categories = [{"id": i, "name": str(i), "isthing": i % 2} for i in range(133)]
    colors = panoptic_metadata(categories)["stuff_colors"]
    assert len({tuple(color) for color in colors}) == 133
    assert all(type(v) is int and 0 <= v <= 255 for color in colors for v in color)
    assert colors == panoptic_metadata(categories)["stuff_colors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[1].pop("isthing"), "lacks isthing"),
        (lambda c: c[1].update(id=7), "two categories have the id 7"),
        (lambda c: c[1].update(name="road"), "two categories have the name 'road'"),
        (lambda c: c[1].update(id="3"), "whole number"),
        (lambda c: c[1].update(isthing=2), "isthing is 0 or 1"),
        (lambda c: c[1].update(color=[1, 2]), "color is"),
        (lambda c: c.clear(), "expected 1 to 255 categories, came 0"),
        (
            lambda c: c.extend({"id": 50 + i, "name": f"n{i}", "isthing": 0} for i in range(300)),
            "came 304",
        ),
    ],
)
def test_categories_that_are_wrong(change, message):
    categories = [dict(category) for category in CATEGORIES]
    change(categories)
    with pytest.raises(ValueError, match=message):
        panoptic_metadata(categories)


def test_register_again_and_replace(tmp_path, name, caplog):
    first, second = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b", (".png",))
    register_coco_panoptic(name, **first)
    metadata = MetadataCatalog.get(name)
    register_coco_panoptic(name, **first)
    assert MetadataCatalog.get(name) is metadata and len(DatasetCatalog.get(name)) == 3
    with caplog.at_level("INFO", logger="axial_d2"):
        register_coco_panoptic(name, **second)
    assert f"The dataset '{name}' is replaced" in caplog.text
    assert len(DatasetCatalog.get(name)) == 1
    assert MetadataCatalog.get(name).image_root == second["images"]
    # The same paths, but another json by now.
    content = read_json(tmp_path / "b")
    content["categories"] = [*CATEGORIES, {"id": 1, "name": "tree", "isthing": 0}]
    write_json(tmp_path / "b", content)
    register_coco_panoptic(name, **second)
    assert MetadataCatalog.get(name).stuff_classes[-1] == "tree"


def test_name_of_a_built_in_dataset(tmp_path):
    paths = write_dataset(tmp_path)
    before = MetadataCatalog.get("coco_2017_val_panoptic").panoptic_json
    with pytest.raises(ValueError, match="'coco_2017_val_panoptic' is registered already"):
        register_coco_panoptic("coco_2017_val_panoptic", **paths)
    assert MetadataCatalog.get("coco_2017_val_panoptic").panoptic_json == before


def test_relative_and_home_paths(tmp_path, name, monkeypatch):
    write_dataset(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    register_coco_panoptic(name, "set/images", "~/set/panoptic", "set/../set/panoptic.json")
    monkeypatch.chdir("/")  # what was registered must not move with the current directory
    metadata = MetadataCatalog.get(name)
    assert metadata.image_root == str(tmp_path / "set/images")
    assert metadata.panoptic_root == str(tmp_path / "set/panoptic")
    assert len(DatasetCatalog.get(name)) == 3


def test_loading_is_lazy_and_names_what_is_missing(tmp_path, name):
    paths = write_dataset(tmp_path)
    (tmp_path / "images/000.jpg").rename(tmp_path / "images/000.png")
    register_coco_panoptic(name, **paths)
    with pytest.raises(ValueError, match=r"000\.jpg, which is not there, but 000\.png is"):
        DatasetCatalog.get(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][1].update(image_id=99), "'001.png' has the image_id 99"),
        (
            lambda c: c["annotations"][1]["segments_info"][0].update(category_id=4),
            "image 11: segment 1 has the category_id 4",
        ),
        (lambda c: c["images"][2].pop("height"), "image 12: the key 'height' is missing"),
        (lambda c: c["annotations"].clear(), "at least one annotated image, came none"),
    ],
)
def test_loading_a_broken_json(tmp_path, change, message):
    paths = write_dataset(tmp_path)
    content = read_json(tmp_path)
    change(content)
    write_json(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        load_coco_panoptic_json(**paths)


def test_images_without_annotation_are_left_out(tmp_path, caplog):
    paths = write_dataset(tmp_path)
    content = read_json(tmp_path)
    content["annotations"].pop(1)
    write_json(tmp_path, content)
    with caplog.at_level("WARNING", logger="axial_d2"):
        assert [d["image_id"] for d in load_coco_panoptic_json(**paths)] == [10, 12]
    assert "1 of 3 images have no annotation and are left out, the first: 001.png" in caplog.text


def _entry(name, paths):
    return {"name": name, **paths}


def test_custom_from_file_and_command_line(tmp_path, name, cfg):
    entries = [
        _entry(name, write_dataset(tmp_path / "train")),
        _entry(f"{name}_val", write_dataset(tmp_path / "val", (".png",))),
    ]
    file = tmp_path / "config.yaml"
    tree = {"DATASETS": {"CUSTOM": entries, "TRAIN": f'("{name}",)', "TEST": f'("{name}_val",)'}}
    file.write_text(yaml.safe_dump(tree))
    cfg.merge_from_file(str(file))
    assert cfg.DATASETS.CUSTOM == entries
    register_custom(cfg)
    check_names(cfg)
    assert len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == 3
    assert MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes == [
        "road", "car", "sky", "person",
    ]  # fmt: skip

    line = get_cfg()
    add_axial_config(line)
    third = _entry(f"{name}_line", entries[1] | {"name": f"{name}_line"})
    third["name"] = f"{name}_line"
    line.merge_from_list(
        ["DATASETS.CUSTOM", repr([third]), "DATASETS.TEST", repr((third["name"],))]
    )
    register_custom(line)
    register_custom(line)
    check_names(line)
    assert len(DatasetCatalog.get(f"{name}_line")) == 1
    # What a training run writes beside its results must be readable again.
    again = get_cfg()
    add_axial_config(again)
    again.merge_from_other_cfg(type(line).load_cfg(line.dump()))
    assert again.DATASETS.CUSTOM == [third]


def test_leaf_config_replaces_the_list_of_its_base(tmp_path, name, cfg):
    entry = _entry(name, write_dataset(tmp_path / "data"))
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"DATASETS": {"CUSTOM": [{"name": "old"}]}}))
    (tmp_path / "leaf.yaml").write_text(
        "_BASE_: base.yaml\n" + yaml.safe_dump({"DATASETS": {"CUSTOM": [entry]}})
    )
    cfg.merge_from_file(str(tmp_path / "leaf.yaml"))
    assert cfg.DATASETS.CUSTOM == [entry]


def test_mistakes_in_form(tmp_path, name, cfg):
    good = _entry(name, write_dataset(tmp_path))
    cases = [
        ([good["name"]], "entry 1: expected a mapping .* came a str"),
        ([{k: v for k, v in good.items() if k != "json"}], "entry 1: json missing in"),
        ([good | {"image": "x"}], "entry 1: .* came 'image' too"),
        ([good | {"json": 3}], "entry 1: json: expected a text that is not empty, came 3"),
        ([good | {"name": ""}], "entry 1: name: expected a text"),
        ([good, good], f"the name '{name}' occurs 2 times"),
        ([good | {"images": str(tmp_path / "gone")}], "images: expected a folder .* came nothing"),
        ([good | {"panoptic": good["json"]}], "panoptic: expected a folder .* came a file"),
        ([good | {"json": str(tmp_path / "gone.json")}], "json: expected a file .* came nothing"),
        ([good | {"name": "coco_2017_val"}], "'coco_2017_val' is registered already"),
        (None, "expected a list of mappings, came a NoneType"),
    ]
    for value, message in cases:
        cfg.DATASETS.CUSTOM = value
        with pytest.raises(ValueError, match=message) as error:
            register_custom(cfg)
        assert "DATASETS:\n  CUSTOM:\n    - name:" in str(error.value)
    assert name not in DatasetCatalog.list()


def test_all_mistakes_are_told_at_once(tmp_path, cfg):
    paths = {"images": "no/i", "panoptic": "no/p", "json": "no/j"}
    cfg.DATASETS.CUSTOM = [_entry("one_of_two", paths), _entry("two_of_two", paths)]
    with pytest.raises(ValueError) as error:
        register_custom(cfg)
    assert str(error.value).count("came nothing") == 6


def test_classes_are_known_without_pictures(tmp_path, name, cfg):
    paths = write_dataset(tmp_path)
    cfg.DATASETS.CUSTOM = [_entry(name, paths | {"images": "gone", "panoptic": "gone"})]
    register_custom(cfg, need_pictures=False)
    assert MetadataCatalog.get(name).thing_classes == ["road", "car", "sky", "person"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            {"images": [], "categories": [], "annotations": [{"segmentation": [], "id": 1}]},
            "lacks 'segments_info', .*'segmentation' is of COCO's instances",
        ),
        ({"images": [], "annotations": []}, "the key 'categories' is missing"),
        ({"images": {}, "annotations": [], "categories": []}, "expected a list under 'images'"),
        ([], "expected a mapping at its top, came a list"),
        ("not json at all", "is not a json file"),
    ],
)
def test_json_of_another_kind(tmp_path, name, cfg, text, message):
    paths = write_dataset(tmp_path)
    Path(paths["json"]).write_text(text if isinstance(text, str) else json.dumps(text))
    cfg.DATASETS.CUSTOM = [_entry(name, paths)]
    with pytest.raises(ValueError, match=message) as error:
        register_custom(cfg)
    assert "The right form in a yaml file" in str(error.value)


def test_unknown_names(cfg):
    cfg.DATASETS.TRAIN = ("coco_2017_tran_panoptic",)
    cfg.DATASETS.TEST = ("qqqqqqqqqqq",)
    with pytest.raises(ValueError) as error:
        check_names(cfg)
    message = str(error.value)
    assert "DATASETS.TRAIN: no dataset is named 'coco_2017_tran_panoptic'" in message
    assert "coco_2017_train_panoptic" in message and "nothing like it" in message


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"{SAMPLE.name} is not beside the repository")
def test_coco_sample_has_cocos_own_metadata(name):
    register_coco_panoptic(name, SAMPLE / "images", SAMPLE / "panoptic", SAMPLE / "panoptic.json")
    ours, theirs = MetadataCatalog.get(name), MetadataCatalog.get("coco_2017_val_panoptic")
    for key in (
        "thing_classes", "stuff_classes", "thing_colors", "stuff_colors", "label_divisor",
        "thing_dataset_id_to_contiguous_id", "ignore_label", "evaluator_type",
    ):  # fmt: skip
        assert getattr(ours, key) == getattr(theirs, key), key
    assert len(DatasetCatalog.get(name)) == 2


def _blocks(page, kind):
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    return [block.split("```")[0] for block in text.split(f"```{kind}\n")[1:]]


def test_examples_of_the_documentation(tmp_path, cfg):
    (tmp_path / "example.json").write_text(_blocks("your_dataset_panoptic.md", "json")[0])
    content = read_panoptic_json(tmp_path / "example.json")
    assert panoptic_metadata(content["categories"])["thing_classes"] == ["road", "car"]
    classes, *_ = _blocks("your_dataset_masks.md", "yaml")
    (tmp_path / "classes.yaml").write_text(classes)
    listed = read_class_list(tmp_path / "classes.yaml").classes
    (example,) = _blocks("your_dataset.md", "yaml")
    (tmp_path / "example.yaml").write_text(
        "\n".join(line for line in example.splitlines() if "_BASE_" not in line)
    )
    cfg.merge_from_file(str(tmp_path / "example.yaml"))
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == len(listed)
    # The form is right: what is told is that the paths are not there.
    with pytest.raises(ValueError, match="images: expected a folder at .* came nothing"):
        register_custom(cfg)


@pytest.mark.parametrize("form", ["panoptic", "masks", "coco"])
def test_entries_of_the_documentation(tmp_path, cfg, form):
    example = _blocks(f"your_dataset_{form}.md", "yaml")[-1]
    (tmp_path / "example.yaml").write_text(example)
    cfg.merge_from_file(str(tmp_path / "example.yaml"))
    with pytest.raises(ValueError, match="images: expected a folder at .* came nothing") as error:
        register_custom(cfg)
    assert " missing in " not in str(error.value) and "expected the keys" not in str(error.value)
