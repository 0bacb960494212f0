"""Where things stand: lanes, parked rows, groups on the pavement, crowds, signs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from axial_d2.data.synthetic import bicycles, people, signs, vehicles
from axial_d2.data.synthetic.canvas import Camera, Canvas
from axial_d2.data.synthetic.ground import Street

# Smallest size at which each class is placed: pixels a metre takes, in shares of the picture's
# height. A person is then 1.7 times that tall: 58 pixels of 128.
_SMALLEST = {"person": 0.27, "car": 0.11, "bus": 0.11, "bicycle": 0.26, "traffic sign": 0.12}
_LANE = 2.7  # metres, at least


@dataclasses.dataclass
class Item:
    """Something to paint.

    Attributes:
        z: distance of its middle, metres; far items are painted first.
        paint: paints it, and returns how many canvas pixels it took.
        label: its region number.
        shadow: (x, z, half width, half depth) of its shadow on the ground, metres, or None.
    """

    z: float
    paint: Callable[[Canvas], int]
    label: int
    shadow: tuple[float, float, float, float] | None = None


@dataclasses.dataclass
class Region:
    """A region of things: class name, whether a crowd, canvas pixels painted in all."""

    name: str
    crowd: bool
    painted: int = 0


class Planner:
    """Places things so that their footprints keep apart; collects items and regions."""

    def __init__(
        self, rng: np.random.Generator, camera: Camera, street: Street, sky: np.ndarray, first: int
    ) -> None:
        self.rng, self.camera, self.street, self.sky = rng, camera, street, sky
        self.items: list[Item] = []
        self.regions: dict[int, Region] = {}
        self._next = first
        self._taken: list[tuple[float, float, float, float]] = []
        self._nearest = camera.focal * camera.eye / (0.96 * camera.height - camera.horizon)

    def region(self, name: str, crowd: bool = False) -> int:
        """Opens a region and returns its number."""
        number, self._next = self._next, self._next + 1
        self.regions[number] = Region(name, crowd)
        return number

    def furnish(self, target: int) -> None:
        """Places things until there are `target` of them, or no room is found any more."""
        kinds = {
            self._driving_car: 0.2,
            self._parked_row: 0.13,
            self._pedestrian: 0.24,
            self._group: 0.09,
            self._bicycles: 0.22,
            self._bus: 0.1,
            self._sign: 0.1,
        }
        place, shares = list(kinds), np.cumsum(list(kinds.values()))
        for _ in range(3 * target):
            if len(self.regions) >= target:
                break
            place[int(np.searchsorted(shares, self.rng.random() * shares[-1], side="right"))]()

    # -- space ---------------------------------------------------------------------------------

    def _distance(self, name: str, extra: float = 0.0) -> float:
        """A distance at which the class is neither too small nor cut off by the lower border."""
        smallest = _SMALLEST[name] * self.camera.height
        nearest = self._nearest + extra
        largest = max(self.camera.scale(nearest), smallest * 1.05)
        return self.camera.distance(smallest * (largest / smallest) ** self.rng.random())

    def _allowed(self, name: str, z: float) -> bool:
        return z >= self._nearest and self.camera.scale(z) >= _SMALLEST[name] * self.camera.height

    def _in_frame(self, x: float, z: float) -> bool:
        column = self.camera.ground(x, z)[0]
        return 0.02 * self.camera.width < column < 0.98 * self.camera.width

    def _claim(self, x: float, z: float, wide: float, deep: float) -> bool:
        """Takes the rectangle of half sizes (wide, deep) at (x, z) if it is in view and free.

        Where it would hide something in the picture, or be hidden, it is refused more often than
        not: things are to overlap, but most are to be seen.
        """
        if not self._in_frame(x, z):
            return False
        hiding = False
        for other_x, other_z, other_wide, other_deep in self._taken:
            if abs(x - other_x) < wide + other_wide and abs(z - other_z) < deep + other_deep:
                return False
            apart = abs(x / z - other_x / other_z)
            halves = (wide / z, other_wide / other_z)
            hiding |= sum(halves) - apart > min(halves)  # half of the narrower one
        if hiding and self.rng.random() < 0.85:
            return False
        self._taken.append((x, z, wide, deep))
        return True

    def any_x(self, z: float) -> float:
        """A random X that is in view at distance `z`."""
        span = np.array((0.04, 0.96)) * self.camera.width - self.camera.centre
        return float(self.rng.uniform(*(span / self.camera.scale(z))))

    def footway(self, name: str, *, edge: bool = False) -> tuple[float, float] | None:
        """A point (x, z) on a pavement in view, at its road side if `edge`; None if not found."""
        for _ in range(12):
            side = int(self.rng.integers(2))
            inner, outer = self.street.road[side], self.street.kerb[side]
            share = self.rng.uniform(0.08, 0.2) if edge else self.rng.uniform(0.12, 0.9)
            lateral = inner + (outer - inner) * share
            if self.street.across:
                z = lateral
                x = self.any_x(z)
            else:
                x, z = lateral, self._distance(name)
            if self._allowed(name, z) and self._in_frame(x, z):
                return float(x), float(z)
        return None

    def _roadway(self, name: str) -> tuple[float, float]:
        """A point (x, z) anywhere on the road."""
        low, high = self.street.road
        lateral = self.rng.uniform(low + 0.5, high - 0.5)
        if self.street.across:
            return self.any_x(lateral), lateral
        return lateral, self._distance(name)

    # -- things --------------------------------------------------------------------------------

    def _vehicle(self, name: str, lateral: float, along: float, turned: bool, look) -> bool:
        """Puts a car or a bus at `lateral` in the road, `along` its length."""
        length, width, _ = look.size
        heading = math.pi if turned else 0.0
        heading += self.rng.normal(0, 0.05)
        wide, deep = width / 2 + 0.15, length / 2 + 0.35
        x, z = lateral, along
        if self.street.across:
            heading += math.pi / 2
            wide, deep, x, z = deep, wide, along, lateral
        if z - deep < self._nearest * 0.8 or not self._claim(x, z, wide, deep):
            return False
        if self.camera.scale(z) < _SMALLEST[name] * self.camera.height:
            return False
        paint = vehicles.paint_car if name == "car" else vehicles.paint_bus
        pose = vehicles.Pose(x, z, heading)
        label = self.region(name)
        rng = self.rng.spawn(1)[0]
        self.items.append(
            Item(z, lambda c: paint(c, rng, look, pose, label), label, (x, z, wide, deep))
        )
        return True

    def _lanes(self) -> np.ndarray:
        low, high = self.street.road
        count = max(int((high - low) / _LANE), 1)
        return low + (np.arange(count) + 0.5) * (high - low) / count

    def _driving(self, name: str, look) -> None:
        lanes = self._lanes()
        for _ in range(5):
            index = int(self.rng.integers(len(lanes)))
            lateral = lanes[index] + self.rng.normal(0, 0.15)
            turned = bool(index < len(lanes) / 2)  # they keep to the right
            length = look.size[0]
            along = self.any_x(lateral) if self.street.across else self._distance(name, length / 2)
            if self._vehicle(name, lateral, along, turned, look):
                return

    def _driving_car(self) -> None:
        self._driving("car", vehicles.sample_car(self.rng, self.sky))

    def _bus(self) -> None:
        self._driving("bus", vehicles.sample_bus(self.rng, self.sky))

    def _parked_row(self) -> None:
        """Two to four cars at the kerb, bumper to bumper."""
        side = int(self.rng.integers(2))
        lateral = self.street.road[side] + (1.0 if side == 0 else -1.0)
        along = self.any_x(lateral) if self.street.across else self._distance("car", 2.5)
        turned = bool(self.rng.random() < 0.5)
        for _ in range(self.rng.integers(2, 5)):
            look = vehicles.sample_car(self.rng, self.sky)
            self._vehicle("car", lateral + self.rng.normal(0, 0.05), along, turned, look)
            along += look.size[0] + self.rng.uniform(0.75, 1.4)

    def _person(self, x: float, z: float, *, child: bool = False) -> bool:
        if not self._allowed("person", z) or not self._claim(x, z, 0.25, 0.12):
            return False
        look = people.sample_look(self.rng, child=child)
        label, rng = self.region("person"), self.rng.spawn(1)[0]
        self.items.append(
            Item(
                z,
                lambda c: people.paint_person(c, rng, look, x, z, label),
                label,
                (x, z, 0.4, 0.25),
            )
        )
        return True

    def _pedestrian(self) -> None:
        on_road = self.rng.random() < 0.25
        place = self._roadway("person") if on_road else self.footway("person")
        if place is not None:
            self._person(*place)

    def _group(self) -> None:
        """Two or three persons side by side, near enough to touch and overlap."""
        place = self.footway("person") if self.rng.random() < 0.75 else self._roadway("person")
        if place is None:
            return
        x, z = place
        for _ in range(self.rng.integers(2, 4)):
            self._person(x, z + self.rng.uniform(-0.5, 0.5), child=self.rng.random() < 0.12)
            x += self.rng.uniform(0.6, 0.95)

    def _bicycle(self, x: float, z: float, turn: float, label: int) -> None:
        rng = self.rng.spawn(1)[0]
        self.items.append(
            Item(
                z,
                lambda c: bicycles.paint_bicycle(c, rng, x, z, turn, label),
                label,
                (x, z, 0.9 * abs(turn), 0.2),
            )
        )

    def _bicycles(self) -> None:
        """One to three parked bicycles."""
        place = self.footway("bicycle", edge=bool(self.rng.random() < 0.5))
        if place is None:
            return
        x, z = place
        turn = self.rng.choice((-1.0, 1.0)) * self.rng.uniform(0.75, 1.0)
        for _ in range(self.rng.choice((1, 2, 3), p=(0.65, 0.25, 0.1))):
            if self._allowed("bicycle", z) and self._claim(x, z, 0.8 * abs(turn), 0.2):
                self._bicycle(x, z, turn, self.region("bicycle"))
            x += self.rng.uniform(1.2, 1.7)
            z += self.rng.uniform(-0.45, 0.45)

    def _sign(self) -> None:
        place = self.footway("traffic sign", edge=True)
        if place is None or not self._claim(*place, 0.3, 0.3):
            return
        x, z = place
        label, rng = self.region("traffic sign"), self.rng.spawn(1)[0]
        self.items.append(Item(z, lambda c: signs.paint_sign(c, rng, x, z, label), label))

    def crowd(self) -> None:
        """A crowd region: many far persons, or a rack of bicycles, under one label."""
        if self.rng.random() < 0.7:
            scale = self.rng.uniform(0.1, 0.14) * self.camera.height
            z = self.camera.distance(scale)
            if self.street.across:
                z = float(self.rng.uniform(self.street.road[1], self.street.kerb[1]))
                x = self.any_x(z)
            else:
                x = float(self.rng.uniform(self.street.kerb[0] + 1, self.street.kerb[1] - 1))
            if not self._claim(x, z, 2.0, 1.5):
                return
            label = self.region("person", crowd=True)
            for _ in range(self.rng.integers(8, 12)):
                self._crowd_person(x + self.rng.uniform(-1.7, 1.7), z, label)
            return
        place = self.footway("bicycle")
        if place is None or not self._claim(*place, 1.2, 0.6):
            return
        x, z = place
        label, turn = self.region("bicycle", crowd=True), self.rng.choice((-0.7, 0.7))
        for step in range(self.rng.integers(5, 9)):
            self._bicycle(x - 0.8 + 0.35 * step, z + self.rng.normal(0, 0.1), turn, label)

    def _crowd_person(self, x: float, z: float, label: int) -> None:
        at = z + float(self.rng.uniform(-1.2, 1.2))
        look, rng = people.sample_look(self.rng), self.rng.spawn(1)[0]
        self.items.append(
            Item(
                at,
                lambda c: people.paint_person(c, rng, look, x, at, label),
                label,
                (x, at, 0.4, 0.25),
            )
        )
