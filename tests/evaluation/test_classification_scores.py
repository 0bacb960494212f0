"""Top-1 and top-5 next to a count by sorting; ties, few classes, several processes, mistakes."""

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from evaluation_data import config

from axial_d2.evaluation import ClassificationEvaluator, build_evaluator
from axial_d2.evaluation.classification import classes_ahead


def pictures(number: int, classes: int, *, levels: int | None = None) -> tuple[list, list]:
    """Random scores and labels; `levels`: only that many different scores, so that many tie."""
    generator = np.random.default_rng(number + classes)
    scores = generator.random((number, classes))
    if levels:
        scores = np.floor(scores * levels) / levels
    labels = generator.integers(classes, size=number)
    inputs = [{"label": int(label)} for label in labels]
    return inputs, [{"scores": torch.tensor(row)} for row in scores]


def by_sorting(inputs: list, outputs: list, rank: int) -> float:
    """Percent of pictures whose label is among the first `rank` of a stable sort."""
    right = 0
    for given, output in zip(inputs, outputs, strict=True):
        order = np.argsort(-output["scores"].numpy(), kind="stable")
        right += given["label"] in order[:rank]
    return 100 * right / len(inputs)


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 6, 37])
@pytest.mark.parametrize("levels", [None, 1, 3])
def test_equal_to_a_count_by_sorting(classes, levels):
    inputs, outputs = pictures(211, classes, levels=levels)
    evaluator = ClassificationEvaluator()
    for start in range(0, 211, 10):
        evaluator.process(inputs[start : start + 10], outputs[start : start + 10])
    scores = evaluator.evaluate()["classification"]
    assert set(scores) == {"top1", "top5"}
    assert scores["top1"] == pytest.approx(by_sorting(inputs, outputs, 1))
    assert scores["top5"] == pytest.approx(by_sorting(inputs, outputs, 5))
    assert scores["top5"] == 100 or classes > 5


def test_example_by_hand():
    scores = torch.tensor([0.1, 0.3, 0.1, 0.5])
    assert [classes_ahead(scores, label) for label in range(4)] == [2, 1, 3, 0]


def test_scores_that_are_no_number_are_wrong():
    bad = float("nan")
    assert classes_ahead(torch.full((7,), bad), 0) == 6
    assert classes_ahead(torch.tensor([0.5, bad, 0.2]), 0) == 1
    assert classes_ahead(torch.tensor([0.5, bad, 0.2]), 1) == 2


def test_no_picture_gives_nan_and_reset_forgets():
    evaluator = ClassificationEvaluator()
    evaluator.process([{"label": 0}], [{"scores": torch.tensor([1.0, 0.0])}])
    evaluator.reset()
    assert math.isnan(evaluator.evaluate()["classification"]["top1"])


def test_many_processes_are_summed_up(monkeypatch):
    inputs, outputs = pictures(31, 9)
    parts = [ClassificationEvaluator() for _ in range(3)]
    # Parts of different sizes: a mean of the processes' means would be another number.
    for part, own in zip(parts, (slice(0, 3), slice(3, 4), slice(4, 31)), strict=True):
        part.process(inputs[own], outputs[own])
    counts = [part._counts for part in parts]
    monkeypatch.setattr(comm, "gather", lambda mine: counts)
    scores = parts[0].evaluate()["classification"]
    assert scores["top1"] == pytest.approx(by_sorting(inputs, outputs, 1))
    assert scores["top5"] == pytest.approx(by_sorting(inputs, outputs, 5))
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert parts[1].evaluate() is None


def test_scores_that_do_not_fit_are_refused():
    for scores, label in ((torch.zeros(3), 3), (torch.zeros(3), -1), (torch.zeros(3, 1), 0)):
        with pytest.raises(ValueError, match=rf"label {label} of the picture a\.jpg; got shape"):
            ClassificationEvaluator().process(
                [{"label": label, "file_name": "a.jpg"}], [{"scores": scores}]
            )


def test_chosen_by_the_type_of_the_dataset():
    name = "classification_scores_test"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(evaluator_type="image_classification")
    try:
        (evaluator,) = build_evaluator(config(), name)._evaluators
        assert isinstance(evaluator, ClassificationEvaluator)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
