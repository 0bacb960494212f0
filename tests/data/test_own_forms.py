"""The three forms of your own data: registration, truth, targets, and what users get wrong."""

import itertools
import json
from pathlib import Path

import numpy as np
import own_forms
import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from own_forms import CAR, HEIGHT, SEGMENTS, WIDTH, write_coco_instances, write_mask_folders
from PIL import Image
from pycocotools import mask as rle

from axial_d2.config import add_axial_config
from axial_d2.data import (
    AxialDeepLabDatasetMapper,
    read_class_list,
    read_segments,
    register_custom,
    segment_classes,
)
from axial_d2.data.segments import annotation_mask

_numbers = itertools.count()


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_axial_config(cfg)
    return cfg


@pytest.fixture
def register(cfg):
    """Registers an entry under a name of its own; gives the name."""

    def register(entry):
        name = f"own_forms_{next(_numbers)}"
        cfg.DATASETS.CUSTOM = [{"name": name, **entry}]
        cfg.DATASETS.TRAIN = (name,)
        register_custom(cfg)
        return name

    return register


def areas(segments):
    """{(category, iscrowd): [pixels, ...]}, counted in the map itself."""
    found = {}
    ids = segments.ids()
    for info in segments.segments_info:
        pixels = int((ids == info["id"]).sum())
        assert info["area"] == pixels
        found.setdefault((info["category_id"], info["iscrowd"]), []).append(pixels)
    return found


def test_mask_folders(tmp_path, register):
    name = register(write_mask_folders(tmp_path))
    classes = segment_classes(name)
    assert classes.names == ("sky", "car", "road", "person")
    assert classes.thing_ids == (1, 3) and classes.truth == "panoptic"
    assert classes.dataset_ids == (23, 26, 7, 24)
    records = DatasetCatalog.get(name)
    assert [r["image_id"] for r in records] == ["a/p1", "b/p0", "b/p2"]
    segments = read_segments(records[0], classes)
    assert areas(segments) == {
        key: [pixels] * (2 if key == (1, 0) else 1) for key, pixels in SEGMENTS.items()
    }
    ids = segments.ids()
    assert not ids[:, 32:].any()  # void
    assert len({ids[9, 3], ids[9, 7], ids[9, 12], ids[9, 19]}) == 4
    isthing = {s["id"]: s["isthing"] for s in segments.segments_info}
    assert isthing[ids[9, 3]] and not isthing[ids[0, 0]]


def test_masks_of_every_kind_mean_the_same(tmp_path, register):
    name = register(write_mask_folders(tmp_path, count=1))
    (record,) = DatasetCatalog.get(name)
    classes = segment_classes(name)
    expected = read_segments(record, classes).ids()
    mask = own_forms.semantic()
    palette = Image.fromarray(mask)
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    colors = np.zeros((256, 3), dtype=np.uint8)
    for entry in own_forms.CLASSES["classes"]:
        colors[entry["value"]] = entry["color"]
    rgba = np.concatenate([colors[mask], np.full((HEIGHT, WIDTH, 1), 9, np.uint8)], axis=2)
    for image in (
        palette,
        Image.fromarray(mask.astype(np.uint16)),
        Image.fromarray(mask.astype(np.int32)),
        Image.fromarray(colors[mask]),
        Image.fromarray(rgba),
    ):
        if image.mode == "I":  # Pillow 13 writes no 32 bits to a png
            record["sem_seg_file_name"] = str(tmp_path / "mask.tif")
        image.save(record["sem_seg_file_name"])
        assert np.array_equal(read_segments(record, classes).ids(), expected), image.mode


def test_numbers_of_instances_may_be_colours(tmp_path, register):
    name = register(write_mask_folders(tmp_path, count=1))
    (record,) = DatasetCatalog.get(name)
    classes = segment_classes(name)
    expected = areas(read_segments(record, classes))
    numbers = own_forms.instances().astype(int)
    numbers[numbers > 0] += 70000
    rgb = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=2)
    Image.fromarray(rgb.astype(np.uint8)).save(record["instance_file_name"])
    assert areas(read_segments(record, classes)) == expected


