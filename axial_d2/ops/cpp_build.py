"""Builds the C++ of this package with whatever compiler is there, once, and loads it.

The result is kept in a cache folder under a name made of the source, the compiler and the
processor, so that another version, or another machine that shares the folder, builds its own.
Nothing here is needed: without a compiler, `load` says why and the callers do without.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "cpp"
# Set to 0, nothing is built and nothing built is used.
SWITCH = "AXIAL_D2_CPP"
CACHE = "AXIAL_D2_CACHE"
COMPILERS = ("c++", "g++", "clang++")
OPTIMISATION = ("-O3", "-fno-math-errno", "-fno-trapping-math")
# Clang with its libraries, as a package of PyPI: none of the system's is needed.
PACKAGE = "ziglang"
# The first that the compiler takes: x86 and ARM say "this machine" in different words.
ALTERNATIVES = (("-march=native",), ("-mcpu=native",), ())
LONGEST_BUILD_S = 300


class NotBuilt(Exception):
    """There is no library; the message says why."""


@cache
def load(name: str) -> ctypes.CDLL:
    """Builds and loads `cpp/<name>.cpp`, or loads what was built before.

    Args:
        name: of the source, without its ending.

    Returns:
        The library, the same one for each call in a process.

    Raises:
        NotBuilt: it was switched off, there is no compiler, or it failed.
    """
    if os.environ.get(SWITCH, "1").strip().lower() in ("0", "false", "off", "no"):
        raise NotBuilt(f"{SWITCH} is {os.environ[SWITCH]}")
    source = SOURCES / f"{name}.cpp"
    compiler = find_compiler()
    key = hashlib.sha256()
    texts = [path.read_bytes() for path in (source, *sorted(SOURCES.glob("*.h")))]
    words = (_version(compiler), _processor(), repr(ALTERNATIVES))
    for part in (*texts, *(word.encode() for word in words)):
        key.update(part)
    file = f"{name}-{key.hexdigest()[:20]}.so"
    try:
        cache: Path | None = cache_folder()
    except RuntimeError:  # No home to expand "~" with.
        cache = None
    # One that can't be loaded, of a disk that was full, say, is built anew.
    with contextlib.suppress(OSError):
        if cache and (cache / file).is_file():
            return ctypes.CDLL(str(cache / file))
    with _writable(cache) as folder:
        library = Path(folder) / file
        try:
            _build(compiler, source, library)
        except OSError as error:
            raise NotBuilt(f"{library} can't be written: {error}") from error
        try:
            return ctypes.CDLL(str(library))
        except OSError as error:
            raise NotBuilt(f"{library} can't be loaded: {error}") from error


def find_compiler() -> list[str]:
    """A C++ compiler and its options: CXX of the environment, else a known one, else PyPI's."""
    wanted = os.environ.get("CXX", "").strip()
    try:
        commands = [shlex.split(wanted)] if wanted else [[name] for name in COMPILERS]
    except ValueError as error:
        raise NotBuilt(f"CXX: {error} in {wanted!r}") from error
    for program, *options in commands:
        found = shutil.which(program)
        if found:
            return [found, *options]
    if wanted:
        raise NotBuilt(f"no C++ compiler found: {wanted}")
    if sys.executable and importlib.util.find_spec(PACKAGE):
        return [sys.executable, "-m", PACKAGE, "c++"]
    raise NotBuilt(
        f"no C++ compiler found: {', '.join(COMPILERS)}; pip install {PACKAGE} brings one"
    )


def cache_folder() -> Path:
    """Where libraries are kept: the environment's AXIAL_D2_CACHE, else the user's cache folder."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "axial_d2"


class _writable:
    """The folder, made where need be; a passing one where there is none or it can't be written."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._passing: str | None = None

    def __enter__(self) -> str:
        with contextlib.suppress(OSError):
            if self._folder:
                self._folder.mkdir(parents=True, exist_ok=True)
                if os.access(self._folder, os.W_OK):
                    return str(self._folder)
        try:
            self._passing = tempfile.mkdtemp(prefix="axial_d2-")
        except OSError as error:
            raise NotBuilt(f"no folder to build in: {error}") from error
        return self._passing

    def __exit__(self, *raised: object) -> None:
        if self._passing:  # A loaded library needs its file no longer.
            shutil.rmtree(self._passing, ignore_errors=True)


def _build(compiler: Sequence[str], source: Path, library: Path) -> None:
    logger.info("building %s with %s, once", source.name, shlex.join(compiler))
    start = time.monotonic()
    passing = tempfile.TemporaryDirectory(dir=library.parent, ignore_cleanup_errors=True)
    with passing as folder:
        # Several processes may build at once; each moves a whole file into its place.
        made = Path(folder) / library.name
        # Zig's cache, of 90 MB, would need a home folder and serve no other build.
        environment = {"ZIG_GLOBAL_CACHE_DIR": folder, **os.environ}
        for flags in ALTERNATIVES:
            command = [
                *(*compiler, "-std=c++17", "-shared", "-fPIC", "-w"),
                *(*OPTIMISATION, *flags, str(source), "-o", str(made)),
            ]
            message = _run(command, environment)
            if message is None:
                os.replace(made, library)
                logger.info("built %s in %.0f s", library, time.monotonic() - start)
                return
    raise NotBuilt(f"{shlex.join(compiler)} could not build {source.name}: {message}")


def _run(command: list[str], environment: dict[str, str]) -> str | None:
    """The end of what the compiler said, or None where it succeeded."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=LONGEST_BUILD_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.strip()[-500:] or f"it ended with {done.returncode}"


def _version(compiler: Sequence[str]) -> str:
    """What tells compilers apart whose results may differ."""
    command = shlex.join(compiler)
    if compiler[1:3] == ["-m", PACKAGE]:  # What it says of itself names the kernel that runs.
        try:
            return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
        except importlib.metadata.PackageNotFoundError as error:
            raise NotBuilt(f"{command}: {PACKAGE} is not whole: {error}") from error
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"{command} does not run: {error}") from error
    return command + done.stdout


def _processor() -> str:
    """What tells processors with other instructions apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    wanted = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
