"""A camera over a flat street, the canvas it looks at, and sprites painted on it far to near.

Sky, ground and houses are painted at the final resolution; everything that stands before them at
`SUPERSAMPLE` times that, on the enlarged canvas. World coordinates are metres: X to the right, Y up
from the ground, Z away from the camera. Pixels are canvas pixels (x, y), whole numbers at pixel
centres.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from axial_d2.data.synthetic import textures

SUPERSAMPLE = 2
SKY_DEPTH = 1.0e4  # metres; far enough for any fog to swallow
_SHIFT = 4  # fractional bits of the coordinates given to OpenCV: a sixteenth of a pixel
_LIMIT = 1.6e6  # such bits; keeps what lies far outside of the canvas within OpenCV's integers


@dataclasses.dataclass(frozen=True)
class Camera:
    """A level pinhole camera.

    Attributes:
        height: rows of the canvas, pixels.
        width: columns of the canvas, pixels.
        horizon: row of the horizon, pixels.
        centre: column of the vanishing point, pixels.
        focal: focal length, pixels.
        eye: height of the camera over the ground, metres.
    """

    height: int
    width: int
    horizon: float
    centre: float
    focal: float
    eye: float

    def enlarged(self, times: int) -> Camera:
        """The same view on a canvas of `times` as many rows and columns."""
        shift = (times - 1) / 2  # a pixel's centre lies in the middle of those that replace it
        return Camera(
            height=self.height * times,
            width=self.width * times,
            horizon=self.horizon * times + shift,
            centre=self.centre * times + shift,
            focal=self.focal * times,
            eye=self.eye,
        )

    def scale(self, z: float) -> float:
        """Pixels that a metre takes at distance `z` metres."""
        return self.focal / z

    def distance(self, scale: float) -> float:
        """Distance in metres at which a metre takes `scale` pixels."""
        return self.focal / scale

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (n, 3) as (X, Y, Z) metres to canvas points (n, 2) as (x, y) pixels."""
        points = np.asarray(points, np.float64)
        scale = self.focal / np.maximum(points[:, 2], 0.3)
        result = np.empty((len(points), 2))
        result[:, 0] = self.centre + points[:, 0] * scale
        result[:, 1] = self.horizon + (self.eye - points[:, 1]) * scale
        return result

    def ground(self, x: float, z: float) -> tuple[float, float]:
        """Canvas point (x, y) of the ground point (X, Z)."""
        scale = self.focal / z
        return self.centre + x * scale, self.horizon + self.eye * scale


class Canvas:
    """Picture, labels and distance, all (height, width) of the camera.

    Attributes:
        camera: the camera.
        rgb: (H, W, 3) float32, 0 to 255.
        label: (H, W) int32, number of the region each pixel belongs to, 0 for none.
        depth: (H, W) float32, metres.
        wall: (H, W) float32, distance of the house in each pixel, `SKY_DEPTH` for none: houses are
            painted before everything else, and hide what stands behind them.
    """

    def __init__(self, camera: Camera) -> None:
        shape = (camera.height, camera.width)
        self.camera = camera
        self.rgb = np.zeros((*shape, 3), np.float32)
        self.label = np.zeros(shape, np.int32)
        self.depth = np.full(shape, SKY_DEPTH, np.float32)
        self.wall = np.full(shape, SKY_DEPTH, np.float32)

    def enlarged(self, times: int) -> Canvas:
        """The same picture with `times` as many rows and columns."""
        result = Canvas.__new__(Canvas)
        result.camera = camera = self.camera.enlarged(times)
        size = (camera.width, camera.height)
        result.rgb = cv2.resize(self.rgb, size, interpolation=cv2.INTER_LINEAR)
        for name in ("label", "depth", "wall"):
            plane = getattr(self, name)
            setattr(result, name, cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST))
        return result

    def shadow(self, x: float, z: float, *, wide: float, deep: float, strength: float) -> None:
        """Darkens an ellipse on the ground.

        Args:
            x, z: its centre, metres.
            wide, deep: its half axes along X and Z, metres.
            strength: share of the light it takes in the middle, 0 to 1.
        """
        camera = self.camera
        column, row = camera.ground(x, z)
        half_width = wide * camera.scale(z)
        near = camera.ground(x, max(z - deep, 1.0))[1]
        half_height = max((near - camera.ground(x, z + deep)[1]) / 2, 1.0)
        x0, x1 = int(max(column - half_width, 0)), int(min(column + half_width + 1, camera.width))
        y0, y1 = int(max(row - half_height, 0)), int(min(row + half_height + 1, camera.height))
        if x0 >= x1 or y0 >= y1:
            return
        dx = (np.arange(x0, x1, dtype=np.float32) - column) / max(half_width, 1.0)
        dy = (np.arange(y0, y1, dtype=np.float32) - row) / half_height
        inside = np.clip(1.6 * (1 - dx[None] ** 2 - dy[:, None] ** 2), 0, 1)
        light = 1 - strength * inside
        self.rgb[y0:y1, x0:x1] *= cv2.merge((light, light, light))

    def sprite(self, points: np.ndarray, margin: float = 2.0) -> Sprite:
        """An empty sprite that covers the canvas points (n, 2) given, `margin` pixels more."""
        low = np.floor(points.min(axis=0) - margin)
        high = np.ceil(points.max(axis=0) + margin) + 1
        x0, y0 = np.clip(low, 0, (self.camera.width, self.camera.height)).astype(int)
        x1, y1 = np.clip(high, 0, (self.camera.width, self.camera.height)).astype(int)
        return Sprite(x0, y0, max(x1 - x0, 0), max(y1 - y0, 0))

    def paste(self, sprite: Sprite, label: int, z: float, texture: np.ndarray | None = None) -> int:
        """Lays a sprite over the canvas.

        Args:
            sprite: what to lay.
            label: number of its region, 0 for none (void).
            z: its distance, metres.
            texture: factor on its brightness, broadcast to (h, w) of the sprite.

        Returns:
            How many canvas pixels got its label.
        """
        if sprite.empty:
            return 0
        window = np.s_[sprite.y : sprite.y + sprite.height, sprite.x : sprite.x + sprite.width]
        inside = self.wall[window] > z - 0.5  # half a metre for what leans on a wall
        inside &= sprite.alpha > 0
        # One channel after the other: numpy is slow where the last axis has three entries.
        factor = 1.0 if texture is None else np.broadcast_to(texture, inside.shape)
        opacity = sprite.alpha * np.float32(1 / 255)
        opacity *= inside
        for channel in range(3):
            old = self.rgb[window][..., channel]
            old += (sprite.rgb[..., channel] * factor - old) * opacity
        self.label[window][inside] = label
        self.depth[window][inside] = z
        return int(np.count_nonzero(inside))


