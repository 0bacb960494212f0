"""Datasets for classification that are folders of pictures, one folder per class, as ImageNet."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .own import PathLike, datasets_root, full_path

logger = logging.getLogger(__name__)

EVALUATOR_TYPE = "image_classification"
# What torchvision's ImageFolder takes for a picture, whatever the case of the letters.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_IMAGENET = {"imagenet_train": "train", "imagenet_val": "val"}
_EXAMPLES = 3

# What we registered ourselves, and so may replace: root and classes, None where not yet looked for.
_registered: dict[str, tuple[str, list[str] | None]] = {}


def class_folders(root: PathLike) -> list[str]:
    """The classes of a folder dataset: the names of the folders in its root, sorted.

    This is the order of torchvision's ImageFolder, so that weights trained elsewhere mean the same
    classes. Hidden folders (".something") are none.

    Args:
        root: the folder. ``~`` is expanded, relative paths start from the current directory.

    Returns:
        Names; position is the label.

    Raises:
        ValueError: no such folder, or no folder in it.
    """
    root = full_path(root)
    if not os.path.isdir(root):
        came = "a file" if os.path.isfile(root) else "nothing"
        raise ValueError(f"expected a folder with a folder for each class at {root}, came {came}")
    with os.scandir(root) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    classes = sorted(entry.name for entry in found if entry.is_dir())
    if classes:
        return classes
    loose = sorted(entry.name for entry in found if is_picture(entry.name))
    came = "an empty one"
    if loose:
        came = f"{len(loose)} pictures ({loose[0]}, ...) that no folder says the class of"
        if loose[0].startswith("ILSVRC2012_val_"):
            came += (
                "; ImageNet's own archive of validation pictures is like that: move each into the "
                "folder of its class (docs/imagenet.md)"
            )
    raise ValueError(f"expected a folder for each class in {root}, came {came}")


def pictures_of(root: PathLike, name: str) -> Iterator[str]:
    """The pictures of one class, those in folders further down included, in a fixed order.

    Links to folders are followed; a folder that was seen is not entered again, so that links which
    lead round in a ring come to an end.

    Args:
        root: of the dataset.
        name: of the class folder.

    Yields:
        Full paths.
    """
    top = os.path.join(full_path(root), name)
    # A link up to the root would bring in the other classes.
    seen = {os.path.realpath(top), os.path.realpath(root)}
    for folder, below, files in os.walk(top, followlinks=True):
        below.sort()  # os.walk goes on in the order that this list has by then
        new = [(os.path.realpath(os.path.join(folder, each)), each) for each in below]
        below[:] = [each for path, each in new if path not in seen]
        seen |= {path for path, _ in new}
        yield from (os.path.join(folder, file) for file in sorted(files) if is_picture(file))


def load_image_folder(root: PathLike) -> list[dict[str, Any]]:
    """Lists a folder dataset as Detectron2's dataset dicts.

    Args:
        root: holds a folder for each class.

    Returns:
        Per picture ``file_name`` and ``label``, the class's position in `class_folders`. No sizes:
        they would cost opening each of ImageNet's million files.

    Raises:
        ValueError: no such folder, no class folder, or class folders without a picture.
    """
    start = time.perf_counter()
    classes = class_folders(root)
    dicts = []
    empty = []
    for label, name in enumerate(classes):
        before = len(dicts)
        dicts += [{"file_name": path, "label": label} for path in pictures_of(root, name)]
        if len(dicts) == before:
            empty.append(name)
    if empty:
        raise ValueError(empty_folders(root, empty))
    seconds = time.perf_counter() - start
    logger.info(
        "%s: %d pictures of %d classes, listed in %.1f s", root, len(dicts), len(classes), seconds
    )
    return dicts


def empty_folders(root: PathLike, names: list[str]) -> str:
    """Says which class folders have no picture."""
    return (
        f"expected pictures ({', '.join(EXTENSIONS)}) in each class folder of {full_path(root)}, "
        f"came none in {some(names)}"
    )


def some(names: list[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return f"{', '.join(names[:_EXAMPLES])}{more}"


def is_picture(name: str, extensions: tuple[str, ...] = EXTENSIONS) -> bool:
    """Whether a file's name is that of a picture; hidden files (".something") are none."""
    return name.lower().endswith(extensions) and not name.startswith(".")


