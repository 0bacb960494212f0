"""Looks for faults in datasets: the cheap part before each training, everything on request."""

from .before_training import check_datasets
from .chart import CHARTS, save_chart
from .examination import TINY, examine_datasets
from .findings import EXAMPLES
from .report import ClassBalance, DatasetReport
from .text import report_text, verdict

__all__ = [
    "CHARTS",
    "EXAMPLES",
    "TINY",
    "ClassBalance",
    "DatasetReport",
    "check_datasets",
    "examine_datasets",
    "report_text",
    "save_chart",
    "verdict",
]
