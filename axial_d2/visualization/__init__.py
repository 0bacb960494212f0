"""Pictures of results (panoptic overlay, centres, offsets) and of training data. No windows.

Needs OpenCV, Pillow and matplotlib's font file, each imported when first drawn with.
"""

from axial_d2.visualization.canvas import drawing_scale, enlarge, stack_pictures
from axial_d2.visualization.maps import draw_centers, draw_offsets
from axial_d2.visualization.panoptic import draw_panoptic
from axial_d2.visualization.training_sheet import training_sheet

__all__ = [
    "draw_centers",
    "draw_offsets",
    "draw_panoptic",
    "drawing_scale",
    "enlarge",
    "stack_pictures",
    "training_sheet",
]
