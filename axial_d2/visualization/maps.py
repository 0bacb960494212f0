"""Pictures of what the instance branch predicts: the heat-map of centres, and the offsets."""

from typing import Any

import numpy as np

from axial_d2.visualization.canvas import as_array, as_image, check_map_size, drawing_scale, enlarge

# How much of the picture's brightness is kept below the heat-map, so that it stands out.
_DIMMED = 0.45
# Radius of the mark on a peak, pixels of the enlarged picture.
_MARK = 6
# The longest offsets of a picture may be outliers; this share of them is drawn with full colour.
_FULL_COLOR_PERCENTILE = 95
_BACKGROUND = 40
# Radius of the wheel that tells directions, as a share of the shorter side.
_WHEEL = 0.08


def draw_centers(image_rgb: np.ndarray, center: Any, points: Any = None) -> np.ndarray:
    """Draws the heat-map of instance centres over a picture.

    Args:
        image_rgb: (H, W, 3), 0..255.
        center: (H, W) or (1, H, W) heat-map; 0 is drawn black to 1 bright yellow, values beyond
            these are cut.
        points: (K, 2) peaks, (row, column) in pixels, marked by rings; None for none.

    Returns:
        (H', W', 3) uint8 RGB, a whole multiple of the picture's size.

    Raises:
        ValueError: shapes that do not agree.
    """
    import cv2

    image = as_image(image_rgb)
    heat = _single_channel(as_array(center), "center")
    check_map_size(heat.shape, image, "center")
    scale = drawing_scale(*image.shape[:2])
    heat = enlarge(heat.astype(np.float32).clip(0, 1), scale)
    grey = enlarge(image, scale).mean(axis=2, keepdims=True) * _DIMMED  # (H', W', 1)
    # OpenCV's colour maps are BGR.
    color = cv2.applyColorMap(np.round(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    color = color[..., ::-1]
    share = np.sqrt(heat)[..., None]  # so that the foot of a peak is seen too
    canvas = np.round(grey * (1 - share) + color * share).astype(np.uint8)
    for row, column in [] if points is None else as_array(points).reshape(-1, 2).tolist():
        # The middle of the enlarged pixel.
        place = round((column + 0.5) * scale - 0.5), round((row + 0.5) * scale - 0.5)
        cv2.circle(canvas, place, _MARK + 1, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.circle(canvas, place, _MARK + 1, (90, 255, 255), 2, cv2.LINE_AA)
    return canvas


def draw_offsets(offset: Any, mask: Any = None, image_rgb: np.ndarray | None = None) -> np.ndarray:
    """Draws offsets as colours: the hue is the direction, the strength the length.

    Args:
        offset: (2, H, W), (dy, dx) in pixels from each pixel to the centre of its instance.
        mask: (H, W) bool, pixels to draw, those of things; None for all.
        image_rgb: (H, W, 3) drawn dimmed where `mask` is not; None for a plain ground.

    Returns:
        (H', W', 3) uint8 RGB, a whole multiple of the maps' size, with a wheel in the upper left
        corner: offsets that point its way have its colour.

    Raises:
        ValueError: shapes that do not agree.
    """
    vectors = as_array(offset).astype(np.float32)
    if vectors.ndim != 3 or vectors.shape[0] != 2:
        raise ValueError(f"offset: expected (2, H, W), got {vectors.shape}")
    height, width = vectors.shape[1:]
    shown = np.ones((height, width), bool) if mask is None else as_array(mask).astype(bool)
    if image_rgb is None:
        canvas = np.full((height, width, 3), _BACKGROUND, np.uint8)
    else:
        canvas = as_image(image_rgb)
        canvas = np.repeat(canvas.mean(axis=2, keepdims=True) * _DIMMED, 3, axis=2)
        canvas = np.round(canvas).astype(np.uint8)
    check_map_size(vectors.shape, canvas, "offset")
    check_map_size(shown.shape, canvas, "mask")
    length = np.hypot(*vectors)[shown]
    full = max(float(np.percentile(length, _FULL_COLOR_PERCENTILE)), 1.0) if length.size else 1.0
    canvas[shown] = _direction_colors(*vectors, full)[shown]
    canvas = enlarge(canvas, drawing_scale(height, width), smooth=False)
    return with_wheel(canvas)


def _direction_colors(dy: np.ndarray, dx: np.ndarray, full: float) -> np.ndarray:
    """Returns RGB: hue by direction, white at length 0 to full colour at `full` pixels."""
    import cv2

    turn = np.arctan2(dy, dx) / (2 * np.pi) % 1.0
    strength = (np.hypot(dy, dx) / full).clip(0, 1)
    hsv = np.stack([turn * 360, strength, np.ones_like(turn)], axis=-1).astype(np.float32)
    return np.round(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


def with_wheel(canvas: np.ndarray) -> np.ndarray:
    """Draws the wheel of directions into the upper left corner, where there is room for it.

    Args:
        canvas: (H, W, 3) uint8, drawn on in place.

    Returns:
        The same.
    """
    radius = max(4, round(_WHEEL * min(canvas.shape[:2])))
    edge = 2 * radius + 1
    if 2 * edge > min(canvas.shape[:2]):
        return canvas  # No room for it.
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    distance = np.hypot(dy, dx)
    corner = canvas[4 : 4 + edge, 4 : 4 + edge]
    corner[distance <= radius + 0.5] = 0
    inside = distance <= radius - 1
    corner[inside] = _direction_colors(dy, dx, float(radius))[inside]
    return canvas


def _single_channel(values: np.ndarray, name: str) -> np.ndarray:
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2:
        raise ValueError(f"{name}: expected (H, W) or (1, H, W), got {values.shape}")
    return values
