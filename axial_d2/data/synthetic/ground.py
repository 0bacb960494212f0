"""Sky, and the ground plane with road, pavement and terrain, textured in world coordinates."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from axial_d2.data.synthetic import textures
from axial_d2.data.synthetic.canvas import Canvas
from axial_d2.data.synthetic.textures import blend


@dataclasses.dataclass(frozen=True)
class Street:
    """Where the ground is what, in metres.

    Attributes:
        across: False where the road runs away from the camera, and its borders are values of X;
            True where it runs from left to right, and they are values of Z.
        road: (low, high) borders of the road.
        kerb: (low, high) outer borders of the two pavements; beyond lies terrain.
        paved: whether pavement takes the place of terrain beyond the kerbs too.
        side_road: (near, far) Z of a road that crosses (never where `across`), or None.
        crossing: (near, far) Z of a zebra crossing, or None.
    """

    across: bool
    road: tuple[float, float]
    kerb: tuple[float, float]
    paved: bool = False
    side_road: tuple[float, float] | None = None
    crossing: tuple[float, float] | None = None


def paint_sky(canvas: Canvas, rng: np.random.Generator, label: int, mood: str) -> np.ndarray:
    """Paints sky over the whole canvas; `mood` is a key of `light.MOODS`.

    Returns:
        (3,) colour near the horizon, which glass and fog take up.
    """
    height, width = canvas.label.shape
    top, low = {
        "clear": ((72, 122, 196), (176, 204, 228)),
        "overcast": ((168, 176, 188), (212, 214, 216)),
        "low sun": ((104, 122, 170), (236, 190, 140)),
        "dusk": ((66, 76, 126), (176, 146, 152)),
    }[mood]
    top = np.array(top, np.float32) * rng.uniform(0.85, 1.15) + rng.normal(0, 8, 3)
    low = np.array(low, np.float32) * rng.uniform(0.9, 1.08) + rng.normal(0, 6, 3)
    top, low = top.astype(np.float32), low.astype(np.float32)
    canvas.label[:] = label
    count = int(np.clip(np.ceil(canvas.camera.horizon + 2), 1, height))  # rows above the ground
    rows = np.arange(count, dtype=np.float32) / max(canvas.camera.horizon, 1)
    column = blend(np.broadcast_to(top, (count, 3)), low, np.clip(rows, 0, 1) ** 1.3)

    # Clouds: noise stretched sideways, flatter towards the horizon.
    step = 512 / height * rng.uniform(0.12, 0.3)
    rows_of_noise = (np.arange(count) * step * 2.2 + rng.integers(512)).astype(np.int32)
    columns_of_noise = (np.arange(width) * step + rng.integers(512)).astype(np.int32)
    noise = textures.fractal_at(columns_of_noise[None], rows_of_noise[:, None])
    cover = rng.uniform(-0.9, 1.1) if mood != "overcast" else rng.uniform(0.2, 1.2)
    amount = np.clip((noise + cover) * 0.55, 0, 1) * rng.uniform(0.4, 0.95)
    cloud = blend(low, np.full(3, rng.uniform(150, 250), np.float32), 0.6)
    shade = 1 - 0.22 * np.clip(noise - 0.4, 0, 1.5)
    canvas.rgb[:count] = blend(column[:, None], cloud * shade[..., None], amount)
    return low


def paint_ground(
    canvas: Canvas, rng: np.random.Generator, street: Street, labels: dict[str, int]
) -> None:
    """Paints everything under the horizon.

    Args:
        canvas: to paint on.
        rng: source of chance.
        street: the ground plan.
        labels: region numbers of "road", "pavement" and "terrain".
    """
    camera = canvas.camera
    first = int(np.clip(np.ceil(camera.horizon + 1), 0, camera.height))
    rows = np.arange(first, camera.height, dtype=np.float32)
    scale = (rows - camera.horizon)[:, None] / camera.eye
    z = np.broadcast_to(camera.focal / scale, (len(rows), camera.width))
    x = (np.arange(camera.width, dtype=np.float32)[None] - camera.centre) / scale
    if not x.size:
        return
    lateral, along = (z, x) if street.across else (x, z)
    on_road = (lateral > street.road[0]) & (lateral < street.road[1])
    within = (lateral > street.kerb[0]) & (lateral < street.kerb[1])
    on_pavement = (within | street.paved) & ~on_road
    if street.side_road is not None:
        near, far = street.side_road
        on_pavement |= (z > near - 2.5) & (z < far + 2.5) & ~on_road
        side = (z > near) & (z < far)
        on_road, on_pavement = on_road | side, on_pavement & ~side

    sharp = np.clip(scale / (0.05 * camera.height), 0, 1)  # fine texture fades with distance
    sharp = np.broadcast_to(sharp, x.shape)
    rgb = np.empty((*x.shape, 3), np.float32)
    rest = ~(on_road | on_pavement)
    rgb[rest] = _terrain(rng, x[rest], z[rest], sharp[rest])
    part = on_pavement
    rgb[part] = _pavement(rng, lateral[part], along[part], street, sharp[part])
    part = on_road
    rgb[part] = _road(rng, x[part], z[part], street, sharp[part])

    if rng.random() < 0.2:  # the shadow of houses out of the picture
        edge = rng.uniform(*street.road) + 0.6 * textures.fractal_at(along * 3, along * 0)
        dark = lateral < edge if rng.random() < 0.5 else lateral > edge
        rgb *= 1 - cv2.GaussianBlur(dark.astype(np.float32), (0, 0), 1.2)[..., None] * 0.22
    canvas.rgb[first:] = rgb
    label = np.where(on_road, labels["road"], labels["terrain"])
    canvas.label[first:] = np.where(on_pavement, labels["pavement"], label)
    canvas.depth[first:] = z


def _terrain(rng, x, z, sharp) -> np.ndarray:
    """Grass, dry grass, earth or gravel, (n, 3)."""
    kinds = ((116, 154, 60), (134, 164, 68), (122, 158, 76), (156, 140, 78))
    base = np.array(kinds[rng.integers(3)], np.float32) * rng.uniform(0.9, 1.1)
    other = np.array(kinds[rng.integers(len(kinds))], np.float32) * rng.uniform(0.85, 1.1)
    start = rng.integers(512, size=2)
    patches = np.clip(textures.fractal_at(x * 9 + start[0], z * 9 + start[1]) * 0.5, 0, 1)
    rgb = blend(np.broadcast_to(base, (*x.shape, 3)), other, patches * rng.uniform(0.2, 0.7))
    blades = textures.white_at(x * 16 + start[1], z * 5 + start[0])
    lumps = textures.fractal_at(x * 40 + start[0], z * 24)
    return rgb * (1 + (0.18 * blades + 0.05 * lumps) * (0.4 + 0.6 * sharp))[..., None]


def _pavement(rng, lateral, along, street, sharp) -> np.ndarray:
    """Slabs, small stones or plain concrete with a kerb, (n, 3)."""
    base = textures.paint(rng, 0.5) * 0.15 + np.array((152, 144, 132), np.float32)
    start = rng.integers(512, size=2)
    stain = textures.fractal_at(lateral * 20 + start[0], along * 20 + start[1])
    kind = rng.random()
    if kind < 0.93:
        wide = rng.uniform(0.5, 1.0)
        deep = wide * rng.uniform(0.8, 1.6)
        row = np.floor(along / deep)
        shifted = lateral / wide + (0.5 * (row % 2) if rng.random() < 0.5 else 0)
        gap = 0.05 / wide
        joint = (shifted % 1 < gap) | ((along / deep) % 1 < 0.05 / deep)
        slab = textures.hash01(np.floor(shifted) * 131 + row * 7919) - 0.5
        factor = 1 + (rng.uniform(0.15, 0.35) * slab - rng.uniform(0.3, 0.5) * joint) * sharp
    else:
        factor = 1 + 0.1 * textures.white_at(lateral * 30, along * 30) * sharp
    rgb = base * (factor + 0.07 * stain)[..., None]
    inner = np.minimum(np.abs(lateral - street.road[0]), np.abs(lateral - street.road[1]))
    kerb = np.full(3, rng.uniform(175, 225), np.float32)
    return blend(rgb, kerb, (inner < 0.22) * np.float32(0.85))


def _road(rng, x, z, street, sharp) -> np.ndarray:
    """Asphalt or cobbles with markings, patches and tyre tracks, (n, 3)."""
    lateral, along = (z, x) if street.across else (x, z)
    tint = rng.normal(0, 3, 3).astype(np.float32)
    base = np.full(3, rng.uniform(56, 94), np.float32) + tint
    start = rng.integers(512, size=2)
    stain = textures.fractal_at(lateral * 12 + start[0], along * 5 + start[1])
    factor = 1 + 0.08 * stain + 0.09 * textures.white_at(lateral * 28, along * 28) * sharp
    if rng.random() < 0.05:
        row = np.floor(along / 0.22)
        stone = textures.hash01(np.floor(lateral / 0.2 + 0.5 * (row % 2)) * 17 + row * 4099)
        factor += 0.4 * (stone - 0.5) * sharp
    low, high = street.road
    lanes = max(int(round((high - low) / 3.4)), 1)
    place = (lateral - low) / (high - low) * lanes
    factor -= 0.07 * np.cos(place * 2 * np.pi) ** 2 * rng.uniform(0, 1)  # tyre tracks
    rgb = base * factor[..., None]
    for _ in range(rng.integers(0, 2)):  # repaired patches
        at, far = rng.uniform(low, high - 1), rng.uniform(4, 18)
        patch = (lateral > at) & (lateral < at + rng.uniform(0.6, 2.2))
        patch &= (along > far) & (along < far + rng.uniform(1, 5))
        rgb[patch] *= rng.uniform(0.7, 1.2)

    line = np.zeros(lateral.shape, bool)
    if rng.random() < 0.8:
        for lane in range(1, lanes):
            border = low + lane * (high - low) / lanes
            dashes = (along / rng.uniform(3, 6) + rng.random()) % 1 < rng.choice((0.45, 0.6, 1.1))
            line |= (np.abs(lateral - border) < 0.08) & dashes
    if rng.random() < 0.35:
        line |= (np.abs(lateral - low - 0.35) < 0.07) | (np.abs(lateral - high + 0.35) < 0.07)
    if street.side_road is not None:  # no lines of this road across the other
        line &= (z < street.side_road[0]) | (z > street.side_road[1])
    if street.crossing is not None:
        near, far = street.crossing
        zebra = (z > near) & (z < far) if not street.across else (x > near) & (x < far)
        line |= zebra & (lateral > low + 0.2) & (lateral < high - 0.2) & (lateral % 0.95 < 0.5)
    color = np.array((222, 220, 210), np.float32) if rng.random() < 0.85 else (214, 178, 70)
    worn = np.clip(0.85 + 0.25 * textures.fractal_at(lateral * 60, along * 60), 0.2, 1)
    return blend(rgb, np.asarray(color, np.float32), line * worn * rng.uniform(0.6, 1.0))
