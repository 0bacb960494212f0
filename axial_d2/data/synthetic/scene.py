"""One scene: choose a street, paint it far to near, photograph it, and write down the truth."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from axial_d2.data.synthetic import buildings, ground, light, plants
from axial_d2.data.synthetic.canvas import SUPERSAMPLE, Camera, Canvas
from axial_d2.data.synthetic.classes import CATEGORIES, ID_OF
from axial_d2.data.synthetic.layout import Item, Planner, Region

_STUFF = [category["name"] for category in CATEGORIES if not category["isthing"]]
LABEL_OF = {name: number for number, name in enumerate(_STUFF, start=1)}  # 0 is void
_FIRST_THING = len(_STUFF) + 1
# What is left of a region below these sizes nobody could name: it becomes void.
_SMALLEST_THING = 0.0008  # share of the picture; 26 pixels of 128x256
_SMALLEST_STUFF = 0.006
_SMALLEST_VISIBLE = 0.22  # share of what was painted of a thing before others covered it
_LAYOUTS = ("street", "half", "open", "across")
_LAYOUT_SHARES = (0.2, 0.3, 0.38, 0.12)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture and its truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        panoptic: (H, W) int32 segment ids, 0 for void.
        segments_info: COCO panoptic entries `id, category_id, iscrowd, area, bbox`
            (bbox as x, y, width, height in pixels).
    """

    image: np.ndarray
    panoptic: np.ndarray
    segments_info: list[dict]


