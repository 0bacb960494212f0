"""Vegetation, and street furniture that has no class: poles, bins, bollards."""

from __future__ import annotations

import numpy as np

from axial_d2.data.synthetic import textures
from axial_d2.data.synthetic.canvas import Canvas, Sprite

_LEAVES = (
    (56, 92, 40),
    (78, 118, 48),
    (40, 76, 40),
    (94, 130, 54),
    (46, 84, 38),
    (86, 118, 60),
    (62, 100, 44),
    (128, 96, 44),
)
_VOID = 0


def _leafy(rng: np.random.Generator, sprite: Sprite, cell: float) -> np.ndarray:
    """Brightness (h, w) of foliage, lit from above; `cell` is the size of a tuft, pixels."""
    shape = (sprite.height, sprite.width)
    tufts = textures.noise_patch(rng, *shape, step=max(round(24 / max(cell, 1)), 1))
    leaves = textures.noise_patch(rng, *shape, white=True)
    light = np.linspace(1.22, 0.68, max(sprite.height, 1), dtype=np.float32)[:, None]
    return np.clip(light * (1 + 0.36 * tufts + 0.22 * leaves), 0.15, 1.9)


def _blobs(rng, sprite, centre, radius, color, count) -> None:
    """Draws a crown as many discs within an ellipse `radius` (along x, along y) pixels."""
    sprite.disc(centre, radius * np.array(0.8), color)
    for angle, size in zip(
        rng.uniform(0, 2 * np.pi, count), rng.uniform(0.3, 0.45, count), strict=True
    ):
        at = centre + radius * 0.62 * np.array((np.cos(angle), np.sin(angle)))
        sprite.disc(at, radius * size, color * rng.uniform(0.8, 1.15))


def paint_tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float, label: int) -> int:
    """Paints a tree of one of three habits at the ground point (x, z) metres."""
    camera = canvas.camera
    metre = camera.scale(z)
    foot = np.array(camera.ground(x, z))
    color = np.array(_LEAVES[rng.integers(len(_LEAVES))], np.float32) * rng.uniform(0.75, 1.15)
    bark = np.array((84, 66, 50), np.float32) * rng.uniform(0.6, 1.3)
    habit = rng.choice(("round", "column", "conifer"), p=(0.6, 0.2, 0.2))
    tall = rng.uniform(4.5, 8.5)
    wide = {"round": rng.uniform(1.5, 2.6), "column": 0.9, "conifer": rng.uniform(1.2, 1.8)}[habit]
    clear = {"round": rng.uniform(1.8, 2.8), "column": 0.7, "conifer": 0.8}[habit]
    corners = np.array([(-wide * 1.3, 0.0), (wide * 1.3, tall * 1.15)])
    sprite = canvas.sprite(foot + corners * (metre, -metre))
    if sprite.empty:
        return 0
    trunk = rng.uniform(0.35, 0.5) * metre
    lean = np.array((rng.normal(0, 0.15), 0.0)) * metre
    sprite.limb(foot, foot + lean - (0, (clear + 0.6) * metre), trunk, trunk * 0.7, bark)
    if habit == "conifer":
        for level in np.linspace(0, 0.7, 3):
            low = clear + level * (tall - clear)
            half = wide * (1 - level) * rng.uniform(0.85, 1.1)
            shape = [(-half, low), (0, min(low + (tall - clear) * 0.45, tall)), (half, low)]
            sprite.polygon(foot + np.array(shape) * (metre, -metre), color)
    else:
        middle = foot + lean - (0, (clear + tall) / 2 * metre)
        radius = np.array((wide, (tall - clear) / 2)) * metre
        _blobs(rng, sprite, middle, radius, color, 9 if metre > 20 else 6)
    return canvas.paste(sprite, label, z, _leafy(rng, sprite, 0.5 * metre))


