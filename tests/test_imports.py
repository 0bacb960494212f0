"""The floors of the house (docs/design.md): who may import whom; what comes without Detectron2."""

import ast
import importlib.util
import subprocess
import sys
import textwrap
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import axial_d2
from axial_d2 import compat

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "axial_d2"

# What each part may import of axial_d2, itself aside. Arrows point down; a part that is not
# listed fails the test, so that a new one says where it stands.
BASE = {"compat", "import_hooks", "panoptic_quality"}
ARROWS = {
    "import_hooks": set(),
    "ops": set(),
    "panoptic": set(),
    "layers": {"ops"},
    "panoptic_quality": {"import_hooks", "panoptic"},
    "compat": {"import_hooks", "panoptic_quality", "panoptic"},
    "config": set(),
    "checkpoint": {"layers", "ops"},
    "visualization": {"layers", "panoptic"},
    "evaluation": {"data", "panoptic", *BASE},
    "data": {"panoptic", "config", *BASE},
    "modeling": {"layers", "ops", "panoptic", "data", "config", *BASE},
    "analysis": {"modeling", "layers", "ops", *BASE},
    "benchmarks": {"analysis", "data", "engine", "layers", "ops", "panoptic", *BASE},
    "export": {"modeling", "layers", "ops", "panoptic", *BASE},
    "engine": {
        *("checkpoint", "config", "data", "evaluation", "layers", "modeling", "ops", "panoptic"),
        *("visualization", *BASE),
    },
}
GROUND = ("ops", "layers", "panoptic")
# At module level the ground floor imports these and the standard library; triton inside functions,
# but for its kernels, which functions import in turn.
GROUND_MAY = {"torch", "numpy", "axial_d2", *sys.stdlib_module_names}
KERNELS = {f"axial_d2.ops.triton.{name}" for name in ("kernels", "tiles")}


def part_of(path: Path) -> str:
    """The subpackage or top-level module of axial_d2 that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    files = sorted(p for p in PACKAGE.rglob("*.py") if part_of(p) != "__init__")
    assert len(files) > 10
    return files


def imported(path: Path, source: str, *, module_level: bool = False) -> set[str]:
    """Full names that a file imports: `from a import b` counts as `a.b`."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    if module_level:
        functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside = {id(x) for f in functions for x in ast.walk(f)}
        nodes = [n for n in nodes if id(n) not in inside]
    package = ["axial_d2", *path.relative_to(PACKAGE).parts[:-1]]
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def parts_imported(path: Path, source: str) -> set[str]:
    names = (name.split(".") for name in imported(path, source))
    return {name[1] for name in names if name[0] == "axial_d2" and len(name) > 1}


def test_imports_are_read_as_they_are_written():
    source = """
    import numpy as np
    from axial_d2 import ops
    from axial_d2.layers.stem import Stem
    from . import sibling
    from ..panoptic import merging
    def late():
        import axial_d2.engine.trainer
    """
    path, source = PACKAGE / "data" / "mapper.py", textwrap.dedent(source)
    assert parts_imported(path, source) == {"ops", "layers", "data", "panoptic", "engine"}
    assert "axial_d2.engine.trainer" not in imported(path, source, module_level=True)
    assert "numpy" in imported(path, source, module_level=True)


def test_arrows_have_no_cycle():
    done: set[str] = set()
    while len(done) < len(ARROWS):
        free = {part for part, below in ARROWS.items() if part not in done and below <= done}
        assert free, f"a cycle among {sorted(set(ARROWS) - done)}"
        done |= free


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    part = part_of(path)
    assert part in ARROWS, f"give axial_d2.{part} its place in ARROWS"
    wrong = parts_imported(path, path.read_text()) - ARROWS[part] - {part}
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}: up or sideways"
    if part in GROUND:
        names = imported(path, path.read_text(), module_level=True)
        foreign = {name.split(".")[0] for name in names} - GROUND_MAY
        if f"axial_d2.{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts)}" in KERNELS:
            foreign -= {"triton"}
        else:
            foreign |= {name for name in names if name.startswith(tuple(KERNELS))}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)} at module level"


