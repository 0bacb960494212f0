"""Merging against Detectron2's own functions, on random maps."""

import pytest
import torch
from torch.nn import functional as F

import axial_d2  # noqa: F401  (first: it applies the bridges to Detectron2)
from axial_d2.panoptic import find_centers, group_pixels, panoptic_segmentation

theirs = pytest.importorskip(
    "detectron2.projects.panoptic_deeplab.post_processing", reason="Detectron2 is not installed"
)
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


def scene(seed, size, *, classes=8, centers=20, spread=8.0):
    """Blocks of classes, single-pixel centres of distinct scores, noisy offsets."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    blocks = torch.randint(0, classes, (1, 1, -(-height // 5), -(-width // 5)), generator=generator)
    semantic = F.interpolate(blocks.float(), size=size, mode="nearest")[0, 0].long()
    heatmap = torch.zeros(height * width)
    places = torch.randperm(height * width, generator=generator)[:centers]
    heatmap[places] = torch.linspace(0.05, 1, len(places))
    offset = torch.randn(2, height, width, generator=generator) * spread
    return semantic, heatmap.view(size), offset


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("size", [(31, 47), (64, 96), (100, 40), (2, 2), (2, 60)])
def test_whole_way(size, spread):
    for seed in range(6):
        semantic, heatmap, offset = scene(seed, size, centers=5 + 20 * seed, spread=spread)
        settings = {
            "thing_ids": {1, 2, 5, 7},
            "label_divisor": 1000,
            "stuff_area": (0, 30, 300)[seed % 3],
            "void_label": -1,
            "threshold": 0.1,
            "nms_kernel": (1, 3, 7)[seed % 3],
            "top_k": None,
        }
        expected, centers = theirs.get_panoptic_segmentation(
            semantic[None], heatmap[None].clone(), offset, **settings
        )
        found = panoptic_segmentation(semantic, heatmap, offset, **settings)
        assert torch.equal(found.points, centers[0])
        assert torch.equal(found.panoptic, expected[0])


@pytest.mark.parametrize("things", [(), tuple(range(8))])
def test_no_thing_no_stuff_no_center(things):
    for centers in (0, 3):
        semantic, heatmap, offset = scene(1, (20, 30), centers=centers)
        settings = {
            "thing_ids": set(things),
            "label_divisor": 1000,
            "stuff_area": 1,
            "void_label": -1,
            "top_k": 200,
        }
        expected, _ = theirs.get_panoptic_segmentation(
            semantic[None], heatmap[None].clone(), offset, **settings
        )
        found = panoptic_segmentation(semantic, heatmap, offset, **settings)
        assert torch.equal(found.panoptic, expected[0])


def test_own_foreground_mask():
    for seed in range(5):
        semantic, heatmap, offset = scene(seed, (40, 50))
        mask = torch.rand(40, 50, generator=torch.Generator().manual_seed(seed)) < 0.6
        settings = {"thing_ids": {1, 2}, "label_divisor": 256, "stuff_area": 5, "void_label": 255}
        expected, _ = theirs.get_panoptic_segmentation(
            semantic[None], heatmap[None].clone(), offset, foreground_mask=mask[None].long(),
            **settings,
        )  # fmt: skip
        found = panoptic_segmentation(semantic, heatmap, offset, thing_mask=mask, **settings)
        assert torch.equal(found.panoptic, expected[0])


def test_grouping_with_ties():
    # Whole offsets and few columns: many pixels are equally far from several centres.
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        points = torch.randint(0, 50, (30, 2), generator=generator)
        offset = torch.randint(-9, 10, (2, 50, 50), generator=generator).float()
        everywhere = torch.ones(50, 50, dtype=torch.bool)
        expected = theirs.group_pixels(points, offset)[0]
        assert torch.equal(group_pixels(points, offset, everywhere), expected)


def test_top_k_is_theirs_with_one_more():
    # Detectron2 keeps what is better than the k-th best score, so k - 1 centres.
    heatmap = scene(0, (60, 60), centers=30)[1]
    for k in (1, 5, 20):
        expected = theirs.find_instance_center(heatmap[None].clone(), nms_kernel=1, top_k=k + 1)
        points, _ = find_centers(heatmap, nms_kernel=1, top_k=k)
        assert len(points) == k
        assert torch.equal(points, expected)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 13, 41])
def test_smooth_heatmap(kernel):
    # Plateaus, borders and a map smaller than the kernel.
    for seed, size in enumerate([(20, 30), (64, 48), (9, 100)]):
        noise = torch.rand(1, 1, 7, 9, generator=torch.Generator().manual_seed(seed))
        heatmap = F.interpolate(noise, size=size, mode="bilinear")[0, 0].mul(20).round().div(20)
        expected = theirs.find_instance_center(
            heatmap[None].clone(), threshold=0.3, nms_kernel=kernel
        )
        points, scores = find_centers(heatmap, threshold=0.3, nms_kernel=kernel, top_k=None)
        assert torch.equal(points, expected)
        assert torch.equal(scores, heatmap[points[:, 0], points[:, 1]])
