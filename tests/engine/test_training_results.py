"""results.json and the short table."""

import json
import math

import numpy as np

from axial_d2.engine.results import read_results, results_table, summary, write_results

RESULTS = {
    "panoptic_seg": {"PQ": np.float64(71.25), "SQ": 80.0, "RQ": 88.0, "PQ_th": math.nan},
    "sem_seg": {"mIoU": 85.5, "IoU-sky": math.inf},
}


def test_results_survive_as_plain_json(tmp_path):
    path = write_results(RESULTS, str(tmp_path))
    assert path == tmp_path / "results.json"
    assert json.loads(path.read_text()) == {
        "panoptic_seg": {"PQ": 71.25, "SQ": 80.0, "RQ": 88.0, "PQ_th": None},
        "sem_seg": {"mIoU": 85.5, "IoU-sky": None},
    }
    assert read_results(str(tmp_path))["panoptic_seg"]["PQ"] == 71.25
    assert read_results(str(tmp_path / "none")) is None


def test_table_shows_the_numbers_that_papers_compare():
    header, _, row = results_table(RESULTS).splitlines()
    assert header.split() == "PQ SQ RQ PQ_th PQ_st AP AP50 mIoU pACC".split()
    assert row.split() == "71.2 80.0 88.0 - - - - 85.5 -".split()


def test_table_has_a_row_per_dataset():
    rows = results_table({"first": RESULTS, "second": {"segm": {"AP": None}}}).splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["first", "second"]
    assert rows[0].split()[1] == "71.2" and set(rows[1].split()[1:]) == {"-"}


def test_summary_tells_where_to_look(tmp_path):
    assert summary(str(tmp_path)) == ""
    write_results(RESULTS, str(tmp_path))
    (tmp_path / "model_final.pth").write_bytes(b"")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    text = summary(str(tmp_path))
    assert "71.2" in text
    assert f"results:    {tmp_path}/results.json" in text
    assert f"checkpoint: {tmp_path}/model_final.pth" in text


def test_groups_of_another_evaluator_are_written_and_the_folder_is_made(tmp_path):
    path = write_results({"kept": {"pictures": 6, "AP-road": 2.0}}, str(tmp_path / "new"))
    assert json.loads(path.read_text()) == {"kept": {"pictures": 6, "AP-road": 2.0}}
    assert path.with_name("results_per_class.csv").read_text().split() == ["class,AP", "road,2.0"]
