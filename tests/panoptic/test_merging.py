"""Centres, grouping and merging: examples worked by hand, awkward sizes, guards."""

import pytest
import torch

from axial_d2.panoptic import (
    find_centers,
    group_pixels,
    merge_semantic_and_instance,
    panoptic_segmentation,
)

ROAD, CAR, SKY, BUS = 0, 1, 2, 3
V = -1
SETTINGS = {"thing_ids": [CAR, BUS], "label_divisor": 100, "stuff_area": 4, "void_label": V}


def heat(size, **peaks):
    """A heat-map with single pixels: heat((6, 6), y1x2=0.5)."""
    heatmap = torch.zeros(size)
    for name, score in peaks.items():
        y, x = (int(part) for part in name[1:].split("x"))
        heatmap[y, x] = score
    return heatmap


class TestFindCenters:
    def test_worked_example(self):
        # 0.9 silences its neighbour 0.8; 0.1 is not above the threshold; 0.3 stands alone.
        heatmap = heat((6, 6), y1x1=0.9, y1x2=0.8, y5x0=0.1, y4x4=0.3)
        points, scores = find_centers(heatmap, threshold=0.1, nms_kernel=3, top_k=None)
        assert points.tolist() == [[1, 1], [4, 4]] and points.dtype == torch.long
        assert scores.tolist() == pytest.approx([0.9, 0.3])

    def test_kernel_reaches_half_its_side(self):
        heatmap = heat((6, 6), y0x0=0.9, y0x3=0.8)
        assert len(find_centers(heatmap, nms_kernel=5)[0]) == 2
        assert find_centers(heatmap, nms_kernel=7)[0].tolist() == [[0, 0]]

    def test_equal_neighbours_are_all_centers(self):
        heatmap = heat((6, 6), y2x2=0.5, y2x3=0.5)
        assert find_centers(heatmap, nms_kernel=3)[0].tolist() == [[2, 2], [2, 3]]

    def test_top_k_keeps_k_in_row_major_order(self):
        heatmap = heat((6, 6), y0x0=0.2, y0x5=0.9, y3x3=0.4, y5x0=0.8)
        points, scores = find_centers(heatmap, nms_kernel=1, top_k=3)
        assert points.tolist() == [[0, 5], [3, 3], [5, 0]]
        assert scores.tolist() == pytest.approx([0.9, 0.4, 0.8])
        # Of equal scores the first.
        heatmap = heat((6, 6), y0x0=0.5, y2x2=0.5, y5x5=0.5)
        assert find_centers(heatmap, nms_kernel=1, top_k=2)[0].tolist() == [[0, 0], [2, 2]]

    def test_top_k_beyond_the_map_and_input_untouched(self):
        heatmap = heat((2, 3), y1x1=0.5, y0x0=0.05)
        before = heatmap.clone()
        points, _ = find_centers(heatmap, top_k=1000)
        assert points.tolist() == [[1, 1]]
        assert torch.equal(heatmap, before)

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (1, 2), (3, 2)])
    @pytest.mark.parametrize("kernel", [1, 3, 41])
    def test_small_maps(self, size, kernel):
        heatmap = torch.zeros(size)
        heatmap[-1, -1] = 1
        assert find_centers(heatmap[None], nms_kernel=kernel)[0].tolist() == [
            [size[0] - 1, size[1] - 1]
        ]

    @pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
    def test_no_pixel(self, size):
        points, scores = find_centers(torch.zeros(size))
        assert points.shape == (0, 2) and scores.shape == (0,)

    def test_negative_threshold_and_nan(self):
        heatmap = torch.full((4, 4), -0.5)
        heatmap[0, 0] = torch.nan
        heatmap[3, 3] = 0.2
        assert find_centers(heatmap, threshold=-1)[0].tolist() == [[3, 3]]
        assert find_centers(heatmap, threshold=-1, nms_kernel=7)[0].tolist() == [[3, 3]]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions(self, dtype):
        heatmap = heat((6, 6), y1x1=1, y4x4=0.5).to(dtype)
        points, scores = find_centers(heatmap.T, nms_kernel=5)  # not contiguous
        assert points.tolist() == [[1, 1], [4, 4]]
        assert scores.tolist() == [1, 0.5]


