"""Training, evaluation and prediction around Detectron2's engine."""

from axial_d2.engine.checks import names_to_check
from axial_d2.engine.conversion import Conversion, convert_csrhddlam
from axial_d2.engine.data_sheets import draw_training_data
from axial_d2.engine.dataset_check import check_and_report
from axial_d2.engine.errors import SetupError
from axial_d2.engine.launch import launch, under_torchrun
from axial_d2.engine.main import train_or_evaluate
from axial_d2.engine.prediction import PicturePredictor, draw_dataset, draw_files
from axial_d2.engine.results import read_results, results_table, summary
from axial_d2.engine.saved_evaluation import evaluate_saved
from axial_d2.engine.setup import (
    argument_parser,
    load_config,
    load_datasets,
    read_config,
    setup_cfg,
)
from axial_d2.engine.trainer import Trainer

__all__ = [
    "Conversion",
    "PicturePredictor",
    "SetupError",
    "Trainer",
    "argument_parser",
    "check_and_report",
    "convert_csrhddlam",
    "draw_dataset",
    "draw_files",
    "draw_training_data",
    "evaluate_saved",
    "launch",
    "load_config",
    "load_datasets",
    "names_to_check",
    "read_config",
    "read_results",
    "results_table",
    "setup_cfg",
    "summary",
    "train_or_evaluate",
    "under_torchrun",
]
