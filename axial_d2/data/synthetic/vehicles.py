"""Cars and buses as small solids in perspective."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from axial_d2.data.synthetic import textures
from axial_d2.data.synthetic.canvas import Camera, Canvas, Sprite
from axial_d2.data.synthetic.textures import blend

_TYRE = np.array((26, 26, 28), np.float32)
_LAMP = np.array((244, 238, 206), np.float32)
_TAIL = np.array((176, 26, 24), np.float32)
_PLATE = np.array((226, 224, 206), np.float32)

# Side profiles from the rear bumper over the roof to the front bumper: (share of the length from
# -0.5 to 0.5, share of the height). The third to the sixth point enclose the cabin.
_CARS = {
    # name: (length, width, height in metres, profile)
    "sedan": (
        (4.4, 4.9),
        (1.45, 1.52),
        ((-0.49, 0.2), (-0.5, 0.55), (-0.34, 0.68), (-0.2, 0.98), (0.08, 1.0), (0.24, 0.66)),
    ),
    "hatchback": (
        (3.7, 4.2),
        (1.45, 1.58),
        ((-0.48, 0.2), (-0.5, 0.5), (-0.46, 0.64), (-0.36, 0.97), (0.08, 1.0), (0.26, 0.64)),
    ),
    "off-roader": (
        (4.2, 4.7),
        (1.7, 1.88),
        ((-0.48, 0.22), (-0.5, 0.5), (-0.48, 0.62), (-0.43, 0.98), (0.06, 1.0), (0.2, 0.66)),
    ),
}
_NOSE = ((0.44, 0.54), (0.5, 0.42), (0.49, 0.2))


_ANGLES = np.arange(14) * (2 * np.pi / 14)
_WHEEL = np.stack([np.cos(_ANGLES), np.sin(_ANGLES), np.zeros(14)], axis=1)  # (along, up, right)


@dataclasses.dataclass(frozen=True)
class Pose:
    """Where a solid stands: middle (x, z) metres and heading, 0 away from the camera, radians."""

    x: float
    z: float
    heading: float

    def world(self, points) -> np.ndarray:
        """Points (n, 3) as (along, up, to the right) metres to world points (n, 3)."""
        return np.asarray(points, np.float64) @ self._turn + self._origin

    @functools.cached_property
    def _turn(self) -> np.ndarray:
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        return np.array(((sine, 0.0, cosine), (0.0, 1.0, 0.0), (cosine, 0.0, -sine)))

    @functools.cached_property
    def _origin(self) -> np.ndarray:
        return np.array((self.x, 0.0, self.z))


class _Solid:
    """Draws polygons that lie on a solid's faces."""

    def __init__(self, canvas: Canvas, pose: Pose, size: tuple[float, float, float]) -> None:
        length, width, height = size
        self.camera: Camera = canvas.camera
        self.pose, self.half_width = pose, width / 2
        self.middle = pose.world([(0, height / 2, 0)])[0]
        corners = [
            (a, h, w)
            for a in (-length / 2, length / 2)
            for h in (0, height)
            for w in (-width / 2, width / 2)
        ]
        self.sprite: Sprite = canvas.sprite(self.camera.project(pose.world(corners)), margin=4)

    def visible(self, points) -> bool:
        """Whether a face, given by points of the solid, is turned to the camera."""
        world = self.pose.world(points)
        (a, b, c), (d, e, f) = (world[1] - world[0]).tolist(), (world[2] - world[0]).tolist()
        normal = np.array((b * f - c * e, c * d - a * f, a * e - b * d))
        centre = world.sum(axis=0) / len(world)
        outwards = normal @ (centre - self.middle)
        return bool(outwards * (normal @ ((0, self.camera.eye, 0) - centre)) > 0)

    def distance(self, points) -> float:
        return math.hypot(*(self.pose.world(points).sum(axis=0) / len(points)).tolist())

    def draw(self, points, color) -> None:
        self.sprite.polygon(self.camera.project(self.pose.world(points)), color)

    def wheel(
        self, along: float, radius: float, side: float, rim: np.ndarray | None = None
    ) -> None:
        """Draws a wheel at `side` metres from the middle line; without `rim` the tyre alone."""
        centre = np.array((along, radius, side))
        rings = ((1.0, _TYRE), (0.62, rim), (0.2, _TYRE))
        for share, color in rings[: 1 if rim is None else 3]:
            self.draw(centre + _WHEEL * (radius * share), color)


def _on_quad(corners, u0, u1, w0, w1):
    """Part of a face between two cross bars: u along the profile 0..1, w across -1..1."""
    shares = []  # of the corners: start left, end left, end right, start right
    for u, w in ((u0, w0), (u1, w0), (u1, w1), (u0, w1)):
        right = (w + 1) / 2
        shares.append(((1 - u) * (1 - right), u * (1 - right), u * right, (1 - u) * right))
    return np.array(shares) @ corners


@dataclasses.dataclass(frozen=True)
class CarLook:
    """One car's looks: kind of body, (length, width, height) metres and colours (3,)."""

    kind: str
    size: tuple[float, float, float]
    body: np.ndarray
    glass: np.ndarray
    rim: np.ndarray
    trim: np.ndarray
    roof: np.ndarray


