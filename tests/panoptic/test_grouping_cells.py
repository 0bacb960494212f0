"""Grouping from a coarse grid: by hand, against a loop, and on the two real pictures."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from axial_d2.panoptic import (
    PanopticTargets,
    group_cells,
    group_pixels,
    id_to_rgb,
    panoptic_segmentation,
    resize_offsets,
    rgb_to_id,
)

SAMPLE = Path(__file__).parents[2] / "../shared/data/coco_panoptic_sample"


def perfect_cells(ids, stride):
    """From ids (H, W), 0 = none: centres, and each cell's offset to the centre of most pixels."""
    count = int(ids.max())
    middles = torch.stack([(ids == k).nonzero().float().mean(dim=0) for k in range(1, count + 1)])
    shares = F.one_hot(ids, count + 1).permute(2, 0, 1)[1:].float()
    most = F.avg_pool2d(shares[None], stride)[0].argmax(dim=0)  # (h, w)
    y, x = ((torch.arange(n) + 0.5) * stride - 0.5 for n in most.shape)
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    return middles, middles[most].permute(2, 0, 1) - grid, shares


class TestGroupCells:
    def test_worked_example(self):
        # Two cells of 4x4 pixels side by side, each votes for its own middle.
        points = torch.tensor([[1, 1], [1, 6]])
        mask = torch.ones(4, 8, dtype=torch.bool)
        offset = torch.zeros(2, 1, 2)
        row = [1, 1, 1, 1, 2, 2, 2, 2]
        assert group_cells(points, offset, size=(4, 8), mask=mask).tolist() == [row] * 4
        # The left cell's middle is at column 1.5, the right one's at 5.5: the pixel at column 2
        # has shares 7/8 and 1/8, at 3 5/8 and 3/8, at 4 3/8 and 5/8. With weight 4 the right wins
        # from column 3 on; with weight 10 from column 2 on.
        for weight, row in ((4.0, [1, 1, 1, 2]), (10.0, [1, 1, 2, 2])):
            cells = torch.tensor([[1.0, weight]])
            found = group_cells(points, offset, size=(4, 8), mask=mask, cell_weight=cells)
            assert found[0].tolist() == [*row, 2, 2, 2, 2]
        # No weight anywhere: the nearest cell.
        nothing = torch.zeros(1, 2)
        found = group_cells(points, offset, size=(4, 8), mask=mask, cell_weight=nothing)
        assert found[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]

    def test_weight_of_the_pixels_own_class(self):
        points = torch.tensor([[1, 1], [1, 6]])
        semantic = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
        # The left cell is of class 0, the right of class 1: their pixels follow their class as
        # far as the cell reaches.
        weight = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        found = group_cells(
            points,
            torch.zeros(2, 1, 2),
            size=(2, 8),
            mask=torch.ones(2, 8, dtype=torch.bool),
            cell_weight=weight,
            semantic=semantic,
        )
        assert found.tolist() == [[1, 1, 1, 1, 1, 1, 2, 2], [1, 1, 2, 2, 2, 2, 2, 2]]

    def test_a_vote_between_two_centers_says_little(self):
        # Three cells in a row; the middle one votes all but half way, nominally for the first.
        points = torch.tensor([[1, 0], [1, 10]])
        offset = torch.zeros(2, 1, 3)
        offset[1] = torch.tensor([[-1.5, 4.9 - 5.5, 0.5]])
        found = group_cells(points, offset, size=(4, 12), mask=torch.ones(4, 12).bool())
        assert found[0].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]

    def test_no_halfway_votes_along_a_border(self):
        # Two instances side by side and a third below them both: half way between the first two
        # centres, (3.5, 11.5) and (3.5, 35.5), the third, (11.5, 23.5), is the nearest.
        ids = torch.full((16, 48), 3)
        ids[:8, :24], ids[:8, 24:] = 1, 2
        points, offset, _ = perfect_cells(ids, 4)
        mask = torch.ones_like(ids, dtype=torch.bool)
        assert torch.equal(group_cells(points, offset, size=(16, 48), mask=mask), ids)
        blurred = F.interpolate(offset[None], size=(16, 48), mode="bilinear")[0]
        assert (group_pixels(points, blurred, mask)[:7, 22:26] == 3).any()

    @pytest.mark.parametrize("mode", ["plain", "cell", "class"])
    @pytest.mark.parametrize(
        ("cells", "size", "part"),
        [
            ((3, 4), (12, 16), (12, 16)),
            ((3, 4), (12, 16), (9, 14)),
            ((2, 5), (13, 17), (13, 17)),
            ((1, 1), (5, 3), (5, 3)),
            ((4, 1), (7, 1), (7, 1)),
            ((5, 6), (5, 6), (5, 6)),
            ((9, 9), (4, 4), (4, 3)),
        ],
    )
    def test_equals_a_loop(self, cells, size, part, mode):
        generator = torch.Generator().manual_seed(7)
        points = torch.rand(6, 2, generator=generator, dtype=torch.float64) * 12
        offset = torch.randn(2, *cells, generator=generator, dtype=torch.float64) * 6
        mask = torch.rand(part, generator=generator) < 0.8
        semantic = torch.randint(0, 3, part, generator=generator)
        weight = torch.rand(3, *cells, generator=generator, dtype=torch.float64)
        weight[weight < 0.3] = 0
        arguments = {
            "plain": {},
            "cell": {"cell_weight": weight[0]},
            "class": {"cell_weight": weight, "semantic": semantic},
        }[mode]
        found = group_cells(points, offset, size=size, mask=mask, **arguments)
        for y in range(part[0]):
            for x in range(part[1]):
                if not mask[y, x]:
                    assert found[y, x] == 0
                    continue
                sums, shares = {}, {}
                at = [
                    min(max((p + 0.5) * n / full - 0.5, 0), n - 1)
                    for p, n, full in zip((y, x), cells, size, strict=True)
                ]
                for i in range(cells[0]):
                    for j in range(cells[1]):
                        share = max(0, 1 - abs(at[0] - i)) * max(0, 1 - abs(at[1] - j))
                        if not share:
                            continue
                        vote = offset[:, i, j] + torch.tensor(
                            [(c + 0.5) * full / n - 0.5 for c, n, full in
                             zip((i, j), cells, size, strict=True)]
                        )  # fmt: skip
                        distance = (points - vote).norm(dim=1)
                        d1, d2 = distance.sort().values[:2].tolist()
                        k = int(distance.argmin()) + 1
                        row = {"plain": None, "cell": 0, "class": int(semantic[y, x])}[mode]
                        factor = 1 if row is None else weight[row, i, j].item()
                        sums[k] = sums.get(k, 0) + share * factor * (d2 - d1) / (d2 + d1)
                        shares[k] = max(shares.get(k, 0), share)
                best = (
                    max(sums, key=sums.get) if any(sums.values()) else max(shares, key=shares.get)
                )
                assert found[y, x] == best

    def test_no_center_no_mask_and_garbage_votes(self):
        mask = torch.ones(4, 4, dtype=torch.bool)
        none = torch.zeros(0, 2)
        assert not group_cells(none, torch.zeros(2, 1, 1), size=(4, 4), mask=mask).any()
        one = torch.tensor([[1, 1]])
        assert not group_cells(one, torch.zeros(2, 1, 1), size=(4, 4), mask=~mask).any()
        lost = torch.full((2, 1, 1), torch.nan)
        assert (group_cells(one, lost, size=(4, 4), mask=mask) == 1).all()
        empty = torch.zeros(0, 4, dtype=torch.bool)
        assert group_cells(one, torch.zeros(2, 0, 1), size=(0, 4), mask=empty).shape == (0, 4)

    def test_half_precision(self):
        ids = torch.ones(16, 4096, dtype=torch.long)
        ids[:, 4000:4040], ids[:, 4040:] = 2, 3
        points, offset, _ = perfect_cells(ids, 4)
        mask = torch.ones_like(ids, dtype=torch.bool)
        # Offsets here reach 2000 and are rounded to 1 pixel; coordinates are not.
        assert torch.equal(group_cells(points, offset.half(), size=(16, 4096), mask=mask), ids)


