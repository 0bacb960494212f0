"""What the network sees of a training picture, and what it is taught, on one sheet."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from axial_d2.visualization.canvas import (
    as_array,
    as_image,
    check_map_size,
    drawing_scale,
    enlarge,
    font,
    stack_pictures,
)
from axial_d2.visualization.maps import draw_centers, draw_offsets, with_wheel
from axial_d2.visualization.panoptic import draw_panoptic

# Stripes where nothing is taught: period in pixels of the enlarged picture, and the two greys.
_STRIPES = 12
_STRIPE_COLORS = (70, 110)
_GAP = 8
_BACKGROUND = 24
_ROW = 26
_TEXT = 16
_COLUMNS = 4


def training_sheet(
    image_rgb: np.ndarray,
    targets: Mapping[str, Any],
    *,
    names: Sequence[str],
    colors: Sequence[Sequence[int]],
    thing_ids: Sequence[int],
    title: str,
) -> np.ndarray:
    """Draws a training picture with its targets and their weights.

    Args:
        image_rgb: (H, W, 3) as the network gets it, 0..255.
        targets: of `axial_d2.panoptic.panoptic_targets`, at the picture's size.
        names: of the classes, by contiguous id.
        colors: [red, green, blue] of each.
        thing_ids: the classes that are things.
        title: above all panels.

    Returns:
        (H', W', 3) uint8 RGB: the picture; the semantic target; centres; offsets; the weights of
        semantic, centre and offset losses; and a legend. Striped: nothing is taught there.

    Raises:
        ValueError: maps of another size than the picture.
    """
    image = as_image(image_rgb)
    labels = as_array(targets["sem_seg"])
    check_map_size(labels.shape, image, "sem_seg")
    known = (labels >= 0) & (labels < len(names))
    present = np.unique(labels[known]).tolist()
    weights = {
        key: as_array(targets[f"{key}_weights"]).reshape(labels.shape)  # (1, H, W) or (H, W)
        for key in ("sem_seg", "center", "offset")
    }
    pictures = {
        f"image, {image.shape[1]}x{image.shape[0]}": _enlarged(image),
        f"semantic, {len(present)} classes": _semantic(image, labels, present, names, colors),
        f"centres, {len(targets['center_points'])}": _striped(
            draw_centers(image, targets["center"], targets["center_points"] or None),
            weights["center"] == 0,
        ),
        "offsets": with_wheel(
            _striped(
                draw_offsets(targets["offset"], np.isin(labels, thing_ids), image),
                weights["offset"] == 0,
            )
        ),
        _with_range("semantic weights", weights["sem_seg"] * known): _weights(
            image, weights["sem_seg"] * known
        ),
        _with_range("centre weights", weights["center"]): _weights(image, weights["center"]),
        _with_range("offset weights", weights["offset"]): _weights(image, weights["offset"]),
    }
    panels = list(pictures.values())
    legend = _legend(panels[0].shape[:2], present, names, colors, set(thing_ids))
    return _sheet([*panels, legend], [*pictures, "classes"], title)


def _sheet(panels: Sequence[np.ndarray], titles: Sequence[str], title: str) -> np.ndarray:
    rows = [
        stack_pictures(panels[start : start + _COLUMNS], titles[start : start + _COLUMNS])
        for start in range(0, len(panels), _COLUMNS)
    ]
    head = _text_block((_ROW + _GAP, rows[0].shape[1]), [(None, title)])
    return np.concatenate([head, *rows], axis=0)


def _enlarged(image: np.ndarray) -> np.ndarray:
    return enlarge(image, drawing_scale(*image.shape[:2]))


def _semantic(
    image: np.ndarray,
    labels: np.ndarray,
    present: Sequence[int],
    names: Sequence[str],
    colors: Sequence[Sequence[int]],
) -> np.ndarray:
    infos = [{"id": label, "category_id": label, "isthing": False} for label in present]
    metadata = SimpleNamespace(stuff_classes=list(names), stuff_colors=[list(c) for c in colors])
    drawn = draw_panoptic(image, labels, infos, metadata)
    return _striped(drawn, ~np.isin(labels, present))


def _striped(drawn: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Stripes over the pixels (H, W) where nothing is taught."""
    mask = enlarge(where, drawn.shape[0] // where.shape[0], smooth=False)
    rows, columns = np.indices(mask.shape, sparse=True)
    first = (rows + columns) % _STRIPES < _STRIPES // 2
    stripes = np.where(first, *_STRIPE_COLORS)[..., None].astype(np.uint8)  # (H', W', 1)
    return np.where(mask[..., None], stripes, drawn)


def _weights(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The picture in grey, red where the weight is more than 1, striped where it is 0."""
    grey = _enlarged(image).mean(axis=2)
    large = enlarge(weights, drawing_scale(*weights.shape), smooth=False)
    canvas = np.repeat(grey[..., None], 3, axis=2)  # (H', W', 3)
    more = large > 1
    canvas[more] = 0.5 * canvas[more] + 0.5 * np.array([255, 80, 0])
    return _striped(np.round(canvas).astype(np.uint8), weights == 0)


def _with_range(name: str, weights: np.ndarray) -> str:
    values = weights[weights > 0]
    if not values.size:
        return f"{name}: 0"
    low, high = float(values.min()), float(values.max())
    text = f"{low:g}" if low == high else f"{low:g} to {high:g} (orange)"
    return f"{name}: {text}, on {values.size / weights.size:.0%}"


def _legend(
    size: tuple[int, ...],
    present: Sequence[int],
    names: Sequence[str],
    colors: Sequence[Sequence[int]],
    things: set[int],
) -> np.ndarray:
    lines: list[tuple[Any, str]] = [
        (colors[k], f"{names[k]} ({'thing' if k in things else 'stuff'})") for k in present
    ]
    lines.append((_stripe_patch(), "nothing is taught here"))
    room = max(1, (size[0] - _GAP) // _ROW)
    if len(lines) > room:
        lines = [*lines[: room - 2], (None, f"... and {len(lines) - room + 1} more"), lines[-1]]
    return _text_block(size, lines)


def _stripe_patch() -> np.ndarray:
    side = _ROW - _GAP
    return _striped(np.zeros((side, side, 3), np.uint8), np.ones((side, side), bool))


def _text_block(size: tuple[int, ...], lines: Sequence[tuple[Any, str]]) -> np.ndarray:
    """Lines of text on the dark ground, each behind a square of a colour, a picture or nothing."""
    from PIL import Image, ImageDraw

    block = Image.new("RGB", (size[1], size[0]), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(block)
    side = _ROW - _GAP
    for number, (mark, text) in enumerate(lines):
        top = _GAP + number * _ROW
        left = _GAP
        if mark is not None:
            patch = np.asarray(mark, dtype=np.uint8)
            if patch.ndim == 1:
                patch = np.broadcast_to(patch, (side, side, 3))
            block.paste(Image.fromarray(np.ascontiguousarray(patch)), (_GAP, top))
            left += _ROW
        draw.text((left, top - 1), text, font=font(_TEXT), fill=(255,) * 3)
    return np.asarray(block)
