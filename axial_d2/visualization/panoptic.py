"""The panoptic overlay.

Drawn on pixels, not on polygons as Detectron2's Visualizer does: the same colours every time, so
that truth and prediction can be compared; an outline around every segment; names that neither
overlap nor leave the picture.
"""

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from axial_d2.visualization.canvas import (
    as_array,
    as_image,
    check_map_size,
    drawing_scale,
    enlarge,
    font,
)

# Share of the segment's colour; the rest is the picture.
_OPACITY = 0.55
# What is left of the picture where nothing was predicted.
_VOID_BRIGHTNESS = 0.4
_OUTLINE = np.array([255, 255, 255], np.uint8)
# Change of hue (turns) and brightness among instances of a class: enough to tell neighbours apart,
# too little to look like another class.
_VARIANTS = ((0.0, 1.0), (0.06, 0.8), (-0.06, 0.95), (0.1, 1.0), (-0.1, 0.8), (0.03, 0.7))
# Text heights in pixels of the enlarged picture; a name grows with its segment.
_TEXT_SIZES = (14, 26)
_PADDING = 3
# A segment with less room inside it (radius, pixels of the enlarged picture) gets no name.
_LEAST_RADIUS = 5


class Segment(NamedTuple):
    """One segment of a picture."""

    id: int
    category_id: int
    isthing: bool
    text: str


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        return not (
            self.right <= other.left
            or other.right <= self.left
            or self.bottom <= other.top
            or other.bottom <= self.top
        )


def draw_panoptic(
    image_rgb: np.ndarray,
    panoptic_seg: Any,
    segments_info: Sequence[Mapping[str, Any]] | None,
    metadata: Any,
) -> np.ndarray:
    """Draws segments over a picture: colour by class, outlines, class names.

    Args:
        image_rgb: (H, W, 3), 0..255.
        panoptic_seg: (H, W) segment ids, tensor or array.
        segments_info: per segment its id, category_id (contiguous) and isthing, perhaps score (0
            to 1) and iscrowd; ids that are not among them are void. None: `panoptic_seg` holds
            category_id * label_divisor + instance and -1 for void, as Detectron2's PanopticDeepLab
            gives it.
        metadata: Detectron2's, with stuff_classes and stuff_colors by contiguous id.

    Returns:
        (H', W', 3) uint8 RGB, a whole multiple of the picture's size (see `drawing_scale`).

    Raises:
        ValueError: shapes that do not agree.
    """
    image = as_image(image_rgb)
    ids = as_array(panoptic_seg)
    check_map_size(ids.shape, image, "panoptic_seg")
    segments = list_segments(ids, segments_info, metadata)
    scale = drawing_scale(*image.shape[:2])
    index = _index_map(ids, segments)  # (H, W): place in `segments`, -1 for void
    canvas = enlarge(image, scale)
    index = enlarge(index, scale, smooth=False)
    colors = _colors(index, segments, metadata)
    canvas = _blend(canvas, index, colors)
    canvas[_edges(index)] = _OUTLINE
    return _write_names(canvas, index, segments)


def list_segments(
    ids: np.ndarray, segments_info: Sequence[Mapping[str, Any]] | None, metadata: Any
) -> list[Segment]:
    """Brings both forms of panoptic results into one.

    Args:
        ids: (H, W).
        segments_info: as `draw_panoptic` takes it.
        metadata: as `draw_panoptic` takes it.

    Returns:
        The segments that have a pixel, the largest first.
    """
    present, areas = np.unique(ids, return_counts=True)
    area_of = dict(zip(present.tolist(), areas.tolist(), strict=True))
    if segments_info is None:
        things = set(metadata.thing_dataset_id_to_contiguous_id.values())
        divisor = metadata.label_divisor
        segments_info = [
            {"id": i, "category_id": i // divisor, "isthing": i // divisor in things}
            for i in area_of
            if i >= 0
        ]
    names = metadata.stuff_classes
    found = [
        Segment(
            int(info["id"]),
            int(info["category_id"]),
            bool(info.get("isthing", True)),
            _text(names[info["category_id"]], info),
        )
        for info in segments_info
        if int(info["id"]) in area_of
    ]
    return sorted(found, key=lambda s: -area_of[s.id])


def _text(name: str, info: Mapping[str, Any]) -> str:
    # "-merged" and "-other" are how COCO marks classes put together; they tell a viewer nothing.
    name = name.removesuffix("-merged").removesuffix("-other")
    if info.get("iscrowd"):
        name += " (crowd)"
    score = info.get("score")
    return name if score is None else f"{name} {100 * float(score):.0f}%"


def _index_map(ids: np.ndarray, segments: Iterable[Segment]) -> np.ndarray:
    present, inverse = np.unique(ids, return_inverse=True)
    place = {segment.id: index for index, segment in enumerate(segments)}
    table = np.array([place.get(i, -1) for i in present.tolist()], np.int32)
    return table[inverse.reshape(ids.shape)]  # (H, W)


def _colors(index: np.ndarray, segments: Sequence[Segment], metadata: Any) -> np.ndarray:
    """Returns (segments, 3) uint8. Instances of a class vary in turn from left to right."""
    colors = np.array([metadata.stuff_colors[s.category_id] for s in segments], np.uint8)
    centre = {i: np.flatnonzero((index == i).any(axis=0)).mean() for i in range(len(segments))}
    seen: dict[int, int] = {}
    for i in sorted(centre, key=centre.__getitem__):
        segment = segments[i]
        if segment.isthing:
            turn = seen[segment.category_id] = seen.get(segment.category_id, -1) + 1
            colors[i] = _variant(colors[i], turn)
    return colors.reshape(-1, 3)


def _variant(color: np.ndarray, turn: int) -> np.ndarray:
    hue, saturation, value = colorsys.rgb_to_hsv(*(color / 255.0))
    shift, brightness = _VARIANTS[turn % len(_VARIANTS)]
    # Shades of grey and near-black have no hue to shift and no brightness to lose.
    saturation, value = max(saturation, 0.4), max(value, 0.6)
    rgb = colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value * brightness)
    return np.round(np.array(rgb) * 255).astype(np.uint8)


