"""What a network costs: parameters, multiply-adds, activation memory."""

from axial_d2.analysis.memory import PeakMemory
from axial_d2.analysis.multiply_adds import MultiplyAdds, count_multiply_adds
from axial_d2.analysis.report import Analysis, Part, analyze

__all__ = [
    "Analysis",
    "MultiplyAdds",
    "Part",
    "PeakMemory",
    "analyze",
    "count_multiply_adds",
]
