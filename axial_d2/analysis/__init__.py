"""What a network costs: parameters, multiply-adds, activation memory."""

from axial_d2.analysis.memory import peak_activation_bytes
from axial_d2.analysis.multiply_adds import MultiplyAdds, count_multiply_adds
from axial_d2.analysis.report import Analysis, Part, analyze

__all__ = [
    "Analysis",
    "MultiplyAdds",
    "Part",
    "analyze",
    "count_multiply_adds",
    "peak_activation_bytes",
]
