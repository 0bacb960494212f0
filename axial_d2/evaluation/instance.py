"""COCO's mask AP, matched while the pictures come."""

import contextlib
import io
import logging
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from axial_d2.data.classes import record_key
from axial_d2.evaluation.tables import score_table
from axial_d2.evaluation.truth import PanopticTruth, TruthPicture

logger = logging.getLogger(__name__)

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class _Matches(NamedTuple):
    """What pycocotools' accumulation reads of one class in one picture; A area ranges.

    Packed as bytes: small arrays that stay, between large ones that come and go, keep the C
    library from using freed memory again, which cost a megabyte a picture.

    Attributes:
        scores: of the d best detections, falling, float64.
        matched, ignored: (A, T, d) bits, by IoU threshold.
        truth_ignored: (A, g) bits, of the true instances.
        count: d, g.
    """

    scores: bytes
    matched: bytes
    ignored: bytes
    truth_ignored: bytes
    count: tuple[int, int]

    def unpacked(self, ranges: int, thresholds: int) -> Iterator[dict[str, np.ndarray]]:
        """An entry of pycocotools' evalImgs for each area range."""
        found, true = self.count
        scores = np.frombuffer(self.scores)
        matched, ignored = (
            _bits(packed, (ranges, thresholds, found)) for packed in (self.matched, self.ignored)
        )
        truth_ignored = _bits(self.truth_ignored, (ranges, true))
        for index in range(ranges):
            yield {
                "dtScores": scores,
                "dtMatches": matched[index],
                "dtIgnore": ignored[index],
                "gtIgnore": truth_ignored[index],
            }


def _bits(packed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `np.packbits(...).tobytes()`."""
    flat = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=math.prod(shape))
    return flat.reshape(shape).astype(bool)


def _packed(entries: Iterable[Any]) -> bytes:
    """Arrays of truth values, one after the other, as bits."""
    return np.packbits(np.stack([np.asarray(e, dtype=bool) for e in entries])).tobytes()


class InstanceEvaluator(DatasetEvaluator):
    """AP of `instances` by pycocotools, against the things of the truth.

    Crowds are COCO's crowds, areas are counted in pixels. Each picture is matched when it comes, by
    pycocotools; of it the scores and a few bits of each detection are kept, no masks.
    """

    def __init__(self, truth: PanopticTruth):
        """
        Args:
            truth: what to compare with.
        """
        self._truth = truth
        self._things = set(truth.thing_ids)
        self.reset()

    def reset(self) -> None:
        # By picture, since a sampler may deal one out twice to fill up; then by class.
        self._matches: dict[Hashable, dict[int, _Matches]] = {}

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Matches the instances of a batch with those of the truth.

        Args:
            inputs: per picture its dataset dict.
            outputs: per picture a dict with `instances`: pred_masks (n, H, W) bool at the truth's
                size, scores (n,), pred_classes (n,) contiguous ids of things. Without the key:
                nothing was found.

        Raises:
            ValueError: masks of another size, or classes that are no things; the message names the
                file.
        """
        for given, output in zip(inputs, outputs, strict=True):
            picture = self._truth.picture(record_key(given))
            true = [
                {"category_id": category, "iscrowd": int(crowd), **_encode(mask)}
                for category, crowd, mask in picture.instances()
            ]
            found = self._predicted_instances(output.get("instances"), picture)
            self._matches[record_key(given)] = _match(true, found, picture.index.shape)

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
        """Sums up over all processes.

        Returns:
            In the main process {"segm": scores in percent}: AP, AP50, AP75, APs, APm, APl,
            AP-<class> and AP50-<class>, nan where the truth has no such instance; elsewhere None.
        """
        comm.synchronize()
        gathered = comm.gather(self._matches)
        if not comm.is_main_process():
            return None
        pictures = {key: value for part in gathered for key, value in part.items()}
        every = [m for picture in pictures.values() for m in picture.values()]
        num_predicted, num_true = (sum(m.count[k] for m in every) for k in (0, 1))
        if num_predicted == 0:
            logger.warning("No instance was predicted in %d pictures: AP is 0.", len(pictures))
        if num_true == 0:
            logger.warning("The truth of %d pictures holds no instance: no AP.", len(pictures))
        # pycocotools takes the pictures by their ids: of equal scores the first comes first.
        order = sorted(pictures, key=lambda key: (isinstance(key, str), key))
        scores, per_class = _accumulate([pictures[k] for k in order], self._truth.thing_ids)
        names = self._truth.class_names
        rows = [(names[k], *values) for k, values in per_class.items() if not np.isnan(values[0])]
        logger.info(
            "Instances (COCO mask AP, %d true, %d predicted), in percent:\n%s\n\n%s",
            num_true,
            num_predicted,
            score_table(_METRICS, [list(scores.values())]),
            score_table(["class", "AP", "AP50"], rows),
        )
        for column, key in enumerate(("AP", "AP50")):
            scores.update({f"{key}-{names[k]}": values[column] for k, values in per_class.items()})
        return {"segm": scores}


def _match(
    true: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], size: tuple[int, ...]
) -> dict[int, _Matches]:
    """Matches one picture, class by class."""
    categories = sorted({each["category_id"] for each in (*true, *found)})
    if not categories:
        return {}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        comparison = COCOeval(
            _coco(true, size, categories), _coco(found, size, categories), iouType="segm"
        )
        comparison.evaluate()
    ranges = len(comparison.params.areaRng)
    matches = {}
    for index, category in enumerate(categories):
        each = comparison.evalImgs[index * ranges : (index + 1) * ranges]
        matches[category] = _Matches(
            scores=np.array(each[0]["dtScores"], dtype=np.float64).tobytes(),
            matched=_packed(e["dtMatches"] for e in each),
            ignored=_packed(e["dtIgnore"] for e in each),
            truth_ignored=_packed(e["gtIgnore"] for e in each),
            count=(len(each[0]["dtScores"]), len(each[0]["gtIgnore"])),
        )
    return matches


