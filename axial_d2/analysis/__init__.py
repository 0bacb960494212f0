"""What a network costs: parameters, multiply-adds, activation memory."""

from axial_d2.analysis.memory import PeakMemory
from axial_d2.analysis.multiply_adds import MultiplyAdds, count_multiply_adds
from axial_d2.analysis.report import Analysis, Part, analyze, build_network

__all__ = [
    "Analysis",
    "MultiplyAdds",
    "Part",
    "PeakMemory",
    "analyze",
    "build_network",
    "count_multiply_adds",
]
