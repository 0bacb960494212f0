"""PQ, AP and mIoU of one model against one panoptic truth; accuracy of a classifier."""

from axial_d2.evaluation.build import build_evaluator
from axial_d2.evaluation.classification import ClassificationEvaluator
from axial_d2.evaluation.instance import InstanceEvaluator
from axial_d2.evaluation.panoptic import PanopticQualityEvaluator
from axial_d2.evaluation.prediction_writer import PredictionWriter
from axial_d2.evaluation.saved_predictions import SavedPredictions
from axial_d2.evaluation.semantic import SemanticEvaluator
from axial_d2.evaluation.truth import PanopticTruth

__all__ = [
    "ClassificationEvaluator",
    "InstanceEvaluator",
    "PanopticQualityEvaluator",
    "PanopticTruth",
    "PredictionWriter",
    "SavedPredictions",
    "SemanticEvaluator",
    "build_evaluator",
]
