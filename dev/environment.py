"""Questions that the scripts of dev/ put to an interpreter. Standard library only.

Usage:
    python dev/environment.py fingerprint   what is on sys.path, to notice that it changed
    python dev/environment.py missing       requirements of setup.py that cannot be imported
    python dev/environment.py missing-dev   the same for the extra "dev", as pinned
    python dev/environment.py constraints   every installed distribution as name==version
    python dev/environment.py repair        forget distributions whose installation was interrupted
    python dev/environment.py opencv        names of the OpenCV distributions installed
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Where the name to import is not the name to install.
MODULES = {"pillow": "PIL", "opencv-python-headless": "cv2", "pyyaml": "yaml"}


def fingerprint() -> list[str]:
    """Installing or removing a package changes the time of a folder on sys.path."""
    folders = [p for p in sys.path[1:] if p != str(ROOT) and os.path.isdir(p)]
    return [sys.executable, *(f"{p} {os.stat(p).st_mtime_ns}" for p in folders)]


def literal(name: str) -> object:
    """The value of a constant of setup.py, read without running it."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return ast.literal_eval(node.value)
    raise KeyError(f"setup.py has no constant {name}")


def importable(requirement: str) -> bool:
    name = re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0].lower()
    spec = importlib.util.find_spec(MODULES.get(name, name))
    return spec is not None and spec.origin is not None


def missing() -> list[str]:
    wanted = [*literal("INSTALL_REQUIRES"), *literal("EXTRAS_REQUIRE")["demo"]]
    return [r for r in wanted if not importable(r)]


def missing_dev() -> list[str]:
    pinned = (ROOT / "requirements-dev.txt").read_text().splitlines()
    names = {re.split(r"[<>=]", r)[0] for r in literal("EXTRAS_REQUIRE")["dev"]}
    return [p for p in pinned if p.split("==")[0] in names and not importable(p)]


def distributions() -> dict[str, str]:
    found: dict[str, str] = {}
    for dist in metadata.distributions():  # in the order of sys.path: the first is the one imported
        if dist.metadata["Name"]:
            found.setdefault(re.sub(r"[-_.]+", "-", dist.metadata["Name"]).lower(), dist.version)
    return found


def constraints() -> list[str]:
    return [f"{n}=={v}" for n, v in sorted(distributions().items()) if n != "axial-d2"]


def repair() -> list[str]:
    """pip writes RECORD, naming INSTALLER, as the last thing it does for a distribution.

    Where that is not so it was killed half-way, yet would take the rest for installed.
    """
    broken = []
    packages = Path(sysconfig.get_paths()["purelib"])
    for leftover in packages.glob("~*"):  # what pip had moved aside
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in packages.glob("*.dist-info"):
        record = folder / "RECORD"
        if not record.is_file() or "/INSTALLER," not in record.read_text(errors="replace"):
            shutil.rmtree(folder)
            broken.append(folder.name.removesuffix(".dist-info"))
    return broken


def opencv() -> list[str]:
    return [n for n in distributions() if n.startswith("opencv-")]


if __name__ == "__main__":
    answers = [fingerprint, missing, missing_dev, constraints, repair, opencv]
    by_name = {f.__name__.replace("_", "-"): f for f in answers}
    if len(sys.argv) != 2 or sys.argv[1] not in by_name:
        sys.exit(__doc__)
    for line in by_name[sys.argv[1]]():
        print(line)
