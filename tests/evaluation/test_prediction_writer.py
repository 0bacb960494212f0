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
from evaluation_data import config, disturbed, perfect, random_data
from PIL import Image
from pycocotools.coco import COCO

from axial_d2.engine import SetupError, evaluate_saved
from axial_d2.evaluation import PanopticTruth, PredictionWriter, SavedPredictions, build_evaluator
from axial_d2.panoptic_quality import pq_compute

TASKS = ("panoptic_seg", "segm", "sem_seg")


@pytest.fixture
def data(tmp_path):
    return random_data(tmp_path / "data")


def save(data, outputs, output_dir):
    """Evaluates and keeps the predictions; returns the results and their folder."""
    cfg = config()
    cfg.TEST.SAVE_PREDICTIONS = True
    evaluators = build_evaluator(cfg, data.name, str(output_dir))
    evaluators.reset()
    for given, out in zip(data.inputs(), outputs, strict=True):
        evaluators.process([given], [out])
    return evaluators.evaluate(), Path(output_dir, "predictions")


def score(data, folder, output):
    return evaluate_saved(config(), data.name, str(folder), str(output))


def assert_same(a, b):
    assert set(a) == set(b)
    for task, scores in a.items():
        assert b[task] == pytest.approx(scores, nan_ok=True), task


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


def test_a_broken_off_run_leaves_no_result(data, tmp_path):
    _, folder = save(data, perfect(data), tmp_path / "out")
    writer = PredictionWriter(PanopticTruth(data.name), str(folder), TASKS)
    writer.process(data.inputs()[:1], perfect(data)[:1])
    assert not (folder / "panoptic.json").exists() and not (folder / "panoptic.zip").exists()
    assert not list(folder.rglob("*.part"))


def test_predictions_are_kept_on_request_alone(data, tmp_path):
    evaluators = build_evaluator(config(), data.name, str(tmp_path / "out"))
    assert not any(isinstance(e, PredictionWriter) for e in evaluators._evaluators)
    assert not (tmp_path / "out").exists()


# ---- other projects' files, and what is wrong with them -----------------------------------------


def test_another_projects_names(data, tmp_path):
    results, folder = save(data, disturbed(data), tmp_path / "out")
    theirs = tmp_path / "theirs"
    (theirs / "nested").mkdir(parents=True)
    (folder / "panoptic").rename(theirs / "nested/panoptic_val_foo_results")
    (folder / "panoptic.json").rename(theirs / "nested/panoptic_val_foo_results.json")
    (folder / "instances.json").rename(theirs / "segm_results.json")
    found = score(data, theirs, tmp_path / "scores")
    assert_same({k: v for k, v in results.items() if k != "sem_seg"}, found)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content["annotations"] if isinstance(content, dict) else content)
    path.write_text(json.dumps(content))


DAMAGES = {
    "a picture lacks its prediction": (
        lambda f: edit(f / "panoptic.json", lambda c: c.pop(2)),
        "1 of 4 pictures have no panoptic prediction, the first: .*2.jpg",
    ),
    "a semantic mask lacks": (
        lambda f: (f / "semantic/3.png").unlink(),
        "1 of 4 pictures have no semantic prediction, the first: .*3.jpg",
    ),
    "unknown image_id": (
        lambda f: edit(f / "panoptic.json", lambda c: c[0].update(image_id=7)),
        r"panoptic\.json: the data set has no picture with the image_id 7",
    ),
    "unknown category": (
        lambda f: edit(
            f / "panoptic.json", lambda c: c[0]["segments_info"][0].update(category_id=7777)
        ),
        r"panoptic\.json: expected a category_id of the data set, .* came 7777",
    ),
    "an instance of stuff": (
        lambda f: edit(f / "instances.json", lambda c: c[0].update(category_id=7)),
        r"instances\.json: expected the category_id of a thing, came 7",
    ),
    "a result without its score": (
        lambda f: edit(f / "instances.json", lambda c: c[3].pop("score")),
        r"instances\.json: expected score in each result",
    ),
    "a png of another size": (
        lambda f: Image.open(f / "panoptic/1.png").resize((9, 9), 0).save(f / "panoptic/1.png"),
        r"1\.png",
    ),
    "an id that the json lacks": (
        lambda f: edit(f / "panoptic.json", lambda c: c[1]["segments_info"].pop()),
        r"1\.png: expected the ids of .*panoptic\.json; the json lacks \[",
    ),
    "a mask of another size": (
        lambda f: Image.new("L", (5, 6), 7).save(f / "semantic/0.png"),
        r"sem_seg must have the truth's size .* got \(6, 5\)",
    ),
    "a missing png": (
        lambda f: (f / "panoptic/3.png").unlink(),
        r"cannot read the picture .*3\.png: No such file",
    ),
    "no json": (
        lambda f: (f / "panoptic.json").write_text("{"),
        r"panoptic\.json is not a json file",
    ),
    "two of one kind": (
        lambda f: (f / "other.json").write_text((f / "panoptic.json").read_text()),
        r"expected one json of panoptic predictions in .*, came .*other\.json and .*panoptic\.json",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_named(data, tmp_path, damage):
    _, folder = save(data, disturbed(data), tmp_path / "out")
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(SetupError, match=message):
        score(data, folder, tmp_path / "scores")
    assert not (tmp_path / "scores/results.json").exists()


def test_nothing_to_score(data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match=r"no predictions in .*empty; looked for"):
        score(data, tmp_path / "empty", tmp_path / "scores")
    with pytest.raises(SetupError, match="expected a folder or a zip, .*nowhere is not there"):
        score(data, tmp_path / "nowhere", tmp_path / "scores")
    (tmp_path / "no.zip").write_text("no zip")
    with pytest.raises(SetupError, match=r"cannot unpack .*no\.zip"):
        score(data, tmp_path / "no.zip", tmp_path / "scores")
    with pytest.raises(SetupError, match="--dataset: no dataset is named 'nothing_such'"):
        evaluate_saved(config(), "nothing_such", str(tmp_path), str(tmp_path / "scores"))


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
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
