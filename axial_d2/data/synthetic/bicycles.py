"""Bicycles, seen more or less from the side."""

from __future__ import annotations

import numpy as np

from axial_d2.data.synthetic import textures
from axial_d2.data.synthetic.canvas import Canvas


def paint_bicycle(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    z: float,
    turn: float,
    label: int,
) -> int:
    """Paints a bicycle seen from the side; its label covers the whole wheels and the frame.

    Args:
        canvas: to paint on.
        rng: source of chance.
        x, z: ground point under its middle, metres.
        turn: cosine of the heading: sign for left or right, size for foreshortening.
        label: region number.

    Returns:
        How many canvas pixels it took.
    """
    metre = canvas.camera.scale(z)
    foot = np.array(canvas.camera.ground(x, z))
    stretch = np.array((turn, -1.0)) * metre
    sprite = canvas.sprite(foot + np.array([(-1.0, -0.05), (1.0, 1.2)]) * stretch)
    if sprite.empty:
        return 0
    color = textures.paint(rng, 1.6, grey_share=0.0)
    dark = np.full(3, rng.uniform(20, 55), np.float32)
    radius = rng.uniform(0.34, 0.38)
    rear, front = np.array((-0.53, radius)), np.array((0.53, radius))
    crank, seat, head = np.array((-0.08, 0.3)), np.array((-0.22, 0.88)), np.array((0.38, 0.9))
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    hull = np.array([rear, seat, head + (0, 0.1), front + (0, -0.1), rear + (0, -0.1)])
    sprite.polygon(foot + hull * stretch, dark, opacity=200)
    thick = max(0.085 * metre, 1.8)
    for hub in (rear, front):
        sprite.polygon(foot + (hub + ring * radius) * stretch, dark * 1.6, opacity=235)
        sprite.outline(foot + (hub + ring * (radius - 0.02)) * stretch, thick, dark)
    tubes = ((rear, crank), (rear, seat * 0.97), (crank, seat), (crank, head), (seat * 0.9, head))
    for start, end in (*tubes, (front, head)):
        sprite.limb(foot + start * stretch, foot + end * stretch, thick, thick, color)
    bar = head + (0.02, 0.14)
    sprite.limb(foot + head * stretch, foot + bar * stretch, thick, thick, dark)
    grip = bar + (0.1, 0.02)
    sprite.limb(foot + bar * stretch, foot + grip * stretch, thick, thick * 1.3, dark)
    saddle = (seat + (-0.14, 0.04), seat + (0.1, 0.04))
    sprite.limb(foot + saddle[0] * stretch, foot + saddle[1] * stretch, thick * 1.9, thick, dark)
    if rng.random() < 0.25:
        basket = np.array([(0.42, 1.0), (0.78, 1.0), (0.72, 0.74), (0.46, 0.74)])
        sprite.polygon(foot + basket * stretch, np.array((150, 116, 76)) * rng.uniform(0.6, 1.2))
    return canvas.paste(sprite, label, z, sprite.texture(rng, rough=0.06))
