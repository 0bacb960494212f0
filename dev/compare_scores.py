#!/usr/bin/env python
"""Compares this project's scores with those of the official scripts on random pictures.

    python dev/compare_scores.py --cases 200

Each picture is scored alone, and all of them together, by ours (while they come) and by the others
(on files): cityscapesscripts' panoptic quality, which is panopticapi's counting; pycocotools' mask
AP; cityscapesscripts' instance AP and IoU; and a loop over classes for mIoU. The pictures have
void, crowds, classes that do not occur, missed and invented segments; some have no truth or no
prediction at all. The exit code is 1 where a score differs by more than a millionth of a percent.
"""

import argparse
import contextlib
import io
import json
import logging
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import axial_d2  # noqa: E402, F401  (first: it makes Detectron2 ready)

# isort: split
import torch  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from detectron2.structures import Instances  # noqa: E402
from PIL import Image  # noqa: E402
from pycocotools import mask as rle  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402
from tabulate import tabulate  # noqa: E402

from axial_d2.config import add_axial_config  # noqa: E402
from axial_d2.data import segment_classes  # noqa: E402
from axial_d2.data.datasets.coco_panoptic import dicts_of_panoptic, panoptic_metadata  # noqa: E402
from axial_d2.data.preparation.cityscapes import categories, panoptic_of  # noqa: E402
from axial_d2.evaluation import build_evaluator  # noqa: E402

_BOUND = 1e-6
_SIZE = (48, 72)
_THINGS = (24, 25, 26, 27, 28, 31, 32, 33)
_STUFF = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23)
_VOID = (0, 4)


class Case(NamedTuple):
    """One picture: ids are class * 1000 + number, or the class for stuff and crowds."""

    name: str
    truth: np.ndarray
    found: np.ndarray
    scores: dict[int, float]  # of the things found, by id


def make_cases(count: int) -> Iterator[Case]:
    """Random pictures, the same every time."""
    rng = np.random.default_rng(0)
    for number in range(count):
        stuff = rng.choice(_STUFF, rng.integers(1, 4), replace=False)
        things = rng.choice(_THINGS, rng.integers(0, 3), replace=False)
        instances = [1000 * k + i for k in things for i in range(rng.integers(1, 4))]
        crowds = [k for k in things if rng.random() < 0.4]
        truth = _blocks(rng, [*stuff, *instances, *crowds, *_VOID])
        known = np.unique(truth[truth > 10])
        found = np.where(_blocks(rng, [0, 1, 2]) == 0, _blocks(rng, [*known, 0, 24001, 23]), truth)
        found = np.roll(found, rng.integers(0, 2), axis=1)
        # Crowds and what is not evaluated cannot be predicted.
        found[np.isin(found, [*_THINGS, *_VOID])] = 0
        if number % 10 == 0:
            truth = np.zeros_like(truth)
        if number % 10 == 1:
            found = np.zeros_like(found)
        scores = {int(k): float(rng.random()) for k in np.unique(found) if k >= 1000}
        yield Case(f"city_000000_{number:06}", truth, found, scores)


