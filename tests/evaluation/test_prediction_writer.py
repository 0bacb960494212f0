"""Predictions on disk: written while pictures come, read back with the same scores."""

import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import evaluatePanoptic
from detectron2.utils import comm
from evaluation_data import (
    CATEGORIES,
    assert_same,
    config,
    disturbed,
    perfect,
    random_data,
    save,
    score,
)
from PIL import Image
from pycocotools.coco import COCO

from axial_d2.engine import SetupError, evaluate_saved
from axial_d2.evaluation import (
    PanopticTruth,
    PredictionWriter,
    SavedPredictions,
    build_evaluator,
    saved_predictions,
)
from axial_d2.panoptic_quality import pq_compute

TASKS = ("panoptic_seg", "segm", "sem_seg")


@pytest.fixture
def data(tmp_path):
    return random_data(tmp_path / "data")


def test_saved_predictions_score_as_the_model_did(data, tmp_path):
    results, folder = save(data, disturbed(data), tmp_path / "out")
    assert sorted(os.listdir(folder)) == [
        "instances.json", "panoptic", "panoptic.json", "panoptic.zip", "semantic",
    ]  # fmt: skip
    assert_same(results, score(data, folder, tmp_path / "scores"))
    written = json.loads((tmp_path / "scores/results.json").read_text())
    assert written["segm"]["AP"] == pytest.approx(results["segm"]["AP"])
    lines = (tmp_path / "scores/results_per_class.csv").read_text().splitlines()
    assert lines[0] == "class,PQ,SQ,RQ,AP,AP50,IoU,ACC" and len(lines) == 6
    alone = score(data, folder / "panoptic.zip", tmp_path / "scores")
    assert_same({"panoptic_seg": results["panoptic_seg"]}, alone)


def test_official_scripts_take_what_was_written(data, tmp_path):
    results, folder = save(data, disturbed(data), tmp_path / "out")
    found = evaluatePanoptic(
        data.json, data.root / "panoptic", folder / "panoptic.json", folder / "panoptic",
        tmp_path / "official.json",
    )  # fmt: skip
    assert 100 * found["All"]["pq"] == pytest.approx(results["panoptic_seg"]["PQ"])
    again = pq_compute(str(data.json), str(folder / "panoptic.json"), str(data.root / "panoptic"))
    assert again["All"]["pq"] == pytest.approx(found["All"]["pq"])
    truth = COCO()
    truth.dataset = {
        "images": [{"id": r["image_id"]} for r in data.inputs()],
        "annotations": [],
        "categories": [{"id": c["id"]} for c in data.categories],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(folder / "instances.json"))
    assert len(loaded.anns) == sum(len(out["instances"]) for out in disturbed(data))
    with zipfile.ZipFile(folder / "panoptic.zip") as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    assert names == {"panoptic.json", *(f"panoptic/{n}.png" for n in range(4))}


def test_semantic_masks_hold_the_datasets_ids(data, tmp_path):
    _, folder = save(data, perfect(data), tmp_path / "out")
    for number, (ids, annotation) in enumerate(zip(data.ids, data.annotations, strict=True)):
        mask = np.asarray(Image.open(folder / f"semantic/{number}.png"))
        for segment in annotation["segments_info"]:
            assert set(mask[ids == segment["id"]].tolist()) == {segment["category_id"]}


def test_pictures_of_one_name_keep_apart(data, tmp_path, monkeypatch):
    truth = PanopticTruth(data.name)
    records = {
        key: {**record, "file_name": f"/{key}/a.jpg"} for key, record in truth.records().items()
    }
    monkeypatch.setattr(truth, "_records", records)
    writer = PredictionWriter(truth, str(tmp_path / "p"), TASKS)
    for given, out in zip(records.values(), perfect(data), strict=True):
        writer.process([given], [out])
    writer.evaluate()
    assert sorted(os.listdir(tmp_path / "p/panoptic")) == ["a.png", "a_2.png", "a_3.png", "a_4.png"]
    content = json.loads((tmp_path / "p/panoptic.json").read_text())
    assert [a["image_id"] for a in content["annotations"]] == [100, 101, 102, 103]


