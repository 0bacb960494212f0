"""Saved predictions, ours or another project's: found wherever they lie; what is wrong is named."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from evaluation_data import assert_same, config, disturbed, random_data, save, score
from PIL import Image

from axial_d2.engine import SetupError, evaluate_saved
from axial_d2.evaluation import PanopticTruth, PredictionWriter, SavedPredictions, build_evaluator


@pytest.fixture
def data(tmp_path):
    return random_data(tmp_path / "data")


def test_another_projects_names(data, tmp_path):
    results, folder = save(data, disturbed(data), tmp_path / "out")
    theirs = tmp_path / "theirs"
    (theirs / "nested").mkdir(parents=True)
    (folder / "panoptic").rename(theirs / "nested/panoptic_val_foo_results")
    (folder / "panoptic.json").rename(theirs / "nested/panoptic_val_foo_results.json")
    (folder / "instances.json").rename(theirs / "segm_results.json")
    found = score(data, theirs, tmp_path / "scores")
    assert_same({k: v for k, v in results.items() if k != "sem_seg"}, found)


def test_found_in_deeper_folders_and_passed_over(data, tmp_path):
    """A whole output folder will do, with a training's files and a Mac's in it."""
    results, folder = save(data, disturbed(data), tmp_path / "out")
    above = tmp_path / "above"
    shutil.copytree(folder, above / "inference/predictions")
    (above / "metrics.json").write_text('{"loss": 1}\n{"loss": 2}\n')
    (above / "a.json").mkdir()
    (above / "__MACOSX").mkdir()
    (above / "__MACOSX/._panoptic.json").write_text("x")
    (above / "inference/._0.png").write_text("x")
    (above / "0.txt").write_text("notes on picture 0")
    os.mkfifo(above / "b.json")
    (above / "inference/again").symlink_to(above)
    assert_same(results, score(data, above, tmp_path / "scores"))
    bom = above / "inference/predictions/instances.json"
    bom.write_bytes(b"\xef\xbb\xbf" + bom.read_bytes())
    assert_same(results, score(data, above, tmp_path / "scores"))


def test_one_json_alone(data, tmp_path):
    results, folder = save(data, disturbed(data), tmp_path / "out")
    for name, task in (("panoptic", "panoptic_seg"), ("instances", "segm")):
        found = score(data, folder / f"{name}.json", tmp_path / "scores")
        assert_same({task: results[task]}, found)


def test_masks_alone(data, tmp_path):
    results, folder = save(data, disturbed(data), tmp_path / "out")
    found = score(data, folder / "semantic", tmp_path / "scores")
    assert_same({"sem_seg": results["sem_seg"]}, found)


def test_pictures_drawn_beside_instances_are_no_masks(data, tmp_path):
    results, folder = save(data, disturbed(data), tmp_path / "out")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    shutil.copy(folder / "instances.json", theirs)
    Image.new("RGB", (9, 9)).save(theirs / "0.png")
    assert_same({"segm": results["segm"]}, score(data, theirs, tmp_path / "scores"))


def test_nothing_found_is_a_score_of_0(data, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none/instances.json").write_text("[]")
    assert score(data, tmp_path / "none", tmp_path / "scores")["segm"]["AP"] == 0


def test_ties_are_taken_in_the_order_of_the_image_ids(data, tmp_path):
    """As pycocotools does, in whatever order the pictures came."""
    outputs = disturbed(data)
    for out in outputs:
        out["instances"].scores[:] = 0.5
    pairs = list(zip(data.inputs(), outputs, strict=True))
    results = []
    for order in (pairs, pairs[::-1]):
        evaluators = build_evaluator(config(), data.name, tasks=["segm"])
        evaluators.reset()
        for given, out in order:
            evaluators.process([given], [out])
        results.append(evaluators.evaluate())
    assert_same(*results)


def test_pictures_of_one_name(data, tmp_path, monkeypatch):
    """Ours have a number, those of others lie in folders named as the pictures'."""
    truth = PanopticTruth(data.name)
    records = {
        key: {**record, "file_name": f"/all/{key}/a.jpg"} for key, record in truth.records().items()
    }
    monkeypatch.setattr(truth, "_records", records)
    outputs = disturbed(data)
    writer = PredictionWriter(truth, str(tmp_path / "p"), ("sem_seg",))
    writer.process(list(records.values()), outputs)
    writer.evaluate()
    written = list((tmp_path / "p/semantic").iterdir())
    assert sorted(p.name for p in written) == ["a.png", "a_2.png", "a_3.png", "a_4.png"]
    for number, key in enumerate(records, start=1):
        place = tmp_path / f"theirs/{key}"
        place.mkdir(parents=True)
        name = "a.png" if number == 1 else f"a_{number}.png"
        shutil.copy(tmp_path / "p/semantic" / name, place / "a.png")
    for folder in (tmp_path / "p", tmp_path / "theirs"):
        for (_, read), out in zip(SavedPredictions(truth, folder), outputs, strict=True):
            assert (read["sem_seg"] == out["sem_seg"].argmax(0).numpy()).all()
    os.remove(tmp_path / "p/semantic/a_3.png")
    with pytest.raises(ValueError, match="1 of 4 pictures have no semantic .*/102/a.jpg"):
        SavedPredictions(truth, tmp_path / "p")


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
        r"semantic/0\.png: expected 50x37, the size of the truth, came 5x6",
    ),
    "a mask in colours": (
        lambda f: Image.new("RGB", (50, 37)).save(f / "semantic/0.png"),
        r"semantic/0\.png: expected class ids in grey, came colours",
    ),
    "a class that there is not": (
        lambda f: Image.new("L", (50, 37), 99).save(f / "semantic/0.png"),
        r"semantic/0\.png: expected the class ids .* or 255 for none, came 99 on 1850 pixels",
    ),
    "a huge class": (
        lambda f: Image.fromarray(np.full((37, 50), 60000, np.uint16)).save(f / "semantic/0.png"),
        r"semantic/0\.png: .* came 60000 on 1850 pixels",
    ),
    "no mask of classes at all": (
        lambda f: [p.unlink() for p in (f / "semantic").iterdir()],
        "4 of 4 pictures have no semantic prediction",
    ),
    "two masks for a picture": (
        lambda f: [
            (f / "semantic/a").mkdir(),
            shutil.copy(f / "semantic/0.png", f / "semantic/a/0.png"),
        ],
        r"expected one semantic file for the picture .*0\.jpg, came .*0\.png and .*a/0\.png",
    ),
    "a missing png": (
        lambda f: (f / "panoptic/0.png").unlink(),
        r"panoptic\.json: 1 of its 4 png files are not in .*panoptic, the first: 0\.png",
    ),
    "no png at all": (
        lambda f: shutil.rmtree(f / "panoptic"),
        r"panoptic\.json: expected its png files in .*panoptic, 0\.png is not there",
    ),
    "a number for an annotation": (
        lambda f: edit(f / "panoptic.json", lambda c: c.insert(0, 5)),
        r"panoptic\.json: expected image_id, .* in each annotation, came 5",
    ),
    "no list of segments": (
        lambda f: edit(f / "panoptic.json", lambda c: c[0].update(segments_info=None)),
        r"panoptic\.json: expected a list as segments_info of each annotation, came None",
    ),
    "a segment without its id": (
        lambda f: edit(f / "panoptic.json", lambda c: c[0]["segments_info"][0].pop("id")),
        r"panoptic\.json: image_id 100: expected id in each segment",
    ),
    "two segments of one id": (
        lambda f: edit(
            f / "panoptic.json", lambda c: c[0]["segments_info"].append(c[0]["segments_info"][0])
        ),
        r"panoptic\.json: image_id 100: expected another id above 0 for each segment, came 1",
    ),
    "two annotations of one picture": (
        lambda f: edit(f / "panoptic.json", lambda c: c.append(c[0])),
        r"panoptic\.json: two annotations have the image_id 100",
    ),
    "no annotations": (
        lambda f: edit(f / "panoptic.json", lambda c: c.clear()),
        "4 of 4 pictures have no panoptic prediction",
    ),
    "a file name that is none": (
        lambda f: edit(f / "panoptic.json", lambda c: c[3].update(file_name=None)),
        r"panoptic\.json: expected a text as file_name of each annotation, came None",
    ),
    "another thing under our name": (
        lambda f: (f / "panoptic.json").write_text('{"annotations": {}}'),
        r"panoptic\.json: expected panoptic predictions; looked for",
    ),
    "a score that is a text": (
        lambda f: edit(f / "instances.json", lambda c: c[3].update(score="0.5")),
        r"instances\.json: expected .* a fraction as score of each result, came '0.5'",
    ),
    "a score that is none": (
        lambda f: edit(f / "instances.json", lambda c: c[3].update(score=float("nan"))),
        r"instances\.json: expected finite scores, came nan",
    ),
    "a polygon that brings pycocotools down": (
        lambda f: edit(
            f / "instances.json", lambda c: c[0].update(segmentation=[[0, 0, 1e9, 0, 1e9, 9]])
        ),
        r"instances\.json: image_id 100: .* expected numbers from -1000000 to 1000000 in a polygon",
    ),
    "a code of fewer pixels": (
        lambda f: edit(
            f / "instances.json",
            lambda c: c[0].update(segmentation={"size": [37, 50], "counts": [5, 5]}),
        ),
        r"instances\.json: image_id 100: .*: 10 pixels of \[37, 50\]",
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
    with pytest.raises(SetupError, match="expected a folder, .*nowhere is not there"):
        score(data, tmp_path / "nowhere", tmp_path / "scores")
    (tmp_path / "no.zip").write_text("no zip")
    with pytest.raises(SetupError, match=r"cannot unpack .*no\.zip"):
        score(data, tmp_path / "no.zip", tmp_path / "scores")
    with pytest.raises(SetupError, match="--dataset: no dataset is named 'nothing_such'"):
        evaluate_saved(config(), "nothing_such", str(tmp_path), str(tmp_path / "scores"))


def damage_zip(source, target, at):
    content = bytearray(source.read_bytes())
    for place, value in at:
        content[place] = value
    target.write_bytes(content)


def test_zips_that_cannot_be_unpacked(data, tmp_path):
    path = tmp_path / "whole.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("panoptic.json", json.dumps({"annotations": []}) * 50)
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    broken = tmp_path / "broken.zip"
    for at in (
        [(45, 0xFF), (46, 0xFF)],  # the packed data
        [(6, 1), (directory + 8, 1)],  # "encrypted"
        [(8, 99), (directory + 10, 99)],  # an unknown method
    ):
        damage_zip(path, broken, at)
        with pytest.raises(SetupError, match=r"cannot unpack .*broken\.zip"):
            score(data, broken, tmp_path / "scores")


def test_errors_name_the_zip_not_where_it_was_unpacked(data, tmp_path):
    _, folder = save(data, disturbed(data), tmp_path / "out")
    edit(folder / "panoptic.json", lambda c: c[0].update(image_id=7))
    shutil.make_archive(str(tmp_path / "theirs"), "zip", folder)
    with pytest.raises(SetupError, match=f"^{tmp_path}/theirs.zip/panoptic.json: .*image_id 7$"):
        score(data, tmp_path / "theirs.zip", tmp_path / "scores")


def test_what_is_there_is_not_replaced(data, tmp_path):
    _, folder = save(data, disturbed(data), tmp_path / "out")
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(SetupError, match=r"trained is a training's \(it holds last_checkpoint\)"):
        score(data, folder, trained)
    (tmp_path / "odd/results.json").mkdir(parents=True)
    with pytest.raises(SetupError, match=r"expected a file, .*odd/results.json is a folder"):
        score(data, folder, tmp_path / "odd")


def test_what_the_truth_cannot_judge_is_left_aside(data, tmp_path, monkeypatch):
    _, folder = save(data, disturbed(data), tmp_path / "out")
    truth = PanopticTruth(data.name)
    truth.tasks = ("sem_seg",)
    assert SavedPredictions(truth, folder).tasks == ("sem_seg",)
    truth.tasks = ("segm",)
    with pytest.raises(ValueError, match=r"expected predictions of \('segm',\), .* came \('sem"):
        SavedPredictions(truth, folder / "semantic")
