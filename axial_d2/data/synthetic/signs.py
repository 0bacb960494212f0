"""Traffic signs: several shapes on a pole that itself belongs to no class."""

from __future__ import annotations

import numpy as np

from axial_d2.data.synthetic.canvas import Canvas, Sprite

_VOID = 0
_RED = np.array((186, 28, 34), np.float32)
_BLUE = np.array((28, 74, 150), np.float32)
_YELLOW = np.array((232, 186, 40), np.float32)
_WHITE = np.array((232, 230, 224), np.float32)
_BLACK = np.array((30, 30, 32), np.float32)
_KINDS = ("ban", "limit", "warning", "stop", "order", "parking", "priority")


def paint_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float, label: int) -> int:
    """Paints a traffic sign at (x, z) metres; one in twenty shows its unlabelled back.

    Returns:
        How many canvas pixels the plate took (0 for a back).
    """
    kind = str(rng.choice(_KINDS))
    metre = canvas.camera.scale(z)
    foot = np.array(canvas.camera.ground(x, z))
    size = rng.uniform(1.2, 1.5) * metre / 2  # half a plate; somewhat larger than the real ones
    half = np.full(2, size)
    tall = rng.uniform(2.1, 2.9) * metre
    lean = rng.normal(0, 0.02) * tall
    centre = foot + (lean, -tall)
    pole = canvas.sprite(np.array([foot, centre]), margin=0.2 * metre)
    if not pole.empty:
        grey = np.full(3, rng.uniform(90, 170), np.float32)
        pole.limb(foot, centre, 0.1 * metre, 0.1 * metre, grey)
        canvas.paste(pole, _VOID, z, pole.texture(rng, rough=0.04))
    sprite = canvas.sprite(np.array([centre - half * 1.2, centre + half * 1.2]))
    if sprite.empty:
        return 0
    worn = rng.uniform(0.85, 1.08)
    back = rng.random() < 0.05
    if back:
        for color, share in ((np.full(3, 120.0), 1.0), (np.full(3, 140.0), 0.86)):
            sprite.polygon(centre + _outline(kind) * half * share, color * worn)
    else:
        _front(sprite, rng, kind, centre, half, worn)
    taken = canvas.paste(sprite, _VOID if back else label, z, sprite.texture(rng, rough=0.05))
    return 0 if back else taken


def _outline(kind: str) -> np.ndarray:
    """Corners (n, 2) of a plate within -1 to 1, y downwards."""
    if kind == "warning":
        return np.array([(0, -1), (1, 0.75), (-1, 0.75)], np.float64)
    if kind == "priority":
        return np.array([(0, -1), (1, 0), (0, 1), (-1, 0)], np.float64)
    if kind == "parking":
        return np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)], np.float64)
    corners = 8 if kind == "stop" else 18
    angles = (np.arange(corners) + 0.5) * 2 * np.pi / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _front(sprite: Sprite, rng, kind: str, centre, half, worn: float) -> None:
    outline = _outline(kind)

    def plate(share, color):
        sprite.polygon(centre + outline * half * share, color * worn)

    def box(left, right, top, bottom, color):
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        sprite.polygon(centre + corners * half, color * worn)

    if kind in ("ban", "limit", "warning"):
        plate(1.0, _RED)
        plate(0.66, _YELLOW if rng.random() < 0.1 else _WHITE)
        if kind == "limit":
            box(-0.32, -0.06, -0.32, 0.32, _BLACK)
            box(0.08, 0.34, -0.32, 0.32, _BLACK)
        elif kind == "ban":
            box(-0.55, 0.55, -0.14, 0.14, _BLACK if rng.random() < 0.5 else _RED)
        else:
            box(-0.1, 0.1, -0.25, 0.4, _BLACK)
    elif kind == "stop":
        plate(1.0, _WHITE)
        plate(0.9, _RED)
        box(-0.65, 0.65, -0.18, 0.18, _WHITE)
    elif kind == "priority":
        plate(1.0, _WHITE)
        plate(0.68, _YELLOW)
    else:
        plate(1.0, _WHITE)
        plate(0.92, _BLUE)
        box(-0.16, 0.14, -0.5, 0.55, _WHITE)
        if kind == "parking":
            box(0.1, 0.45, -0.5, 0.05, _WHITE)
        else:
            box(-0.42, 0.42, -0.52, -0.22, _WHITE)