def test_two_processes_write_one_result(data, tmp_path, monkeypatch):
    _, alone = save(data, disturbed(data), tmp_path / "one")
    truth, folder = PanopticTruth(data.name), tmp_path / "two"
    pairs = list(zip(data.inputs(), disturbed(data), strict=True))
    writers = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(comm, "is_main_process", lambda rank=rank: rank == 0)
        writers.append(PredictionWriter(truth, str(folder), TASKS))
    for rank in (1, 0):  # the first picture is dealt out to both
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        for given, out in [pairs[0], *pairs[1 + rank :: 2]]:
            writers[rank].process([given], [out])
    monkeypatch.setattr(comm, "is_main_process", lambda: True)
    writers[0].evaluate()
    for name, key in (("panoptic.json", "image_id"), ("instances.json", "score")):
        first, second = (json.loads((f / name).read_text()) for f in (alone, folder))
        first, second = (x["annotations"] if isinstance(x, dict) else x for x in (first, second))
        assert sorted(first, key=lambda e: e[key]) == sorted(second, key=lambda e: e[key])


def test_a_broken_off_run_leaves_the_earlier_one(data, tmp_path):
    results, folder = save(data, perfect(data), tmp_path / "out")
    writer = PredictionWriter(PanopticTruth(data.name), str(folder), TASKS)
    writer.process(data.inputs()[:1], disturbed(data)[:1])
    assert_same(results, score(data, folder, tmp_path / "scores"))
    fresh = PredictionWriter(PanopticTruth(data.name), str(tmp_path / "fresh"), TASKS)
    fresh.process(data.inputs()[:1], disturbed(data)[:1])
    assert os.listdir(tmp_path / "fresh") == [".unfinished"]
    with pytest.raises(SetupError, match="no predictions in"):
        score(data, tmp_path / "fresh", tmp_path / "scores")


def test_nothing_of_an_earlier_run_is_left(data, tmp_path):
    _, folder = save(data, perfect(data), tmp_path / "out")
    for name in ("panoptic/old.png", "semantic/old.png"):
        Image.new("L", (2, 2)).save(folder / name)
    writer = PredictionWriter(PanopticTruth(data.name), str(folder), ("sem_seg",))
    writer.process(data.inputs(), perfect(data))
    writer.evaluate()
    assert os.listdir(folder) == ["semantic"]
    assert sorted(os.listdir(folder / "semantic")) == [f"{n}.png" for n in range(4)]


@pytest.mark.parametrize("extra, none", [(255, 256), (300, 255), (70000, None), (-1, None)])
def test_ids_of_any_size_in_semantic_masks(tmp_path, caplog, extra, none):
    """255 as a class is not mistaken for "none"; what no grey png can hold is left out."""
    categories = [*CATEGORIES[:3], {**CATEGORIES[3], "id": extra}]
    data = random_data(tmp_path / "data", categories)
    outputs = perfect(data)
    for out in outputs:
        out["sem_seg"] = out["sem_seg"].argmax(0)
        out["sem_seg"][:5] = 99  # no class
    results, folder = save(data, outputs, tmp_path / "out")
    if none is None:
        assert not (folder / "semantic").exists() and "No semantic masks are kept" in caplog.text
        return
    assert set(np.asarray(Image.open(folder / "semantic/2.png"))[0].tolist()) == {none}
    assert_same(results, score(data, folder, tmp_path / "scores"))


def test_predictions_are_kept_on_request_alone(data, tmp_path):
    evaluators = build_evaluator(config(), data.name, str(tmp_path / "out"))
    assert not any(isinstance(e, PredictionWriter) for e in evaluators._evaluators)
    assert not (tmp_path / "out").exists()


