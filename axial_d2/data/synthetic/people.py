"""Articulated persons: build, clothes, view and gait vary."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from axial_d2.data.synthetic import textures
from axial_d2.data.synthetic.canvas import Canvas, Sprite

_SKIN = ((236, 200, 170), (214, 168, 132), (176, 124, 90), (128, 86, 60), (86, 58, 42))
_HAIR = ((28, 24, 22), (64, 44, 30), (112, 78, 44), (186, 150, 90), (150, 146, 142), (120, 56, 34))


@dataclasses.dataclass(frozen=True)
class Look:
    """One person's looks; lengths in shares of the body height.

    Attributes:
        tall: body height, metres.
        stout: factor on all widths.
        skin, hair, top, bottom, shoes, bag: (3,) colours.
        sleeves: whether the arms are covered.
        lower: "trousers", "shorts", "skirt" or "coat".
        head: "short", "long" or "hat".
        luggage: "none", "backpack" or "bag".
        striped: whether the top has stripes.
    """

    tall: float
    stout: float
    skin: np.ndarray
    hair: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    shoes: np.ndarray
    bag: np.ndarray
    sleeves: bool
    lower: str
    head: str
    luggage: str
    striped: bool


def _trousers(rng: np.random.Generator) -> np.ndarray:
    kinds = ((52, 78, 128), (58, 74, 138), (84, 112, 164))
    return np.array(kinds[rng.integers(len(kinds))], np.float32) * rng.uniform(0.75, 1.25)


def sample_look(rng: np.random.Generator, *, child: bool = False) -> Look:
    """Draws a person."""
    skin = np.array(_SKIN[rng.integers(len(_SKIN))], np.float32) * rng.uniform(0.9, 1.05)
    return Look(
        tall=rng.uniform(1.25, 1.45) if child else rng.uniform(1.65, 1.9),
        stout=rng.uniform(1.6, 1.9),
        skin=skin,
        hair=np.array(_HAIR[rng.integers(len(_HAIR))], np.float32) * rng.uniform(0.8, 1.2),
        top=textures.paint(rng, 1.7, grey_share=0.0),
        bottom=_trousers(rng),
        shoes=textures.paint(rng, 0.4) * rng.uniform(0.3, 1.0),
        bag=textures.paint(rng, 1.1),
        sleeves=bool(rng.random() < 0.65),
        lower=str(rng.choice(("trousers", "shorts", "skirt", "coat"), p=(0.7, 0.1, 0.12, 0.08))),
        head=str(rng.choice(("short", "long", "hat"), p=(0.6, 0.3, 0.1))),
        luggage=str(rng.choice(("none", "backpack", "bag"), p=(0.76, 0.16, 0.08))),
        striped=bool(rng.random() < 0.08),
    )


class _Body:
    """Draws in shares of the body height, x forwards (or right) and y up from the feet."""

    def __init__(self, sprite: Sprite, foot: np.ndarray, unit: float, turn: float) -> None:
        self.sprite, self.foot, self.unit, self.turn = sprite, foot.tolist(), unit, turn

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.foot[0] + x * self.turn * self.unit, self.foot[1] - y * self.unit

    def limb(self, joints, widths, color) -> None:
        for start, end, first, last in zip(
            joints[:-1], joints[1:], widths[:-1], widths[1:], strict=True
        ):
            self.sprite.limb(
                self.at(*start), self.at(*end), first * self.unit, last * self.unit, color
            )

    def shape(self, points, color) -> None:
        self.sprite.polygon(np.array([self.at(*point) for point in points]), color)

    def disc(self, x, y, radius, color) -> None:
        self.sprite.disc(self.at(x, y), np.multiply(radius, self.unit), color)


def paint_person(
    canvas: Canvas, rng: np.random.Generator, look: Look, x: float, z: float, label: int
) -> int:
    """Paints a person standing or walking at the ground point (x, z) metres.

    Returns:
        How many canvas pixels the person took.
    """
    unit = look.tall * canvas.camera.scale(z)
    foot = np.array(canvas.camera.ground(x, z))
    sprite = canvas.sprite(foot + np.array([(-0.45, 0.06), (0.45, -1.08)]) * unit)
    if sprite.empty:
        return 0
    view = str(rng.choice(("front", "back", "side"), p=(0.3, 0.2, 0.5)))
    turn = float(rng.choice((-1.0, 1.0)))
    stride = 0.0 if rng.random() < 0.3 else rng.uniform(0.2, 0.6)
    body = _Body(sprite, foot, unit, turn)
    wide = look.stout * (0.78 if view == "side" else 1.0)
    gait = stride * (1.0 if view == "side" else 0.25)
    swing = rng.uniform(0.0, 0.8) * gait
    far = 0.82  # brightness of the limbs on the far side

    if look.luggage == "backpack" and view == "side":
        _backpack(body, look, -0.11)
    for side, dark in ((-1, far), (1, 1.0)):
        _leg(body, look, view, side, side * gait, dark)
        if side == -1:
            _arm(body, look, view, side, -side * swing, wide, dark)
    _torso(body, look, wide, gait)
    if look.luggage == "backpack" and view == "back":
        _backpack(body, look, 0.0)
    _head(body, look, view)
    _arm(body, look, view, 1, -swing, wide, 1.0)
    texture = sprite.texture(rng, rough=0.07, tilt=rng.uniform(-0.2, 0.2))
    return canvas.paste(sprite, label, z, texture)


def _leg(body: _Body, look: Look, view: str, side: int, gait: float, dark: float) -> None:
    spread = 0.05 * side if view != "side" else 0.0
    angle = 0.42 * gait
    bend = 0.35 * max(-gait, 0.0)  # the rear knee is bent
    hip = (spread, 0.49)
    knee = (spread * 1.1 + 0.24 * math.sin(angle), 0.49 - 0.23 * math.cos(angle))
    lower = angle - bend - 0.05
    ankle = (knee[0] + 0.23 * math.sin(lower), knee[1] - 0.23 * math.cos(lower))
    lift = 0.03 if gait < 0 else 0.0
    ankle = (ankle[0], max(ankle[1], 0.02) + lift)
    cloth = look.bottom * dark
    bare = look.skin * dark
    widths = np.array((0.125, 0.11, 0.095)) * look.stout
    upper = bare if look.lower in ("skirt", "coat") else cloth
    shank = cloth if look.lower == "trousers" else bare
    body.limb((hip, knee), widths[:2], upper)
    body.limb((knee, ankle), widths[1:], shank)
    toe = 0.07 if view == "side" else 0.012 * side
    body.limb((ankle, (ankle[0] + toe, ankle[1] - 0.01)), (0.085, 0.07), look.shoes * dark)


def _arm(body, look, view, side, swing, wide, dark) -> None:
    shoulder = (0.105 * side * wide if view != "side" else 0.0, 0.80)
    out = 0.055 * side if view != "side" else 0.0
    angle = 0.6 * swing
    elbow = (shoulder[0] + out * 0.6 + 0.16 * math.sin(angle), 0.80 - 0.16 * math.cos(angle))
    hand = (elbow[0] + out * 0.2 + 0.15 * math.sin(angle + 0.3), elbow[1] - 0.14)
    cover = look.top * 0.93 * dark
    body.limb((shoulder, elbow), (0.08 * look.stout, 0.07 * look.stout), cover)
    lower = cover if look.sleeves else look.skin * dark
    body.limb((elbow, hand), (0.065 * look.stout, 0.06), lower)
    body.disc(*hand, 0.032, look.skin * dark)
    if look.luggage == "bag" and side == 1:
        x, y = hand
        bag = ((x - 0.07, y), (x + 0.07, y), (x + 0.08, y - 0.13), (x - 0.08, y - 0.13))
        body.shape(bag, look.bag)


def _torso(body: _Body, look: Look, wide: float, gait: float) -> None:
    s, w = 0.115 * wide, 0.085 * wide
    shape = ((-s, 0.80), (-0.05, 0.835), (0.05, 0.835), (s, 0.80), (w, 0.60), (w * 1.1, 0.47))
    body.shape((*shape, (-w * 1.1, 0.47), (-w, 0.60)), look.top)
    if look.striped:
        for y in (0.52, 0.6, 0.68, 0.76):
            body.shape(((-w, y), (w, y), (w, y + 0.035), (-w, y + 0.035)), 250 - look.top * 0.7)
    if look.lower in ("skirt", "coat"):
        hem = 0.3 if look.lower == "skirt" else 0.24
        flare = w * 1.25 + 0.05 * abs(gait) + 0.015
        cloth = look.bottom if look.lower == "skirt" else look.top
        body.shape(((-w, 0.54), (w, 0.54), (flare, hem), (-flare, hem)), cloth)
    else:
        body.shape(((-w, 0.53), (w, 0.53), (w, 0.46), (-w, 0.46)), look.bottom)


def _head(body: _Body, look: Look, view: str) -> None:
    body.limb(((0.0, 0.82), (0.01, 0.87)), (0.06, 0.06), look.skin * 0.9)
    if look.head == "long":
        back = 0.0 if view != "side" else -0.03
        body.shape(
            (
                (back - 0.062, 0.95),
                (back + 0.055, 0.95),
                (back + 0.05, 0.8),
                (back - 0.07, 0.79),
            ),
            look.hair,
        )
    face = look.hair if view == "back" else look.skin
    body.disc(0.01, 0.915, (0.064, 0.075), face)
    if view == "side":
        body.disc(0.062, 0.91, 0.012, look.skin)
    if look.head == "hat":
        body.shape(((-0.06, 0.94), (0.09, 0.94), (0.06, 0.96), (0.05, 1.0), (-0.05, 1.0)), look.bag)
    elif view != "back":
        behind = -0.02 if view == "side" else 0.0
        top = ((-0.058 + behind, 0.91), (-0.05 + behind, 0.975), (0.01, 0.998), (0.055, 0.965))
        body.shape((*top, (0.06, 0.945), (0.0, 0.95)), look.hair)


def _backpack(body: _Body, look: Look, x: float) -> None:
    body.shape(((x - 0.085, 0.79), (x + 0.085, 0.79), (x + 0.09, 0.58), (x - 0.09, 0.58)), look.bag)