def register_image_folder(name: str, root: PathLike, *, must_exist: bool = True) -> None:
    """Registers a folder dataset with Detectron2's catalogs.

    The class folders are looked for at once, for the metadata's `classes`; the pictures when the
    dataset is first used. Registering the same again does nothing; a dataset that was registered
    here under this name with another root or other classes is replaced.

    Args:
        name: the name for ``cfg.DATASETS.TRAIN`` and ``TEST``.
        root: holds a folder of pictures for each class; ``~`` is expanded, and a relative path is
            taken from the current directory.
        must_exist: False: where there are no class folders the name is registered all the same,
            and its classes stay unknown.

    Raises:
        ValueError: no such folder, no class folder in it, or `name` is the name of a dataset that
            was registered elsewhere.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name: expected a text that is not empty, came {name!r}")
    if name in DatasetCatalog.list() and name not in _registered:
        raise ValueError(
            f"a dataset named '{name}' is registered already, by Detectron2 or by other code: "
            "give yours another name"
        )
    root = full_path(root)
    classes = None
    with contextlib.nullcontext() if must_exist else contextlib.suppress(ValueError):
        classes = class_folders(root)
    before = _registered.get(name)
    if before == (root, classes) and name in DatasetCatalog.list():
        return
    if before is not None:
        if before[0] != root:
            logger.info("The dataset '%s' is now in %s, before in %s.", name, root, before[0])
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)
    _register(name, root, classes)


def register_imagenet() -> None:
    """Registers ``imagenet_train`` and ``imagenet_val``, without looking whether they are there.

    They are ``imagenet/train`` and ``imagenet/val`` below $DETECTRON2_DATASETS, or below "datasets"
    where that is not set, as for Detectron2's own datasets. A name that somebody has registered
    before stays theirs.
    """
    for name, split in _IMAGENET.items():
        if name not in DatasetCatalog.list():
            _register(name, os.path.join(datasets_root(), "imagenet", split), None)


def _register(name: str, root: str, classes: list[str] | None) -> None:
    DatasetCatalog.register(name, lambda: _load(name, root))
    metadata = MetadataCatalog.get(name).set(image_root=root, evaluator_type=EVALUATOR_TYPE)
    if classes is not None:
        metadata.classes = classes
    _registered[name] = (root, classes)


def _load(name: str, root: str) -> list[dict[str, Any]]:
    try:
        dicts = load_image_folder(root)
    except ValueError as error:
        raise ValueError(f"the dataset '{name}': {error}{_hint(name)}") from error
    classes_of(name)
    return dicts


def _hint(name: str) -> str:
    if name not in _IMAGENET:
        return ""
    return ". DETECTRON2_DATASETS names the folder that holds imagenet/train and imagenet/val"


def is_image_folder(name: str) -> bool:
    """Whether a registered dataset is one for classification.

    Args:
        name: of the dataset.
    """
    if name not in DatasetCatalog.list():
        return False
    return MetadataCatalog.get(name).get("evaluator_type") == EVALUATOR_TYPE


def classes_of(name: str) -> list[str]:
    """The class names of a registered dataset for classification, without listing its pictures.

    Args:
        name: of the dataset.

    Returns:
        The metadata's `classes`, looked for in its root and set where they were not known yet.

    Raises:
        ValueError: the metadata know neither `classes` nor `image_root`, or the root is not there
            or has no class folder.
    """
    metadata = MetadataCatalog.get(name)
    if not hasattr(metadata, "classes"):
        root = metadata.get("image_root")
        if root is None:
            raise ValueError(f"the dataset '{name}': expected `classes` in its metadata, came none")
        try:
            metadata.classes = class_folders(root)
        except ValueError as error:
            raise ValueError(f"the dataset '{name}': {error}{_hint(name)}") from error
    return metadata.classes
