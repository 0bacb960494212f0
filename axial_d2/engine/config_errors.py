"""Config mistakes in words: which file, which key, and the nearest key that exists."""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from axial_d2.engine.errors import SetupError

# How alike a name must be to be offered (difflib's ratio, 0 to 1); its default of 0.6 leaves out
# a key under the wrong parent, such as SOLVER.WEIGHTS for MODEL.WEIGHTS.
_LIKENESS = 0.5
# yacs puts the key at the end of each of its messages.
_KEY_IN_MESSAGE = re.compile(r"(?:[Kk]ey:? |key: )([A-Z_][\w.]*)")
_CONFIGS = Path(__file__).parents[2] / "configs"


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merges a config file, with the files its _BASE_ names, into `cfg` in place.

    Args:
        cfg: the node to merge into.
        path: a YAML file.

    Raises:
        SetupError: the file is missing (the nearest names are listed), is not YAML, or holds a key
            or a type that the config does not know (file, key and nearest key are named).
    """
    if not Path(path).is_file():
        raise SetupError(f"--config-file: no such file: {path}{_offer(path, _config_files(path))}")
    try:
        cfg.merge_from_file(path)
    except yaml.YAMLError as error:
        raise SetupError(f"{path}: not valid YAML: {error}") from error
    except FileNotFoundError as error:
        raise SetupError(f"{path}: the file of its _BASE_ is missing: {error.filename}") from error
    except (KeyError, ValueError, AssertionError) as error:
        key = _key_in(error)
        where = _file_with(Path(path), key) if key else Path(path)
        raise SetupError(f"{where}: {_explain(cfg, key, error)}") from error


def merge_options(cfg: CfgNode, options: list[str]) -> None:
    """Merges `KEY VALUE KEY VALUE ...` from the command line into `cfg` in place.

    Args:
        cfg: the node to merge into.
        options: keys and values in turn.

    Raises:
        SetupError: a key without a value, an unknown key, a value of the wrong type, or an option
            such as --resume among them.
    """
    flag = next((key for key in options if key.startswith("--")), None)
    if flag:
        raise SetupError(f"command line: expected {flag} before the KEY VALUE pairs, got it after")
    if len(options) % 2:
        raise SetupError(
            f"command line: expected KEY VALUE pairs after the options, got {len(options)} words: "
            f"{' '.join(options)}"
        )
    try:
        cfg.merge_from_list(options)
    except (KeyError, ValueError, AssertionError, AttributeError) as error:
        key = _key_in(error) or _first_unknown(cfg, options[::2])
        raise SetupError(f"command line: {_explain(cfg, key, error)}") from error


def _explain(cfg: CfgNode, key: str | None, error: Exception) -> str:
    message = str(error.args[0]) if error.args else str(error)
    if key is None:
        return message
    if "Type mismatch" in message:
        expected, came = re.findall(r"<class '([^']+)'>", message)[:2]
        default = f"its default is {_value_of(cfg, key)!r}"
        return f"{key}: expected a value of type {_short(expected)} ({default}), got {_short(came)}"
    if "xistent" in message:
        return f"unknown config key {key}{_offer(key, list(_keys(cfg)))}"
    return message


def _short(type_name: str) -> str:
    return "mapping" if type_name.endswith("CfgNode") else type_name


def _offer(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=_LIKENESS)
    # The same last part elsewhere is nearer than any likeness of the letters.
    last = name.replace("/", ".").rsplit(".", 1)[-1]
    near = [k for k in known if k.rsplit(".", 1)[-1] == last and "." in k][:1] + near
    near = list(dict.fromkeys(near))[:3]
    return f" (nearest: {', '.join(near)})" if near else ""


def _key_in(error: Exception) -> str | None:
    found = _KEY_IN_MESSAGE.findall(str(error.args[0]) if error.args else "")
    return found[-1] if found else None


def _first_unknown(cfg: CfgNode, keys: Iterable[str]) -> str | None:
    known = set(_keys(cfg))
    return next((key for key in keys if key not in known), None)


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{name}.")


def _value_of(node: CfgNode, key: str) -> Any:
    for part in key.split("."):
        node = node[part]
    return node


def _file_with(path: Path, key: str) -> Path:
    """Returns the file of the _BASE_ chain that sets `key`; the first one wins, as in merging."""
    return next(_files_with(path, key), path)


def _files_with(path: Path, key: str) -> Iterator[Path]:
    # Unsafe, as Detectron2 itself loads it: the same file has just been loaded that way.
    content = yaml.unsafe_load(path.read_text()) or {}
    node: Any = content
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            break
        node = node[part]
    else:
        yield path
    bases = content.get("_BASE_") or []
    for base in reversed([bases] if isinstance(bases, str) else bases):  # The last one wins.
        yield from _files_with(path.parent / Path(base).expanduser(), key)


def _config_files(path: str) -> list[str]:
    """Config files that may have been meant: those beside `path`, and all that come with us."""
    beside = Path(path).parent
    found = list(beside.glob("*.yaml")) if beside.is_dir() else []
    if _CONFIGS.is_dir():
        found += sorted(_CONFIGS.rglob("*.yaml"))
    here = Path.cwd()
    names = (f.relative_to(here) if f.is_relative_to(here) else f for f in found)
    return list(dict.fromkeys(str(name) for name in names))
