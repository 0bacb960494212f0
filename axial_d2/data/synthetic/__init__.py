"""The embedded dataset: street scenes drawn procedurally, with pixel-exact panoptic truth.

    python -m axial_d2.data.synthetic --output DIR --images N --size H W

writes it as COCO panoptic files. `synthetic_panoptic_train` and `synthetic_panoptic_val` are
registered under $DETECTRON2_DATASETS/synthetic_panoptic/{train,val}. See docs/synthetic.md.
"""

from axial_d2.data.synthetic.classes import CATEGORIES
from axial_d2.data.synthetic.registration import register
from axial_d2.data.synthetic.scene import Scene, render
from axial_d2.data.synthetic.writer import generate

__all__ = ["CATEGORIES", "Scene", "generate", "register", "render"]