class TestResizeOffsets:
    def test_each_pixel_votes_as_its_cell(self):
        offset = torch.randn(2, 2, 3, 5, dtype=torch.float64, requires_grad=True)
        full = resize_offsets(offset, (12, 20))
        assert full.shape == (2, 2, 12, 20)
        y, x = torch.meshgrid(torch.arange(12), torch.arange(20), indexing="ij")
        votes = full + torch.stack([y, x])
        middle = torch.stack([y // 4 * 4 + 1.5, x // 4 * 4 + 1.5])
        expected = offset[:, :, y // 4, x // 4] + middle
        assert torch.allclose(votes, expected)
        (full * torch.arange(20)).sum().backward()
        columns = torch.arange(20.0, dtype=torch.float64).view(5, 4).sum(dim=1) * 4
        assert torch.allclose(offset.grad, columns.expand(2, 2, 3, 5))

    def test_exact_for_perfect_cells(self):
        ids = torch.arange(1, 7).view(2, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)
        points, offset, _ = perfect_cells(ids, 4)
        full = resize_offsets(offset[None], (16, 24))[0]
        y, x = torch.meshgrid(torch.arange(16), torch.arange(24), indexing="ij")
        assert torch.allclose(full, points[ids - 1].permute(2, 0, 1) - torch.stack([y, x]))

    @pytest.mark.parametrize("size", [(1, 1), (7, 1), (1, 13), (9, 10), (2, 3)])
    def test_awkward_sizes(self, size):
        offset = torch.randn(1, 2, 2, 3)
        full = resize_offsets(offset, size)
        assert full.shape == (1, 2, *size) and torch.isfinite(full).all()
        if size == (2, 3):
            assert torch.allclose(full, offset, atol=1e-6)
        assert resize_offsets(offset.half(), size).dtype == torch.float32
        assert resize_offsets(offset[:0], size).shape == (0, 2, *size)


OFFSET, MASK, POINTS = torch.zeros(2, 2, 2), torch.ones(4, 4).bool(), torch.zeros(1, 2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"offset": OFFSET[:1]}, ValueError, r"offset .*\(2, h, w\).*\(1, 2, 2\)"),
        ({"offset": torch.zeros(2, 0, 2)}, ValueError, r"offset .*at least one cell"),
        ({"offset": OFFSET.long()}, TypeError, "offset .*floating.*int64"),
        ({"points": POINTS[0]}, ValueError, r"points .*\(K, 2\)"),
        ({"size": (3, 4)}, ValueError, r"mask .*size \(3, 4\).*\(4, 4\)"),
        ({"mask": MASK.long()}, TypeError, "mask .*bool"),
        ({"cell_weight": torch.ones(3, 3)}, ValueError, r"cell_weight .*\(2, 2\).*\(3, 3\)"),
        ({"cell_weight": -torch.ones(2, 2)}, ValueError, "cell_weight .*at least 0.*-1"),
        ({"cell_weight": torch.ones(5, 2, 2)}, ValueError, "semantic .*cell_weight.*None"),
        (
            {"cell_weight": torch.ones(5, 2, 2), "semantic": torch.full((4, 4), 5)},
            ValueError,
            r"semantic .*0\.\.4.*5",
        ),
    ],
)
def test_guards(changes, error, message):
    arguments = {"points": POINTS, "offset": OFFSET, "size": (4, 4), "mask": MASK, **changes}
    with pytest.raises(error, match=message):
        group_cells(**arguments)


