"""From panoptic truth to training targets, and from predicted maps to a panoptic map.

Pure functions on tensors and arrays; torch and numpy only.
"""

from axial_d2.panoptic.averaging import MapAverage
from axial_d2.panoptic.encoding import id_to_rgb, rgb_to_id
from axial_d2.panoptic.grouping import group_cells, group_pixels, resize_offsets
from axial_d2.panoptic.losses import (
    center_loss,
    cross_entropy,
    hard_pixel_cross_entropy,
    offset_loss,
)
from axial_d2.panoptic.merging import (
    PanopticSegmentation,
    find_centers,
    merge_semantic_and_instance,
    panoptic_segmentation,
)
from axial_d2.panoptic.scores import InstanceScores, instance_scores
from axial_d2.panoptic.segments import Segments, find_segments
from axial_d2.panoptic.targets import PanopticTargets, panoptic_targets

__all__ = [
    "InstanceScores",
    "MapAverage",
    "PanopticSegmentation",
    "PanopticTargets",
    "Segments",
    "center_loss",
    "cross_entropy",
    "find_centers",
    "find_segments",
    "group_cells",
    "group_pixels",
    "hard_pixel_cross_entropy",
    "id_to_rgb",
    "instance_scores",
    "merge_semantic_and_instance",
    "offset_loss",
    "panoptic_segmentation",
    "panoptic_targets",
    "resize_offsets",
    "rgb_to_id",
]
