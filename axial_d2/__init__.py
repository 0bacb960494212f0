"""Axial-DeepLab for Detectron2: a plugin.

``import axial_d2`` comes before any import of Detectron2: it applies the bridges of
:mod:`axial_d2.compat` and registers the backbone, the meta-architectures and the data sets.

Where Detectron2 is not installed it imports quietly: ``axial_d2.ops``, ``axial_d2.layers`` and
``axial_d2.panoptic`` need torch and numpy alone. The first use of anything that does need
Detectron2 is an ImportError that says how to get it.
"""

import importlib
import warnings

from axial_d2 import compat

# The one place that holds the version; setup.py reads this line without importing the package.
__version__ = "0.1.0"

# Subpackages and modules that import Detectron2 at module level (tests/test_imports.py compares).
_NEED_DETECTRON2 = ("analysis", "config", "data", "engine", "evaluation", "modeling")
# Names of theirs offered here, so that a script needs one import.
_OFFERED = {"add_axial_config": "config"}


def __getattr__(name: str) -> object:
    """Loads a subpackage, or a name offered here, at its first use."""
    if name in _OFFERED:
        return getattr(importlib.import_module(f"axial_d2.{_OFFERED[name]}"), name)
    if not name.startswith("_") and importlib.util.find_spec(f"axial_d2.{name}") is not None:
        return importlib.import_module(f"axial_d2.{name}")
    raise AttributeError(f"module 'axial_d2' has no attribute {name!r}")


if compat.has_detectron2():
    with warnings.catch_warnings():
        # fvcore decorates with torch.jit.script, of which torch warns at every import.
        warnings.filterwarnings("ignore", message=".*torch.jit.script")
        compat.apply()
        # For what they register.
        importlib.import_module("axial_d2.modeling")
        importlib.import_module("axial_d2.data")
else:
    compat.explain_missing_detectron2(f"axial_d2.{name}" for name in _NEED_DETECTRON2)
