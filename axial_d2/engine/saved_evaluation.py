"""Scores saved predictions, without a model."""

import os
from typing import Any

from detectron2.config import CfgNode
from tqdm import tqdm

from axial_d2.engine.errors import SetupError
from axial_d2.engine.results import write_results
from axial_d2.engine.setup import check_writable


def evaluate_saved(cfg: CfgNode, dataset: str, predictions: str, output: str) -> dict[str, Any]:
    """Scores saved predictions against the truth of a dataset.

    Args:
        cfg: from `load_config`, its datasets registered.
        dataset: a registered dataset of segmentation.
        predictions: a folder or zip (see `axial_d2.evaluation.SavedPredictions`).
        output: where results.json and the csv of classes are written; made if missing.

    Returns:
        The results, in percent.

    Raises:
        SetupError: no such dataset, nothing to score, predictions that do not fit, or an `output`
            that cannot be written.
    """
    from axial_d2.data import check_dataset_name
    from axial_d2.evaluation import SavedPredictions, build_evaluator
    from axial_d2.evaluation.truth import PanopticTruth

    try:
        check_dataset_name(dataset, "--dataset")
        truth = PanopticTruth(dataset)
        saved = SavedPredictions(truth, predictions)
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error
    try:
        check_writable(output, "--output")
        evaluators = build_evaluator(cfg, dataset, tasks=saved.tasks)
        evaluators.reset()
        for given, found in tqdm(saved, unit="picture", dynamic_ncols=True):
            evaluators.process([given], [found])
        results = evaluators.evaluate()
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error
    finally:
        saved.close()
    os.makedirs(output, exist_ok=True)
    write_results(results, output)
    return results
