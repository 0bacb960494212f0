#!/usr/bin/env python
"""Where should maps of several scales be averaged? PQ that each way leaves of perfect maps.

For each scale, and mirrored where there are several, the maps that a perfect network of stride 4
would give are made from the truth: of each cell the shares of the classes among its pixels, the
heat-map's mean, and the middle of its pixels' votes. They are averaged, merged once and compared
with the truth they came from: what is lost is the averaging's and the merging's. With --noise they
are a less perfect network's.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.panoptic import MapAverage, PanopticTargets, id_to_rgb, panoptic_segmentation
from axial_d2.panoptic import rgb_to_id
from axial_d2.panoptic_quality import pq_compute

WAYS = {
    "largest": "cells of the largest scale",
    "one": "cells of scale 1",
    "pixels": "every pixel, votes kept",
    "bilinear": "every pixel, offsets bilinear",
}
STRIDE, PADDED = 4, 16
# Shares become logits by their logarithm; this is that of a class without a pixel.
FLOOR = 1e-3
# Standard deviations that --noise 1 adds, to offsets in pixels of the scale, logits and heat-map.
NOISE = {"offset": 1.5, "sem_seg": 1.0, "center": 0.03}


class Truth:
    """The pictures of a folder in COCO's panoptic format."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.document = json.loads((folder / "panoptic.json").read_text())
        categories = self.document["categories"]
        self.classes = len(categories)
        self.ids = [c["id"] for c in categories]
        self.things = [n for n, c in enumerate(categories) if c["isthing"]]
        self._targets = PanopticTargets(ignore_label=255, thing_ids=self.things, crowd="instance")
        self._made: dict[tuple, tuple] = {}
        self.pictures = [self._read(annotation) for annotation in self.document["annotations"]]

    def _read(self, annotation: dict) -> tuple[np.ndarray, list[dict]]:
        with Image.open(self.folder / "panoptic" / annotation["file_name"]) as image:
            ids = rgb_to_id(np.array(image.convert("RGB")))
        numbers = {identity: n for n, identity in enumerate(self.ids)}
        infos = annotation["segments_info"]
        return ids, [{**i, "category_id": numbers[i["category_id"]]} for i in infos]

    def perfect_maps(
        self, picture: int, scale: float, mirrored: bool
    ) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Maps by name (offsets in pixels of the scale), and the size at the scale; made once."""
        key = (picture, scale, mirrored)
        if key not in self._made:
            self._made[key] = self._make_maps(*key)
        maps, size = self._made[key]
        return dict(maps), size

    def _make_maps(
        self, picture: int, scale: float, mirrored: bool
    ) -> tuple[dict[str, Tensor], tuple[int, int]]:
        ids, infos = self.pictures[picture]
        size = (max(1, round(ids.shape[0] * scale)), max(1, round(ids.shape[1] * scale)))
        rows, columns = (
            ((np.arange(n) + 0.5) * full / n).astype(int)
            for n, full in zip(size, ids.shape, strict=True)
        )
        # Mirrored first, so that rounding falls to the other side.
        own = (ids[:, ::-1] if mirrored else ids)[rows][:, columns]
        target = self._targets(np.ascontiguousarray(own), infos)
        padding = (0, -size[1] % PADDED, 0, -size[0] % PADDED)
        labels = F.pad(target["sem_seg"], padding, value=255).clamp_max(self.classes)
        y, x = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
        votes = target["offset"] + torch.stack([y, x])
        votes[:, ~torch.isin(target["sem_seg"], torch.tensor(self.things))] = torch.nan
        votes = F.pad(votes, padding, value=torch.nan)
        votes = votes.unfold(1, STRIDE, STRIDE).unfold(2, STRIDE, STRIDE).flatten(3)
        votes = votes.nanmedian(dim=3).values  # (2, h, w), what the absolute error leads to
        middles = [(torch.arange(n) + 0.5) * STRIDE - 0.5 for n in votes.shape[1:]]
        maps = {
            "sem_seg": (self._shares(labels) + FLOOR).log(),
            "center": F.avg_pool2d(F.pad(target["center"], padding)[None], STRIDE),
            # 0 where there is no thing.
            "offset": (votes - torch.stack(torch.meshgrid(*middles, indexing="ij"))).nan_to_num(),
        }
        return maps, size

    def _shares(self, labels: Tensor) -> Tensor:
        """Of each cell the share of every class among its pixels, (C, h, w)."""
        height, width = (n // STRIDE for n in labels.shape)
        rows, columns = (torch.arange(n) // STRIDE for n in labels.shape)
        cell = rows[:, None] * width + columns
        counts = torch.bincount(
            (labels * (height * width) + cell).flatten(),
            minlength=(self.classes + 1) * height * width,
        )
        counts = counts.view(-1, height, width)  # (C + 1, h, w), the last for void
        return counts[: self.classes].float() / STRIDE**2

    def quality(self, panoptics: list[Tensor]) -> float:
        """PQ in percent of one map of labels per picture."""
        with tempfile.TemporaryDirectory() as name:
            found = []
            for truth, panoptic in zip(self.document["annotations"], panoptics, strict=True):
                labels, ids = panoptic.unique(return_inverse=True)
                rgb = id_to_rgb(torch.where(panoptic < 0, 0, ids + 1).numpy())
                Image.fromarray(rgb).save(Path(name, truth["file_name"]))
                infos = [
                    {"id": n, "category_id": self.ids[label // 1000]}
                    for n, label in enumerate(labels.tolist(), start=1)
                    if label >= 0
                ]
                found.append(
                    {k: truth[k] for k in ("image_id", "file_name")} | {"segments_info": infos}
                )
            path = Path(name, "found.json")
            path.write_text(json.dumps({"annotations": found}))
            truth_file = str(self.folder / "panoptic.json")
            with contextlib.redirect_stdout(io.StringIO()):
                return 100 * pq_compute(truth_file, str(path), None, name)["All"]["pq"]


def views(
    truth: Truth, picture: int, scales: list[float], noise: float
) -> Iterator[tuple[dict[str, Tensor], bool, list[float]]]:
    """Maps with offsets in pixels of the picture, whether mirrored, and what the cells cover."""
    generator = torch.Generator().manual_seed(0)
    full = truth.pictures[picture][0].shape
    for scale in sorted(scales, reverse=True):
        for mirrored in (False, True) if len(scales) > 1 else (False,):
            maps, size = truth.perfect_maps(picture, scale, mirrored)
            for name, deviation in NOISE.items() if noise else ():
                random = torch.randn(maps[name].shape, generator=generator)
                maps[name] = maps[name] + noise * deviation * random
            ratio = [out / own for out, own in zip(full, size, strict=True)]
            maps["offset"] = maps["offset"] * torch.tensor(ratio).view(2, 1, 1)
            cells = maps["center"].shape[1:]
            covered = [n * STRIDE * r for n, r in zip(cells, ratio, strict=True)]
            yield maps, mirrored, covered


def merge(truth: Truth, picture: int, scales: list[float], noise: float, way: str) -> Tensor:
    """The panoptic map of one picture, averaged one way."""
    height, width = size = truth.pictures[picture][0].shape
    cells, extent = size, size
    if way in ("largest", "one"):
        scale = max(scales) if way == "largest" else 1.0
        own = [max(1, round(n * scale)) for n in size]
        padded = [-(-n // PADDED) * PADDED for n in own]
        cells = tuple(n // STRIDE for n in padded)
        extent = tuple(round(p * n / o) for p, n, o in zip(padded, size, own, strict=True))
    average = MapAverage(size=size, cells=cells, extent=extent)
    blurred, count = torch.zeros(2, height, width), 0
    for maps, mirrored, covered in views(truth, picture, scales, noise):
        average.add(**maps, covered=tuple(covered), mirrored=mirrored)
        if way == "bilinear":
            whole = [round(c) for c in covered]
            offset = F.interpolate(maps["offset"][None], size=whole, mode="bilinear")[0]
            offset = offset[:, :height, :width]
            blurred += offset.flip(2) * torch.tensor([1, -1]).view(2, 1, 1) if mirrored else offset
            count += 1
    sem_seg, center, offset = average.mean()
    options = {}
    if way in ("largest", "one"):
        options = {
            "grouping": "cells",
            "cell_weight": sem_seg.softmax(dim=0),
            "cell_extent": extent,
        }
        sem_seg, center = (
            F.interpolate(m[None], size=extent, mode="bilinear")[0, :, :height, :width]
            for m in (sem_seg, center)
        )
    return panoptic_segmentation(
        sem_seg.argmax(dim=0),
        center,
        blurred / count if way == "bilinear" else offset,
        thing_ids=truth.things,
        label_divisor=1000,
        stuff_area=0,
        **options,
    ).panoptic


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="with panoptic.json and panoptic/")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 0.75, 1.0, 1.25, 1.5])
    parser.add_argument("--noise", type=float, default=0.0, help="0: perfect maps")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    truth = Truth(args.folder)
    for way in args.ways:
        pictures = range(len(truth.pictures))
        found = [merge(truth, n, args.scales, args.noise, way) for n in pictures]
        print(f"{WAYS[way]:32}PQ {truth.quality(found):.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