def render(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Draws one street scene.

    Args:
        rng: source of chance; the same state gives the same scene.
        height, width: size of the picture, pixels.

    Returns:
        The scene.
    """
    canvas = Canvas(_sample_camera(rng, height, width))
    layout = str(rng.choice(_LAYOUTS, p=_LAYOUT_SHARES))
    mood = str(rng.choice(light.MOODS, p=light.MOOD_SHARES))
    street = _sample_street(rng, canvas.camera, layout)
    sky = ground.paint_sky(canvas, rng, LABEL_OF["sky"], mood)
    ground.paint_ground(canvas, rng, street, LABEL_OF)
    _paint_houses(canvas, rng, street, layout, sky, 0.35 if mood == "dusk" else 0.04)

    canvas = canvas.enlarged(SUPERSAMPLE)

    planner = Planner(rng, canvas.camera, street, sky, _FIRST_THING)
    if rng.random() < 0.14:
        planner.crowd()
    planner.furnish(len(planner.regions) + int(rng.integers(6, 10)))
    items = planner.items + _scenery(rng, planner, street, layout)
    strength = {"clear": 0.38, "low sun": 0.34, "overcast": 0.22, "dusk": 0.2}[mood]
    lean = rng.uniform(-0.6, 0.6) if mood in ("clear", "low sun") else 0.0
    for item in items:
        if item.shadow is not None:
            x, z, wide, deep = item.shadow
            canvas.shadow(x + lean, z, wide=wide * 1.1, deep=deep * 1.25, strength=strength)
    for item in sorted(items, key=lambda item: -item.z):
        painted = item.paint(canvas)
        if item.label in planner.regions:
            planner.regions[item.label].painted += painted
    if rng.random() < 0.15:
        _paint_bonnet(canvas, rng)

    image = cv2.resize(canvas.rgb, (width, height), interpolation=cv2.INTER_AREA)
    centre = np.s_[SUPERSAMPLE // 2 :: SUPERSAMPLE, SUPERSAMPLE // 2 :: SUPERSAMPLE]
    image = light.photograph(image, canvas.depth[centre], rng, mood, sky)
    panoptic, segments_info = _truth(rng, canvas.label[centre], planner.regions)
    return Scene(image, panoptic, segments_info)


def _sample_camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    return Camera(
        height=height,
        width=width,
        horizon=rng.uniform(0.3, 0.38) * height,
        centre=rng.uniform(0.33, 0.67) * width,
        focal=rng.uniform(0.95, 1.35) * height,
        eye=rng.uniform(1.8, 2.1),
    )


def _sample_street(rng: np.random.Generator, camera: Camera, layout: str) -> ground.Street:
    if layout == "across":
        nearest = camera.focal * camera.eye / (camera.height - camera.horizon)
        near = nearest + rng.uniform(-1.0, 2.5)
        road = (near, near + rng.uniform(6.0, 8.5))
        kerb = (max(near - rng.uniform(2.0, 3.5), 0.5), road[1] + rng.uniform(3.0, 6.0))
        crossing = None
        if rng.random() < 0.25:
            start = rng.uniform(-4, 2)
            crossing = (start, start + 3.0)
        return ground.Street(True, road, kerb, crossing=crossing)
    wide = rng.uniform(5.5, 7.0)
    left = -rng.uniform(0.3, 0.7) * wide
    road = (left, left + wide)
    if layout == "open" and rng.random() < 0.6:
        kerb = (left - rng.uniform(1.9, 2.9), left + wide + rng.uniform(1.9, 2.9))
    else:
        kerb = (left - rng.uniform(2.8, 4.6), left + wide + rng.uniform(2.8, 4.6))
    start = rng.uniform(7, 16)
    side_road = (start, start + rng.uniform(4.5, 7)) if rng.random() < 0.15 else None
    crossing = None
    if rng.random() < 0.25:
        far = side_road[0] - 1.0 if side_road else rng.uniform(7, 16)
        crossing = (far - 2.6, far)
    paved = layout == "street" and bool(rng.random() < 0.85)
    return ground.Street(False, road, kerb, paved, side_road, crossing)


def _paint_houses(canvas, rng, street, layout, sky, lit) -> None:
    """Paints the houses of the chosen layout, near to far."""
    boxes: list[tuple[tuple[float, float], tuple[float, float], float]] = []
    tall = rng.uniform(5.5, 13)
    back = street.kerb[1] + 25 if layout == "across" else 60.0
    x = -back * 1.1
    while x < back * 1.1:  # the backdrop
        wide = rng.uniform(14, 26)
        if rng.random() < (0.3 if layout == "open" else 0.6):
            deep = back + rng.uniform(0, 8)
            boxes.append(((x, x + wide), (deep, deep + 10), rng.uniform(6, 16)))
        x += wide
    if layout == "across":
        setback = street.kerb[1] + (rng.uniform(8.0, 14.0) if rng.random() < 0.3 else 0.0)
        x = -setback * 1.6 - rng.uniform(0, 8)
        gaps = rng.choice((0.0, 0.15, 0.45))
        while x < setback * 1.6:
            wide = rng.uniform(5, 13)
            if rng.random() >= gaps:
                height = tall * rng.uniform(0.75, 1.25)
                boxes.append(((x, x + wide), (setback, setback + 9), height))
            x += wide
    sides = {"street": (-1, 1), "half": (int(rng.choice((-1, 1))),)}.get(layout, ())
    for side in sides:
        edge = abs(street.kerb[0] if side < 0 else street.kerb[1])
        if not street.paved:
            edge += rng.uniform(7.0, 11.0)  # front gardens
        z = rng.uniform(1.5, 5)
        while z < 55:
            long = rng.uniform(9, 18)
            if rng.random() > 0.1:
                inner = edge + rng.uniform(0, 0.8)
                span = (inner, inner + 9.0) if side > 0 else (-inner - 9.0, -inner)
                boxes.append((span, (z, z + long), tall * rng.uniform(0.7, 1.3)))
            z += long
    if layout == "open":
        for _ in range(rng.integers(0, 5)):
            side, near = rng.choice((-1, 1)), rng.uniform(16, 45)
            inner = max(abs(street.kerb[0]), abs(street.kerb[1])) + rng.uniform(2, 12)
            wide = rng.uniform(7, 11)
            span = (inner, inner + wide) if side > 0 else (-inner - wide, -inner)
            boxes.append((span, (near, near + rng.uniform(7, 12)), rng.uniform(3.5, 7)))
    gables = 0.85 if layout == "open" else rng.choice((0.1, 0.6))
    for span, depth, height in sorted(boxes, key=lambda box: box[1][0]):
        facade = buildings.sample_facade(rng, sky, lit)
        gable = bool(rng.random() < gables)
        buildings.paint_house(
            canvas, facade, LABEL_OF["building"], x=span, z=depth, height=height, gable=gable
        )


def _scenery(rng, planner: Planner, street, layout) -> list[Item]:
    """Trees, bushes and hedges, and poles and bins (void)."""
    items: list[Item] = []
    label = LABEL_OF["vegetation"]

    def add(paint, x, z, *, void=False, shadow=None):
        source = rng.spawn(1)[0]
        if void:
            items.append(Item(z, lambda c: paint(c, source, x, z), 0, shadow))
        else:
            items.append(Item(z, lambda c: paint(c, source, x, z, label), label, shadow))

    dense = {"street": 0.35, "half": 1.0, "open": 1.0, "across": 0.6}[layout]
    far = street.kerb[1] + 20 if street.across else 36.0
    for _ in range(int(rng.integers(0, 4) * dense)):  # a line of trees in the distance
        z = far + rng.uniform(0, 12)
        add(plants.paint_tree, planner.any_x(z), z)
    for _ in range(int(rng.integers(0, 5) * dense)):  # beyond the pavements
        side, z = (
            int(rng.integers(2)),
            planner.camera.distance(planner.camera.height * rng.uniform(0.06, 0.14)),
        )
        out = rng.uniform(1.0, 9.0) * (1 if side else -1)
        if street.across:
            x, z = planner.any_x(street.kerb[1]), street.kerb[1] + rng.uniform(0.5, 3)
        else:
            x = street.kerb[side] + out
        if layout == "half" or layout == "open" or street.across:
            paint = plants.paint_tree if rng.random() < 0.6 else plants.paint_bush
            add(paint, x, z, shadow=(x, z, 1.2, 0.8))
    if rng.random() < 0.5:  # trees along the kerb
        for _ in range(rng.integers(1, 4)):
            place = planner.footway("bus")
            if place is not None:
                add(plants.paint_tree, *place, shadow=(*place, 1.0, 0.6))
    if rng.random() < 0.4 * dense:
        source = rng.spawn(1)[0]
        if street.across:
            z = street.kerb[1] + 0.4
            start = planner.any_x(z)
            ends = ((start, z), (start + rng.uniform(4, 12), z))
        else:
            side = int(rng.integers(2))
            x = street.kerb[side] + (0.4 if side else -0.4)
            start = rng.uniform(6, 14)
            ends = ((x, start), (x, start + rng.uniform(5, 16)))
        middle = (ends[0][1] + ends[1][1]) / 2
        items.append(Item(middle, lambda c: plants.paint_hedge(c, source, ends, label), label))
    for paint, share in ((plants.paint_pole, 0.25), (plants.paint_bin, 0.2)):
        while rng.random() < share:
            place = planner.footway("car", edge=True)
            if place is not None:
                add(paint, *place, void=True, shadow=(*place, 0.3, 0.2))
    return items


def _paint_bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paints the bonnet of the car that carries the camera; it is void."""
    height, width = canvas.label.shape
    top = height * (1 - rng.uniform(0.06, 0.13))
    t = np.linspace(-1, 1, 25)
    middle, half = rng.uniform(0.4, 0.6) * width, rng.uniform(0.4, 0.65) * width
    curve = np.stack([middle + t * half, top + (height - top) * np.abs(t) ** 4], axis=1)
    outline = np.concatenate([curve, [(middle + half, height + 9), (middle - half, height + 9)]])
    sprite = canvas.sprite(outline)
    color = np.full(3, rng.uniform(25, 170), np.float32) + rng.normal(0, 14, 3)
    sprite.polygon(outline, color)
    shine = np.linspace(1.5, 0.75, max(sprite.height, 1), dtype=np.float32)[:, None]
    canvas.paste(sprite, 0, 1.0, sprite.texture(rng, rough=0.03) * shine)


def _truth(
    rng: np.random.Generator, label: np.ndarray, regions: dict[int, Region]
) -> tuple[np.ndarray, list[dict]]:
    """Turns region numbers (H, W) into segment ids and their descriptions.

    Ids are colours close to the colour of the class, so that the PNG can be looked at.
    """
    areas = np.bincount(label.ravel(), minlength=max(regions, default=_FIRST_THING) + 1)
    ids = np.zeros(len(areas), np.int32)
    segments_info: list[dict] = []
    names = {number: name for name, number in LABEL_OF.items()}
    for number in np.flatnonzero(areas):
        region = regions.get(int(number))
        if number == 0:
            continue
        if region is None:
            if areas[number] < _SMALLEST_STUFF * label.size:
                continue
            name = names[int(number)]
        else:
            painted = region.painted / SUPERSAMPLE**2
            least = max(_SMALLEST_THING * label.size, _SMALLEST_VISIBLE * painted)
            if areas[number] < least:
                continue
            name = region.name
        ids[number] = _fresh_id(rng, name, ids)
        segments_info.append(
            {
                "id": int(ids[number]),
                "category_id": ID_OF[name],
                "iscrowd": int(region is not None and region.crowd),
                "area": int(areas[number]),
                "bbox": _box(label == number),
            }
        )
    return ids[label], segments_info


_COLOR = {category["name"]: np.array(category["color"]) for category in CATEGORIES}


def _fresh_id(rng: np.random.Generator, name: str, used: np.ndarray) -> int:
    spread = 0
    while True:
        color = _COLOR[name] + rng.integers(-spread, spread + 1, 3)
        red, green, blue = (int(value) for value in np.clip(color, 0, 255))
        number = red + 256 * green + 65536 * blue
        if number and number not in used:
            return number
        spread = min(spread + 20, 60)


def _box(mask: np.ndarray) -> list[int]:
    """COCO box [x, y, width, height] around a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
