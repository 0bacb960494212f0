"""A camera over a flat street, the canvas it looks at, and sprites painted on it far to near.

Everything is drawn at `SUPERSAMPLE` times the final resolution. World coordinates are metres:
X to the right, Y up from the ground, Z away from the camera. Pixels are canvas pixels (x, y),
whole numbers at pixel centres.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from axial_d2.data.synthetic import textures

SUPERSAMPLE = 2
SKY_DEPTH = 1.0e4  # metres; far enough for any fog to swallow
_SHIFT = 4  # fractional bits of the coordinates given to OpenCV: a sixteenth of a pixel
_LIMIT = 1.0e5  # pixels; keeps what lies far outside of the canvas within OpenCV's integers


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
        x = self.centre + points[:, 0] * scale
        y = self.horizon + (self.eye - points[:, 1]) * scale
        return np.stack([x, y], axis=1)

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
        self.rgb[y0:y1, x0:x1] *= 1 - strength * inside[..., None]

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
        color = sprite.rgb.astype(np.float32)
        if texture is not None:
            color *= texture[..., None]
        before = self.wall[window] > z - 0.5  # half a metre for what leans on a wall
        opacity = (sprite.alpha * before).astype(np.float32)[..., None] / 255
        self.rgb[window] += (color - self.rgb[window]) * opacity
        inside = (sprite.alpha > 0) & before
        self.label[window][inside] = label
        self.depth[window][inside] = z
        return int(np.count_nonzero(inside))


class Sprite:
    """A patch of the canvas on which one object is drawn; all points are canvas pixels.

    Attributes:
        x, y: column and row of its upper left pixel on the canvas.
        rgb: (height, width, 3) uint8.
        alpha: (height, width) uint8 opacity; the object is where it is above 0.
    """

    def __init__(self, x: int, y: int, width: int, height: int) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        self.rgb = np.zeros((height, width, 3), np.uint8)
        self.alpha = np.zeros((height, width), np.uint8)

    @property
    def empty(self) -> bool:
        """True where the patch lies outside of the canvas."""
        return self.width == 0 or self.height == 0

    def _fixed(self, points: np.ndarray) -> list[np.ndarray]:
        """Canvas points (n, 2) as OpenCV's fixed-point contour on this patch."""
        points = np.asarray(points, np.float64) - (self.x, self.y)
        points = np.minimum(np.maximum(points, -_LIMIT), _LIMIT)
        return [np.rint(points * (1 << _SHIFT)).astype(np.int32)]

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
            cv2.fillPoly(self.rgb, fixed, _rgb(color), shift=_SHIFT)
            cv2.fillPoly(self.alpha, fixed, 255, shift=_SHIFT)
        else:
            fresh = np.zeros_like(self.alpha)
            cv2.fillPoly(fresh, fixed, opacity, shift=_SHIFT)
            self.rgb[(fresh > 0) & (self.alpha == 0)] = _rgb(color)
            np.maximum(self.alpha, fresh, out=self.alpha)

    def outline(self, points: np.ndarray, width: float, color: np.ndarray) -> None:
        """Draws the closed line through canvas points (n, 2), `width` pixels wide."""
        if self.empty:
            return
        fixed, thickness = self._fixed(points), max(int(round(width)), 1)
        for target, value in ((self.rgb, _rgb(color)), (self.alpha, 255)):
            cv2.polylines(target, fixed, True, value, thickness, shift=_SHIFT)

    def disc(self, centre, radius, color: np.ndarray) -> None:
        """Fills an ellipse: `centre` (x, y), `radius` a number or (along x, along y), pixels."""
        self.polygon(np.asarray(centre) + _CIRCLE * np.asarray(radius), color)

    def limb(self, start, end, start_width: float, end_width: float, color: np.ndarray) -> None:
        """Draws a tapered limb with round ends from `start` to `end`, widths in pixels."""
        start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
        along = end - start
        across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
        half0, half1 = max(start_width, 1.2) / 2, max(end_width, 1.2) / 2
        corners = (
            start + across * half0,
            end + across * half1,
            end - across * half1,
            start - across * half0,
        )
        self.polygon(np.array(corners), color)
        self.disc(start, half0, color)
        self.disc(end, half1, color)

    def texture(self, rng: np.random.Generator, *, rough: float, tilt: float = 0.0) -> np.ndarray:
        """Brightness factors (h, w): noise of strength `rough`, lit from the left by `tilt`."""
        factor = 1 + rough * textures.noise_patch(rng, self.height, self.width, white=True)
        factor += rough * 1.5 * textures.noise_patch(rng, self.height, self.width, step=5)
        if tilt:
            factor -= np.linspace(-tilt, tilt, self.width, dtype=np.float32)[None]
        return np.clip(factor, 0.2, 1.8)


_ANGLES = np.arange(16) * (2 * np.pi / 16)  # 16 corners pass for a circle at these sizes
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def _rgb(color: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (min(max(int(value), 0), 255) for value in color)
    return red, green, blue