def _blocks(rng: np.random.Generator, choices: Any) -> np.ndarray:
    height, width = _SIZE
    coarse = rng.choice(np.asarray(choices), size=(height // 6, width // 8))
    return coarse.repeat(6, axis=0).repeat(8, axis=1)


def _class_of(ids: np.ndarray) -> np.ndarray:
    return np.where(ids >= 1000, ids // 1000, ids)


def write_truth(root: Path, cases: list[Case]) -> dict[str, Any]:
    """Cityscapes' files of the truth; returns the content of a panoptic json."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories()}
    for folder in ("gtFine/val/city", "panoptic", "images"):
        (root / folder).mkdir(parents=True)
    for case in cases:
        path = root / f"gtFine/val/city/{case.name}_gtFine_instanceIds.png"
        Image.fromarray(case.truth.astype(np.uint16)).save(path)
        labels = Image.fromarray(_class_of(case.truth).astype(np.uint8))
        labels.save(str(path).replace("instanceIds", "labelIds"))
        image, annotation, pixels = panoptic_of(str(path))
        Image.fromarray(pixels).save(root / "panoptic" / annotation["file_name"])
        image["file_name"] = f"{case.name}_leftImg8bit.png"
        Image.new("RGB", case.truth.shape[::-1]).save(root / "images" / image["file_name"])
        content["images"].append(image)
        content["annotations"].append(annotation)
    (root / "panoptic.json").write_text(json.dumps(content))
    return content


def register(root: Path, name: str, content: dict[str, Any], evaluator_type: str) -> None:
    """Registers the pictures as a dataset of this type."""
    paths = str(root / "images"), str(root / "panoptic"), str(root / "panoptic.json")
    DatasetCatalog.register(name, lambda: dicts_of_panoptic(*paths, content))
    fields = {**panoptic_metadata(content["categories"]), "evaluator_type": evaluator_type}
    MetadataCatalog.get(name).set(
        image_root=paths[0],
        panoptic_root=paths[1],
        panoptic_json=paths[2],
        gt_dir=str(root / "gtFine/val"),
        **fields,
    )


def output_of(case: Case, dataset_ids: tuple[int, ...]) -> dict[str, Any]:
    """What a model would give."""
    contiguous = {value: index for index, value in enumerate(dataset_ids)}
    present = [int(k) for k in np.unique(case.found) if k]
    infos = [{"id": k, "category_id": contiguous[k // 1000 if k >= 1000 else k]} for k in present]
    instances = Instances(case.found.shape)
    keys = list(case.scores)
    masks = np.stack([case.found == k for k in keys]) if keys else np.zeros((0, *_SIZE), bool)
    instances.pred_masks = torch.from_numpy(masks)
    instances.pred_classes = torch.tensor([contiguous[k // 1000] for k in keys], dtype=torch.int64)
    instances.scores = torch.tensor(list(case.scores.values()), dtype=torch.float64)
    labels = _class_of(case.found)
    table = np.array([contiguous.get(k, -1) for k in range(labels.max() + 1)])
    return {
        "panoptic_seg": (torch.from_numpy(case.found), infos),
        "instances": instances,
        "sem_seg": torch.from_numpy(table[labels]),
    }


def ours(name: str, cases: list[Case]) -> dict[str, float]:
    """The scores of the cases, by this project."""
    cfg = get_cfg()
    add_axial_config(cfg)
    evaluators = build_evaluator(cfg, name)
    evaluators.reset()
    records = {Path(r["file_name"]).name: r for r in DatasetCatalog.get(name)}
    ids = segment_classes(name).dataset_ids
    for case in cases:
        evaluators.process([records[f"{case.name}_leftImg8bit.png"]], [output_of(case, ids)])
    results = evaluators.evaluate()
    return {
        f"{task} {key}": value
        for task, scores in results.items()
        for key, value in scores.items()
        if not key.startswith(("ACC-", "fwIoU", "mACC", "pACC"))
    }


def official_panoptic(root: Path, cases: list[Case], names: dict[int, str]) -> dict[str, float]:
    """cityscapesscripts' counting on files; averaged here, as it divides by no classes."""
    from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as script

    content = json.loads((root / "panoptic.json").read_text())
    by_name = {a["image_id"]: a for a in content["annotations"]}
    folder = root / "predicted"
    folder.mkdir(exist_ok=True)
    pairs = []
    for case in cases:
        ids = case.found
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"{case.name}.png")
        infos = [
            {"id": int(k), "category_id": int(k // 1000 if k >= 1000 else k)}
            for k in np.unique(ids)
            if k
        ]
        predicted = {"file_name": f"{case.name}.png", "segments_info": infos}
        pairs.append((by_name[case.name], predicted))
    known = {c["id"]: c for c in content["categories"]}
    counts = script.pq_compute_single_core(0, pairs, str(root / "panoptic"), str(folder), known)
    per_class: dict[int, tuple[float, float, float]] = {}
    for key in known:
        c = counts[key]
        pairs_of_class = c.tp + 0.5 * c.fp + 0.5 * c.fn
        nan = float("nan")
        per_class[key] = (
            (c.iou / pairs_of_class, c.iou / c.tp if c.tp else 0.0, c.tp / pairs_of_class)
            if pairs_of_class
            else (nan, nan, nan)
        )
    scores = {}
    for column, quality in enumerate(("PQ", "SQ", "RQ")):
        for suffix, kinds in (("", (0, 1)), ("_th", (1,)), ("_st", (0,))):
            values = [v[column] for k, v in per_class.items() if known[k]["isthing"] in kinds]
            scores[f"panoptic_seg {quality}{suffix}"] = 100 * _mean(values)
        for key, values in per_class.items():
            scores[f"panoptic_seg {quality}-{names[key]}"] = 100 * values[column]
    return scores


def official_coco(cases: list[Case], names: dict[int, str]) -> dict[str, float]:
    """pycocotools on all instances at once."""
    truth, found = [], []
    for number, case in enumerate(cases):
        for key in np.unique(case.truth).tolist():
            category = key // 1000 if key >= 1000 else key
            if category in _THINGS:
                truth.append(_annotation(number, case.truth == key, category, crowd=key < 1000))
        for key, score in case.scores.items():
            found.append({**_annotation(number, case.found == key, key // 1000), "score": score})
    tools = []
    for annotations in (truth, found):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": n, "height": _SIZE[0], "width": _SIZE[1]} for n in range(len(cases))],
            "categories": [{"id": k} for k in _THINGS],
            "annotations": [{**a, "id": n} for n, a in enumerate(annotations, start=1)],
        }
        coco.createIndex()
        tools.append(coco)
    comparison = COCOeval(*tools, iouType="segm")
    comparison.evaluate()
    comparison.accumulate()
    comparison.summarize()
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    scores = {
        f"segm {key}": 100 * value if value >= 0 else float("nan")
        for key, value in zip(keys, comparison.stats, strict=False)
    }
    precision = comparison.eval["precision"][:, :, :, 0, -1]
    for index, key in enumerate(_THINGS):
        for quality, part in (("AP", precision[:, :, index]), ("AP50", precision[:1, :, index])):
            known = part[part > -1]
            scores[f"segm {quality}-{names[key]}"] = 100 * known.mean() if known.size else math.nan
    return scores


def _annotation(number: int, mask: np.ndarray, category: int, crowd: bool = False) -> dict:
    return {
        "image_id": number,
        "category_id": category,
        "iscrowd": int(crowd),
        "area": int(mask.sum()),
        "segmentation": rle.encode(np.asfortranarray(mask.astype(np.uint8))),
    }


def official_cityscapes(root: Path, cases: list[Case], names: dict[int, str]) -> dict[str, float]:
    """cityscapesscripts' two comparisons of folders."""
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instance_script
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as pixel_script

    truth = [str(root / f"gtFine/val/city/{c.name}_gtFine_instanceIds.png") for c in cases]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        texts, labels = [], []
        for case in cases:
            lines = []
            for key, score in case.scores.items():
                Image.fromarray(((case.found == key) * 255).astype(np.uint8)).save(
                    f"{case.name}_{key}.png"
                )
                lines.append(f"{case.name}_{key}.png {key // 1000} {score}\n")
            Path(f"{case.name}.txt").write_text("".join(lines))
            texts.append(os.path.join(folder, f"{case.name}.txt"))
            labels.append(os.path.join(folder, f"{case.name}_labels.png"))
            Image.fromarray(_class_of(case.found).astype(np.uint8)).save(labels[-1])
        args = instance_script.args
        args.predictionPath, args.gtInstancesFile = os.path.abspath(folder), "instances.json"
        args.JSONOutput, args.quiet = False, True
        averages = instance_script.evaluateImgLists(texts, truth, args)["averages"]
        args = pixel_script.args
        args.JSONOutput, args.quiet = False, True
        truth = [path.replace("instanceIds", "labelIds") for path in truth]
        pixel = pixel_script.evaluateImgLists(labels, truth, args)
    scores = {
        "segm AP": 100 * averages["allAp"],
        "segm AP50": 100 * averages["allAp50%"],
        "sem_seg mIoU": 100 * pixel["averageScoreClasses"],
        "sem_seg iIoU": 100 * pixel["averageScoreInstClasses"],
        "sem_seg IoU_sup": 100 * pixel["averageScoreCategories"],
        "sem_seg iIoU_sup": 100 * pixel["averageScoreInstCategories"],
    }
    for name, each in averages["classes"].items():
        scores[f"segm AP-{name}"] = 100 * each["ap"]
        scores[f"segm AP50-{name}"] = 100 * each["ap50%"]
    for name in names.values():
        scores[f"sem_seg IoU-{name}"] = 100 * pixel["classScores"][name]
    return {key: float(value) for key, value in scores.items()}


def loop_over_classes(cases: list[Case], names: dict[int, str]) -> dict[str, float]:
    """mIoU by its definition: the mean over the classes that the truth has; void is left out."""
    truth = np.concatenate([_class_of(case.truth).ravel() for case in cases])
    found = np.concatenate([_class_of(case.found).ravel() for case in cases])
    known = np.isin(truth, list(names))
    scores = {}
    for key, name in names.items():
        a, b = known & (truth == key), known & (found == key)
        iou = 100 * (a & b).sum() / (a | b).sum() if a.any() else float("nan")
        scores[f"sem_seg IoU-{name}"] = float(iou)
    return {"sem_seg mIoU": _mean(list(scores.values())), **scores}


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def difference(mine: dict[str, float], theirs: dict[str, float]) -> float:
    """The largest difference of what both have; infinite where one alone has a value."""
    worst = 0.0
    for key, value in theirs.items():
        if math.isnan(value) != math.isnan(mine[key]):
            return math.inf
        if not math.isnan(value):
            worst = max(worst, abs(value - mine[key]))
    return worst


def compare(root: Path, count: int) -> list[tuple[str, int, float, float, float, float]]:
    """Scores everything both ways.

    Returns:
        Per measure: its name, how many numbers a picture has, the largest difference of a picture
        alone and of all together, and of the latter the first score, ours and theirs, in percent.
    """
    cases = list(make_cases(count))
    content = write_truth(root, cases)
    names = {c["id"]: c["name"] for c in content["categories"]}
    kinds = {"coco": "coco_panoptic_seg", "cityscapes": "cityscapes_panoptic_seg"}
    for name, kind in kinds.items():
        register(root, f"compared_{name}", content, kind)
    measures = {
        "PQ, SQ, RQ: cityscapesscripts (panopticapi's counting)": (
            "coco", lambda chosen: official_panoptic(root, chosen, names),
        ),
        "mask AP: pycocotools": ("coco", lambda chosen: official_coco(chosen, names)),
        "mIoU: a loop over classes": ("coco", lambda chosen: loop_over_classes(chosen, names)),
        "Cityscapes' AP and IoU: cityscapesscripts": (
            "cityscapes", lambda chosen: official_cityscapes(root, chosen, names),
        ),
    }  # fmt: skip
    try:
        rows = []
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            alone = {kind: [ours(f"compared_{kind}", [c]) for c in cases] for kind in kinds}
            together = {kind: ours(f"compared_{kind}", cases) for kind in kinds}
            for title, (kind, score) in measures.items():
                worst = max(
                    difference(mine, score([case]))
                    for mine, case in zip(alone[kind], cases, strict=True)
                )
                theirs = score(cases)
                first = next(iter(theirs))
                rows.append(
                    (title, len(theirs), worst, difference(together[kind], theirs),
                     together[kind][first], theirs[first])
                )  # fmt: skip
        return rows
    finally:
        for name in kinds:
            DatasetCatalog.remove(f"compared_{name}")
            MetadataCatalog.remove(f"compared_{name}")


def main() -> int:
    """Compares and prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200, metavar="N", help="pictures")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # that a picture has no instance, a hundred times
    with tempfile.TemporaryDirectory(prefix="axial_d2_scores_") as folder:
        rows = compare(Path(folder), args.cases)
    headers = (
        "scored by", "numbers", f"largest difference, {args.cases} pictures alone", "together",
        "ours", "theirs",
    )  # fmt: skip
    table = [(t, n, f"{a:.1e}", f"{b:.1e}", f"{x:.4f}", f"{y:.4f}") for t, n, a, b, x, y in rows]
    print(tabulate(table, headers, tablefmt="pipe", disable_numparse=True))
    return int(any(max(row[2], row[3]) > _BOUND for row in rows))


if __name__ == "__main__":
    sys.exit(main())
