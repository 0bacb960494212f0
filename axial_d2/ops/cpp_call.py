"""How Python calls the functions of `cpp/axial_attention.cpp`."""

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from axial_d2.ops import cpp_build

SOURCE = "axial_attention"


class View(ctypes.Structure):
    """A (N, S, G, L, D) tensor: where it starts, and its strides in elements."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "strip", "head", "place", "channel")),
    ]


class Sizes(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batches", "strips", "heads", "length", "depth")),
        *((name, ctypes.c_int64) for name in ("value_depth", "half", "tables", "threads")),
        ("parallel", ctypes.c_void_p),
    ]


def view(tensor: Tensor) -> View:
    """Of a (N, S, G, L, D) tensor."""
    return View(tensor.data_ptr(), *tensor.stride())


@cache
def parallel() -> int | None:
    """The address of the `GOMP_parallel` that torch itself uses; None if torch has no OpenMP.

    So a compiler needs no OpenMP, and torch's threads do the work: others would have to share the
    cores with them, since they look for more of it for a while after each operation. Part of the
    interface of GNU's OpenMP to compilers, which LLVM's and Intel's have as well.
    """
    try:
        # A library's handle finds what it depends on as well, whatever name that has.
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


def pointers(tensors: Sequence[Tensor]) -> ctypes.Array:
    """Where contiguous tensors start."""
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def call(
    name: str,
    q: Tensor,
    half: int,
    *arguments: list[View] | ctypes.Array,
    value_depth: int = 0,
    tables: int = 1,
) -> None:
    """Calls one of the library's functions.

    Args:
        name: of the function, without its type.
        q: (N, S, G, L, D), whose sizes and type count.
        half: keys that a query sees on either side of it.
        arguments: views of tensors, and pointers.
        value_depth: Dv.
        tables: 1, or G where each head has position tables of its own.

    Raises:
        MemoryError: there was none.
    """
    sizes = Sizes(*q.shape, value_depth, half, tables, torch.get_num_threads(), parallel())
    kind = "double" if q.dtype == torch.float64 else "float"
    run = getattr(cpp_build.load(SOURCE), f"{name}_{kind}")
    passed = [(View * len(a))(*a) if isinstance(a, list) else a for a in arguments]
    if run(ctypes.byref(sizes), *passed):
        raise MemoryError(f"axial attention: no memory for strips of {q.shape[-2]} positions")
