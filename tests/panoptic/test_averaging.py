"""Averages of several views: against a loop in numpy, and fields known everywhere."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from axial_d2.panoptic import MapAverage

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "../shared/data/coco_panoptic_sample"
# Per view: cells, what they cover in pixels, mirrored.
VIEWS = [
    ((3, 5), (12.0, 20.0), False),
    ((3, 5), (12.0, 20.0), True),
    ((2, 2), (13.7, 22.4), False),
    ((2, 2), (13.7, 22.4), True),
    ((1, 7), (11.0, 17.0), True),
]
SIZE = (11, 17)


def random_view(cells, seed):
    generator = torch.Generator().manual_seed(seed)
    make = lambda n: torch.randn(n, *cells, generator=generator, dtype=torch.float64) * 3  # noqa: E731
    return make(4), make(1), make(2)


def grid(cells, extent, views, maps):
    average = MapAverage(size=SIZE, cells=cells, extent=extent)
    for (_, covered, mirrored), (sem_seg, center, offset) in zip(views, maps, strict=True):
        average.add(sem_seg, center, offset, covered=covered, mirrored=mirrored)
    return average.mean()


def by_loop(cells, extent, views, maps):
    """The three means by a loop over cells: every place worked out on its own."""
    probability, heat, shift = (np.zeros((n, *cells)) for n in (4, 1, 2))
    for i, j in np.ndindex(*cells):
        # Pixels are counted at their middles, the first is 0.
        y = (i + 0.5) * extent[0] / cells[0] - 0.5
        x = (j + 0.5) * extent[1] / cells[1] - 0.5
        for (own, covered, mirrored), (sem_seg, center, offset) in zip(views, maps, strict=True):
            there = (SIZE[1] - 1 - x) if mirrored else x
            middles = [
                [(k + 0.5) * full / n - 0.5 for k in range(n)]
                for n, full in zip(own, covered, strict=True)
            ]
            # Hat functions on the middles, continued beyond the outermost.
            share = [
                [np.interp(at, axis, row) for row in np.eye(len(axis))]
                for at, axis in zip((y, there), middles, strict=True)
            ]
            both = np.outer(*share)
            logits = (sem_seg.numpy() * both).sum(axis=(1, 2))
            probability[:, i, j] += np.exp(logits) / np.exp(logits).sum()
            heat[:, i, j] += (center.numpy() * both).sum()
            at = [
                min(max(int((p + 0.5) // (full / n)), 0), n - 1)
                for p, n, full in zip((y, there), own, covered, strict=True)
            ]
            target_y = middles[0][at[0]] + offset[0, at[0], at[1]].item()
            target_x = middles[1][at[1]] + offset[1, at[0], at[1]].item()
            if mirrored:
                target_x = SIZE[1] - 1 - target_x
            shift[:, i, j] += (target_y - y, target_x - x)
    count = len(views)
    return np.log(probability / count), heat / count, shift / count


@pytest.mark.parametrize(
    ("cells", "extent"),
    [((3, 5), (12, 20)), ((5, 8), (15, 17)), ((1, 1), (11, 17)), ((7, 3), (11, 29))],
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_equals_a_loop(cells, extent, count):
    views = VIEWS[:count]
    maps = [random_view(own, seed) for seed, (own, _, _) in enumerate(views)]
    found = grid(cells, extent, views, maps)
    for ours, expected in zip(found, by_loop(cells, extent, views, maps), strict=True):
        assert np.allclose(ours.numpy(), expected, atol=1e-9)
    assert torch.allclose(found[0].exp().sum(dim=0), torch.ones(cells, dtype=torch.float64))


def test_offsets_to_one_centre_stay_so_from_every_view():
    """Every cell of every view points to the pixel (4, 13), which mirrored is (4, 3)."""
    average = MapAverage(size=SIZE, cells=(4, 6), extent=(16, 24))
    for cells, covered, mirrored in VIEWS:
        y, x = (
            (torch.arange(n) + 0.5) * full / n - 0.5 for n, full in zip(cells, covered, strict=True)
        )
        middle = torch.stack(torch.meshgrid(y, x, indexing="ij"))
        target = torch.tensor([4.0, 3.0 if mirrored else 13.0]).view(2, 1, 1)
        nothing = torch.zeros(1, *cells)
        average.add(nothing, nothing, target - middle, covered=covered, mirrored=mirrored)
    _, _, offset = average.mean()
    y, x = torch.arange(4) * 4 + 1.5, torch.arange(6) * 4 + 1.5
    assert torch.allclose(offset[0], (4 - y)[:, None].expand(4, 6), atol=1e-5)
    assert torch.allclose(offset[1], (13 - x).expand(4, 6), atol=1e-5)


def test_a_view_on_its_own_grid_is_unchanged():
    sem_seg, center, offset = (m.float() for m in random_view((3, 5), 0))
    average = MapAverage(size=SIZE, cells=(3, 5), extent=(12, 20))
    average.add(sem_seg, center, offset, covered=(12.0, 20.0))
    found = average.mean()
    assert torch.equal(found[0], sem_seg.log_softmax(dim=0))
    assert torch.equal(found[1], center)
    assert torch.allclose(found[2], offset, atol=1e-5)


def test_a_class_that_one_view_rules_out_keeps_its_share():
    average = MapAverage(size=(1, 1), cells=(1, 1), extent=(1, 1))
    nothing = torch.zeros(1, 1, 1)
    for logits in ((200.0, 0.0), (0.0, 200.0)):
        one = torch.tensor(logits).view(2, 1, 1)
        average.add(one, nothing, torch.zeros(2, 1, 1), covered=(1.0, 1.0))
    assert torch.allclose(average.mean()[0], torch.full((2, 1, 1), math.log(0.5)))


def test_what_was_added_is_left_alone():
    sem_seg, center, offset = random_view((3, 5), 0)
    before = [m.clone() for m in (sem_seg, center, offset)]
    average = MapAverage(size=SIZE, cells=(3, 5), extent=(12, 20))
    for mirrored in (False, True):
        average.add(sem_seg, center, offset, covered=(12.0, 20.0), mirrored=mirrored)
    assert all(map(torch.equal, before, (sem_seg, center, offset)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 4)}, r"size .*at least 1.*size \(0, 4\)"),
        ({"cells": (1, 0)}, r"cells .*at least 1.*cells \(1, 0\)"),
        ({"extent": (4, 3)}, r"extent at least the size.*extent \(4, 3\)"),
    ],
)
def test_guards(changes, message):
    with pytest.raises(ValueError, match=message):
        MapAverage(**{"size": (4, 4), "cells": (1, 1), "extent": (4, 4), **changes})


def test_guards_of_maps():
    average = MapAverage(size=(4, 4), cells=(1, 1), extent=(4, 4))
    with pytest.raises(ValueError, match="no views"):
        average.mean()
    one, two = torch.zeros(1, 1, 1), torch.zeros(2, 1, 1)
    with pytest.raises(ValueError, match=r"center .*\(1, 1, 1\).*\(2, 1, 1\)"):
        average.add(one, two, two, covered=(4.0, 4.0))
    with pytest.raises(ValueError, match=r"offset .*\(2, 1, 1\).*\(1, 1, 1\)"):
        average.add(one, one, one, covered=(4.0, 4.0))
    with pytest.raises(TypeError, match="sem_seg .*floating"):
        average.add(one.long(), one, two, covered=(4.0, 4.0))


class TestRealPictures:
    """PQ left of perfect maps of two scales and both sides; docs/testing.md has it of more."""

    @pytest.fixture
    def compare(self):
        pytest.importorskip("cityscapesscripts", reason="computes PQ")
        if not SAMPLE.is_dir():
            pytest.skip("the COCO sample is not beside this checkout (../shared/data)")
        path = ROOT / "dev" / "compare_averaging.py"
        spec = importlib.util.spec_from_file_location("compare_averaging", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_cells_of_the_largest_scale_keep_what_it_sees(self, compare):
        truth, scales = compare.Truth(SAMPLE), [0.75, 1.5]
        pq = {
            way: truth.quality([compare.merge(truth, n, scales, 0.0, way) for n in (0, 1)])
            for way in ("largest", "one")
        }
        assert pq["largest"] > 94
        assert pq["largest"] > pq["one"] + 1