def test_semantic_masks_alone_train_the_semantic_branch(tmp_path, register, cfg):
    name = register(write_mask_folders(tmp_path, with_instances=False))
    assert segment_classes(name).truth == "semantic"
    record = DatasetCatalog.get(name)[0]
    found = areas(read_segments(record, segment_classes(name)))
    assert found[(1, 1)] == [8 * 12] and (1, 0) not in found
    for ignore in (False, True):
        cfg.INPUT.IGNORE_CROWD_IN_SEMANTIC = ignore
        cfg.INPUT.RANDOM_FLIP = "none"
        cfg.INPUT.MIN_SIZE_TRAIN = (0,)
        result = AxialDeepLabDatasetMapper(cfg)(record)
        expected = np.full(256, 255)
        expected[[23, 26, 7, 24]] = range(4)
        assert np.array_equal(result["sem_seg"], expected[own_forms.semantic()])
        assert not result["center_weights"].any() and not result["offset_weights"].any()
        assert not result["center"].any() and not result["offset"].any()
        assert result["center_points"] == []
        assert (result["height"], result["width"]) == (HEIGHT, WIDTH)
        assert "sem_seg_file_name" not in result


def test_mask_folders_give_the_targets_of_their_instances(tmp_path, register, cfg):
    name = register(write_mask_folders(tmp_path))
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    result = AxialDeepLabDatasetMapper(cfg)(DatasetCatalog.get(name)[0])
    centers = {tuple(point) for point in result["center_points"]}
    # Two cars and a person by hand; the crowd's centre has no weight.
    assert {(11.5, 3.5), (11.5, 7.5), (12.5, 19.5)} <= centers
    assert result["center_weights"][0, 9, 3] == 1 and result["center_weights"][0, 9, 12] == 0
    assert torch.equal(result["offset"][:, 9, 3], torch.tensor([2.5, 0.5]))


def test_coco_instances_with_masks(tmp_path, register):
    name = register(write_coco_instances(tmp_path))
    classes = segment_classes(name)
    assert classes.names == ("sky", "car", "road", "person") and classes.truth == "panoptic"
    record = DatasetCatalog.get(name)[1]
    assert record["image_id"] == 51 and (record["height"], record["width"]) == (HEIGHT, WIDTH)
    segments = read_segments(record, classes)
    found = areas(segments)
    assert sorted(found[(1, 0)]) == [16, 8 * 12 - 16]  # the smaller stands before the larger
    assert found[(3, 1)] == [14 * 4] and (1, 1) not in found
    assert found[(0, 0)] == [SEGMENTS[(0, 0)]]


def test_coco_instances_alone_have_a_background(tmp_path, register):
    name = register(write_coco_instances(tmp_path, with_semantic=False))
    classes = segment_classes(name)
    assert classes.names == ("car", "person", "background") and classes.thing_ids == (0, 1)
    assert classes.dataset_ids == (4, 9, 0) and classes.truth == "instances"
    found = areas(read_segments(DatasetCatalog.get(name)[0], classes))
    assert found[(2, 0)] == [HEIGHT * WIDTH - 8 * 12 - 14 * 4]


@pytest.mark.parametrize("form", ["polygons", "counts", "compressed", "array"])
def test_segmentations_of_every_form(form):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[3:9, 5:11] = 1
    code = rle.encode(np.asfortranarray(mask))
    column = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(column)) + 1
    counts = np.diff([0, *changes, column.size]).tolist()
    segmentation = {
        "polygons": [own_forms.square(5, 3, 11, 9)],
        "counts": {"size": [HEIGHT, WIDTH], "counts": counts},
        "compressed": code,
        "array": mask,
    }[form]
    before = json.dumps(segmentation, default=str)
    found = annotation_mask({"segmentation": segmentation}, (HEIGHT, WIDTH), "x.png")
    assert found.dtype == bool and np.array_equal(found, mask == 1)
    assert json.dumps(segmentation, default=str) == before