def paint_bush(canvas: Canvas, rng: np.random.Generator, x: float, z: float, label: int) -> int:
    """Paints a bush of 0.7 to 1.6 m at the ground point (x, z) metres."""
    metre = canvas.camera.scale(z)
    foot = np.array(canvas.camera.ground(x, z))
    color = np.array(_LEAVES[rng.integers(len(_LEAVES))], np.float32) * rng.uniform(0.75, 1.15)
    radius = np.array((rng.uniform(0.6, 1.4), rng.uniform(0.4, 0.85))) * metre
    sprite = canvas.sprite(np.array([foot - radius * (1.4, 2.4), foot + radius * (1.4, 0.3)]))
    if sprite.empty:
        return 0
    _blobs(rng, sprite, foot - (0, radius[1] * 0.85), radius, color, 9)
    return canvas.paste(sprite, label, z, _leafy(rng, sprite, 0.4 * metre))


def paint_hedge(
    canvas: Canvas,
    rng: np.random.Generator,
    ends: tuple[tuple[float, float], tuple[float, float]],
    label: int,
) -> int:
    """Paints a clipped hedge between the ground points `ends`, each (x, z) metres."""
    camera = canvas.camera
    count = 12
    path = np.linspace(ends[0], ends[1], count)
    height = rng.uniform(0.9, 1.7) + rng.normal(0, 0.05, count)
    low = camera.project(np.stack([path[:, 0], np.zeros(count), path[:, 1]], 1))
    high = camera.project(np.stack([path[:, 0], height, path[:, 1]], 1))
    outline = np.concatenate([low, high[::-1]])
    sprite = canvas.sprite(outline)
    if sprite.empty:
        return 0
    color = np.array(_LEAVES[rng.integers(4)], np.float32) * rng.uniform(0.7, 1.2)
    sprite.polygon(outline, color)
    z = float(path[:, 1].mean())
    return canvas.paste(sprite, label, z, _leafy(rng, sprite, 0.3 * camera.scale(z)))


def paint_pole(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> int:
    """Paints a lamp post, which belongs to no class."""
    metre = canvas.camera.scale(z)
    foot = np.array(canvas.camera.ground(x, z))
    tall, arm = rng.uniform(4.5, 7.0), rng.choice((-1.0, 1.0)) * rng.uniform(0.6, 1.4)
    color = np.full(3, rng.uniform(40, 170), np.float32) + rng.normal(0, 6, 3)
    top = foot - (0, tall * metre)
    end = top + np.array((arm, -0.15)) * metre
    sprite = canvas.sprite(np.array([foot, top, end + (0, metre)]), margin=0.4 * metre)
    if sprite.empty:
        return 0
    sprite.limb(foot, top, 0.22 * metre, 0.12 * metre, color)
    sprite.limb(top, end, 0.1 * metre, 0.08 * metre, color)
    sprite.limb(end, end + (0.25 * arm * metre, 0), 0.2 * metre, 0.16 * metre, color * 0.8)
    return canvas.paste(sprite, _VOID, z, sprite.texture(rng, rough=0.05))


def paint_bin(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> int:
    """Paints a litter bin or a bollard, which belong to no class."""
    metre = canvas.camera.scale(z)
    foot = np.array(canvas.camera.ground(x, z))
    slim = rng.random() < 0.4
    half, tall = (0.09, 0.95) if slim else (rng.uniform(0.25, 0.4), rng.uniform(0.8, 1.15))
    color = textures.paint(rng)
    shape = np.array([(-half * 0.85, 0), (-half, tall), (half, tall), (half * 0.85, 0)])
    points = foot + shape * (metre, -metre)
    sprite = canvas.sprite(points)
    if sprite.empty:
        return 0
    sprite.polygon(points, color)
    lid = np.array([(-half * 1.1, 0.86), (-half, 1.0), (half, 1.0), (half * 1.1, 0.86)])
    sprite.polygon(foot + lid * (metre, -metre * tall), color * 0.6)
    return canvas.paste(sprite, _VOID, z, sprite.texture(rng, rough=0.08, tilt=0.25))
