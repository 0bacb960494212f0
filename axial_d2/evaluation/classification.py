"""Top-1 and top-5 accuracy of a classifier."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from axial_d2.evaluation.tables import score_table

logger = logging.getLogger(__name__)

RANKS = (1, 5)


class ClassificationEvaluator(DatasetEvaluator):
    """Share of the pictures whose class is the best, or among the best five, of the scores.

    Of equal scores the one of the lower class index ranks first, as in a stable sort. A score that
    is not a number ranks first of all, so that a picture with one counts as wrong. Of fewer than
    five classes the right one is always among the best five.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        # Pictures right within each of RANKS, and pictures in all.
        self._counts = np.zeros(len(RANKS) + 1, dtype=np.int64)

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Counts the pictures of a batch.

        Args:
            inputs: per picture a dict with `label`, the index of its class.
            outputs: per picture a dict with `scores`, (classes,).

        Raises:
            ValueError: scores of another shape, or a label that is not among them.
        """
        for given, output in zip(inputs, outputs, strict=True):
            ahead = classes_ahead(output["scores"], given["label"], given.get("file_name", ""))
            self._counts += [*(ahead < rank for rank in RANKS), 1]

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Sums up over all processes.

        Returns:
            In the main process {"classification": {"top1": ..., "top5": ...}} in percent, nan
            without any picture; elsewhere None.
        """
        comm.synchronize()
        gathered = comm.gather(self._counts)
        if not comm.is_main_process():
            return None
        *right, pictures = np.sum(gathered, axis=0).tolist()
        scores = {
            f"top{rank}": 100 * count / pictures if pictures else float("nan")
            for rank, count in zip(RANKS, right, strict=True)
        }
        logger.info(
            "Classification of %d pictures, in percent:\n%s",
            pictures,
            score_table(list(scores), [list(scores.values())]),
        )
        return {"classification": scores}


def classes_ahead(scores: torch.Tensor, label: int, picture: str = "") -> int:
    """How many classes rank before the right one; 0 where it is the best.

    Args:
        scores: (classes,), higher is better.
        label: index of the right class.
        picture: its file, for the error.

    Returns:
        The number of classes with a higher score, or an equal one and a lower index.

    Raises:
        ValueError: scores of another shape, or no such class.
    """
    if scores.dim() != 1 or not 0 <= label < len(scores):
        raise ValueError(
            f"expected scores of shape (classes,), one for the label {label} of the picture "
            f"{picture}; got shape {tuple(scores.shape)}"
        )
    values = scores.detach().cpu()
    # Put as what is not behind: a comparison with nan is false.
    before = ~(values[:label] < values[label])
    after = ~(values[label + 1 :] <= values[label])
    return int(before.sum() + after.sum())
