"""Operators that `torch.compile` takes as they are: `torch.ops.axial_d2`."""

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("axial_d2", "DEF")


def define(
    name: str, takes: str, gives: int, *, on: str, run: Callable[..., Any], fake: Callable[..., Any]
) -> Any:
    """Defines an operator.

    Args:
        name: of `torch.ops.axial_d2`.
        takes: its arguments, as torch's schemas write them.
        gives: how many tensors.
        on: the dispatch key that `run` is for.
        run: does it.
        fake: makes results of the same shapes, strides and types.

    Returns:
        What to call.
    """
    LIBRARY.define(f"{name}({takes}) -> ({', '.join(['Tensor'] * gives)})")
    LIBRARY.impl(name, run, on)
    torch.library.register_fake(f"axial_d2::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.axial_d2, name)
