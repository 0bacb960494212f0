"""Panoptic quality, counted while the pictures come."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from axial_d2.data.classes import record_key
from axial_d2.evaluation.tables import score_table
from axial_d2.evaluation.truth import PanopticTruth
from axial_d2.panoptic.quality import QualityCounts, count_matches, panoptic_quality, sum_counts

logger = logging.getLogger(__name__)

# Detectron2's suffix of each group's keys: PQ, PQ_th, PQ_st.
_GROUPS = {"All": "", "Things": "_th", "Stuff": "_st"}
_KEYS = ("PQ", "SQ", "RQ")


class PanopticQualityEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ of `panoptic_seg`, with those of every class.

    The counting is panopticapi's (see `axial_d2.panoptic.quality`). A few numbers are kept of each
    picture; nothing is written.
    """

    def __init__(self, truth: PanopticTruth):
        """
        Args:
            truth: what to compare with.
        """
        self._truth = truth
        self.reset()

    def reset(self) -> None:
        # By picture, since a sampler may deal one out twice to fill up.
        self._counts: dict[Hashable, dict[int, QualityCounts]] = {}

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Counts the matches of a batch.

        Args:
            inputs: per picture its dataset dict.
            outputs: per picture a dict with `panoptic_seg`: a (H, W) map of segment ids with its
                segments_info, 0 being void; or a map of category * label_divisor + instance with
                None, -1 being void. Without the key: nothing was predicted.

        Raises:
            ValueError: a map of another size than the truth, a segment of an unknown class, or a
                map that disagrees with its segments_info; the message names the file.
        """
        for given, output in zip(inputs, outputs, strict=True):
            picture = self._truth.picture(record_key(given))
            ids, segments = predicted_segments(
                output.get("panoptic_seg"), picture.index.shape, self._truth.classes.label_divisor
            )
            picture.check_size(ids.shape, "panoptic_seg")
            self._check_classes(segments, picture.file_name)
            numbered = [{**s, "id": k} for k, s in enumerate(picture.segments, start=1)]
            # Numbers that no pixel has.
            lost = [{**s, "id": -k} for k, s in enumerate(picture.without_pixels, start=1)]
            try:
                counts = count_matches(picture.index, [*numbered, *lost], ids, segments)
            except ValueError as error:
                raise ValueError(f"panoptic_seg of {given.get('file_name')}: {error}") from error
            self._counts[record_key(given)] = counts

    def _check_classes(self, segments: Sequence[Mapping[str, Any]], file_name: str) -> None:
        classes = len(self._truth.class_names)
        wrong = [s["category_id"] for s in segments if not 0 <= s["category_id"] < classes]
        if wrong:
            raise ValueError(
                f"panoptic_seg must have category_ids 0..{classes - 1}; got {wrong[0]} for "
                f"{file_name}"
            )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Sums up over all processes.

        Returns:
            In the main process {"panoptic_seg": scores in percent}: PQ, SQ, RQ, the same of things
            (_th) and stuff (_st), and PQ-<class>, SQ-<class>, RQ-<class>; nan for what neither
            truth nor prediction holds; elsewhere None.
        """
        comm.synchronize()
        gathered = comm.gather(self._counts)
        if not comm.is_main_process():
            return None
        counts = {key: value for part in gathered for key, value in part.items()}
        names = self._truth.class_names
        total = sum_counts(counts.values(), len(names))
        quality = panoptic_quality(total, self._truth.thing_ids)
        scores = {
            f"{key}{suffix}": 100 * quality[group][key.lower()]
            for group, suffix in _GROUPS.items()
            for key in _KEYS
        }
        groups = [
            (group, *(scores[f"{key}{suffix}"] for key in _KEYS), quality[group]["n"])
            for group, suffix in _GROUPS.items()
        ]
        rows = [
            (name, *(100 * c[key.lower()] for key in _KEYS), c["tp"] + c["fn"])
            for name, c in zip(names, quality["per_class"], strict=True)
        ]
        logger.info(
            "Panoptic segmentation of %d pictures, in percent:\n%s\n\n%s",
            len(counts),
            score_table(["", *_KEYS, "classes"], groups),
            score_table(["class", *_KEYS, "true"], [row for row in rows if not np.isnan(row[1])]),
        )
        for column, key in enumerate(_KEYS, start=1):
            scores.update({f"{key}-{row[0]}": row[column] for row in rows})
        return {"panoptic_seg": scores}


def predicted_segments(
    panoptic_seg: Any, size: tuple[int, ...], label_divisor: int
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Brings both forms of panoptic results into one.

    Args:
        panoptic_seg: as `PanopticQualityEvaluator.process` takes it; None: nothing was predicted.
        size: of the map where there is none.
        label_divisor: of the dataset.

    Returns:
        (H, W) ids, 0 void, and `id` and `category_id` of each segment.
    """
    if panoptic_seg is None:
        return np.zeros(size, dtype=np.int64), []
    segment_map, segments = panoptic_seg
    ids = np.asarray(segment_map.cpu() if hasattr(segment_map, "cpu") else segment_map)
    if segments is not None:
        plain = [{"id": int(s["id"]), "category_id": int(s["category_id"])} for s in segments]
        return ids, plain
    present = [int(value) for value in np.unique(ids) if value != -1]
    # Moved by one, for 0 is void here.
    return ids.astype(np.int64) + 1, [
        {"id": value + 1, "category_id": value // label_divisor} for value in present
    ]
