"""What known datasets lack after the download, made from what they have."""

from collections.abc import Callable
from typing import NamedTuple

from . import cityscapes
from .work import Outcome


class Recipe(NamedTuple):
    """How one dataset is prepared: in a line, and by a function (root, workers=) -> outcomes."""

    summary: str
    prepare: Callable[..., list[Outcome]]


RECIPES = {
    "cityscapes": Recipe(
        "labelTrainIds and panoptic files of Cityscapes' fine annotations", cityscapes.prepare
    ),
}

__all__ = ["RECIPES", "Outcome", "Recipe"]
