"""Registration of your own datasets with Detectron2's catalogs, whatever form they have."""

import contextlib
import gc
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

PathLike = str | os.PathLike[str]

logger = logging.getLogger(__name__)

#: The evaluator_type of datasets whose truth is read as segments from masks or annotations.
EVALUATOR_TYPE = "axial_d2_segments"


class Source(NamedTuple):
    """Where a registered dataset comes from, and which version of its files was read."""

    form: str
    paths: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]  # modification time in ns, size in bytes; by file read


#: How the metadata of datasets whose classes stand in their files are filled in, by name: called
#: when the classes are first asked for; raises a ValueError that names the file where one is
#: missing or wrong.
LAZY_CLASSES: dict[str, Callable[[], None]] = {}

# What we registered ourselves, and so may replace. All other names belong to somebody else.
_registered: dict[str, Source] = {}


def full_path(path: PathLike) -> str:
    """Absolute path: ``~`` expanded, relative ones taken from the current directory."""
    return os.path.abspath(os.path.expanduser(os.fspath(path)))


def file_stamp(path: PathLike) -> tuple[int, int]:
    """Modification time (ns) and size (bytes) of a file: a new pair means a changed file."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Keeps Python from looking for reference cycles while millions of small objects are made.

    None of them is in a cycle, and going through them again and again takes twice as long as making
    them: the json of 100,000 pictures is read in 3 s instead of 9.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_json(path: str, what: str) -> Any:
    """Reads a json.

    Args:
        path: the file.
        what: it is, for the error.

    Raises:
        ValueError: the file is missing, cannot be read, or is not json.
    """
    try:
        # With a byte order mark or without.
        with open(path, encoding="utf-8-sig") as file, collection_paused():
            return json.load(file)
    except OSError as error:
        raise ValueError(f"cannot read the {what} {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of json, of the decoder, of a thousand levels
        raise ValueError(f"{path} is not a json file: {error}") from error


def whole_number(mapping: Mapping[str, Any], key: str, *, text: bool = False) -> int:
    """A whole number that a json has under a key.

    Args:
        mapping: of the json.
        key: that it has.
        text: whether a text of digits is one too.

    Raises:
        KeyError: it has none.
        ValueError: it is another thing.
    """
    value = mapping[key]
    kinds = (int, float, str) if text else (int, float)
    try:
        if isinstance(value, bool) or not isinstance(value, kinds) or int(value) != float(value):
            raise ValueError
        return int(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{key}: expected a whole number, came {value!r}") from error


# Beginnings of names that stand for datasets under DETECTRON2_DATASETS.
_KNOWN = ("coco_", "cityscapes_", "mapillary_", "ade20k_")


def expected_place(name: str) -> str:
    """What to add to the error of a dataset that cannot be loaded: where a known one should be.

    Args:
        name: of the dataset.
    """
    if not name.startswith(_KNOWN):
        return ""
    return f"; DETECTRON2_DATASETS is {datasets_root()}, docs/datasets.md shows what it should hold"


def load_dataset(name: str) -> list[dict[str, Any]]:
    """The dicts of a registered dataset.

    Args:
        name: of the dataset.

    Raises:
        ValueError: it cannot be loaded: a file is missing or not right.
    """
    try:
        return DatasetCatalog.get(name)
    except (ValueError, OSError, AssertionError) as error:  # Detectron2's loaders assert
        place = expected_place(name)
        raise ValueError(f"the dataset '{name}' cannot be loaded: {error}{place}") from error


def register_known(
    name: str,
    *,
    load: Callable[[], list[dict[str, Any]]],
    classes: Callable[[], Mapping[str, Any]],
    **fields: Any,
) -> None:
    """Registers a known dataset, without looking whether it is there.

    A name that somebody has registered before stays theirs.

    Args:
        name: of the dataset.
        load: gives the dataset dicts.
        classes: gives the metadata fields that stand in the dataset's files; called when they are
            first asked for.
        fields: the metadata that are known anyway.
    """
    if name in DatasetCatalog.list():
        return
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**fields)
    LAZY_CLASSES[name] = lambda: MetadataCatalog.get(name).set(**classes()) and None


def datasets_root() -> str:
    """The folder of known datasets: $DETECTRON2_DATASETS, or "datasets" where that is not set."""
    return full_path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def register_own(
    name: str,
    form: str,
    paths: Sequence[str],
    *,
    files: Sequence[str],
    load: Callable[[], list[dict[str, Any]]],
    metadata: Callable[[], Mapping[str, Any]],
) -> None:
    """Registers a dataset. The same again does nothing; what has changed replaces what was here.

    Args:
        name: the name for ``cfg.DATASETS.TRAIN`` and ``TEST``.
        form: which function registers it.
        paths: full paths that say where it is.
        files: those of them that `metadata` are read from.
        load: gives the dataset dicts.
        metadata: gives Detectron2's metadata fields; called only where there is something new.

    Raises:
        ValueError: `name` is empty or the name of a dataset that was registered elsewhere
            (Detectron2's own, the embedded one, the user's code), or what `metadata` raises.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name: expected a text that is not empty, came {name!r}")
    if name in DatasetCatalog.list() and name not in _registered:
        raise ValueError(
            f"a dataset named '{name}' is registered already, by Detectron2 or by other code: "
            "give yours another name"
        )
    stamps = tuple(file_stamp(file) if os.path.isfile(file) else (0, 0) for file in files)
    source = Source(form, tuple(paths), stamps)
    before = _registered.get(name)
    if before == source and name in DatasetCatalog.list():
        return
    fields = metadata()
    if before is not None:
        logger.info("The dataset '%s' is replaced: before %s, now %s.", name, before, source)
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)
    try:
        MetadataCatalog.get(name).set(**fields)
    except AssertionError as error:  # Detectron2's way to say that a field has another value
        raise ValueError(f"the metadata of '{name}' was set otherwise before: {error}") from error
    DatasetCatalog.register(name, load)
    _registered[name] = source