def _blend(canvas: np.ndarray, index: np.ndarray, colors: np.ndarray) -> np.ndarray:
    # The last row of the table is void's, which is what the index -1 takes.
    table = np.concatenate([colors, np.zeros((1, 3), np.uint8)]).astype(np.float32)
    opacity = np.full(len(table), _OPACITY, np.float32)
    opacity[-1] = 1 - _VOID_BRIGHTNESS
    share = opacity[index][..., None]  # (H, W, 1)
    return np.round(canvas * (1 - share) + table[index] * share).astype(np.uint8)


def _edges(index: np.ndarray) -> np.ndarray:
    """Pixels on either side of a border between segments: lines two pixels wide."""
    edge = np.zeros(index.shape, bool)
    across = index[1:] != index[:-1]
    along = index[:, 1:] != index[:, :-1]
    edge[1:] |= across
    edge[:-1] |= across
    edge[:, 1:] |= along
    edge[:, :-1] |= along
    return edge


def _write_names(canvas: np.ndarray, index: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    from PIL import Image, ImageDraw

    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture, "RGBA")
    taken: list[_Box] = []
    for i, segment in enumerate(segments):
        row, column, radius = _roomiest_point(index == i)
        if radius < _LEAST_RADIUS:
            continue
        size = int(np.clip(0.5 * radius, *_TEXT_SIZES))
        place = _free_place(draw, segment.text, (column, row), size, picture.size, taken)
        if place is None:
            continue
        box, anchor = place
        taken.append(box)
        draw.rectangle(box, fill=(0, 0, 0, 150))
        draw.text(anchor, segment.text, font=font(size), fill=(255, 255, 255), anchor="mm")
    return np.asarray(picture)


def _roomiest_point(mask: np.ndarray) -> tuple[int, int, float]:
    """Row, column and distance to the border of the pixel that lies deepest in a segment."""
    import cv2

    rows, columns = (np.flatnonzero(mask.any(axis=a)) for a in (1, 0))
    top, left = rows[0], columns[0]
    inside = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    # A frame of zeros: the picture's border bounds a segment too.
    depth = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(top + row), int(left + column), float(depth[row, column])


def _free_place(
    draw: Any,
    text: str,
    point: tuple[int, int],
    size: int,
    picture_size: tuple[int, int],
    taken: Sequence[_Box],
) -> tuple[_Box, tuple[float, float]] | None:
    """Where a name fits: at its point, or a little above or below; None where it does not."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font(size), anchor="mm")
    half_width, half_height = (right - left) / 2 + _PADDING, (bottom - top) / 2 + _PADDING
    width, height = picture_size
    if 2 * half_width > width or 2 * half_height > height:
        return None
    for step in (0, 1, -1, 2, -2):
        x = float(np.clip(point[0], half_width, width - half_width))
        y = point[1] + step * 2 * half_height
        y = float(np.clip(y, half_height, height - half_height))
        box = _Box(x - half_width, y - half_height, x + half_width, y + half_height)
        if not any(box.meets(other) for other in taken):
            # The middle that Pillow anchors by is the line's, not that of the letters drawn.
            anchor = x - (left + right) / 2, y - (top + bottom) / 2
            return box, anchor
    return None