def test_polygons_without_an_area_have_no_pixels():
    for segmentation in ([[1, 2]], [[1, 2, 8, 9]], [[]]):
        assert not annotation_mask({"segmentation": segmentation}, (9, 9), "x.png").any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "x.png: expected a segmentation in each annotation"),
        ([["a"] * 6], "x.png: a segmentation that is neither polygons nor"),
        ([[1, None, 2, 2, 3, 3]], "x.png: a segmentation that is neither polygons nor"),
        ([5], "x.png: a segmentation that is neither polygons nor"),
        ({"size": [3, 3], "counts": "@@"}, "x.png: "),
        ({"size": [3, 4], "counts": [12]}, "x.png: expected segmentations of 34x24, came 4x3"),
        ("text", "x.png: a segmentation that is neither"),
    ],
)
def test_wrong_segmentations(segmentation, message):
    with pytest.raises(ValueError, match=message):
        annotation_mask({"segmentation": segmentation}, (HEIGHT, WIDTH), "x.png")


def test_masks_that_are_wrong_are_named(tmp_path, register):
    name = register(write_mask_folders(tmp_path, count=1))
    (record,) = DatasetCatalog.get(name)
    classes = segment_classes(name)
    mask = own_forms.semantic()
    mask[0, :3] = 99
    Image.fromarray(mask).save(record["sem_seg_file_name"])
    with pytest.raises(
        ValueError, match=r"p0\.png: expected the values 0, 7, 23-24, 26, 255, came 99 on 3"
    ):
        read_segments(record, classes)
    Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(record["sem_seg_file_name"])
    with pytest.raises(
        ValueError, match=r"p0\.png: expected the colours of the classes .*\[1, 2, 3\]"
    ):
        read_segments(record, classes)
    Image.fromarray(own_forms.semantic()).save(record["sem_seg_file_name"])
    Image.new("L", (9, 8)).save(record["instance_file_name"])
    with pytest.raises(ValueError, match=r"instances/b/p0\.png: expected 34x24, .* came 9x8"):
        read_segments(record, classes)
    Path(record["sem_seg_file_name"]).write_bytes(b"no png")
    with pytest.raises(ValueError, match=r"cannot read the mask .*p0\.png: cannot identify"):
        read_segments(record, classes)


def test_missing_masks_are_listed(tmp_path, register):
    entry = write_mask_folders(tmp_path)
    name = register(entry)
    (tmp_path / "semantic/a/p1.png").rename(tmp_path / "semantic/a/p1_labels.png")
    with pytest.raises(ValueError, match="1 masks are not there") as error:
        DatasetCatalog.get(name)
    assert "a/p1.jpg: expected " in str(error.value) and "named as " in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"semantic": None}, "entry 1: semantic missing in"),
        ({"classes": None}, "entry 1: classes missing in"),
        ({"classes": "nowhere.yaml"}, "classes: expected a file at .*nowhere.yaml, came nothing"),
        ({"instances": "nowhere"}, "instances: expected a folder at .*nowhere, came nothing"),
        ({"mask": "x"}, "entry 1: expected the keys .* came 'mask' too"),
    ],
)
def test_mistakes_in_an_entry(tmp_path, register, change, message):
    entry = {**write_mask_folders(tmp_path), **change}
    with pytest.raises(ValueError, match=message):
        register({key: value for key, value in entry.items() if value is not None})


