"""Evaluators where there is nothing, with many processes, and given mistakes."""

import logging
import math
import os

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from evaluation_data import CATEGORIES, assert_all_100, config, disturbed, evaluate, output, perfect
from PIL import Image

from axial_d2.evaluation import (
    InstanceEvaluator,
    PanopticQualityEvaluator,
    PanopticTruth,
    SemanticEvaluator,
    build_evaluator,
)

# ---- nothing there ------------------------------------------------------------------------------


def test_no_prediction_gives_zero_and_says_so(make_data, caplog):
    data = make_data()
    outputs = []
    for ids in data.ids:
        # Detectron2's PanopticDeepLab leaves the key out where it finds no instance.
        empty = output(data, np.zeros_like(ids), [])
        del empty["instances"]
        outputs.append(empty)
    with caplog.at_level(logging.WARNING, logger="axial_d2.evaluation"):
        results = evaluate(data, outputs)
    assert "No instance was predicted in 4 pictures" in caplog.text
    assert results["segm"]["AP"] == results["segm"]["AP-car"] == 0
    assert results["panoptic_seg"]["PQ"] == results["panoptic_seg"]["PQ_th"] == 0
    assert results["sem_seg"]["mIoU"] < 50


@pytest.mark.parametrize(("used", "group"), [((0, 2), "_th"), ((1, 3), "_st")])
def test_truth_without_any_thing_or_stuff(make_data, used, group, caplog):
    data = make_data(used=used)
    results = evaluate(data, perfect(data))
    assert results["panoptic_seg"]["PQ"] == 100
    assert math.isnan(results["panoptic_seg"][f"PQ{group}"])
    assert math.isnan(results["segm"]["AP"]) == (group == "_th")
    assert_all_100(results)


def test_categories_without_any_thing(make_data):
    stuff = [dict(c, isthing=0) for c in CATEGORIES]
    data = make_data(categories=stuff, used=(0, 1, 2))
    results = evaluate(data, perfect(data))
    assert results["panoptic_seg"]["PQ_st"] == 100
    assert math.isnan(results["segm"]["AP"])
    assert results["sem_seg"]["mIoU"] == 100


def test_truth_that_is_all_void(make_data):
    data = make_data(used=(), sizes=[(9, 7)])
    results = evaluate(data, perfect(data))
    assert math.isnan(results["sem_seg"]["mIoU"])
    assert math.isnan(results["segm"]["AP"])
    assert math.isnan(results["panoptic_seg"]["PQ"])


# ---- processes, files, logs ---------------------------------------------------------------------


def test_two_processes_equal_one(make_data, monkeypatch):
    data = make_data()
    outputs = disturbed(data)
    expected = evaluate(data, outputs)
    truth = PanopticTruth(data.name)
    made = {
        "_counts": lambda: PanopticQualityEvaluator(truth),
        "_matches": lambda: InstanceEvaluator(truth),
        "_confusion": lambda: SemanticEvaluator(truth),
    }
    results = {}
    for kept, make in made.items():
        both = [make(), make()]
        for number, pair in enumerate(zip(data.inputs(), outputs, strict=True)):
            both[number % 2].process([pair[0]], [pair[1]])
        if kept != "_confusion":  # a picture dealt out twice counts once
            both[1].process([data.inputs()[0]], [outputs[0]])
        monkeypatch.setattr(
            comm, "gather", lambda mine, both=both, kept=kept: [getattr(e, kept) for e in both]
        )
        results.update(both[0].evaluate())
        monkeypatch.setattr(comm, "is_main_process", lambda: False)
        assert both[1].evaluate() is None
        monkeypatch.undo()
    assert list(results) == list(expected)
    for task in expected:
        assert results[task] == pytest.approx(expected[task], nan_ok=True)


def test_scoring_writes_nothing(make_data, tmp_path, monkeypatch):
    data = make_data()
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    evaluate(data, disturbed(data))
    evaluate(data, disturbed(data), tmp_path / "deep" / "out")
    assert os.listdir(here) == [] and not (tmp_path / "deep").exists()


def test_truth_is_read_once_per_picture(make_data, monkeypatch):
    data = make_data()
    opened = []
    real_open = Image.open
    monkeypatch.setattr(Image, "open", lambda f, *a: opened.append(str(f)) or real_open(f, *a))
    evaluate(data, perfect(data), tasks=["segm", "sem_seg"])
    assert len(opened) == len(set(opened)) == 4


def test_pictures_of_one_name_in_two_folders(make_data):
    data = make_data()
    inputs = data.inputs()
    for number, given in enumerate(inputs):
        given["file_name"] = f"{number}/picture.jpg"
    evaluator = PanopticQualityEvaluator(PanopticTruth(data.name))
    evaluator.process(inputs, perfect(data))
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100


