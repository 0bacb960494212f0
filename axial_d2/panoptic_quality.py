"""panopticapi's `pq_compute`, from whichever package that counts segments is installed.

panopticapi and cityscapesscripts carry the same counting (matches, misses, false alarms, with void
and crowds set aside) for any categories in COCO's format. Averaging is ours, because both divide by
zero where a group, all things say, has no class that occurs.
"""

import json
import multiprocessing
import os
from collections.abc import Iterable, Mapping
from types import ModuleType

import numpy as np
from PIL import Image

from axial_d2.import_hooks import is_found
from axial_d2.panoptic.encoding import rgb_to_id

_QUALITIES = ("pq", "sq", "rq")
# Below this many pictures starting a pool of processes takes longer than it saves.
_FEW = 64


def _counting() -> ModuleType:
    if is_found("panopticapi"):
        from panopticapi import evaluation

        return evaluation
    if is_found("cityscapesscripts"):
        from cityscapesscripts.evaluation import evalPanopticSemanticLabeling

        return evalPanopticSemanticLabeling
    raise ImportError(
        "panoptic quality is counted by cityscapesscripts or by panopticapi, and neither is "
        "installed; `pip install cityscapesscripts`",
        name="cityscapesscripts",
    )


def _average(classes: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean over classes that occur, in the truth or in a prediction; nan where there is none."""
    occurring = [c for c in classes if c["tp"] + c["fp"] + c["fn"]]
    n = len(occurring)
    mean = {key: sum(c[key] for c in occurring) / n if n else float("nan") for key in _QUALITIES}
    return {**mean, "n": n}


def _class_result(iou: float, tp: int, fp: int, fn: int) -> dict[str, float]:
    """Kirillov et al., "Panoptic Segmentation", equation 2, with 0 for a class that is nowhere."""
    pairs = tp + 0.5 * fp + 0.5 * fn
    return {
        "pq": iou / pairs if pairs else 0.0,
        "sq": iou / tp if tp else 0.0,
        "rq": tp / pairs if pairs else 0.0,
        "tp": tp,
        "fp": fp,
        "fn": fn,
    }


def _complete(annotation: dict, folder: str) -> dict:
    """The annotation with what the counting reads and COCO's format lets one leave out."""
    segments = [{"iscrowd": 0, **segment} for segment in annotation["segments_info"]]
    if any("area" not in segment for segment in segments):
        with Image.open(os.path.join(folder, annotation["file_name"])) as image:
            ids = rgb_to_id(np.asarray(image.convert("RGB")))
        areas = dict(zip(*(x.tolist() for x in np.unique(ids, return_counts=True)), strict=True))
        segments = [{**segment, "area": areas.get(segment["id"], 0)} for segment in segments]
    return {**annotation, "segments_info": segments}


def pq_compute(
    gt_json_file: str,
    pred_json_file: str,
    gt_folder: str | None = None,
    pred_folder: str | None = None,
) -> dict[str, dict]:
    """Panoptic quality of predictions in COCO's panoptic format.

    Args:
        gt_json_file: the truth; each of its pictures needs a prediction.
        pred_json_file: the predictions, same format; `categories` are read from the truth.
        gt_folder: where the truth's PNGs are; by default the json's name without ".json".
        pred_folder: where the predictions' PNGs are; likewise.

    Returns:
        "All", "Things", "Stuff": pq, sq, rq in 0..1 (nan where no class occurs) and n, the number
        of classes that occur; "per_class": by category id pq, sq, rq and the counts tp, fp, fn.

    Raises:
        ValueError: a picture has no prediction.
        KeyError: a picture and its segments_info disagree.
        ImportError: neither panopticapi nor cityscapesscripts is installed.
    """
    counting = _counting()
    with open(gt_json_file) as file:
        truth = json.load(file)
    with open(pred_json_file) as file:
        predictions = {p["image_id"]: p for p in json.load(file)["annotations"]}
    categories = {category["id"]: category for category in truth["categories"]}
    missing = [a["image_id"] for a in truth["annotations"] if a["image_id"] not in predictions]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(truth['annotations'])} pictures in {gt_json_file} have no "
            f"prediction, the first with image_id {missing[0]!r}"
        )
    gt_folder = gt_folder or gt_json_file.removesuffix(".json")
    pred_folder = pred_folder or pred_json_file.removesuffix(".json")
    pairs = [(_complete(a, gt_folder), predictions[a["image_id"]]) for a in truth["annotations"]]
    if len(pairs) < _FEW or (os.cpu_count() or 1) == 1 or multiprocessing.current_process().daemon:
        counts = counting.pq_compute_single_core(0, pairs, gt_folder, pred_folder, categories)
    else:
        counts = counting.pq_compute_multi_core(pairs, gt_folder, pred_folder, categories)

    per_class = {}
    for label in categories:
        c = counts[label]
        per_class[label] = _class_result(float(c.iou), c.tp, c.fp, c.fn)
    things = [per_class[k] for k, c in categories.items() if c["isthing"]]
    stuff = [per_class[k] for k, c in categories.items() if not c["isthing"]]
    return {
        "All": _average(per_class.values()),
        "Things": _average(things),
        "Stuff": _average(stuff),
        "per_class": per_class,
    }
