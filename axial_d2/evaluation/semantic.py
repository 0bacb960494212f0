"""Mean intersection over union, counted while the pictures come."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from axial_d2.data.classes import record_key
from axial_d2.evaluation.tables import score_table
from axial_d2.evaluation.truth import PanopticTruth, TruthPicture

logger = logging.getLogger(__name__)


class SemanticEvaluator(DatasetEvaluator):
    """mIoU, fwIoU, mACC and pACC of `sem_seg`, whatever Detectron2's version.

    The truth's classes are those of its segments. Void is ignored. A crowd counts as its
    class, as in COCO's conversion of panoptic to semantic truth and in Detectron2's.

    Detectron2's own SemSegEvaluator divides by other numbers of classes in other versions; here it
    is always the number of classes that occur in the truth (as upstream's main has it).
    """

    def __init__(self, truth: PanopticTruth):
        self._truth = truth
        self.reset()

    def reset(self) -> None:
        classes = len(self._truth.class_names)
        # Pixels by (class in the truth, class predicted); the last column is "none".
        self._confusion = np.zeros((classes, classes + 1), dtype=np.int64)

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Counts the pixels of a batch.

        Args:
            inputs: per picture its dataset dict.
            outputs: per picture a dict with `sem_seg`, (classes, H, W) scores at the truth's size,
                or (H, W) classes as integers, of which others than 0..classes-1 are "none" and
                count as wrong. Without the key: nothing was predicted.

        Raises:
            ValueError: another size or number of classes; the message names the file.
        """
        classes = len(self._truth.class_names)
        for given, output in zip(inputs, outputs, strict=True):
            picture = self._truth.picture(record_key(given))
            predicted = predicted_labels(output.get("sem_seg"), classes, picture)
            class_of = np.array([-1, *(s["category_id"] for s in picture.segments)])
            truth = class_of[picture.index]
            known = truth >= 0
            pairs = truth[known] * (classes + 1) + predicted[known]
            counts = np.bincount(pairs, minlength=classes * (classes + 1))
            self._confusion += counts.reshape(classes, classes + 1)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Sums up over all processes.

        Returns:
            In the main process {"sem_seg": scores in percent}: mIoU, fwIoU, mACC, pACC, and
            IoU-<class> and ACC-<class>, nan for a class that the truth lacks; elsewhere None.
        """
        comm.synchronize()
        gathered = comm.gather(self._confusion)
        if not comm.is_main_process():
            return None
        scores, iou, accuracy = _scores(np.sum(gathered, axis=0))
        names = self._truth.class_names
        rows = [(n, float(i), float(a)) for n, i, a in zip(names, iou, accuracy, strict=True)]
        logger.info(
            "Semantic segmentation, in percent:\n%s\n\n%s",
            score_table(list(scores), [list(scores.values())]),
            score_table(["class", "IoU", "accuracy"], [r for r in rows if not np.isnan(r[1])]),
        )
        scores.update({f"IoU-{name}": value for name, value, _ in rows})
        scores.update({f"ACC-{name}": value for name, _, value in rows})
        return {"sem_seg": scores}


def predicted_labels(sem_seg: Any, classes: int, picture: TruthPicture) -> np.ndarray:
    """Brings both forms of semantic results into one.

    Args:
        sem_seg: as `SemanticEvaluator.process` takes it; None: nothing was predicted.
        classes: how many there are.
        picture: the truth, for the size.

    Returns:
        (H, W) int64 classes 0..classes-1, or `classes` for none.

    Raises:
        ValueError: another size or number of classes.
    """
    if sem_seg is None:
        return np.full(picture.index.shape, classes)
    if sem_seg.ndim == 3:
        if sem_seg.shape[0] != classes:
            raise ValueError(
                f"sem_seg must have one channel for each of the {classes} classes of the truth "
                f"{picture.file_name}; got shape {tuple(sem_seg.shape)}"
            )
        picture.check_size(sem_seg.shape[1:], "sem_seg")
        return sem_seg.argmax(dim=0).cpu().numpy()
    labels = np.asarray(sem_seg).astype(np.int64)
    picture.check_size(labels.shape, "sem_seg")
    return np.where((labels < 0) | (labels >= classes), classes, labels)


def _scores(confusion: np.ndarray) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Scores in percent, and per class IoU and accuracy, nan where the truth has no such pixel."""
    hits = np.diagonal(confusion).astype(float)
    in_truth = confusion.sum(axis=1).astype(float)
    in_prediction = confusion.sum(axis=0)[:-1].astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        occurs = np.where(in_truth > 0, 1.0, np.nan)
        iou = 100 * hits / (in_truth + in_prediction - hits) * occurs
        accuracy = 100 * hits / in_truth
        scores = {
            "mIoU": _mean(iou),
            "fwIoU": float(np.nansum(iou * in_truth) / in_truth.sum()),
            "mACC": _mean(accuracy),
            "pACC": float(100 * hits.sum() / in_truth.sum()),
        }
    return scores, iou, accuracy


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