def official_scores(data, folder, cases):
    """Cityscapes' scripts on the folder of predictions, as a user of theirs would run them."""
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instance_script
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as pixel_script

    truth = [str(data / f"gtFine/val/city/{c.name}_gtFine_instanceIds.png") for c in cases]
    scores = {}
    for script, place, key in (
        (instance_script, "instances", "AP"),
        (pixel_script, "semantic", "IoU"),
    ):
        args = script.args
        args.predictionPath, args.predictionWalk = str(folder / place), None
        args.JSONOutput, args.quiet, args.gtInstancesFile = False, True, "instances.json"
        if key == "AP":
            found = [script.getPrediction(path, args) for path in truth]
            averages = script.evaluateImgLists(found, truth, args)["averages"]
            scores[key] = 100 * averages["allAp"]
        else:
            labels = [path.replace("instanceIds", "labelIds") for path in truth]
            found = [script.getPrediction(args, path) for path in labels]
            result = script.evaluateImgLists(found, labels, args)
            scores[key] = 100 * result["averageScoreClasses"]
    return scores


def check_odd_files(cfg, name, folder, cases, tmp_path):
    """What is no error of the files is said, what the scripts refuse is refused."""
    semantic = next((folder / "semantic").iterdir())
    Image.open(semantic).point(lambda value: 3).save(semantic)
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr(
            saved_predictions.logger, "warning", lambda text, *values: said.append(values)
        )
        evaluate_saved(cfg, name, str(folder), str(tmp_path / "scores"))
    assert [values[1] for values in said] == ["3"]
    text = folder / f"instances/{cases[2].name}_old.txt"
    text.touch()
    with pytest.raises(SetupError, match="expected one instance text file for the picture"):
        evaluate_saved(cfg, name, str(folder), str(tmp_path / "scores"))
    text.unlink()
    (folder / "instances.json").write_text("[]")
    with pytest.raises(SetupError, match="expected one kind of instances"):
        evaluate_saved(cfg, name, str(folder), str(tmp_path / "scores"))


def test_cityscapes_files(tmp_path, monkeypatch):
    """Text files with masks, under Cityscapes' names, equal what was predicted."""
    sys.path.append(str(Path(__file__).parents[2] / "dev"))
    import compare_scores
    from detectron2.data import DatasetCatalog, MetadataCatalog

    cases = list(compare_scores.make_cases(6))
    content = compare_scores.write_truth(tmp_path / "data", cases)
    name = "tests_saved_cityscapes"
    compare_scores.register(tmp_path / "data", name, content, "cityscapes_panoptic_seg")
    try:
        truth = PanopticTruth(name)
        ids = truth.classes.dataset_ids
        cfg = config()
        cfg.TEST.SAVE_PREDICTIONS = True
        evaluators = build_evaluator(cfg, name, str(tmp_path / "out"))
        evaluators.reset()
        for case, given in zip(cases, DatasetCatalog.get(name), strict=True):
            evaluators.process([given], [compare_scores.output_of(case, ids)])
        results = evaluators.evaluate()
        folder = tmp_path / "out/predictions"
        assert "instances.json" not in os.listdir(folder)
        text = (folder / f"instances/{cases[2].name}_leftImg8bit.txt").read_text().split()
        assert len(text) == 3 * len(cases[2].scores) and int(text[1]) in compare_scores._THINGS
        found = evaluate_saved(cfg, name, str(folder), str(tmp_path / "scores"))
        assert_same(results, found)
        saved = SavedPredictions(truth, folder)
        assert saved.tasks == TASKS and len(saved) == 6
        monkeypatch.chdir(tmp_path)  # the scripts leave files behind
        official = official_scores(tmp_path / "data", folder, cases)
        assert official["AP"] == pytest.approx(results["segm"]["AP"])
        assert official["IoU"] == pytest.approx(results["sem_seg"]["mIoU"])
        check_odd_files(cfg, name, folder, cases, tmp_path)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
