"""What air and camera do to a finished picture: fog, colour cast, vignette, blur, noise."""

from __future__ import annotations

import cv2
import numpy as np

from axial_d2.data.synthetic import textures

MOODS = ("clear", "overcast", "low sun", "dusk")
MOOD_SHARES = (0.52, 0.32, 0.1, 0.06)
_CASTS = {
    # red, green, blue factors, and brightness (low, high)
    "clear": ((1.03, 1.0, 0.96), (0.9, 1.18)),
    "overcast": ((0.97, 1.0, 1.03), (0.9, 1.18)),
    "low sun": ((1.07, 0.99, 0.9), (0.95, 1.12)),
    "dusk": ((0.92, 0.96, 1.05), (0.95, 1.12)),
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
    sight = rng.uniform(50, 90) if rng.random() < 0.04 else rng.uniform(220, 800)  # metres
    fog = (1 - np.exp(np.minimum(depth, 150.0) * np.float32(-1 / sight))) * np.float32(0.92)

    cast, (low, high) = _CASTS[mood]
    gain = np.array(cast) * rng.uniform(low, high) * rng.normal(1, 0.018, 3)
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
    shade = 1 - rng.uniform(0, 0.2) * (0.4 * rows**2 + 0.6 * columns**2)  # vignette
    shade *= 1 + rng.uniform(-0.08, 0.08) * columns + rng.uniform(-0.06, 0.06) * rows

    contrast, lift = rng.uniform(0.95, 1.15), rng.normal(0, 4)
    sigma = rng.uniform(0.25, 0.45) * max(height / 256, 1.0) ** 0.5
    strength = rng.uniform(0.7, 1.8) * (1.4 if mood == "dusk" else 1.0)
    grain = strength * textures.noise_patch(rng, height, width, white=True)
    planes = []
    for plane, air, factor in zip(cv2.split(rgb), haze * 0.95 + 8, gain, strict=True):
        plane += (air - plane) * fog
        plane *= shade * np.float32(factor * contrast)
        plane += np.float32(105 * (1 - contrast) + lift)
        plane = cv2.GaussianBlur(plane, (0, 0), sigma) + grain
        plane += 0.4 * strength * textures.noise_patch(rng, height, width, white=True)
        planes.append(plane)
    return np.clip(cv2.merge(planes), 0, 255).astype(np.uint8)