def test_resize_guards():
    with pytest.raises(ValueError, match=r"offset .*\(N, 2, h, w\).*\(2, 2, 2\)"):
        resize_offsets(OFFSET, (4, 4))
    with pytest.raises(ValueError, match=r"at least one pixel.*\(0, 4\)"):
        resize_offsets(OFFSET[None], (0, 4))


class TestRealPictures:
    """PQ left by perfect maps of stride 4: what the grouping loses, nothing else."""

    STRIDE = 4

    @pytest.fixture
    def truth(self):
        image = pytest.importorskip("PIL.Image")
        pytest.importorskip("cityscapesscripts", reason="computes PQ")
        if not SAMPLE.is_dir():
            pytest.skip("the COCO sample is not beside this checkout (../shared/data)")
        truth = json.loads((SAMPLE / "panoptic.json").read_text())
        index = {c["id"]: n for n, c in enumerate(truth["categories"])}
        things = [n for n, c in enumerate(truth["categories"]) if c["isthing"]]
        make = PanopticTargets(ignore_label=255, thing_ids=things, crowd="instance")
        pictures = []
        for annotation in truth["annotations"]:
            ids = rgb_to_id(np.array(image.open(SAMPLE / "panoptic" / annotation["file_name"])))
            infos = [
                {**info, "category_id": index[info["category_id"]]}
                for info in annotation["segments_info"]
            ]
            pictures.append((ids, make(ids, infos)))
        return truth, things, pictures

    def score(self, truth, predictions, folder):
        from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import evaluatePanoptic
        from PIL import Image

        annotations = []
        categories = [c["id"] for c in truth["categories"]]
        for annotation, panoptic in zip(truth["annotations"], predictions, strict=True):
            labels, ids = panoptic.unique(return_inverse=True)
            ids = ids + 1
            ids[panoptic < 0] = 0
            name = annotation["file_name"]
            Image.fromarray(id_to_rgb(ids.numpy())).save(folder / name)
            infos = [
                {"id": n, "category_id": categories[label // 1000]}
                for n, label in enumerate(labels.tolist(), start=1)
                if label >= 0
            ]
            image_id = annotation["image_id"]
            annotations.append({"image_id": image_id, "file_name": name, "segments_info": infos})
        (folder / "found.json").write_text(json.dumps({"annotations": annotations}))
        with contextlib.redirect_stdout(io.StringIO()):
            result = evaluatePanoptic(
                str(SAMPLE / "panoptic.json"),
                str(SAMPLE / "panoptic"),
                str(folder / "found.json"),
                str(folder),
                str(folder / "pq.json"),
            )
        return 100 * result["All"]["pq"]

    def predict(self, targets, things, way):
        height, width = targets["sem_seg"].shape
        extent = tuple(-(-side // self.STRIDE) * self.STRIDE for side in (height, width))
        padding = (0, extent[1] - width, 0, extent[0] - height)
        labels = F.pad(targets["sem_seg"], padding, value=255)
        classes = F.one_hot(labels.clamp_max(133), 134).permute(2, 0, 1)[:133].float()
        classes = F.avg_pool2d(classes[None], self.STRIDE)  # (1, 133, h, w)
        semantic = F.interpolate(classes, size=extent, mode="bilinear")[0].argmax(dim=0)
        offset = targets["offset"]
        options = {}
        if way != "full resolution":
            # Per cell the middle vote (per axis) of its thing pixels: what the L1 loss leads to.
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            votes = offset + torch.stack([y, x])
            votes[:, ~torch.isin(targets["sem_seg"], torch.tensor(things))] = torch.nan
            votes = F.pad(votes, padding, value=torch.nan)
            votes = votes.unfold(1, 4, 4).unfold(2, 4, 4).flatten(3).nanmedian(dim=3).values
            offset = (votes - self.middles(votes)).nan_to_num()  # 0 where there is no thing
        if way == "bilinear":
            offset = F.interpolate(offset[None], size=extent, mode="bilinear")[0]
            offset = offset[:, :height, :width]
        elif way == "cells":
            options = {"grouping": "cells", "cell_weight": classes[0], "cell_extent": extent}
        return panoptic_segmentation(
            semantic[:height, :width],
            targets["center"],
            offset,
            thing_ids=things,
            label_divisor=1000,
            stuff_area=0,
            **options,
        ).panoptic

    def middles(self, like):
        y, x = ((torch.arange(n) + 0.5) * self.STRIDE - 0.5 for n in like.shape[1:])
        return torch.stack(torch.meshgrid(y, x, indexing="ij"))

    def test_cells_lose_little(self, truth, tmp_path):
        document, things, pictures = truth
        pq = {}
        for way in ("full resolution", "bilinear", "cells"):
            found = [self.predict(targets, things, way) for _, targets in pictures]
            pq[way] = self.score(document, found, tmp_path)
        assert pq["full resolution"] > 96  # the semantic map's share of the loss
        assert pq["cells"] > pq["full resolution"] - 1
        assert pq["cells"] > pq["bilinear"] + 3
