"""Two import hooks that :mod:`axial_d2.compat` is made of.

A stand-in serves a module that nobody else has found; an around-hook runs something of ours around
the execution of a module that exists. Both act on exact names and cost nothing until then.
"""

import functools
import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType


class _StandInLoader(importlib.abc.Loader):
    """Makes a module by calling `fill(module)`."""

    def __init__(self, fill: Callable[[ModuleType], None]):
        self._fill = fill

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # the default kind

    def exec_module(self, module: ModuleType) -> None:
        self._fill(module)


class _StandIns(importlib.abc.MetaPathFinder):
    """The last finder of all, so that a real module goes first."""

    def __init__(self) -> None:
        self.fills: dict[str, Callable[[ModuleType], None]] = {}

    def find_spec(self, name, path=None, target=None):
        fill = self.fills.get(name)
        if fill is None:
            return None
        is_package = any(other.startswith(f"{name}.") for other in self.fills)
        return ModuleSpec(name, _StandInLoader(fill), is_package=is_package)


class _Arounds(importlib.abc.MetaPathFinder):
    """The first finder of all: passes on what the others find, with another way to execute it."""

    def __init__(self) -> None:
        self.arounds: dict[str, Callable[[Callable, ModuleType], None]] = {}

    def find_spec(self, name, path=None, target=None):
        around = self.arounds.get(name)
        if around is None:
            return None
        others = (f for f in sys.meta_path if f is not self and hasattr(f, "find_spec"))
        spec = next((s for f in others if (s := f.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            # A loader serves one module, so giving this instance another method touches no other.
            spec.loader.exec_module = functools.partial(around, spec.loader.exec_module)
        return spec


_STAND_INS = _StandIns()
_AROUNDS = _Arounds()


def is_found(name: str) -> bool:
    """Whether the real module `name` can be found; a stand-in of ours does not count."""
    try:
        spec = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):  # its parent is missing; or it has no spec at all
        return False
    return spec is not None and not isinstance(spec.loader, _StandInLoader)


def stand_in(name: str, fill: Callable[[ModuleType], None] = lambda module: None) -> None:
    """Serves a module `name`, filled by `fill(module)`, to whoever imports it and finds no other.

    `fill` may instead replace `sys.modules[name]`, for an alias. A parent package needs a stand-in
    of its own.
    """
    _STAND_INS.fills[name] = fill
    if _STAND_INS not in sys.meta_path:
        sys.meta_path.append(_STAND_INS)


def run_around(name: str, around: Callable[[Callable, ModuleType], None]) -> None:
    """Has `around(execute, module)` run instead of `execute(module)` when `name` is imported."""
    _AROUNDS.arounds[name] = around
    if _AROUNDS not in sys.meta_path:
        sys.meta_path.insert(0, _AROUNDS)
