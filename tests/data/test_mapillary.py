"""Mapillary Vistas: classes and truth are what its files say, and the files have to agree."""

import json
from itertools import count

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from miniature_releases import regions, write_vistas

from axial_d2.data import check_datasets, read_segments, segment_classes
from axial_d2.data.datasets import mapillary

_numbers = count()


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """The base folder, and the names of its two splits."""
    names = {f"vistas_{next(_numbers)}_{s}": s for s in ("training", "validation")}
    monkeypatch.setattr(mapillary, "_SPLITS", names)
    mapillary.register_mapillary_vistas(str(tmp_path))
    yield tmp_path / "mapillary_vistas", *names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_classes_and_truth(registered, tmp_path):
    base, train, val = registered
    with pytest.raises(ValueError, match=r"panoptic_2018\.json: No such file"):
        segment_classes(train)  # asked too early, and asked again when it is there
    write_vistas(tmp_path)
    classes = segment_classes(train)
    assert classes.names == ("Sky", "Road", "Person", "Car") and classes.thing_ids == (2, 3)
    assert classes.dataset_ids == (1, 2, 3, 4) and classes.colors[1] == (9, 8, 7)
    record = DatasetCatalog.get(train)[1]
    assert record["image_id"] == "b_tr-X0" and record["file_name"].endswith("b_tr-X0.jpg")
    segments = read_segments(record, classes)
    assert np.array_equal(segments.ids(), regions(1))  # what is not evaluated is void
    check_datasets([train, val])
    assert base.is_dir()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda c: c["labels"].pop(1), "'Road': expected a label of that name"),
        (
            "config.json",
            lambda c: c["labels"][3].update(instances=False),
            "'Car': isthing is 1 in the json, instances is False",
        ),
        (
            "training/panoptic/panoptic_2018.json",
            lambda c: c["categories"].pop(0),
            "4 labels that are evaluated, the json 3 of them",
        ),
        ("config.json", lambda c: c.pop("labels"), "is not the config.json of Mapillary Vistas"),
        ("config.json", lambda c: c["labels"][0].pop("color"), "name, readable, instances"),
    ],
)
def test_files_that_disagree(registered, tmp_path, file, change, message):
    base, train, _ = registered
    write_vistas(tmp_path)
    edit(base / file, change)
    with pytest.raises(ValueError, match=message) as error:
        segment_classes(train)
    assert "config.json" in str(error.value)
    with pytest.raises(ValueError, match=message):
        DatasetCatalog.get(train)


def test_missing_config(registered, tmp_path):
    base, train, _ = registered
    write_vistas(tmp_path)
    (base / "config.json").unlink()
    with pytest.raises(
        ValueError, match=r"cannot read the label list .*config\.json: No such file"
    ):
        segment_classes(train)