def sample_car(rng: np.random.Generator, sky: np.ndarray) -> CarLook:
    """Draws a car; `sky` (3,) is mirrored in its windows."""
    kind = str(rng.choice(list(_CARS)))
    length, height, _ = _CARS[kind]
    body = textures.paint(rng, 1.6, grey_share=0.25)
    body *= max(95 / body.mean(), 1.0)  # none as dark as its tyres and the road
    glass = blend(np.full(3, rng.uniform(22, 50), np.float32), sky, rng.uniform(0.05, 0.35))
    return CarLook(
        kind=kind,
        size=(rng.uniform(*length), rng.uniform(1.7, 1.9), rng.uniform(*height)),
        body=body,
        glass=glass,
        rim=np.full(3, rng.uniform(70, 200), np.float32),
        trim=np.full(3, rng.uniform(25, 60), np.float32) if rng.random() < 0.2 else body * 0.75,
        roof=body if rng.random() < 0.85 else np.full(3, rng.uniform(20, 60), np.float32),
    )


def paint_car(
    canvas: Canvas, rng: np.random.Generator, look: CarLook, pose: Pose, label: int
) -> int:
    """Paints a car; returns how many canvas pixels it took."""
    length, width, height = look.size
    solid = _Solid(canvas, pose, look.size)
    if solid.sprite.empty:
        return 0
    profile = np.array(_CARS[look.kind][2] + _NOSE) * (length, height)
    belt = profile[2, 1]
    narrow = 1 - 0.24 * np.clip((profile[:, 1] - belt) / max(height - belt, 0.1), 0, 1)
    half = width / 2 * narrow
    sides = np.stack([np.column_stack([profile, side * half]) for side in (-1, 1)])
    radius = 0.33 if height < 1.65 else 0.37
    axles = (-0.31 * length, 0.32 * length)
    for side in (-1, 1):  # what shows of the wheels under the car
        for axle in axles:
            solid.wheel(axle, radius, side * width / 2 * 0.9)
    faces = [
        (_edge(sides, i), kind)
        for i, kind in enumerate(
            ("tail", "deck", "rear glass", "roof", "windscreen", "hood", "nose", "front")
        )
    ]
    faces += [(side, "side") for side in sides]
    faces = [face for face in faces if solid.visible(face[0])]
    for points, kind in sorted(faces, key=lambda face: -solid.distance(face[0])):
        _car_face(solid, look, points, kind)
        if kind == "side":
            side = np.sign(points[0][2])
            for axle in axles:
                solid.wheel(axle, radius, side * width / 2 * 1.01, look.rim)
    texture = solid.sprite.texture(rng, rough=0.045, tilt=rng.uniform(-0.1, 0.1))
    return canvas.paste(solid.sprite, label, pose.z, texture)


def _edge(sides, i):
    """The face (4, 3) between both sides (2, n, 3) from point i of the profile to the next."""
    return sides[(0, 0, 1, 1), (i, i + 1, i + 1, i)]


def _car_face(solid: _Solid, look: CarLook, points, kind: str) -> None:
    """Draws one face of a car with what is on it."""
    light = {"roof": 1.12, "hood": 1.08, "deck": 1.08, "side": 0.86, "tail": 0.92}
    base = look.roof if kind == "roof" else look.body
    solid.draw(points, np.clip(base * light.get(kind, 0.97), 0, 255))
    if kind in ("rear glass", "windscreen"):
        solid.draw(_on_quad(points, 0.1, 0.9, -0.9, 0.9), look.glass)
    elif kind == "tail":
        for w in (-0.95, 0.6):
            solid.draw(_on_quad(points, 0.55, 0.95, w, w + 0.35), _TAIL)
        solid.draw(_on_quad(points, 0.45, 0.7, -0.3, 0.3), _PLATE)
        solid.draw(_on_quad(points, 0.0, 0.28, -1, 1), look.trim)
    elif kind == "front":
        solid.draw(_on_quad(points, 0.1, 0.55, -0.5, 0.5), _TYRE)
        solid.draw(_on_quad(points, 0.65, 1.0, -1, 1), look.trim)
        solid.draw(_on_quad(points, 0.6, 0.78, -0.3, 0.3), _PLATE)
    elif kind == "nose":
        for w in (-0.95, 0.55):
            solid.draw(_on_quad(points, 0.15, 0.9, w, w + 0.4), _LAMP)
    elif kind == "side":
        outline = points
        cabin = outline[2:6]
        centre = cabin.mean(axis=0)
        pane = centre + (cabin - centre) * 0.8
        pane[:, 2] *= 1.005  # just outside of the sheet metal
        solid.draw(pane, look.glass)
        low, high = (pane[0] + pane[3]) / 2, (pane[1] + pane[2]) / 2
        bar = np.array((0.05, 0, 0))
        solid.draw([low - bar, high - bar, high + bar, low + bar], look.body * 0.7)
        sill = [outline[0], outline[-1], outline[-1] + (0, 0.14, 0), outline[0] + (0, 0.14, 0)]
        solid.draw(sill, look.trim)
        seam = (low + (0, -0.03, 0), (low[0], outline[0][1], low[2]))
        solid.draw([seam[0] - bar / 3, seam[0] + bar / 3, seam[1] + bar / 3], look.body * 0.6)


