"""Multi-scale and flip testing: one set of maps from several looks at a picture."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from axial_d2.panoptic import MapAverage


class CoarseMaps(NamedTuple):
    """What the branches say of one picture, on their grid of cells.

    Attributes:
        sem_seg: (C, h, w) logits, up to a constant per cell.
        center: (1, h, w) heat-map.
        offset: (2, h, w), dy and dx from the middle of the cell, pixels of the answer.
        size: height and width to answer in.
        covered: height and width, in pixels of the answer, that the cells cover: larger than the
            size by the padding, and not whole numbers where the picture was resized.
    """

    sem_seg: Tensor
    center: Tensor
    offset: Tensor
    size: tuple[int, int]
    covered: tuple[float, float]

    @property
    def extent(self) -> tuple[int, int]:
        """`covered` in whole pixels."""
        return round(self.covered[0]), round(self.covered[1])


class MultiScaleFlip:
    """Looks at a picture at several scales, mirrored too, and averages what the branches say.

    Class probabilities, heat-map and offsets are averaged (arXiv 2003.07853), by
    `panoptic.MapAverage`, on the cells of the largest scale; merging follows once. One view is
    computed after another, and nothing but the sums is kept of it.

    Why on cells, and the largest scale's: of perfect maps of two COCO pictures at the paper's five
    scales, mirrored too, this leaves PQ 94.3, the cells of scale 1 leave 93.9, averages for every
    pixel 93.6, and those of offsets resized bilinearly 93.2; at the seven scales up to 2.0 96.2,
    94.2, 96.0 and 94.9 (docs/testing.md). Sums for every pixel would also take 4 to 7 times the
    memory.
    """

    def __init__(self, *, scales: Sequence[float], flip: bool) -> None:
        """Lists the views.

        Args:
            scales: factors on the height and width of the picture as the network would get it.
            flip: each also with left and right exchanged.

        Raises:
            ValueError: no scale, or one that is not a positive number.
        """
        if not scales or not all(_is_positive(scale) for scale in scales):
            raise ValueError(
                f"TEST.AUG.SCALES: expected one positive number or more, got {scales!r}"
            )
        # The largest first and not mirrored: its grid is that of the sums.
        ordered = sorted((float(scale) for scale in scales), reverse=True)
        self.views = [
            (scale, mirrored) for scale in ordered for mirrored in (False, True)[: 1 + flip]
        ]

    @torch.no_grad()
    def __call__(
        self, predict: Callable[[list[dict]], list[CoarseMaps]], inputs: dict
    ) -> CoarseMaps:
        """Averages the maps of one picture.

        Args:
            predict: the network and its branches, from a list of inputs to the maps of each.
            inputs: `image`, (3, H, W), 0 to 255; `height` and `width`, the size to answer in, the
                image's own where they are missing.

        Returns:
            Logarithms of the mean class probabilities in place of logits, mean heat-map and
            offsets. Of a single view its maps as they are: there is nothing to average.
        """
        average = None
        for scale, mirrored in self.views:
            (maps,) = predict([_view(inputs, scale, mirrored)])
            if len(self.views) == 1:
                return maps
            if average is None:
                size, extent = maps.size, maps.extent
                average = MapAverage(size=size, cells=maps.center.shape[1:], extent=extent)
            average.add(
                maps.sem_seg, maps.center, maps.offset, covered=maps.covered, mirrored=mirrored
            )
            del maps  # before the next view is computed
        return CoarseMaps(*average.mean(), size, extent)


def _view(inputs: dict, scale: float, mirrored: bool) -> dict:
    """The inputs with the picture resized by the factor, then mirrored; not yet padded."""
    image = inputs["image"]
    height, width = image.shape[1:]
    if scale != 1:
        size = [max(1, round(side * scale)) for side in (height, width)]
        # Antialiased: without, a smaller picture skips pixels, as no training picture does.
        image = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    if mirrored:
        image = image.flip(-1)
    answer = {"height": inputs.get("height", height), "width": inputs.get("width", width)}
    return {"image": image, **answer}


def _is_positive(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0
