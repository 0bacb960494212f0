#!/usr/bin/env python
"""Measures the memory and time of a long evaluation with made-up predictions, without a model.

    python dev/measure_evaluation.py --pictures 5000

Truth and predictions are a few hundred maps of 480x640 with about ten segments, used over and over
under other names; the predictions are the truth with parts painted over. Prints, every tenth part,
the process's resident memory above that of the start, of all evaluators together.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import axial_d2  # noqa: E402, F401  (first: it makes Detectron2 ready)

# isort: split
import torch  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.data import DatasetCatalog  # noqa: E402
from detectron2.structures import Instances  # noqa: E402
from PIL import Image  # noqa: E402
from tabulate import tabulate  # noqa: E402

from axial_d2.config import add_axial_config  # noqa: E402
from axial_d2.data import register_coco_panoptic  # noqa: E402
from axial_d2.evaluation import build_evaluator  # noqa: E402

_SIZE = (480, 640)
_MAPS = 200
_CLASSES = 30
_THINGS = 20
_NAME = "measured_evaluation"


def make_map(rng: np.random.Generator) -> np.ndarray:
    """Bands of stuff, and boxes of things before them; id = class * 1000 + number, 0 is void."""
    ids = np.zeros(_SIZE, dtype=np.int64)
    for row in range(0, _SIZE[0], 160):
        ids[row : row + 160] = 1000 * int(rng.integers(_THINGS, _CLASSES))
    for number in range(8):
        top, left = rng.integers(0, _SIZE[0] - 60), rng.integers(0, _SIZE[1] - 60)
        height, width = rng.integers(20, 160, 2)
        ids[top : top + height, left : left + width] = (
            1000 * int(rng.integers(_THINGS)) + number + 1
        )
    ids[:, :8] = 0
    return ids


def write(root: Path, pictures: int) -> list[np.ndarray]:
    """The truth of so many pictures, over the same few files; registers it."""
    rng = np.random.default_rng(0)
    (root / "panoptic").mkdir()
    (root / "images").mkdir()
    maps = [make_map(rng) for _ in range(min(_MAPS, pictures))]
    infos = []
    for number, ids in enumerate(maps):
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
        Image.fromarray(rgb).save(root / f"panoptic/{number}.png")
        Image.new("RGB", _SIZE[::-1]).save(root / f"images/{number}.png")
        infos.append(
            [
                {"id": int(k), "category_id": int(k // 1000), "iscrowd": 0, "area": int(area)}
                for k, area in zip(*np.unique(ids, return_counts=True), strict=True)
                if k
            ]
        )
    size = {"height": _SIZE[0], "width": _SIZE[1]}
    content = {
        "images": [{"id": n, "file_name": f"{n % len(maps)}.png", **size} for n in range(pictures)],
        "annotations": [
            {
                "image_id": n,
                "file_name": f"{n % len(maps)}.png",
                "segments_info": infos[n % len(maps)],
            }
            for n in range(pictures)
        ],
        "categories": [
            {"id": k, "name": f"class {k}", "isthing": int(k < _THINGS)} for k in range(_CLASSES)
        ],
    }
    (root / "panoptic.json").write_text(json.dumps(content))
    register_coco_panoptic(_NAME, root / "images", root / "panoptic", root / "panoptic.json")
    return maps


def output_of(ids: np.ndarray, rng: np.random.Generator) -> dict:
    """A prediction: the truth, moved a little, with a patch of another segment."""
    found = np.roll(ids, int(rng.integers(-4, 5)), axis=1)
    row, column = rng.integers(0, _SIZE[0] - 80), rng.integers(0, _SIZE[1] - 80)
    found[row : row + 80, column : column + 80] = rng.choice(found[::40, ::40].ravel())
    present = np.unique(found)
    present = present[present > 0]
    infos = [
        {"id": int(k), "category_id": int(k // 1000), "isthing": k // 1000 < _THINGS}
        for k in present
    ]
    things = [k for k in present if k // 1000 < _THINGS]
    instances = Instances(_SIZE)
    instances.pred_masks = torch.from_numpy(np.stack([found == k for k in things]))
    instances.pred_classes = torch.tensor([k // 1000 for k in things])
    instances.scores = torch.from_numpy(rng.random(len(things)))
    labels = torch.from_numpy(found // 1000)
    return {
        "panoptic_seg": (torch.from_numpy(found), infos),
        "instances": instances,
        "sem_seg": torch.nn.functional.one_hot(labels, _CLASSES).permute(2, 0, 1),  # (C, H, W)
    }


def resident() -> float:
    """The process's resident memory in MB (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=5000, metavar="N")
    parser.add_argument(
        "--save", action="store_true", help="keep the predictions too (TEST.SAVE_PREDICTIONS)"
    )
    args = parser.parse_args()
    logging.disable(logging.INFO)
    rng = np.random.default_rng(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="axial_d2_measured_") as folder:
        maps = write(Path(folder), args.pictures)
        cfg = get_cfg()
        add_axial_config(cfg)
        if args.save:
            cfg.TEST.SAVE_PREDICTIONS = True
        evaluators = build_evaluator(cfg, _NAME, os.path.join(folder, "out"))
        evaluators.reset()
        records = DatasetCatalog.get(_NAME)
        start, spent = 0.0, 0.0
        step = max(1, args.pictures // 10)
        for number, record in enumerate(records):
            output = output_of(maps[number % len(maps)], rng)
            if number == 20:  # what is imported and read at first use is there by now
                start = resident()
            begun = time.perf_counter()
            evaluators.process([record], [output])
            spent += time.perf_counter() - begun
            if (number + 1) % step == 0:
                above = resident() - start
                rows.append((number + 1, f"{above:.0f}", f"{1000 * spent / (number + 1):.1f}"))
        begun = time.perf_counter()
        results = evaluators.evaluate()
        rows.append(
            ("the end", f"{resident() - start:.0f}", f"{time.perf_counter() - begun:.1f} s")
        )
    print(tabulate(rows, ("pictures", "MB", "ms a picture"), tablefmt="pipe"))
    scores = ("panoptic_seg", "PQ"), ("segm", "AP"), ("sem_seg", "mIoU")
    print(", ".join(f"{key} {results[task][key]:.2f}" for task, key in scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
