"""Bridges under evaluators of Detectron2 and of cityscapesscripts."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from axial_d2 import compat
from axial_d2.import_hooks import is_found

# ---- Cityscapes ---------------------------------------------------------------------------------

META = "deeplearning.projects.cityscapesApi.cityscapesscripts"


def test_paths_at_meta_are_aliases():
    real = importlib.import_module("cityscapesscripts.helpers.labels")
    alias = importlib.import_module(f"{META}.helpers.labels")
    assert alias is real and real.__spec__.name == "cityscapesscripts.helpers.labels"
    name = "evaluation.evalInstanceLevelSemanticLabeling"
    assert importlib.import_module(f"{META}.{name}") is sys.modules[f"cityscapesscripts.{name}"]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{META}.viewer")


def cityscapes_tree(root: Path) -> str:
    """One picture of a city: road, and two cars on it; registers it and gives the name."""
    from cityscapesscripts.helpers.labels import name2label
    from detectron2.data import DatasetCatalog, MetadataCatalog

    road, car = name2label["road"].id, name2label["car"].id
    labels = np.full((64, 128), road, dtype=np.uint8)
    instances = np.full((64, 128), road, dtype=np.uint16)
    for number, (top, left) in enumerate([(5, 10), (30, 70)]):
        labels[top : top + 20, left : left + 40] = car
        instances[top : top + 20, left : left + 40] = car * 1000 + number
    images, truth = root / "leftImg8bit" / "town", root / "gtFine" / "town"
    images.mkdir(parents=True)
    truth.mkdir(parents=True)
    Image.new("RGB", (128, 64)).save(images / "town_0_0_leftImg8bit.png")
    Image.fromarray(labels).save(truth / "town_0_0_gtFine_labelIds.png")
    Image.fromarray(instances).save(truth / "town_0_0_gtFine_instanceIds.png")
    name = "tests_compat_cityscapes"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(
        gt_dir=str(root / "gtFine"),
        thing_classes=["person", "rider", "car"],
        evaluator_type="cityscapes_instance",
    )
    return name


def test_cityscapes_evaluators_run(tmp_path, monkeypatch):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator
    from detectron2.structures import Instances

    monkeypatch.chdir(tmp_path)  # the script writes matches.json where it is
    name = cityscapes_tree(tmp_path)
    file_name = str(tmp_path / "leftImg8bit/town/town_0_0_leftImg8bit.png")
    inputs = [{"file_name": file_name, "image_id": "town_0_0"}]
    masks = torch.zeros(2, 64, 128, dtype=torch.bool)
    masks[0, 5:25, 10:50] = masks[1, 30:50, 70:110] = True
    found = Instances((64, 128), pred_masks=masks)
    found.scores, found.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([2, 2])
    sem_seg = torch.zeros(19, 64, 128)  # train ids: road 0, car 13
    sem_seg[13] = 2.0 * masks.any(0) - 1
    try:
        for evaluator, task, score in (
            (CityscapesInstanceEvaluator(name), "segm", "AP"),
            (CityscapesSemSegEvaluator(name), "sem_seg", "IoU"),
        ):
            evaluator.reset()
            evaluator.process(inputs, [{"instances": found, "sem_seg": sem_seg}])
            assert evaluator.evaluate()[task][score] == pytest.approx(100)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


# ---- panopticapi --------------------------------------------------------------------------------


def test_panopticapi_names():
    from panopticapi.evaluation import pq_compute  # noqa: F401
    from panopticapi.utils import id2rgb, rgb2id

    ids = np.array([[0, 255, 256], [65536, 70001, 256**3 - 1]])
    assert id2rgb(ids).dtype == np.uint8
    assert rgb2id(id2rgb(ids)).tolist() == ids.tolist()
    assert id2rgb(np.array([[70001]])).tolist() == [[[113, 17, 1]]]


def test_detectron2s_own_panoptic_evaluator_runs(tmp_path):
    import detectron2.projects.panoptic_deeplab  # noqa: F401  (imports panopticapi at once)
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import COCOPanopticEvaluator

    ids = np.zeros((6, 8), dtype=np.int64)
    ids[1:, :5], ids[1:, 5:] = 3, 4
    (tmp_path / "truth").mkdir()
    Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], -1).astype(np.uint8)).save(
        tmp_path / "truth/1.png"
    )
    segments = [
        {"id": k, "category_id": 8, "iscrowd": 0, "area": int((ids == k).sum())} for k in (3, 4)
    ]
    content = {
        "images": [],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
        "categories": [
            {"id": 8, "name": "car", "isthing": 1},
            {"id": 9, "name": "sky", "isthing": 0},
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    name = "tests_compat_panoptic"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(
        panoptic_json=str(tmp_path / "truth.json"),
        panoptic_root=str(tmp_path / "truth"),
        thing_dataset_id_to_contiguous_id={8: 0},
        stuff_dataset_id_to_contiguous_id={9: 1},
        label_divisor=1000,
    )
    try:
        evaluator = COCOPanopticEvaluator(name, str(tmp_path / "out"))
        evaluator.reset()
        infos = [{"id": k, "category_id": 0, "isthing": True} for k in (3, 4)]
        output = {"panoptic_seg": (torch.from_numpy(ids.copy()), infos)}
        evaluator.process([{"file_name": "1.jpg", "image_id": 1}], [output])
        if is_found("panopticapi"):
            pytest.skip("panopticapi is installed, and divides by zero where there is no stuff")
        scores = evaluator.evaluate()["panoptic_seg"]
        assert scores["PQ"] == scores["PQ_th"] == 100
        assert np.isnan(scores["PQ_st"])  # no stuff anywhere: no number, and no error
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_installed_panopticapi_is_left_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(compat, "is_found", lambda name: True)
    monkeypatch.setattr(compat, "stand_in", lambda *args: asked.append(args))
    compat.panopticapi()
    compat.cityscapes_paths()
    assert asked == []
