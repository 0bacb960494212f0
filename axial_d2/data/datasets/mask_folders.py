"""Your own dataset as folders: pictures, masks of classes and perhaps masks of instances."""

import logging
import os
import time
from collections.abc import Iterator
from typing import Any

from .class_list import read_class_list
from .image_folder import EXTENSIONS, is_picture
from .own import PathLike, full_path, register_own

logger = logging.getLogger(__name__)

_EXAMPLES = 3
#: Extensions of masks; a jpg's pixels are not what was written.
MASKS = (".png", ".tif", ".tiff", ".bmp")


def load_mask_folders(
    name: str, images: PathLike, semantic: PathLike, instances: PathLike | None
) -> list[dict[str, Any]]:
    """Lists a dataset of mask folders as Detectron2's dataset dicts.

    A picture ``images/some/where.jpg`` has the masks ``semantic/some/where.png`` and
    ``instances/some/where.png`` (.png, .tif, .tiff or .bmp).

    Args:
        name: of the dataset.
        images: folder of the pictures, those in folders further down included.
        semantic: folder of the masks of classes.
        instances: folder of the masks of instances; None: there are none.

    Returns:
        Per picture ``file_name``, ``image_id`` (its path below `images`, without the extension),
        ``dataset_name``, ``sem_seg_file_name`` and ``instance_file_name``. No sizes: they would
        cost opening each file.

    Raises:
        ValueError: no picture, two pictures of one name, or pictures without their masks.
    """
    start = time.perf_counter()
    images = full_path(images)
    folders = {"sem_seg_file_name": full_path(semantic)}
    if instances is not None:
        folders["instance_file_name"] = full_path(instances)
    masks = {key: files_by_stem(folder, MASKS) for key, folder in folders.items()}
    dicts, missing = [], []
    for stem, path in sorted(files_by_stem(images, EXTENSIONS).items()):
        record = {"file_name": path, "image_id": stem, "dataset_name": name}
        for key, found in masks.items():
            if stem in found:
                record[key] = found[stem]
            else:
                missing.append((path, os.path.join(folders[key], f"{stem}.png")))
        dicts.append(record)
    if not dicts:
        raise ValueError(
            f"the dataset '{name}': expected pictures ({', '.join(EXTENSIONS)}) in {images}, came "
            "none"
        )
    if missing:
        raise ValueError(missing_masks(name, missing, next(iter(masks.values()))))
    seconds = time.perf_counter() - start
    logger.info("'%s': %d pictures with their masks, listed in %.1f s", name, len(dicts), seconds)
    return dicts


def files_by_stem(folder: str, extensions: tuple[str, ...]) -> dict[str, str]:
    """The files of a folder by their path below it, without the extension.

    Args:
        folder: those in folders further down are found too.
        extensions: of the files to find, in lower case.

    Raises:
        ValueError: two files differ by their extension alone.
    """
    found: dict[str, str] = {}
    for path in _files(folder, extensions):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        if stem in found:
            raise ValueError(f"expected one file for each picture, came {found[stem]} and {path}")
        found[stem] = path
    return found


def _files(folder: str, extensions: tuple[str, ...]) -> Iterator[str]:
    for parent, _, files in os.walk(folder):
        yield from (os.path.join(parent, file) for file in files if is_picture(file, extensions))


def missing_masks(name: str, missing: list[tuple[str, str]], masks: dict[str, str]) -> str:
    """Says which masks, as (picture, mask), are not there, and how those that are, are named."""
    lines = [f"the dataset '{name}': {len(missing)} masks are not there"]
    lines += [f"  {path}: expected {mask}" for path, mask in missing[:_EXAMPLES]]
    if len(missing) > _EXAMPLES:
        lines.append(f"  ... and {len(missing) - _EXAMPLES} more")
    if masks:
        lines.append(f"  what is there is named as {sorted(masks.values())[0]}")
    return "\n".join(lines)


def register_mask_folders(
    name: str,
    images: PathLike,
    semantic: PathLike,
    classes: PathLike,
    instances: PathLike | None = None,
) -> None:
    """Registers a dataset of mask folders with Detectron2's catalogs.

    A pixel of a semantic mask has its class's value (of the class list), or its colour. A pixel of
    an instance mask has a number from 1 on, the same all over an instance, and 0 elsewhere; numbers
    need to differ within a class of a picture only. Pixels of a thing class that have no number
    are a crowd. Without instance masks the semantic branch alone learns.

    Args:
        name: the name for ``cfg.DATASETS.TRAIN`` and ``TEST``.
        images: folder of the pictures.
        semantic: folder of the masks of classes.
        classes: yaml file of the classes (see `axial_d2.data.read_class_list`). ``~`` is expanded
            in all paths, and relative ones start from the current directory.
        instances: folder of the masks of instances.

    Raises:
        ValueError: the class list is not right, or `name` is the name of a dataset that was
            registered elsewhere.
    """
    images, semantic, classes = (full_path(path) for path in (images, semantic, classes))
    instances = None if instances is None else full_path(instances)

    def metadata() -> dict[str, Any]:
        listed = read_class_list(classes)
        if instances is not None and not any(each.isthing for each in listed.classes):
            raise ValueError(
                f"instances: expected none, since {classes} has no class of the type thing"
            )
        return {
            **listed.metadata(),
            "image_root": images,
            "sem_seg_root": semantic,
            **({} if instances is None else {"instance_root": instances}),
            "segment_truth": "semantic" if instances is None else "panoptic",
        }

    register_own(
        name,
        "mask_folders",
        (images, semantic, instances or "", classes),
        files=(classes,),
        load=lambda: load_mask_folders(name, images, semantic, instances),
        metadata=metadata,
    )
