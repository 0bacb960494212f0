"""Houses: boxes with windows, doors, shops and roofs, seen in perspective."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from axial_d2.data.synthetic import textures
from axial_d2.data.synthetic.canvas import SKY_DEPTH, Canvas
from axial_d2.data.synthetic.textures import blend


@dataclasses.dataclass(frozen=True)
class Facade:
    """What one house looks like; lengths in metres.

    Attributes:
        wall, trim, glass, roof, shop: (3,) colours.
        storey: height of a storey.
        bay: distance from window to window.
        window: (left, right, low, high) of a window within its bay and storey, 0 to 1.
        brick: contrast of the courses of bricks, 0 for plaster.
        ground_floor: height of the ground floor.
        has_shop: whether the ground floor is glazed.
        lit: share of the windows with light in them.
        start: where in the noise this house's stains begin.
    """

    wall: np.ndarray
    trim: np.ndarray
    glass: np.ndarray
    roof: np.ndarray
    shop: np.ndarray
    storey: float
    bay: float
    window: tuple[float, float, float, float]
    brick: float
    ground_floor: float
    has_shop: bool
    lit: float
    start: tuple[int, int]


def sample_facade(rng: np.random.Generator, sky: np.ndarray, lit: float) -> Facade:
    """Draws a house; `sky` (3,) is mirrored in its windows, `lit` the share of lit windows."""
    modern = rng.random() < 0.22
    left, low = rng.uniform(0.12, 0.3), rng.uniform(0.2, 0.35)
    if modern:  # bands of glass, which can be as bright as the sky
        left, low = rng.uniform(0.02, 0.06), rng.uniform(0.05, 0.25)
    dark = np.full(3, rng.uniform(28, 70), np.float32)
    return Facade(
        wall=textures.wall_paint(rng),
        trim=np.full(3, rng.uniform(90, 225), np.float32),
        glass=blend(dark, sky, rng.uniform(0.0, 0.5 if modern else 0.25)),
        roof=blend(textures.paint(rng, 0.6), np.array((92, 52, 44), np.float32), 0.5),
        shop=textures.paint(rng, 0.7),
        storey=rng.uniform(2.7, 3.6),
        bay=rng.uniform(1.6, 3.4),
        window=(left, 1 - left, low, rng.uniform(0.72, 0.9)),
        brick=rng.uniform(0.08, 0.25) if rng.random() < 0.45 and not modern else 0.0,
        ground_floor=rng.uniform(2.8, 4.0),
        has_shop=bool(rng.random() < 0.35),
        lit=lit,
        start=(int(rng.integers(512)), int(rng.integers(512))),
    )


def paint_house(
    canvas: Canvas,
    facade: Facade,
    label: int,
    *,
    x: tuple[float, float],
    z: tuple[float, float],
    height: float,
    gable: bool,
) -> None:
    """Paints the side wall and the front wall of a box that the camera sees, and its roof.

    Only pixels that no house has taken yet are painted, so houses are painted near to far.

    Args:
        canvas: to paint on.
        facade: how the house looks.
        label: region number of buildings.
        x: left and right side, metres.
        z: near and far side, metres.
        height: up to the eaves, metres.
        gable: with a pitched roof, its ridge running away from the camera.
    """
    camera = canvas.camera
    near, far = z
    inner = x[0] if x[0] > 0 else x[1]
    if x[0] > 0 or x[1] < 0:  # a side wall faces the road
        ends = [camera.centre + inner * camera.scale(depth) for depth in (near, far)]
        low, high = sorted(ends)
        columns = np.arange(max(int(np.ceil(low)), 0), min(int(high) + 1, camera.width))
        if columns.size:
            offset = columns - camera.centre
            offset = np.where(np.abs(offset) < 0.5, np.copysign(0.5, inner), offset)
            depth = np.clip(camera.focal * inner / offset, near, far).astype(np.float32)
            _wall(canvas, facade, label, columns, depth, depth, height, 0.82)
    scale = camera.scale(near)
    left = max(int(np.ceil(camera.centre + x[0] * scale)), 0)
    columns = np.arange(left, min(int(camera.centre + x[1] * scale) + 1, camera.width))
    if columns.size:
        across = ((columns - camera.centre) / scale).astype(np.float32)
        depth = np.full(columns.size, near, np.float32)
        _wall(canvas, facade, label, columns, across, depth, height, 1.0)
    if gable:
        _pitched_roof(canvas, facade, label, x, z, height)


def _wall(canvas, facade, label, columns, along, depth, height, light) -> None:
    """Paints the given columns of a wall; `along` (w,) and `depth` (w,) are metres."""
    camera = canvas.camera
    scale = camera.focal / depth
    top = int(np.clip(np.floor((camera.horizon + (camera.eye - height) * scale).min()), 0, 1e6))
    foot = int(np.clip(np.ceil((camera.horizon + camera.eye * scale).max()), 0, camera.height))
    if top >= foot:
        return
    window = np.s_[top:foot, columns[0] : columns[-1] + 1]
    # Houses come near to far; only what nearer ones leave free is worth its texture.
    free = canvas.wall[window] == SKY_DEPTH
    if not free.any():
        return
    rows = np.arange(top, foot, dtype=np.float32)[:, None]
    up = camera.eye - (rows - camera.horizon) / scale[None]
    free &= (up >= 0) & (up <= height)
    row, column = np.nonzero(free)
    if not row.size:
        return
    fine = np.clip(scale / (0.03 * camera.height), 0, 1)[column]
    canvas.rgb[window][free] = light * _surface(facade, along[column], up[free], height, fine)
    canvas.label[window][free] = label
    canvas.depth[window][free] = depth[column]
    canvas.wall[window][free] = depth[column]


def _surface(facade: Facade, u: np.ndarray, v: np.ndarray, height: float, fine) -> np.ndarray:
    """Colours (n, 3) of a wall at `u` metres along it and `v` metres up, both (n,)."""
    stain = textures.fractal_at(u * 9 + facade.start[0], v * 9 + facade.start[1])
    grit = textures.white_at(u * 14 + facade.start[1], v * 14 + facade.start[0])
    factor = 1 + 0.08 * stain + 0.05 * grit
    if facade.brick:
        course = np.floor(v / 0.25)
        brick = textures.hash01(np.floor(u / 0.5 + 0.5 * (course % 2)) * 31 + course * 613)
        factor += facade.brick * (brick - 0.5 - 0.6 * ((v / 0.25) % 1 < 0.25)) * fine
    kind = np.zeros(u.shape, np.int8)  # row of the palette at the end

    def put(where, number, light) -> None:
        np.putmask(kind, where, number)
        np.copyto(factor, light, where=where)

    bay, storey = u / facade.bay, (v - facade.ground_floor) / facade.storey
    fu, fv = bay % 1, storey % 1
    left, right, low, high = facade.window
    upper = (storey > 0) & (v < height - 0.5 - (1 - high) * facade.storey)
    rim = 0.05
    frame = upper & (fu > left - rim) & (fu < right + rim) & (fv > low - rim) & (fv < high + rim)
    pane = upper & (fu > left) & (fu < right) & (fv > low) & (fv < high)
    pane &= ~((np.abs(fu - (left + right) / 2) < 0.03) & (fine > 0.5))
    if facade.has_shop:
        below = (v < facade.ground_floor - 0.9) & (v > 0.4) & ((u / (facade.bay * 2)) % 1 > 0.1)
        fascia = (v > facade.ground_floor - 0.8) & (v < facade.ground_floor - 0.1)
        letters = (textures.hash01(np.floor(u / 0.35)) > 0.45) & (
            np.abs(v - facade.ground_floor + 0.45) < 0.18
        )
        put(fascia, 3, 1.0)
        put(fascia & letters, 4, 1.0)
    else:
        door = (fu > 0.3) & (fu < 0.68)
        door &= textures.hash01(np.floor(bay)) < 0.3
        below = (v < facade.ground_floor * 0.72) & door
        row = (v > 0.9) & (v < facade.ground_floor * 0.75) & (fu > left) & (fu < right)
        below |= row & ~door
    shine = textures.hash01(np.floor(bay) * 57 + np.floor(storey) * 1013 + facade.start[0])
    glazed = pane | below
    put(frame, 1, 0.9 + 0.05 * stain)
    put(glazed, 2, 0.7 + 0.5 * shine + 0.12 * stain)
    put(glazed & (shine < facade.lit), 5, 1 + 0.05 * stain)
    put((v > height - 0.45) | (np.abs(v - facade.ground_floor) < 0.1), 1, 0.85 + 0.1 * stain)
    lamp = blend(facade.glass, np.array((245, 205, 130), np.float32), 0.8)
    palette = (facade.wall, facade.trim, facade.glass, facade.shop, 235 - 0.6 * facade.shop, lamp)
    return np.array(palette, np.float32).take(kind, axis=0) * factor[..., None]


def _pitched_roof(canvas, facade, label, x, z, height) -> None:
    """Paints gable and the roof's near slope over a box."""
    (left, right), (near, far), camera = x, z, canvas.camera
    ridge = height + 0.38 * (right - left)
    middle = (left + right) / 2
    slope_side = left if middle > 0 else right
    slope = ((slope_side, height, near), (middle, ridge, near), (middle, ridge, far))
    slope += ((slope_side, height, far),)
    gable = ((left, height, near), (middle, ridge, near), (right, height, near))
    for corners, color in ((slope, facade.roof), (gable, facade.wall * 0.95)):
        sprite = canvas.sprite(camera.project(np.array(corners)))
        if sprite.empty:
            continue
        window = np.s_[sprite.y : sprite.y + sprite.height, sprite.x : sprite.x + sprite.width]
        hidden = canvas.wall[window] < SKY_DEPTH
        if hidden.all():
            continue
        sprite.polygon(camera.project(np.array(corners)), color)
        rows = np.arange(sprite.height, dtype=np.float32)[:, None] * (48.0 / camera.height)
        columns = np.arange(sprite.width, dtype=np.float32)[None] * (24.0 / camera.height)
        texture = 1 + 0.12 * textures.white_at(columns + facade.start[0], rows * 2)
        sprite.alpha[hidden] = 0
        canvas.paste(sprite, label, near, cv2.blur(texture.astype(np.float32), (3, 1)))
        canvas.wall[window][sprite.alpha > 0] = near
