"""Scores saved predictions, without a model."""

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tqdm import tqdm

from axial_d2.engine.errors import SetupError
from axial_d2.engine.results import RESULTS_FILE, write_results
from axial_d2.engine.setup import check_writable

_OF_A_TRAINING = ("last_checkpoint", "metrics.json", "config.yaml")


def evaluate_saved(cfg: CfgNode, dataset: str, predictions: str, output: str) -> dict[str, Any]:
    """Scores saved predictions against the truth of a dataset.

    Args:
        cfg: from `load_config`, its datasets registered.
        dataset: a registered dataset of segmentation.
        predictions: a folder, zip or json (see `axial_d2.evaluation.SavedPredictions`).
        output: where results.json and the csv of classes are written; made if missing. No
            training's, whose results these would replace.

    Returns:
        The results, in percent.

    Raises:
        SetupError: no such dataset, nothing to score, predictions that do not fit, or an `output`
            that cannot be written.
    """
    from axial_d2.data import check_dataset_name
    from axial_d2.evaluation import SavedPredictions, build_evaluator
    from axial_d2.evaluation.truth import PanopticTruth

    _check_no_training(output)
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
        write_results(results, output)
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error
    finally:
        saved.close()
    return results


def _check_no_training(output: str) -> None:
    if Path(output, RESULTS_FILE).is_dir():
        raise SetupError(f"--output: expected a file, {Path(output, RESULTS_FILE)} is a folder")
    left = next((n for n in _OF_A_TRAINING if Path(output, n).exists()), None)
    if left:
        raise SetupError(
            f"--output: {output} is a training's (it holds {left}), and its results would be "
            "replaced; name another folder"
        )
