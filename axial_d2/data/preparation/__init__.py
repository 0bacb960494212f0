"""What known datasets lack after the download, made from what they have."""

from collections.abc import Callable
from typing import NamedTuple

from . import ade20k, cityscapes, coco, imagenet
from .work import Outcome


class Recipe(NamedTuple):
    """How one dataset is prepared: in a line, and by a function (root, workers=) -> outcomes."""

    summary: str
    prepare: Callable[..., list[Outcome]]


RECIPES = {
    "ade20k": Recipe("panoptic files from the masks of classes and of instances", ade20k.prepare),
    "cityscapes": Recipe(
        "labelTrainIds and panoptic files of Cityscapes' fine annotations", cityscapes.prepare
    ),
    "coco": Recipe("unpacks the panoptic pngs; masks of classes from them", coco.prepare),
    "imagenet": Recipe("the loose validation pictures into class folders", imagenet.prepare),
}

__all__ = ["RECIPES", "Outcome", "Recipe"]
