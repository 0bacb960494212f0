"""Segments by a hand-worked picture."""

import pytest
import torch

from axial_d2.panoptic import PanopticSegmentation, find_segments

VOID = -1
# Class 0 is stuff, class 2 a thing with two instances; the lower right pixel is void.
PANOPTIC = torch.tensor([[0, 0, 2002], [2001, 2001, VOID]])
INSTANCE = torch.tensor([[0, 0, 1], [2, 2, 0]])


def found(scores: list[float]) -> PanopticSegmentation:
    points = torch.tensor([[0, 2], [1, 0]])
    return PanopticSegmentation(PANOPTIC, INSTANCE, points, torch.tensor(scores))


def test_ids_areas_and_scores() -> None:
    # Probability 1/2 for classes 0 and 2 everywhere, next to nothing for class 1.
    logits = torch.tensor([0.0, -30.0, 0.0])[:, None, None].expand(3, 2, 3)
    segments = find_segments(found([0.5, 0.8]), logits, label_divisor=1000)
    assert segments.ids.tolist() == [[1, 1, 3], [2, 2, 0]]
    stuff, first, second = segments.infos
    assert stuff == {"id": 1, "category_id": 0, "area": 2, "isthing": False}
    # Instance 2001 is centre 2's, 2002 centre 1's.
    assert first.pop("score") == pytest.approx(0.4)
    assert second.pop("score") == pytest.approx(0.25)
    assert first == {"id": 2, "category_id": 2, "area": 2, "isthing": True, "instance_id": 0}
    assert second == {"id": 3, "category_id": 2, "area": 1, "isthing": True, "instance_id": 1}


def test_a_heat_map_above_one_scores_no_more_than_the_class() -> None:
    logits = torch.tensor([0.0, -30.0, 0.0])[:, None, None].expand(3, 2, 3)
    _, first, _ = find_segments(found([0.5, 1.3]), logits, label_divisor=1000).infos
    assert first["score"] == pytest.approx(0.5)


def test_nothing_but_void() -> None:
    nothing = PanopticSegmentation(
        torch.full((2, 2), VOID),
        torch.zeros(2, 2, dtype=torch.long),
        torch.zeros(0, 2, dtype=torch.long),
        torch.zeros(0),
    )
    segments = find_segments(nothing, torch.zeros(3, 2, 2), label_divisor=1000)
    assert segments.infos == []
    assert segments.ids.tolist() == [[0, 0], [0, 0]]


def test_void_must_be_told_from_labels() -> None:
    with pytest.raises(ValueError, match="void_label: expected a negative number, got 0"):
        find_segments(found([1, 1]), torch.zeros(3, 2, 3), label_divisor=1000, void_label=0)


def test_labels_that_do_not_fit_the_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="class 7 with label_divisor 256, but logits have 3"):
        find_segments(found([1, 1]), torch.zeros(3, 2, 3), label_divisor=256)
    huge = found([1, 1])._replace(panoptic=PANOPTIC + (1 << 25))
    with pytest.raises(ValueError, match="expected labels below 16777216"):
        find_segments(huge, torch.zeros(3, 2, 3), label_divisor=1 << 30)
    with pytest.raises(TypeError, match="expected a PanopticSegmentation, got tuple"):
        find_segments(tuple(huge), torch.zeros(3, 2, 3), label_divisor=1000)