def test_categories_that_the_class_list_lacks(tmp_path, register):
    entry = write_coco_instances(tmp_path)
    own_forms.write_classes(tmp_path, {"classes": [{"name": "car", "type": "thing"}]})
    with pytest.raises(ValueError, match=r"has as things \(car\), came 'person'"):
        register(entry)
    with pytest.raises(ValueError, match="expected classes beside semantic, came none"):
        register({key: value for key, value in entry.items() if key != "classes"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=77), "has the category_id 77"),
        (lambda c: c["annotations"][0].update(image_id=77), "has the image_id 77"),
        (
            lambda c: c["annotations"][0].pop("segmentation"),
            r"annotations\[0\]: segmentation: came None",
        ),
        (lambda c: c["images"].clear(), "expected at least one picture"),
        (lambda c: c["images"][0].update(id=51), "two pictures have the id 51"),
        (lambda c: c["images"][0].update(height="24"), r"images\[0\]: height: came '24'"),
        (lambda c: c.pop("categories"), "expected a list under 'categories'"),
        (lambda c: c["annotations"][0].update(segments_info=[], image_id=None), "it is a panoptic"),
    ],
)
def test_mistakes_in_an_instances_json(tmp_path, register, damage, message):
    entry = write_coco_instances(tmp_path, with_semantic=False)
    content = json.loads(Path(entry["instances_json"]).read_text())
    damage(content)
    Path(entry["instances_json"]).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        DatasetCatalog.get(register(entry))
    assert "instances.json" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a list under the key 'classes'"),
        ({"classes": []}, "expected 1 to 255 classes, came 0"),
        ({"classes": ["car"]}, "class 1: expected a mapping"),
        ({"classes": [{"name": "car"}]}, "class 1: type: expected thing or stuff, came None"),
        ({"classes": [{"name": 3, "type": "thing"}]}, "class 1: name: expected a text, came 3"),
        ({"classes": [{"name": "a", "type": "thing", "value": -1}]}, "value: expected 0 to 65535"),
        ({"classes": [{"name": "a", "type": "thing", "color": [1, 2]}]}, "color: expected"),
        ({"classes": [{"name": "a", "type": "thing", "isthing": 1}]}, "came 'isthing' too"),
        ({"classes": [{"name": "a", "type": "thing"}] * 2}, "the name 'a' occurs twice"),
        ({"classes": [{"name": "a", "type": "thing", "value": 255}]}, "which 'void' has too"),
        ({"classes": [{"name": "a", "type": "thing"}], "void": "x"}, "void: expected a list"),
    ],
)
def test_mistakes_in_a_class_list(tmp_path, content, message):
    path = own_forms.write_classes(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        read_class_list(path)
    assert "The right form is" in str(error.value) and "classes.yaml" in str(error.value)


def test_class_lists_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the classes .*none\.yaml: No such file"):
        read_class_list(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("classes: [")
    with pytest.raises(ValueError, match=r"broken\.yaml is not a yaml file"):
        read_class_list(tmp_path / "broken.yaml")


def test_class_list_by_default(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump({"classes": [{"name": "a", "type": "stuff"}]}))
    (only,), void = read_class_list(path)
    assert (only.name, only.isthing, only.value, void) == ("a", False, 0, (255,))


def test_a_changed_class_list_replaces_the_dataset(tmp_path, register, cfg):
    name = register(write_mask_folders(tmp_path))
    content = {**own_forms.CLASSES, "classes": own_forms.CLASSES["classes"][::-1]}
    own_forms.write_classes(tmp_path, {**content, "void": [0]})
    register_custom(cfg)
    assert segment_classes(name).names == ("person", "road", "car", "sky")
    assert MetadataCatalog.get(name).semantic_values[CAR] == 2


def test_classes_of_detectron2s_own_datasets():
    semantic = segment_classes("cityscapes_fine_sem_seg_val")
    assert (len(semantic.names), semantic.thing_ids, semantic.truth) == (19, (), "semantic")
    assert semantic.dataset_ids[:3] == (7, 8, 11) and semantic.colors[0] == (128, 64, 128)
    instances = segment_classes("cityscapes_fine_instance_seg_val")
    assert instances.names[0] == "person" and instances.names[-1] == "background"
    assert instances.dataset_ids == (24, 25, 26, 27, 28, 31, 32, 33, 0)
    coco = segment_classes("coco_2017_val")
    assert len(coco.names) == 81 and coco.dataset_ids[-2:] == (90, 0)
    panoptic = segment_classes("coco_2017_val_panoptic")
    assert len(panoptic.names) == 133 and len(panoptic.thing_ids) == 80
    fields = panoptic.metadata()
    metadata = MetadataCatalog.get("coco_2017_val_panoptic")
    for key, value in fields.items():
        if key != "evaluator_type":
            assert [*value] == [*getattr(metadata, key)] if hasattr(value, "__len__") else value
    with pytest.raises(ValueError, match="'voc_2007_val' is neither panoptic"):
        segment_classes("voc_2007_val")
    with pytest.raises(ValueError, match="80 things and 54 stuff"):
        segment_classes("coco_2017_val_panoptic_separated")
    with pytest.raises(ValueError, match="'nowhere' is not registered"):
        segment_classes("nowhere")
