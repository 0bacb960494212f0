"""Cityscapes' scores, picture by picture, equal those of its scripts on folders."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic
from detectron2.evaluation import CityscapesInstanceEvaluator as FolderInstanceEvaluator
from detectron2.evaluation import CityscapesSemSegEvaluator as FolderSemanticEvaluator
from detectron2.structures import Instances
from evaluation_data import assert_all_100, blocks, config

from axial_d2.data import read_segments, segment_classes
from axial_d2.data.preparation import RECIPES
from axial_d2.evaluation import build_evaluator
from axial_d2.evaluation.cityscapes import truth_files

sys.path.append(str(Path(__file__).parents[1] / "data"))
from miniature_cityscapes import write_download  # noqa: E402

NAME = "tests_cityscapes_panoptic"
_FIELDS = ("thing_classes", "stuff_classes", "ignore_label", "label_divisor", "evaluator_type")
_IDS = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes")
    base = write_download(root)
    RECIPES["cityscapes"].prepare(str(root), workers=1)
    known = MetadataCatalog.get("cityscapes_fine_panoptic_val")
    fields = {key: getattr(known, key) for key in (*_FIELDS, *_IDS)}
    paths = (
        str(base / "leftImg8bit/train"),
        str(base / "gtFine/cityscapes_panoptic_train"),
        str(base / "gtFine/cityscapes_panoptic_train.json"),
    )
    DatasetCatalog.register(NAME, lambda: load_cityscapes_panoptic(*paths, fields))
    MetadataCatalog.get(NAME).set(
        image_root=paths[0], panoptic_root=paths[1], panoptic_json=paths[2],
        gt_dir=str(base / "gtFine/train"), **fields,
    )  # fmt: skip
    yield base
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def outputs(*, disturb):
    """What a model gives: the truth, or the truth with a third painted over."""
    classes = segment_classes(NAME)
    rng = np.random.default_rng(4)
    for record in DatasetCatalog.get(NAME):
        truth = read_segments(record, classes)
        ids = truth.ids()
        infos = [s for s in truth.segments_info if not s["iscrowd"]]
        labels = np.full(ids.shape, 18)
        for info in truth.segments_info:
            labels[ids == info["id"]] = info["category_id"]
        if disturb:
            spoilt = blocks(rng, ids.shape, np.arange(3)) == 0
            others = np.array([0, *(s["id"] for s in infos)])
            ids = np.where(spoilt, blocks(rng, ids.shape, others), ids)
            labels = np.where(spoilt, blocks(rng, ids.shape, np.unique(labels)), labels)
        things = [s for s in infos if s["isthing"]]
        instances = Instances(ids.shape)
        instances.pred_masks = torch.from_numpy(np.stack([ids == s["id"] for s in things]))
        instances.pred_classes = torch.tensor([s["category_id"] for s in things])
        instances.scores = torch.from_numpy(rng.random(len(things)).astype(np.float32))
        kept = np.where(np.isin(ids, [s["id"] for s in infos]), ids, 0)
        found = [s for s in infos if (kept == s["id"]).any()]
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), len(classes.names))
        yield {
            "panoptic_seg": (torch.from_numpy(kept), found),
            "sem_seg": one_hot.permute(2, 0, 1).float(),  # (classes, H, W)
            "instances": instances,
        }


def evaluate(evaluator, found):
    evaluator.reset()
    for given, output in zip(DatasetCatalog.get(NAME), found, strict=True):
        evaluator.process([given], [output])
    return evaluator.evaluate()


def test_the_truth_is_100(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = evaluate(build_evaluator(config(), NAME), outputs(disturb=False))
    assert set(results) == {"panoptic_seg", "segm", "sem_seg"}
    assert_all_100(results)
    assert results["segm"]["AP-car"] == pytest.approx(100)
    assert np.isnan(results["segm"]["AP-train"])
    assert os.listdir(tmp_path) == []  # the scripts leave a matches.json behind


def test_scores_equal_the_scripts_on_folders(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = list(outputs(disturb=True))
    ours = evaluate(build_evaluator(config(), NAME), found)
    instances = evaluate(FolderInstanceEvaluator(NAME), found)["segm"]
    assert 1 < instances["AP"] < 90
    for key in ("AP", "AP50"):
        assert ours["segm"][key] == pytest.approx(instances[key], abs=1e-9)
    semantic = evaluate(FolderSemanticEvaluator(NAME), found)["sem_seg"]
    assert 20 < semantic["IoU"] < 90
    for key, theirs in (("mIoU", "IoU"), ("iIoU", "iIoU"), ("IoU_sup", "IoU_sup")):
        assert ours["sem_seg"][key] == pytest.approx(semantic[theirs], abs=1e-9)
    assert ours["sem_seg"]["iIoU_sup"] == pytest.approx(semantic["iIoU_sup"], abs=1e-9)


def test_label_maps_and_missing_predictions(base):
    found = list(outputs(disturb=True))
    tasks = ["sem_seg", "segm"]
    whole = evaluate(build_evaluator(config(), NAME, tasks=tasks), found)
    maps = [{**output, "sem_seg": output["sem_seg"].argmax(0)} for output in found]
    again = evaluate(build_evaluator(config(), NAME, tasks=tasks), maps)
    assert again["sem_seg"] == pytest.approx(whole["sem_seg"], nan_ok=True)
    nothing = evaluate(build_evaluator(config(), NAME, tasks=tasks), [{}] * len(found))
    assert nothing["segm"]["AP"] == nothing["sem_seg"]["mIoU"] == 0


def test_missing_truth_is_named(base):
    record = DatasetCatalog.get(NAME)[0]
    with pytest.raises(ValueError, match=r"needs the file .*nowhere.*labelIds\.png"):
        truth_files(record, "nowhere")
    with pytest.raises(ValueError, match="expected a name as Cityscapes'"):
        truth_files({"file_name": "a/b.png"}, str(base))


def test_errors_of_the_scripts_name_the_picture(base):
    evaluator = build_evaluator(config(), NAME, tasks=["sem_seg"])
    evaluator.reset()
    record = DatasetCatalog.get(NAME)[0]
    path = Path(truth_files(record, str(base / "gtFine/train"))["labelIds"])
    content = path.read_bytes()
    path.write_bytes(b"no png")
    try:
        with pytest.raises(ValueError, match=r"cannot evaluate .*aachen.*Unable to load"):
            evaluator.process([record], [{}])
    finally:
        path.write_bytes(content)
