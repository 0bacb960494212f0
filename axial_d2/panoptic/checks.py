"""Guards shared by the functions of this package: one clear error, before any work."""

from collections.abc import Iterable

import torch
from torch import Tensor


def check_tensor(name: str, value: Tensor, shape: tuple[int | str, ...]) -> None:
    """Raises unless `value` is a tensor of that shape; a letter in `shape` stands for any size.

    Raises:
        TypeError: `value` is not a tensor.
        ValueError: its shape differs.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(value).__name__}")
    fits = value.dim() == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, value.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name} must have shape ({wanted}), got {tuple(value.shape)}")


def check_floating(name: str, value: Tensor) -> None:
    """Raises TypeError unless the tensor holds real floating point numbers."""
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {value.dtype}")


def check_integer(name: str, value: Tensor) -> None:
    """Raises TypeError unless the tensor holds integers (bool is not one)."""
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {value.dtype}")


def check_mask(name: str, value: Tensor, shape: tuple[int | str, ...]) -> None:
    """Raises unless `value` is a bool tensor of that shape."""
    check_tensor(name, value, shape)
    if value.dtype != torch.bool:
        raise TypeError(f"{name} must be bool, got {value.dtype}")


def check_positive(name: str, value: float, *, integer: bool = False) -> None:
    """Raises ValueError unless the number is above 0 (and whole, with `integer`)."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (integer and not whole) or not value > 0:
        kind = "integer" if integer else "number"
        raise ValueError(f"{name} must be a positive {kind}, got {value!r}")


def check_ids(name: str, ids: Iterable[int]) -> list[int]:
    """The ids as a sorted list without repeats.

    Raises:
        ValueError: one is negative or not whole.
    """
    listed = sorted({int(i) for i in ids if _is_id(name, i)})
    return listed


def _is_id(name: str, value: int) -> bool:
    if int(value) != value or value < 0:
        raise ValueError(f"{name} must be class ids, integers from 0, got {value!r}")
    return True


def as_real(value: Tensor) -> Tensor:
    """Half precision widened to float32, float32 and float64 as they are.

    Coordinates of a picture need more than the 11 (8) bits of a half (bfloat16) number: at column
    2048 their neighbours lie 2 (16) pixels apart.
    """
    return value if value.dtype in (torch.float32, torch.float64) else value.float()
