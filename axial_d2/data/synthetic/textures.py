"""Colours and noise shared by all that is drawn."""

from __future__ import annotations

import functools

import cv2
import numpy as np

TILE = 512  # side of the noise tiles in cells; a power of two so that wrapping is a bit mask

# Colours of things people make. Cars, buses, bicycles, clothes, shops and bins all draw from this
# one list, so that a colour alone says little about the class.
_PAINTS = (
    (30, 30, 34),
    (70, 72, 76),
    (120, 122, 124),
    (165, 165, 160),
    (205, 203, 198),
    (232, 231, 228),
    (150, 40, 36),
    (176, 84, 52),
    (188, 150, 104),
    (214, 190, 150),
    (196, 164, 60),
    (60, 96, 62),
    (96, 118, 76),
    (52, 78, 128),
    (92, 124, 168),
    (58, 74, 138),
    (60, 128, 138),
    (104, 66, 92),
    (98, 76, 58),
)
_GREYS = 6  # so many greys stand first in the list

# Walls keep to what houses are built of, most of which the list above has too.
_WALLS = (
    (166, 88, 62),
    (140, 84, 66),
    (188, 150, 104),
    (208, 184, 146),
    (198, 196, 188),
    (214, 208, 196),
    (164, 158, 148),
    (196, 160, 150),
    (186, 178, 122),
)


def wall_paint(rng: np.random.Generator) -> np.ndarray:
    """Draws the colour of a wall, (3,) float32 RGB, 0 to 255."""
    color = np.array(_WALLS[rng.integers(len(_WALLS))], np.float32)
    return np.clip(color * rng.uniform(0.8, 1.1) + rng.normal(0, 7, 3), 30, 225).astype(np.float32)


def paint(
    rng: np.random.Generator, vividness: float = 1.0, *, grey_share: float | None = None
) -> np.ndarray:
    """Draws a colour of the shared list, varied a little.

    Args:
        rng: source of chance.
        vividness: 1 keeps the colour, 0 makes it grey, above 1 strengthens it.
        grey_share: how often one of the list's greys is drawn; None for as often as any colour.

    Returns:
        (3,) float32 RGB, 0 to 255.
    """
    low, high = 0, len(_PAINTS)
    if grey_share is not None:
        low, high = (0, _GREYS) if rng.random() < grey_share else (_GREYS, high)
    red, green, blue = _PAINTS[rng.integers(low, high)]
    grey, light = (red + green + blue) / 3, rng.uniform(0.8, 1.2)
    color = rng.normal(0, 6, 3).tolist()
    for channel, value in enumerate((red, green, blue)):
        value = (grey + (value - grey) * vividness) * light + color[channel]
        color[channel] = min(max(value, 8.0), 247.0)
    return np.array(color, np.float32)


@functools.lru_cache(maxsize=1)
def _tiles() -> tuple[np.ndarray, np.ndarray]:
    """Two noise tiles, mean 0, deviation 1: fractal, and white. Always the same.

    Each is (2 TILE, 2 TILE): four times the tile itself, so that most patches are a slice of it.
    """
    rng = np.random.default_rng(20200317)
    fractal = np.zeros((TILE, TILE), np.float32)
    for cells in (4, 8, 16, 32, 64, 128):
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        # Padded with its own opposite edges before it is enlarged, so that the tile wraps.
        grid = np.pad(grid, 1, mode="wrap")
        step = TILE // cells
        large = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        fractal += large[step:-step, step:-step] * (4 / cells) ** 0.55
    fractal = (fractal - fractal.mean()) / fractal.std()
    white = rng.standard_normal((TILE, TILE), dtype=np.float32)
    return np.tile(fractal, (2, 2)), np.tile(white, (2, 2))


def fractal_at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Smooth noise (deviation about 1) at cells (u, v) of an endless plane; largest blots 128."""
    return _at(_tiles()[0], u, v)


def white_at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Noise (deviation 1) without relation between the cells (u, v) of an endless plane."""
    return _at(_tiles()[1], u, v)


def _at(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row, column = v.astype(np.int32) & (TILE - 1), u.astype(np.int32) & (TILE - 1)
    return tile.ravel().take(row * (2 * TILE) + column)


def noise_patch(
    rng: np.random.Generator, height: int, width: int, *, step: float = 1.0, white: bool = False
) -> np.ndarray:
    """A patch (height, width) of noise from a random place of the tile, `step` cells a pixel.

    It may be a view of the tile: not to be written to.
    """
    row, column = rng.integers(TILE, size=2).tolist()
    tile = _tiles()[int(white)]
    if max(height, width) * step <= TILE and step == int(step):
        step = int(step)
        return tile[row : row + height * step : step, column : column + width * step : step]
    rows = (np.arange(height, dtype=np.float32) * step + row).astype(np.int32) & (TILE - 1)
    columns = (np.arange(width, dtype=np.float32) * step + column).astype(np.int32) & (TILE - 1)
    return tile[rows].take(columns, axis=1)


def hash01(number: np.ndarray) -> np.ndarray:
    """A repeatable value in [0, 1) for each whole number."""
    cells = number.astype(np.int64)
    cells = (cells * 2654435761 + 12345) & 0xFFFFFFFF
    cells = ((cells ^ (cells >> 15)) * 2246822519) & 0xFFFFFFFF
    return ((cells ^ (cells >> 13)) & 0xFFFF).astype(np.float32) / 65536


def blend(base: np.ndarray, other: np.ndarray, amount: np.ndarray | float) -> np.ndarray:
    """`base` (..., 3) moved towards `other` (3,) or (..., 3) by `amount` (...), 0 to 1."""
    if isinstance(amount, np.ndarray):
        amount = amount[..., None]
    return base + (other - base) * amount
