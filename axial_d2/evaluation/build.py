"""Which evaluators a data set gets."""

import logging
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators

from axial_d2.evaluation.classification import ClassificationEvaluator
from axial_d2.evaluation.instance import InstanceEvaluator
from axial_d2.evaluation.panoptic import PanopticQualityEvaluator
from axial_d2.evaluation.semantic import SemanticEvaluator
from axial_d2.evaluation.truth import PanopticTruth

logger = logging.getLogger(__name__)

# Everything that carries a panoptic truth in COCO's format goes one way.
_PANOPTIC_TYPES = ("coco_panoptic_seg", "cityscapes_panoptic_seg")
_CLASSIFICATION_TYPE = "image_classification"
TASKS = ("panoptic_seg", "segm", "sem_seg")


def build_evaluator(
    cfg: CfgNode,
    dataset_name: str,
    output_dir: str | None = None,
    tasks: Sequence[str] | None = None,
) -> DatasetEvaluators:
    """PQ, AP and mIoU against the panoptic truth of a registered data set, or top-1 and top-5.

    Args:
        cfg: read for MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES, without which there is no AP.
        dataset_name: a data set in COCO panoptic format, Cityscapes' panoptic names included, or
            one of class folders.
        output_dir: where predictions are written, made if missing; None: nothing is written.
        tasks: some of "panoptic_seg" (PQ), "segm" (AP), "sem_seg" (mIoU); None: all that the
            model predicts. Of no meaning for classification.

    Returns:
        Evaluators whose results, all in percent, stand under the tasks' names.

    Raises:
        ValueError: an unknown task, or a data set that is not registered or has no panoptic truth.
    """
    if _evaluator_type(dataset_name) == _CLASSIFICATION_TYPE:
        return DatasetEvaluators([ClassificationEvaluator()])
    if tasks is None:
        tasks = [t for t in TASKS if t != "segm" or cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES]
    if not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"tasks must be some of {TASKS}; got {tuple(tasks)}")
    truth = PanopticTruth(dataset_name)
    evaluator_type = truth.metadata.get("evaluator_type", None)
    if evaluator_type not in _PANOPTIC_TYPES:
        raise ValueError(
            f"data set {dataset_name!r} must have an evaluator_type among {_PANOPTIC_TYPES}; got "
            f"{evaluator_type!r}"
        )
    if output_dir is not None:
        os.makedirs(output_dir, exist_ok=True)
    evaluators = {
        "panoptic_seg": lambda: PanopticQualityEvaluator(truth),
        "segm": lambda: InstanceEvaluator(truth),
        "sem_seg": lambda: SemanticEvaluator(truth),
    }
    return DatasetEvaluators([evaluators[task]() for task in TASKS if task in tasks])


def _evaluator_type(name: str) -> str | None:
    if name not in DatasetCatalog.list():
        return None  # To ask the metadata for an unknown name would make an entry of it.
    return MetadataCatalog.get(name).get("evaluator_type")
