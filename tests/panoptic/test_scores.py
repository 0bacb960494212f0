import pytest
import torch

from axial_d2.panoptic import InstanceScores, instance_scores, panoptic_segmentation


def test_worked_example():
    # Centre 0: two pixels of class 1. Centre 1: none. Centre 2: one pixel of class 0, one void.
    panoptic = torch.tensor([[11, 11, 20, 1, -1]])
    instance = torch.tensor([[1, 1, 0, 3, 3]])
    probability = torch.zeros(3, 1, 5)
    probability[1, 0] = torch.tensor([0.5, 0.7, 0.1, 0.2, 0.2])
    probability[0, 0] = torch.tensor([0.5, 0.3, 0.1, 0.8, 0.9])
    found = instance_scores(
        panoptic,
        instance,
        torch.tensor([0.5, 0.9, 0.25]),
        probability,
        label_divisor=10,
        from_logits=False,
    )
    assert found.labels.tolist() == [1, 11]
    assert found.classes.tolist() == [0, 1]
    assert found.areas.tolist() == [1, 2]
    assert found.centers.tolist() == [2, 0]
    assert found.scores.tolist() == pytest.approx([0.25 * 0.8, 0.5 * 0.6])
    logits = probability.clamp_min(1e-9).log()
    shifted = instance_scores(
        panoptic, instance, torch.ones(3), logits + torch.randn(1, 1, 5), label_divisor=10
    )
    total = probability.sum(dim=0)
    assert shifted.scores.tolist() == pytest.approx(
        [(0.8 / total[0, 3]).item(), ((0.5 / total[0, 0] + 0.7 / total[0, 1]) / 2).item()]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(40, 50), (1, 60), (60, 1)])
def test_equals_a_loop_over_masks(size, dtype, monkeypatch):
    monkeypatch.setattr("axial_d2.panoptic.scores._VALUES", 700)  # several bands
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, *size, generator=generator).to(dtype)
    heatmap = torch.rand(size, generator=generator)
    maps = logits.argmax(dim=0), heatmap, torch.zeros(2, *size)
    found = panoptic_segmentation(*maps, thing_ids=[1, 3], label_divisor=1000, stuff_area=0)
    scores = instance_scores(
        found.panoptic, found.instance, found.scores, logits, label_divisor=1000
    )
    labels = [v for v in found.panoptic.unique().tolist() if v > 0 and v % 1000]
    assert scores.labels.tolist() == labels
    probability = logits.float().softmax(dim=0)
    for n, label in enumerate(labels):
        mask = found.panoptic == label
        center = found.scores[found.instance[mask][0] - 1]
        assert scores.areas[n] == mask.sum()
        assert scores.classes[n] == label // 1000
        expected = center * probability[label // 1000][mask].mean()
        assert scores.scores[n].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("size", [(0, 3), (1, 1), (2, 3)])
def test_no_instance(size):
    nothing = torch.zeros(size, dtype=torch.long)
    found = instance_scores(
        nothing, nothing, torch.zeros(0), torch.zeros(2, *size), label_divisor=1000
    )
    assert isinstance(found, InstanceScores)
    assert all(len(field) == 0 for field in found)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"instance": torch.full((2, 2), 2)}, ValueError, r"instance .*0\.\.1.*2"),
        ({"semantic": torch.zeros(3, 2, 1)}, ValueError, r"semantic .*\(C, 2, 2\).*\(3, 2, 1\)"),
        ({"center_scores": torch.zeros(1, 1)}, ValueError, r"center_scores .*\(K,\).*\(1, 1\)"),
        ({"panoptic": torch.zeros(2, 2)}, TypeError, "panoptic .*integers.*float32"),
        ({"label_divisor": 0}, ValueError, "label_divisor .*positive.*0"),
    ],
)
def test_guards(changes, error, message):
    arguments = {
        "panoptic": torch.zeros(2, 2, dtype=torch.long),
        "instance": torch.zeros(2, 2, dtype=torch.long),
        "center_scores": torch.zeros(1),
        "semantic": torch.zeros(3, 2, 2),
        "label_divisor": 1000,
    }
    with pytest.raises(error, match=message):
        instance_scores(**{**arguments, **changes})