def test_one_table_per_class_each(make_data, caplog):
    data = make_data()
    with caplog.at_level(logging.INFO, logger="axial_d2.evaluation"):
        evaluate(data, disturbed(data))
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("axial_d2.evaluation")]
    assert len(messages) == 3
    for message in messages:
        assert message.count("person") == message.count("car") == 1
        assert "nowhere" not in message


# ---- mistakes -----------------------------------------------------------------------------------


def test_unknown_dataset_and_tasks(make_data):
    with pytest.raises(ValueError, match="'no_such' is not registered"):
        build_evaluator(config(), "no_such")
    with pytest.raises(ValueError, match="'instances', which can judge"):
        build_evaluator(config(), "coco_2017_val", tasks=["panoptic_seg"])
    with pytest.raises(ValueError, match="evaluator_type among"):
        build_evaluator(config(), "voc_2007_val")
    with pytest.raises(ValueError, match="used by both"):
        build_evaluator(config(), "coco_2017_val_panoptic_separated")
    with pytest.raises(ValueError, match="tasks must be some of"):
        build_evaluator(config(), make_data().name, tasks=["bbox"])


def test_no_ap_where_no_instances_are_predicted(make_data):
    cfg = config()
    cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES = False
    kinds = [type(e) for e in build_evaluator(cfg, make_data().name)._evaluators]
    assert kinds == [PanopticQualityEvaluator, SemanticEvaluator]


@pytest.mark.parametrize("name", ["coco_2017_val_panoptic", "cityscapes_fine_panoptic_val"])
def test_detectron2s_own_panoptic_names(name):
    evaluators = build_evaluator(config(), name)
    assert isinstance(evaluators, DatasetEvaluators) and len(evaluators._evaluators) == 3


def test_mistakes_name_the_file(make_data):
    data = make_data()
    given, good = data.inputs()[0], perfect(data)[0]
    semantic = build_evaluator(config(), data.name, tasks=["sem_seg"])
    instance = build_evaluator(config(), data.name, tasks=["segm"])
    panoptic = build_evaluator(config(), data.name, tasks=["panoptic_seg"])
    with pytest.raises(ValueError, match=r"sem_seg must have the truth's size .*0\.png"):
        semantic.process([given], [{"sem_seg": good["sem_seg"][:, 1:]}])
    with pytest.raises(ValueError, match=r"one channel for each of the 5 classes .*0\.png"):
        semantic.process([given], [{"sem_seg": good["sem_seg"][1:]}])
    with pytest.raises(ValueError, match=r"panoptic_seg must have .*0\.png"):
        panoptic.process([given], [{"panoptic_seg": (torch.zeros(3, 4).long(), [])}])
    wrong = good["instances"]
    wrong.pred_classes = torch.zeros_like(wrong.pred_classes)
    with pytest.raises(ValueError, match=r"contiguous ids of things, \[1, 3, 4\]; got \[0\] .*0\."):
        instance.process([given], [{"instances": wrong}])
    with pytest.raises(ValueError, match="no image_id 12345"):
        instance.process([{**given, "image_id": 12345}], [{}])


def test_broken_truth_is_named(make_data):
    data = make_data()
    given = data.inputs()
    evaluator = InstanceEvaluator(PanopticTruth(data.name))
    evaluator.process(given[3:], [{}])
    (data.root / "panoptic" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"cannot read .*0\.png: No such file"):
        evaluator.process(given[:1], [{}])
    (data.root / "panoptic" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"cannot read .*1\.png: cannot identify"):
        evaluator.process(given[1:2], [{}])
    Image.new("RGB", (48, 64), (9, 9, 9)).save(data.root / "panoptic" / "2.png")
    with pytest.raises(ValueError, match=r"2\.png holds segment ids .* \[592137\]"):
        evaluator.process(given[2:3], [{}])


def test_truth_index_by_hand(make_data):
    data = make_data(sizes=[(3, 4)])
    ids = np.array([[0, 0, 1, 1], [140001, 1, 1, 0], [140001, 140001, 1, 1]])
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(data.root / "panoptic" / "0.png")
    truth = PanopticTruth(data.name)
    truth._records = {
        100: {
            "pan_seg_file_name": str(data.root / "panoptic" / "0.png"),
            "segments_info": [
                {"id": 140001, "category_id": 2, "iscrowd": 0},
                {"id": 5, "category_id": 1, "iscrowd": 0},  # has no pixel
                {"id": 1, "category_id": 0, "iscrowd": 0},
            ],
        }
    }
    picture = truth.picture(100)
    assert picture.index.tolist() == [[0, 0, 1, 1], [2, 1, 1, 0], [2, 2, 1, 1]]
    assert [s["id"] for s in picture.segments] == [1, 140001]
    # Without void the first segment is number 1 all the same.
    Image.new("RGB", (4, 3), (1, 0, 0)).save(data.root / "panoptic" / "0.png")
    truth._kept.clear()
    assert (truth.picture(100).index == 1).all()