class TestGroupPixels:
    def test_worked_example(self):
        # Centres at both ends of the row; without offsets the nearer one wins, of equals the first.
        points = torch.tensor([[0, 0], [0, 4]])
        mask = torch.tensor([[True, True, True, True, True, False]])
        nothing = torch.zeros(2, 1, 6)
        assert group_pixels(points, nothing, mask).tolist() == [[1, 1, 1, 2, 2, 0]]
        # An offset of +3 columns sends pixel 0 to (0, 3): the second centre.
        nothing[1, 0, 0] = 3
        assert group_pixels(points, nothing, mask).tolist() == [[2, 1, 1, 2, 2, 0]]

    def test_votes_outside_the_picture_and_not_finite(self):
        points = torch.tensor([[0, 0], [3, 3]])
        offset = torch.zeros(2, 4, 4)
        offset[:, 0, 0] = 1e6
        offset[:, 0, 1] = -1e6
        offset[0, 0, 2] = torch.nan
        offset[0, 0, 3] = torch.inf
        instance = group_pixels(points, offset, torch.ones(4, 4, dtype=torch.bool))
        assert instance[0].tolist() == [2, 1, 1, 1]

    @pytest.mark.parametrize("count", [1, 2, 3, 40, 400])
    @pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (37, 61), (128, 96)])
    def test_every_pair_measured(self, count, size):
        # Whole and half numbers: distances are exact, so ties are real ties.
        generator = torch.Generator().manual_seed(count)
        points = torch.stack(
            [torch.randint(0, side, (count,), generator=generator) for side in size], dim=1
        )
        offset = torch.randint(-40, 41, (2, *size), generator=generator) / 2
        mask = torch.rand(size, generator=generator) < 0.7
        y, x = torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")
        votes = torch.stack([y, x]) + offset
        distance = (votes[None] - points[:, :, None, None]).square().sum(dim=1)  # (K, H, W)
        expected = (distance.argmin(dim=0) + 1) * mask
        assert torch.equal(group_pixels(points, offset, mask), expected)

    def test_crowded_centers(self):
        # Hundreds in a corner: tiles with more candidates than they keep.
        generator = torch.Generator().manual_seed(0)
        points = torch.randint(0, 12, (300, 2), generator=generator)
        offset = torch.randn(2, 64, 64, generator=generator, dtype=torch.float64) * 5
        mask = torch.ones(64, 64, dtype=torch.bool)
        grid = torch.stack(torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij"))
        votes = (grid + offset).flatten(1).T  # (P, 2)
        distance = torch.cdist(votes, points.double(), compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance.min(dim=1).values
        chosen = group_pixels(points, offset, mask).flatten() - 1
        assert torch.allclose(distance.gather(1, chosen[:, None])[:, 0], nearest, atol=1e-12)

    def test_no_center_no_mask(self):
        offset = torch.zeros(2, 3, 3)
        everywhere = torch.ones(3, 3, dtype=torch.bool)
        none = torch.zeros(0, 2, dtype=torch.long)
        assert not group_pixels(none, offset, everywhere).any()
        assert not group_pixels(torch.tensor([[1, 1]]), offset, ~everywhere).any()
        assert group_pixels(none, torch.zeros(2, 0, 3), torch.zeros(0, 3).bool()).shape == (0, 3)

    def test_half_precision_keeps_far_coordinates(self):
        # At column 3000 float16 counts in twos, bfloat16 in sixteens.
        points = torch.tensor([[0, 3000], [0, 3001]])
        mask = torch.zeros(1, 3004, dtype=torch.bool)
        mask[0, 3000:3002] = True
        for dtype in (torch.float16, torch.bfloat16):
            instance = group_pixels(points, torch.zeros(2, 1, 3004, dtype=dtype), mask)
            assert instance[0, 3000:3002].tolist() == [1, 2]


class TestMerge:
    def test_worked_example(self):
        semantic = torch.tensor(
            [
                [SKY, SKY, SKY, SKY, SKY, SKY],
                [ROAD, CAR, CAR, CAR, CAR, BUS],
                [ROAD, CAR, CAR, CAR, BUS, BUS],
                [ROAD, CAR, CAR, CAR, BUS, BUS],
                [CAR, CAR, BUS, BUS, BUS, BUS],
                [CAR, CAR, SKY, BUS, BUS, BUS],
            ]
        )
        instance = torch.tensor(
            [
                [0, 0, 0, 0, 0, 0],
                [0, 1, 1, 3, 3, 3],
                [0, 1, 1, 3, 3, 3],
                [0, 1, 1, 3, 3, 3],
                [4, 4, 0, 7, 7, 7],
                [4, 4, 4, 7, 7, 7],
            ]
        )
        # 1: cars. 3: 4 cars, 5 buses -> bus. 4: cars; its sky pixel is void. 7: bus, the second.
        # Sky: 6 pixels of no instance, stays. Road: 3 pixels, under 4: void. The bus pixel of no
        # instance: void.
        expected = torch.tensor(
            [
                [200, 200, 200, 200, 200, 200],
                [V, 101, 101, 301, 301, 301],
                [V, 101, 101, 301, 301, 301],
                [V, 101, 101, 301, 301, 301],
                [102, 102, V, 302, 302, 302],
                [102, 102, V, 302, 302, 302],
            ]
        )
        assert torch.equal(merge_semantic_and_instance(semantic, instance, **SETTINGS), expected)
        # Ids may be large and need not be dense; other integer types do as well.
        sparse = torch.tensor([0, 5, 0, 70000, 1 << 40, 0, 0, 1 << 41])[instance]
        assert torch.equal(
            merge_semantic_and_instance(semantic.int(), sparse, **SETTINGS), expected
        )

    def test_tie_goes_to_the_lowest_class(self):
        semantic = torch.tensor([[BUS, BUS, CAR, CAR]])
        merged = merge_semantic_and_instance(semantic, torch.ones(1, 4).long(), **SETTINGS)
        assert merged.tolist() == [[101] * 4]

    def test_own_thing_mask(self):
        semantic = torch.tensor([[ROAD, ROAD, CAR, SKY, SKY, SKY, SKY]])
        instance = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
        mask = torch.tensor([[True, True, True, False, True, False, False]])
        merged = merge_semantic_and_instance(
            semantic, instance, **{**SETTINGS, "stuff_area": 3}, thing_mask=mask
        )
        # Two of its three votes are road; the pixel outside the mask becomes void.
        assert merged.tolist() == [[1, 1, 1, V, 200, 200, 200]]

    def test_instance_without_a_voter_takes_no_number(self):
        semantic = torch.tensor([[ROAD, ROAD, CAR]])
        merged = merge_semantic_and_instance(semantic, torch.tensor([[1, 1, 2]]), **SETTINGS)
        assert merged.tolist() == [[V, V, 101]]

    @pytest.mark.parametrize("label", [ROAD, CAR])
    @pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (0, 3), (3, 0)])
    def test_awkward_sizes(self, size, label):
        semantic = torch.full(size, label)
        none = torch.zeros(size, dtype=torch.long)
        settings = {**SETTINGS, "stuff_area": 0}
        merged = merge_semantic_and_instance(semantic, none, **settings)
        assert merged.shape == size and merged.dtype == torch.long
        assert (merged == (0 if label == ROAD else V)).all()
        settings["thing_ids"] = []
        assert (merge_semantic_and_instance(semantic, none, **settings) == label * 100).all()

    def test_too_many_instances(self):
        semantic = torch.full((1, 5), CAR)
        with pytest.raises(ValueError, match="label_divisor .* 5 .*5 instances of class 1"):
            merge_semantic_and_instance(
                semantic, torch.arange(1, 6)[None], **{**SETTINGS, "label_divisor": 5}
            )