def sample_bus(rng: np.random.Generator, sky: np.ndarray) -> CarLook:
    """Draws a bus: one or two decks, 7 to 10 metres long."""
    double = rng.random() < 0.1
    body = textures.paint(rng, 1.6, grey_share=0.05)
    return CarLook(
        kind="double" if double else "single",
        size=(rng.uniform(7, 10), rng.uniform(2.3, 2.5), 4.1 if double else rng.uniform(2.8, 3.1)),
        body=body,
        glass=blend(np.full(3, rng.uniform(22, 50), np.float32), sky, rng.uniform(0.05, 0.45)),
        rim=np.full(3, rng.uniform(70, 190), np.float32),
        trim=np.full(3, rng.uniform(205, 240), np.float32),
        roof=np.clip(body * 0.6 + 90, 0, 240),
    )


def paint_bus(
    canvas: Canvas, rng: np.random.Generator, look: CarLook, pose: Pose, label: int
) -> int:
    """Paints a bus; returns how many canvas pixels it took."""
    length, width, height = look.size
    solid = _Solid(canvas, pose, look.size)
    if solid.sprite.empty:
        return 0
    a, w, low = length / 2, width / 2, 0.32
    profile = ((-a, low), (-a, height), (a - 0.15, height), (a, low))
    sides = np.array([[(x, h, side * w) for x, h in profile] for side in (-1, 1)])
    axles = (-0.27 * length, 0.33 * length)
    for side in (-1, 1):
        for axle in axles:
            solid.wheel(axle, 0.48, side * w * 0.9)
    faces = [(_edge(sides, i), kind) for i, kind in enumerate(("tail", "roof", "front"))]
    faces += [(side, "side") for side in sides]
    faces = [face for face in faces if solid.visible(face[0])]
    for points, kind in sorted(faces, key=lambda face: -solid.distance(face[0])):
        solid.draw(points, look.roof if kind == "roof" else look.body * _BUS_LIGHT[kind])
        if kind == "side":
            side = float(np.sign(points[0][2]))
            _bus_side(solid, look, length, height, side)
            for axle in axles:
                solid.wheel(axle, 0.48, side * w * 1.01, look.rim)
        elif kind != "roof":
            _bus_end(solid, look, points, kind)
    texture = solid.sprite.texture(rng, rough=0.045, tilt=rng.uniform(-0.1, 0.1))
    return canvas.paste(solid.sprite, label, pose.z, texture)


_BUS_LIGHT = {"side": 0.88, "front": 1.0, "tail": 0.94}


def _bus_side(solid: _Solid, look: CarLook, length: float, height: float, side: float) -> None:
    w = side * solid.half_width * 1.005

    def box(a0, a1, h0, h1, color):
        solid.draw([(a0, h0, w), (a0, h1, w), (a1, h1, w), (a1, h0, w)], color)

    a = length / 2
    box(-a, a, 0.32, 0.62, look.trim)
    count = max(int(length / 1.4), 4)
    edges = np.linspace(-a + 0.25, a - 0.25, count + 1)
    decks = ((1.35, 2.3), (2.75, 3.7)) if look.kind == "double" else ((1.35, height - 0.5),)
    for bottom, top in decks:
        for left, right in zip(edges[:-1], edges[1:], strict=True):
            box(left + 0.06, right - 0.06, bottom, top, look.glass)
    box(-a, a, decks[0][1] + 0.12, decks[0][1] + 0.3, look.trim)
    if side > 0:  # the doors
        for at in (edges[-2], edges[count // 2]):
            box(at + 0.05, at + 1.0, 0.45, decks[0][1], look.glass * 0.75)
            box(at + 0.48, at + 0.56, 0.45, decks[0][1], look.trim)


def _bus_end(solid: _Solid, look: CarLook, points, kind: str) -> None:
    """Draws front or tail; on the tail the profile runs upwards, on the front downwards."""
    front = kind == "front"

    def part(low, high, left, right, color):
        first, last = (1 - high, 1 - low) if front else (low, high)
        solid.draw(_on_quad(points, first, last, left, right), color)

    glass_low, glass_high = (0.36, 0.8) if front else (0.5, 0.82)
    if look.kind == "double":
        part(0.62, 0.88, -0.9, 0.9, look.glass)
        glass_low, glass_high = (0.24, 0.5) if front else (0.32, 0.48)
    part(glass_low, glass_high, -0.92, 0.92, look.glass)
    part(0.88, 0.97, -0.7, 0.7, _TYRE)
    part(0.9, 0.95, -0.5, 0.5, np.array((240, 170, 40), np.float32))
    part(0.0, 0.08, -1, 1, look.trim * 0.8)
    for left in (-0.92, 0.68):
        part(0.12, 0.2, left, left + 0.24, _LAMP if front else _TAIL)
    part(0.1, 0.15, -0.2, 0.2, _PLATE)
