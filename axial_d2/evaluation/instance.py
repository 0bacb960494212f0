"""COCO's mask AP, with instances read from a panoptic truth."""

import contextlib
import io
import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from axial_d2.evaluation.tables import score_table
from axial_d2.evaluation.truth import PanopticTruth, TruthPicture

logger = logging.getLogger(__name__)

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class InstanceEvaluator(DatasetEvaluator):
    """AP of `instances` by pycocotools, against the things of the panoptic truth.

    Segments of thing classes are the truth's instances, crowds are COCO's crowds, areas are counted
    in pixels. Masks are kept run-length encoded from the moment they come.
    """

    def __init__(self, truth: PanopticTruth, output_dir: str | None = None):
        """
        Args:
            truth: what to compare with.
            output_dir: where to write the predictions, coco_instances_results.json; None: nowhere.
        """
        self._truth = truth
        self._output_dir = output_dir
        self._things = set(truth.thing_ids)
        self.reset()

    def reset(self) -> None:
        self._pictures: list[dict[str, Any]] = []

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Keeps the instances of a batch, those of the truth and those predicted.

        Args:
            inputs: per picture a dict with `image_id`.
            outputs: per picture a dict with `instances`: pred_masks (n, H, W) bool at the truth's
                size, scores (n,), pred_classes (n,) contiguous ids of things. Without the key:
                nothing was found.
        """
        for given, output in zip(inputs, outputs, strict=True):
            picture = self._truth.picture(given["image_id"])
            height, width = picture.index.shape
            self._pictures.append(
                {
                    "image_id": given["image_id"],
                    "height": height,
                    "width": width,
                    "truth": self._true_instances(picture),
                    "predicted": self._predicted_instances(output.get("instances"), picture),
                }
            )

    def _true_instances(self, picture: TruthPicture) -> list[dict[str, Any]]:
        return [
            {"category_id": category, "iscrowd": int(crowd), **_encode(mask)}
            for category, crowd, mask in picture.instances()
        ]

    def _predicted_instances(self, instances, picture: TruthPicture) -> list[dict[str, Any]]:
        if instances is None or len(instances) == 0:
            return []
        picture.check_size(instances.pred_masks.shape[1:], "pred_masks")
        classes = instances.pred_classes.tolist()
        if not self._things.issuperset(classes):
            raise ValueError(
                f"pred_classes must be contiguous ids of things, {sorted(self._things)}; got "
                f"{sorted(set(classes) - self._things)} for {picture.file_name}"
            )
        # One mask at a time: all of them at once would be copied at full size.
        return [
            {"category_id": category, "score": score, **_encode(_to_bool(mask))}
            for category, score, mask in zip(
                classes, instances.scores.tolist(), instances.pred_masks, strict=True
            )
        ]

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compares over all processes.

        Returns:
            In the main process {"segm": scores in percent}: AP, AP50, AP75, APs, APm, APl and
            AP-<class>, nan where the truth has no such instance; elsewhere None.
        """
        comm.synchronize()
        gathered = comm.gather(self._pictures)
        if not comm.is_main_process():
            return None
        # By image_id, since a sampler may deal a picture out twice to fill up.
        pictures = list({p["image_id"]: p for p in itertools.chain(*gathered)}.values())
        if self._output_dir is not None:
            self._write(pictures)
        num_true = sum(len(p["truth"]) for p in pictures)
        num_predicted = sum(len(p["predicted"]) for p in pictures)
        if num_predicted == 0:
            logger.warning("No instance was predicted in %d pictures: AP is 0.", len(pictures))
        if num_true == 0:
            logger.warning("The truth of %d pictures holds no instance: no AP.", len(pictures))
        scores, per_class = self._compare(pictures)
        names = self._truth.class_names
        rows = [(names[k], *values) for k, values in per_class.items() if not np.isnan(values[0])]
        logger.info(
            "Instances (COCO mask AP, %d true, %d predicted), in percent:\n%s\n\n%s",
            num_true,
            num_predicted,
            score_table(_METRICS, [list(scores.values())]),
            score_table(["class", "AP", "AP50"], rows),
        )
        scores.update({f"AP-{names[k]}": ap for k, (ap, _) in per_class.items()})
        return {"segm": scores}

    def _compare(self, pictures: list[dict]) -> tuple[dict, dict[int, tuple[float, float]]]:
        """Scores over all classes, and (AP, AP50) by contiguous id."""
        categories = self._truth.thing_ids
        # pycocotools prints as it goes.
        with contextlib.redirect_stdout(io.StringIO()):
            comparison = COCOeval(
                _coco(pictures, "truth", categories),
                _coco(pictures, "predicted", categories),
                iouType="segm",
            )
            comparison.evaluate()
            comparison.accumulate()
            comparison.summarize()
        stats = (100 * float(s) if s >= 0 else float("nan") for s in comparison.stats)
        scores = dict(zip(_METRICS, stats, strict=False))
        # (10 IoU thresholds from 0.5, recalls, categories, area ranges, detections a picture);
        # all areas are the first range, 100 detections the last number.
        precision = comparison.eval["precision"][:, :, :, 0, -1]
        per_class = {
            category: (_average(precision[:, :, k]), _average(precision[0, :, k]))
            for k, category in enumerate(categories)
        }
        return scores, per_class

    def _write(self, pictures: list[dict]) -> None:
        results = [
            {
                "image_id": picture["image_id"],
                "category_id": self._truth.dataset_ids[found["category_id"]],
                "score": found["score"],
                "segmentation": {
                    "size": found["segmentation"]["size"],
                    "counts": found["segmentation"]["counts"].decode("ascii"),
                },
            }
            for picture in pictures
            for found in picture["predicted"]
        ]
        os.makedirs(self._output_dir, exist_ok=True)
        with open(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as file:
            json.dump(results, file)


def _to_bool(mask: torch.Tensor) -> np.ndarray:
    return (mask if mask.dtype == torch.bool else mask > 0.5).cpu().numpy()


def _encode(mask: np.ndarray) -> dict[str, Any]:
    """The run-length code of a (H, W) bool mask, and its area in pixels."""
    return {
        "segmentation": rle.encode(np.asfortranarray(mask, dtype=np.uint8)),
        "area": int(mask.sum()),
    }


def _average(precision: np.ndarray) -> float:
    """Mean in percent; -1 marks what the truth has no instance for."""
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else float("nan")


def _coco(pictures: list[dict], which: str, categories: Sequence[int]) -> COCO:
    """pycocotools' index over the instances kept under the key `which`."""
    annotations = [
        {"iscrowd": 0, **instance, "image_id": number}
        for number, picture in enumerate(pictures)
        for instance in picture[which]
    ]
    # From 1: COCOeval writes 0 for "no match".
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": n, "height": p["height"], "width": p["width"]} for n, p in enumerate(pictures)
        ],
        "categories": [{"id": category} for category in categories],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