def test_parts_that_need_detectron2_are_known():
    need = {
        part_of(path)
        for path in sources()
        if any(n.split(".")[0] == "detectron2" for n in module_level_imports(path))
    }
    assert need == set(axial_d2._NEED_DETECTRON2)


def module_level_imports(path: Path) -> set[str]:
    return imported(path, path.read_text(), module_level=True)


# ---- without Detectron2, in a process of its own ------------------------------------------------

BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""
DETECTRON2 = {"detectron2"}
ALL_OPTIONAL = {"detectron2", "fvcore", "iopath", "cv2", "matplotlib", "triton", "pycocotools"}
ALL_OPTIONAL |= {"PIL", "scipy", "cityscapesscripts", "panopticapi", "torchvision"}


def run(code: str, *, blocked: set[str] = frozenset(), path: Path | None = None) -> str:
    code = BLOCK.format(blocked=blocked or set()) + textwrap.dedent(code)
    folders = [str(p) for p in (path, ROOT) if p is not None]
    code = f"import sys; sys.path[:0] = {folders!r}\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ground_floor_imports_alone():
    out = run(
        f"""
        import axial_d2.ops, axial_d2.layers, axial_d2.panoptic
        import torch
        from axial_d2.layers import AxialAttention1d
        print(sorted({ALL_OPTIONAL!r} & set(sys.modules)))
        """,
        blocked=ALL_OPTIONAL,
    )
    assert out.strip() == "[]"


def test_names_that_need_detectron2_say_how_to_get_it():
    out = run(
        """
        import importlib, importlib.util
        import axial_d2
        print(axial_d2.__version__)
        def said(act):
            try:
                act()
            except ImportError as error:
                assert "dev/setup.sh" in str(error) and "install.html" in str(error), error
                assert error.name == "detectron2"
                print("said", str(error).split()[0])
        for name in ("add_axial_config", *axial_d2._NEED_DETECTRON2):
            said(lambda: getattr(axial_d2, name))
        said(lambda: importlib.import_module("axial_d2.modeling"))
        said(lambda: importlib.import_module("axial_d2.data"))
        def line():
            from axial_d2.modeling import AxialDeepLab
        said(line)
        assert importlib.util.find_spec("axial_d2.modeling") is not None
        assert "axial_d2.modeling" not in sys.modules
        assert importlib.util.find_spec("axial_d2.nowhere") is None
        try:
            axial_d2.nowhere
        except AttributeError as error:
            print(error)
        """,
        blocked=DETECTRON2,
    ).splitlines()
    assert out[0] == axial_d2.__version__
    assert out[1:-1].count("said axial_d2.modeling") == 3
    assert len(out[1:-1]) == 4 + len(axial_d2._NEED_DETECTRON2)
    assert out[-1] == "module 'axial_d2' has no attribute 'nowhere'"


def test_broken_detectron2_speaks_for_itself(tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("import no_such_library\n")
    out = run(
        """
        try:
            import axial_d2
        except ModuleNotFoundError as error:
            print(error)
        """,
        path=tmp_path,
    )
    assert out.strip() == "No module named 'no_such_library'"


def test_folder_called_detectron2_is_not_detectron2(tmp_path, monkeypatch):
    (tmp_path / "detectron2" / "docs").mkdir(parents=True)
    spec = PathFinder.find_spec("detectron2", [str(tmp_path)])
    assert spec is not None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert not compat.has_detectron2()


def test_import_leaves_slow_libraries_alone():
    out = run(
        """
        import axial_d2
        slow = {"matplotlib", "cityscapesscripts", "pandas", "tensorboard", "scipy"}
        print(sorted(slow & set(sys.modules)))
        print(axial_d2.add_axial_config.__module__, axial_d2.evaluation.__name__)
        """
    ).splitlines()
    assert out == ["[]", "axial_d2.config axial_d2.evaluation"]
