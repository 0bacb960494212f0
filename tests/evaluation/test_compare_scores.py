"""Our scores equal those of the official scripts on random pictures (dev/compare_scores.py)."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "dev"))
import compare_scores  # noqa: E402


def test_random_pictures_score_alike(tmp_path):
    rows = compare_scores.compare(tmp_path, 60)
    assert len(rows) == 4
    for title, numbers, alone, together, mine, theirs in rows:
        assert numbers >= 20, title
        assert alone < 1e-9 and together < 1e-9, title
        assert 2 < theirs < 90 and mine == pytest.approx(theirs), title  # not trivial


def test_the_pictures_have_what_is_hard():
    cases = list(compare_scores.make_cases(60))
    ids = [set(np.unique(case.truth).tolist()) for case in cases]
    assert any(i & set(compare_scores._THINGS) for i in ids)  # crowds
    assert any({0} == i for i in ids) and any(not case.found.any() for case in cases)
    assert any(len([k for k in i if k >= 1000]) > 3 for i in ids)
    assert any(4 in i for i in ids)  # void that has an id of its own in Cityscapes


def test_a_difference_is_seen():
    assert compare_scores.difference({"a": 1.0}, {"a": 1.5}) == 0.5
    assert compare_scores.difference({"a": 1.0}, {"a": float("nan")}) == float("inf")
    assert compare_scores.difference({"a": float("nan")}, {"a": float("nan")}) == 0