def _accumulate(
    pictures: Sequence[Mapping[int, _Matches]], categories: Sequence[int]
) -> tuple[dict[str, float], dict[int, tuple[float, float]]]:
    """Scores over all classes and (AP, AP50) by contiguous id, accumulated by pycocotools."""
    comparison = COCOeval(iouType="segm")
    params = comparison.params
    ranges = len(params.areaRng)
    parts = []
    # Class by class: a list for all classes, ranges and pictures would be a long one.
    for category in categories:
        own = [picture[category] for picture in pictures if category in picture]
        params.catIds, params.imgIds = [category], list(range(max(1, len(own))))
        # By area range, then by picture.
        unpacked = [m.unpacked(ranges, len(params.iouThrs)) for m in own]
        by_range = zip(*unpacked, strict=True)
        comparison.evalImgs = [e for entries in by_range for e in entries] or [None] * ranges
        comparison._paramsEval = params
        with contextlib.redirect_stdout(io.StringIO()):
            comparison.accumulate(params)
        parts.append(comparison.eval)
    if not parts:
        return dict.fromkeys(_METRICS, float("nan")), {}
    # precision: (10 IoU thresholds from 0.5, recalls, categories, area ranges, detections a
    # picture); all areas are the first range, 100 detections the last number.
    joined = {
        key: np.concatenate([part[key] for part in parts], axis=axis)
        for key, axis in (("precision", 2), ("recall", 1))
    }
    comparison.eval = {**parts[0], **joined}
    with contextlib.redirect_stdout(io.StringIO()):
        comparison.summarize()
    stats = (100 * float(s) if s >= 0 else float("nan") for s in comparison.stats)
    precision = joined["precision"][:, :, :, 0, -1]
    per_class = {
        category: (_average(precision[:, :, k]), _average(precision[0, :, k]))
        for k, category in enumerate(categories)
    }
    return dict(zip(_METRICS, stats, strict=False)), per_class


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


def _coco(
    instances: Sequence[dict[str, Any]], size: tuple[int, ...], categories: Sequence[int]
) -> COCO:
    """pycocotools' index over the instances of one picture."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 0, "height": size[0], "width": size[1]}],
        "categories": [{"id": category} for category in categories],
        # Numbered from 1: COCOeval writes 0 for "no match".
        "annotations": [
            {"iscrowd": 0, **instance, "image_id": 0, "id": number}
            for number, instance in enumerate(instances, start=1)
        ],
    }
    coco.createIndex()
    return coco
