"""What air and camera do to a finished picture: fog, colour cast, vignette, blur, noise."""

from __future__ import annotations

import cv2
import numpy as np

MOODS = ("clear", "overcast", "low sun", "dusk")
MOOD_SHARES = (0.5, 0.32, 0.11, 0.07)
_CASTS = {
    # red, green, blue factors, and brightness (low, high)
    "clear": ((1.03, 1.0, 0.96), (0.95, 1.2)),
    "overcast": ((0.97, 1.0, 1.03), (0.95, 1.15)),
    "low sun": ((1.09, 0.99, 0.87), (0.92, 1.15)),
    "dusk": ((0.9, 0.94, 1.06), (0.95, 1.15)),
}


def photograph(
    rgb: np.ndarray, depth: np.ndarray, rng: np.random.Generator, mood: str, haze: np.ndarray
) -> np.ndarray:
    """Turns a clean picture into a photograph.

    Args:
        rgb: (H, W, 3) float32, 0 to 255, at the final resolution.
        depth: (H, W) float32, metres.
        rng: source of chance.
        mood: one of `MOODS`.
        haze: (3,) colour of the sky near the horizon.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = depth.shape
    sight = rng.uniform(30, 80) if rng.random() < 0.08 else rng.uniform(120, 600)  # metres
    fog = (1 - np.exp(-np.minimum(depth, 150.0) / sight))[..., None] * 0.92
    rgb = rgb + (haze * 0.95 + 8 - rgb) * fog

    cast, (low, high) = _CASTS[mood]
    gain = np.array(cast, np.float32) * rng.uniform(low, high)
    gain = gain * rng.normal(1, 0.018, 3)
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
    vignette = 1 - rng.uniform(0, 0.3) * (0.4 * rows**2 + 0.6 * columns**2)
    slope = 1 + rng.uniform(-0.12, 0.12) * columns + rng.uniform(-0.1, 0.1) * rows
    rgb = rgb * gain * (vignette * slope)[..., None]

    contrast = rng.uniform(0.92, 1.18)
    rgb = 105 + (rgb - 105) * contrast + rng.normal(0, 6)
    sigma = rng.uniform(0.25, 0.55) * max(height / 256, 1.0) ** 0.5
    rgb = cv2.GaussianBlur(rgb.astype(np.float32), (0, 0), sigma)
    strength = rng.uniform(1.0, 3.5) * (1.4 if mood == "dusk" else 1.0)
    rgb += strength * rng.standard_normal(rgb.shape[:2], dtype=np.float32)[..., None]
    rgb += 0.4 * strength * rng.standard_normal(rgb.shape, dtype=np.float32)
    return np.clip(rgb, 0, 255).astype(np.uint8)
