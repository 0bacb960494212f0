"""Mean intersection over union against a panoptic truth."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from axial_d2.evaluation.tables import score_table
from axial_d2.evaluation.truth import PanopticTruth

logger = logging.getLogger(__name__)


class SemanticEvaluator(DatasetEvaluator):
    """mIoU, fwIoU, mACC and pACC of `sem_seg`, whatever Detectron2's version.

    The truth's classes are those of its panoptic segments. Void is ignored. A crowd counts as its
    class, as in COCO's conversion of panoptic to semantic truth and in Detectron2's.

    Detectron2's own SemSegEvaluator divides by other numbers of classes in other versions; here it
    is always the number of classes that occur in the truth (as upstream's main has it).
    """

    def __init__(self, truth: PanopticTruth):
        self._truth = truth
        self.reset()

    def reset(self) -> None:
        classes = len(self._truth.class_names)
        # Pixels by (class in the truth, class predicted).
        self._confusion = np.zeros((classes, classes), dtype=np.int64)

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Counts the pixels of a batch.

        Args:
            inputs: per picture a dict with `image_id`.
            outputs: per picture a dict with `sem_seg`, (classes, H, W) logits at the truth's size.
        """
        classes = len(self._truth.class_names)
        for given, output in zip(inputs, outputs, strict=True):
            picture = self._truth.picture(given["image_id"])
            sem_seg = output["sem_seg"]
            if sem_seg.shape[0] != classes:
                raise ValueError(
                    f"sem_seg must have one channel for each of the {classes} classes of the truth "
                    f"{picture.file_name}; got shape {tuple(sem_seg.shape)}"
                )
            picture.check_size(sem_seg.shape[1:], "sem_seg")
            predicted = sem_seg.argmax(dim=0).cpu().numpy()
            class_of = np.array([-1, *(s["category_id"] for s in picture.segments)])
            truth = class_of[picture.index]
            known = truth >= 0
            pairs = truth[known] * classes + predicted[known]
            counts = np.bincount(pairs, minlength=classes * classes)
            self._confusion += counts.reshape(classes, classes)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Sums up over all processes.

        Returns:
            In the main process {"sem_seg": scores in percent}: mIoU, fwIoU, mACC, pACC, and
            IoU-<class>, nan for a class that the truth lacks; elsewhere None.
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
        return {"sem_seg": {**scores, **{f"IoU-{name}": value for name, value, _ in rows}}}


def _scores(confusion: np.ndarray) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Scores in percent, and per class IoU and accuracy, nan where the truth has no such pixel."""
    hits = np.diagonal(confusion).astype(float)
    in_truth = confusion.sum(axis=1).astype(float)
    in_prediction = confusion.sum(axis=0).astype(float)
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