class Sprite:
    """A patch of the canvas on which one object is drawn; all points are canvas pixels.

    Attributes:
        x, y: column and row of its upper left pixel on the canvas.
        rgba: (height, width, 4) uint8, the colour and the opacity.
        rgb: (height, width, 3), the colour in `rgba`.
        alpha: (height, width), the opacity in `rgba`; the object is where it is above 0.
    """

    def __init__(self, x: int, y: int, width: int, height: int) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        self._corner = np.array((x, y), np.float64)
        self.rgba = np.zeros((height, width, 4), np.uint8)
        self.rgb, self.alpha = self.rgba[..., :3], self.rgba[..., 3]

    @property
    def empty(self) -> bool:
        """True where the patch lies outside of the canvas."""
        return self.width == 0 or self.height == 0

    def _fixed(self, points: np.ndarray) -> list[np.ndarray]:
        """Canvas points (n, 2) as OpenCV's fixed-point contour on this patch."""
        points = np.subtract(points, self._corner)
        points *= 1 << _SHIFT
        np.minimum(np.maximum(points, -_LIMIT, out=points), _LIMIT, out=points)
        return [np.rint(points, out=points).astype(np.int32)]

    def polygon(self, points: np.ndarray, color: np.ndarray, *, opacity: int = 255) -> None:
        """Fills a polygon, which becomes part of the object.

        Args:
            points: (n, 2) canvas points.
            color: (3,) RGB, 0 to 255.
            opacity: 1 to 255; below 255 the background shows through, but never more than it
                does already. The object's label covers the polygon either way.
        """
        if self.empty:
            return
        fixed = self._fixed(points)
        if opacity == 255:
            cv2.fillPoly(self.rgba, fixed, _rgba(color), shift=_SHIFT)
        else:
            fresh = np.zeros(self.alpha.shape, np.uint8)
            cv2.fillPoly(fresh, fixed, opacity, shift=_SHIFT)
            self.rgb[(fresh > 0) & (self.alpha == 0)] = _rgba(color)[:3]
            np.maximum(self.alpha, fresh, out=self.alpha)

    def outline(self, points: np.ndarray, width: float, color: np.ndarray) -> None:
        """Draws the closed line through canvas points (n, 2), `width` pixels wide."""
        if self.empty:
            return
        fixed, thickness = self._fixed(points), max(int(round(width)), 1)
        cv2.polylines(self.rgba, fixed, True, _rgba(color), thickness, shift=_SHIFT)

    def disc(self, centre, radius, color: np.ndarray) -> None:
        """Fills an ellipse: `centre` (x, y), `radius` a number or (along x, along y), pixels."""
        self.polygon(np.asarray(centre) + _CIRCLE * np.asarray(radius), color)

    def limb(self, start, end, start_width: float, end_width: float, color: np.ndarray) -> None:
        """Draws a tapered limb with round ends from `start` to `end`, widths in pixels."""
        (x0, y0), (x1, y1) = start, end
        length = max(math.hypot(x1 - x0, y1 - y0), 1e-6)
        turn = np.array(((y0 - y1, x1 - x0), (x0 - x1, y0 - y1))) / length
        half0, half1 = max(start_width, 1.2) / 2, max(end_width, 1.2) / 2
        arc = _HALF_CIRCLE @ turn  # from one side of the limb round its start to the other side
        self.polygon(np.concatenate([arc * half0 + (x0, y0), arc * -half1 + (x1, y1)]), color)

    def texture(self, rng: np.random.Generator, *, rough: float, tilt: float = 0.0) -> np.ndarray:
        """Brightness factors (h, w): noise of strength `rough`, lit from the left by `tilt`."""
        factor = 1 + rough * textures.noise_patch(rng, self.height, self.width, white=True)
        factor += rough * 1.5 * textures.noise_patch(rng, self.height, self.width, step=5)
        if tilt:
            factor -= np.linspace(-tilt, tilt, self.width, dtype=np.float32)[None]
        return np.clip(factor, 0.2, 1.8)


_ANGLES = np.arange(16) * (2 * np.pi / 16)  # 16 corners pass for a circle at these sizes
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_HALF_CIRCLE = _CIRCLE[:9]


def _rgba(color: np.ndarray) -> tuple[int, int, int, int]:
    """An opaque colour for OpenCV, of (3,) numbers."""
    red, green, blue = color
    red, green, blue = int(red), int(green), int(blue)
    return min(max(red, 0), 255), min(max(green, 0), 255), min(max(blue, 0), 255), 255
