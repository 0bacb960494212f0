"""Looks for faults in datasets: the cheap part before each training, everything on request."""

from .before_training import check_datasets
from .examination import TINY, DatasetReport, examine_datasets
from .text import report_text, save_chart, verdict

__all__ = [
    "TINY",
    "DatasetReport",
    "check_datasets",
    "examine_datasets",
    "report_text",
    "save_chart",
    "verdict",
]