class TestWholeWay:
    def test_worked_example(self):
        semantic = torch.full((6, 6), SKY)
        semantic[3:] = CAR
        heatmap = heat((6, 6), y4x1=0.9, y4x4=0.6)
        found = panoptic_segmentation(
            semantic, heatmap[None], torch.zeros(2, 6, 6), nms_kernel=5, **SETTINGS
        )
        assert found.points.tolist() == [[4, 1], [4, 4]]
        assert found.scores.tolist() == pytest.approx([0.9, 0.6])
        row = [101, 101, 101, 102, 102, 102]
        assert found.panoptic.tolist() == [[200] * 6] * 3 + [row] * 3
        assert found.instance[0].tolist() == [0] * 6

    def test_no_center_found(self):
        semantic = torch.tensor([[CAR, SKY, SKY, SKY, SKY]])
        found = panoptic_segmentation(semantic, torch.zeros(1, 5), torch.zeros(2, 1, 5), **SETTINGS)
        assert found.panoptic.tolist() == [[V, 200, 200, 200, 200]]
        assert found.points.shape == (0, 2)

    def test_inputs_untouched_and_not_contiguous(self):
        generator = torch.Generator().manual_seed(0)
        semantic = torch.randint(0, 4, (9, 7), generator=generator).T
        heatmap = torch.rand(9, 7, generator=generator).T
        offset = torch.randn(9, 7, 2, generator=generator).permute(2, 1, 0)
        before = semantic.clone(), heatmap.clone(), offset.clone()
        one = panoptic_segmentation(semantic, heatmap, offset, **SETTINGS)
        two = panoptic_segmentation(*(t.contiguous() for t in before), **SETTINGS)
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a, b)
        for a, b in zip((semantic, heatmap, offset), before, strict=True):
            assert torch.equal(a, b)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cuda_gives_the_same(self):
        generator = torch.Generator().manual_seed(0)
        semantic = torch.randint(0, 4, (40, 60), generator=generator)
        heatmap = torch.rand(40, 60, generator=generator)
        offset = torch.randint(-20, 20, (2, 40, 60), generator=generator).float()
        on_cpu = panoptic_segmentation(semantic, heatmap, offset, **SETTINGS)
        on_gpu = panoptic_segmentation(semantic.cuda(), heatmap.cuda(), offset.cuda(), **SETTINGS)
        for a, b in zip(on_cpu, on_gpu, strict=True):
            assert torch.equal(a, b.cpu())


