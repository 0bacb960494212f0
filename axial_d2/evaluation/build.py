"""Which evaluators a data set gets."""

import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators

from axial_d2.evaluation.cityscapes import CityscapesInstanceEvaluator, CityscapesSemanticEvaluator
from axial_d2.evaluation.classification import ClassificationEvaluator
from axial_d2.evaluation.instance import InstanceEvaluator
from axial_d2.evaluation.panoptic import PanopticQualityEvaluator
from axial_d2.evaluation.prediction_writer import PredictionWriter
from axial_d2.evaluation.semantic import SemanticEvaluator
from axial_d2.evaluation.truth import TASKS, PanopticTruth

_CLASSIFICATION_TYPE = "image_classification"


def build_evaluator(
    cfg: CfgNode,
    dataset_name: str,
    output_dir: str | None = None,
    tasks: Sequence[str] | None = None,
) -> DatasetEvaluators:
    """PQ, AP and mIoU against the truth of a registered data set, or top-1 and top-5.

    AP and mIoU are those of COCO and of `SemanticEvaluator`; of Detectron2's Cityscapes data sets
    they are those of Cityscapes' own scripts.

    Args:
        cfg: read for MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES, without which there is no AP, and
            TEST.SAVE_PREDICTIONS, which keeps predictions in `output_dir`/predictions.
        dataset_name: a data set of segmentation (see `axial_d2.data.segment_classes`), or one of
            class folders.
        output_dir: where predictions are kept; None: nowhere. Scores are not written.
        tasks: some of "panoptic_seg" (PQ), "segm" (AP), "sem_seg" (mIoU); None: all that the
            truth knows and the model predicts. Of no meaning for classification.

    Returns:
        Evaluators whose results, all in percent, stand under the tasks' names.

    Raises:
        ValueError: an unknown task, one that the truth cannot judge, or a data set that is not
            registered or of another kind.
    """
    if _evaluator_type(dataset_name) == _CLASSIFICATION_TYPE:
        return DatasetEvaluators([ClassificationEvaluator()])
    truth = PanopticTruth(dataset_name)
    if tasks is None:
        predicts = cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES
        tasks = [task for task in truth.tasks if task != "segm" or predicts]
    if not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"tasks must be some of {TASKS}; got {tuple(tasks)}")
    if not set(tasks) <= set(truth.tasks):
        raise ValueError(
            f"the truth of data set {dataset_name!r} is of the kind {truth.classes.truth!r}, which "
            f"can judge {truth.tasks}; got the tasks {tuple(tasks)}"
        )
    official = truth.is_cityscapes
    evaluators = {
        "panoptic_seg": PanopticQualityEvaluator,
        "segm": CityscapesInstanceEvaluator if official else InstanceEvaluator,
        "sem_seg": CityscapesSemanticEvaluator if official else SemanticEvaluator,
    }
    chosen = [evaluators[task](truth) for task in TASKS if task in tasks]
    if output_dir is not None and cfg.TEST.SAVE_PREDICTIONS:
        chosen.append(PredictionWriter(truth, os.path.join(output_dir, "predictions"), tasks))
    return DatasetEvaluators(chosen)


def _evaluator_type(name: str) -> str | None:
    if name not in DatasetCatalog.list():
        return None  # To ask the metadata for an unknown name would make an entry of it.
    return MetadataCatalog.get(name).get("evaluator_type")
