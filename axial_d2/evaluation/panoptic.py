"""Panoptic quality, by Detectron2's evaluator, with scores per class."""

import contextlib
import io
import itertools
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from axial_d2.evaluation.tables import score_table
from axial_d2.evaluation.truth import PanopticTruth
from axial_d2.panoptic_quality import pq_compute

logger = logging.getLogger(__name__)

# Detectron2's suffix of each group's keys: PQ, PQ_th, PQ_st.
_GROUPS = {"All": "", "Things": "_th", "Stuff": "_st"}


class PanopticQualityEvaluator(COCOPanopticEvaluator):
    """Detectron2's evaluator of `panoptic_seg`, which

    * leaves the model's output as it was (the original shifts ids and takes keys away in place),
    * keeps apart pictures of one name in two folders,
    * needs no panopticapi, and bears a truth without any thing, or any stuff,
    * gives the scores of every class.
    """

    def __init__(self, truth: PanopticTruth, output_dir: str | None = None):
        """
        Args:
            truth: what to compare with.
            output_dir: where to write predictions.json; None: nowhere. PNGs are temporary.
        """
        super().__init__(truth.metadata.name, output_dir)
        self._truth = truth
        self.reset()

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Keeps the segments of a batch as PNGs.

        Args:
            inputs: per picture a dict with `image_id` and `file_name`.
            outputs: per picture a dict with `panoptic_seg`: a (H, W) map of segment ids with its
                segments_info, 0 being void; or a map of category * label_divisor + instance with
                None, -1 being void.
        """
        copies = []
        for given, output in zip(inputs, outputs, strict=True):
            segment_map, segments_info = output["panoptic_seg"]
            size = (given.get("height"), given.get("width"))
            if None not in size and tuple(segment_map.shape) != size:
                raise ValueError(
                    f"panoptic_seg must have the picture's size (height, width) = {size}, that of "
                    f"{given['file_name']}; got {tuple(segment_map.shape)}"
                )
            if segments_info is not None:
                segments_info = [_plain(segment) for segment in segments_info]
            copies.append({"panoptic_seg": (segment_map.detach().clone(), segments_info)})
        super().process(inputs, copies)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compares over all processes.

        Returns:
            In the main process {"panoptic_seg": scores in percent}: PQ, SQ, RQ, the same of things
            (_th) and stuff (_st), and PQ-<class>; nan for what neither truth nor prediction holds;
            elsewhere None.
        """
        comm.synchronize()
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        # By image_id, since a sampler may deal a picture out twice to fill up.
        predictions = {p["image_id"]: p for p in itertools.chain(*gathered)}
        quality = self._quality(_with_own_names(list(predictions.values())))
        scores = {
            f"{key}{suffix}": 100 * quality[group][key.lower()]
            for group, suffix in _GROUPS.items()
            for key in ("PQ", "SQ", "RQ")
        }
        per_class = self._per_class(quality["per_class"])
        groups = [
            (group, *(scores[f"{key}{suffix}"] for key in ("PQ", "SQ", "RQ")), quality[group]["n"])
            for group, suffix in _GROUPS.items()
        ]
        logger.info(
            "Panoptic segmentation, in percent:\n%s\n\n%s",
            score_table(["", "PQ", "SQ", "RQ", "classes"], groups),
            score_table(
                ["class", "PQ", "SQ", "RQ", "true"],
                [(name, *values) for name, values in per_class.items() if values[0] == values[0]],
            ),
        )
        scores.update({f"PQ-{name}": values[0] for name, values in per_class.items()})
        return {"panoptic_seg": scores}

    def _quality(self, predictions: list[dict[str, Any]]) -> dict[str, dict]:
        truth_json = PathManager.get_local_path(self._metadata.panoptic_json)
        truth_folder = PathManager.get_local_path(self._metadata.panoptic_root)
        with open(truth_json) as file:
            everything = json.load(file)
        with tempfile.TemporaryDirectory(prefix="axial_d2_pq_") as folder:
            for prediction in predictions:
                with open(os.path.join(folder, prediction["file_name"]), "wb") as file:
                    file.write(prediction["png_string"])
            everything["annotations"] = [
                {k: v for k, v in prediction.items() if k != "png_string"}
                for prediction in predictions
            ]
            predictions_json = os.path.join(self._output_dir or folder, "predictions.json")
            with open(predictions_json, "w") as file:
                json.dump(everything, file)
            # The counting reports every thirty pictures by print.
            with contextlib.redirect_stdout(io.StringIO()):
                return pq_compute(truth_json, predictions_json, truth_folder, folder)

    def _per_class(self, results: Mapping[int, Mapping]) -> dict[str, tuple]:
        """By class name: PQ, SQ, RQ in percent, and the number of true segments."""
        per_class = {}
        for contiguous_id, name in enumerate(self._truth.class_names):
            result = results.get(self._truth.dataset_ids[contiguous_id])
            occurs = result is not None and result["tp"] + result["fp"] + result["fn"] > 0
            values = [100 * result[k] if occurs else float("nan") for k in ("pq", "sq", "rq")]
            per_class[name] = (*values, result["tp"] + result["fn"] if occurs else 0)
        return per_class


def _plain(segment: Mapping[str, Any]) -> dict[str, Any]:
    """What the evaluator needs of a segment, in types that JSON and `is True` take."""
    plain = {"id": int(segment["id"]), "category_id": int(segment["category_id"])}
    if segment.get("isthing") is not None:
        plain["isthing"] = bool(segment["isthing"])
    return plain


def _with_own_names(predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A number before the name of each PNG where two pictures of one name would share a file."""
    uses = Counter(prediction["file_name"] for prediction in predictions)
    for number, prediction in enumerate(predictions):
        if uses[prediction["file_name"]] > 1:
            prediction["file_name"] = f"{number:06d}_{prediction['file_name']}"
    return predictions
