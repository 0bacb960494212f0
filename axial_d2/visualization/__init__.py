"""Pictures of results: panoptic overlay, centres, offsets. Never opens a window.

Needs OpenCV, Pillow and matplotlib's font file, each imported when first drawn with.
"""

from axial_d2.visualization.canvas import drawing_scale, enlarge, stack_pictures
from axial_d2.visualization.maps import draw_centers, draw_offsets
from axial_d2.visualization.panoptic import draw_panoptic

__all__ = [
    "draw_centers",
    "draw_offsets",
    "draw_panoptic",
    "drawing_scale",
    "enlarge",
    "stack_pictures",
]