LONG = torch.zeros(2, 3, dtype=torch.long)
MASK = torch.zeros(2, 3, dtype=torch.bool)
HEAT, OFFSET = torch.zeros(2, 3), torch.zeros(2, 2, 3)
POINTS = torch.zeros(1, 2, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: find_centers([[1.0]]), TypeError, "heatmap .*tensor.*list"),
        (lambda: find_centers(torch.zeros(2, 2, 3)), ValueError, r"heatmap .*\(1, H, W\).*\(2, 2"),
        (lambda: find_centers(torch.zeros(3)), ValueError, r"heatmap .*\(H, W\).*\(3,\)"),
        (lambda: find_centers(LONG), TypeError, "heatmap .*floating.*int64"),
        (lambda: find_centers(HEAT, nms_kernel=4), ValueError, "nms_kernel .*odd.*4"),
        (lambda: find_centers(HEAT, nms_kernel=0), ValueError, "nms_kernel .*positive.*0"),
        (lambda: find_centers(HEAT, top_k=0), ValueError, "top_k .*positive.*0"),
        (lambda: find_centers(HEAT, top_k=1.5), ValueError, "top_k .*integer.*1.5"),
        (lambda: group_pixels(POINTS, OFFSET, LONG), TypeError, "mask .*bool.*int64"),
        (lambda: group_pixels(POINTS, OFFSET[:1], MASK), ValueError, r"offset .*\(2, 2, 3\)"),
        (lambda: group_pixels(POINTS, OFFSET.long(), MASK), TypeError, "offset .*floating"),
        (lambda: group_pixels(POINTS[0], OFFSET, MASK), ValueError, r"points .*\(K, 2\).*\(2,\)"),
        (
            lambda: merge_semantic_and_instance(HEAT, LONG, **SETTINGS),
            TypeError,
            "semantic .*integers.*float32",
        ),
        (
            lambda: merge_semantic_and_instance(LONG, LONG[:1], **SETTINGS),
            ValueError,
            r"instance .*\(2, 3\).*\(1, 3\)",
        ),
        (
            lambda: merge_semantic_and_instance(LONG - 1, LONG, **SETTINGS),
            ValueError,
            r"semantic .*0\.\.65535.*-1",
        ),
        (
            lambda: merge_semantic_and_instance(LONG, LONG - 2, **SETTINGS),
            ValueError,
            "instance .*0 or more.*-2",
        ),
        (
            lambda: merge_semantic_and_instance(LONG, LONG, **{**SETTINGS, "thing_ids": [-3]}),
            ValueError,
            "thing_ids .*-3",
        ),
        (
            lambda: merge_semantic_and_instance(LONG, LONG, **{**SETTINGS, "label_divisor": 0}),
            ValueError,
            "label_divisor .*positive.*0",
        ),
        (
            lambda: merge_semantic_and_instance(LONG, LONG, **SETTINGS, thing_mask=LONG),
            TypeError,
            "thing_mask .*bool",
        ),
        (
            lambda: panoptic_segmentation(LONG, HEAT[:1], OFFSET, **SETTINGS),
            ValueError,
            r"heatmap .*\(2, 3\).*\(1, 3\)",
        ),
        (
            lambda: panoptic_segmentation(LONG[None], HEAT, OFFSET, **SETTINGS),
            ValueError,
            r"semantic .*\(H, W\).*\(1, 2, 3\)",
        ),
        (
            lambda: panoptic_segmentation(LONG, HEAT, OFFSET, **SETTINGS, grouping="rows"),
            ValueError,
            'grouping .*"pixels".*rows',
        ),
        (
            lambda: panoptic_segmentation(LONG, HEAT, OFFSET, **SETTINGS, cell_weight=HEAT),
            ValueError,
            'cell_weight .*"cells".*pixels',
        ),
    ],
)
def test_guards(call, error, message):
    with pytest.raises(error, match=message):
        call()
