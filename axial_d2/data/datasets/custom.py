"""The user's own datasets, named in the config: ``DATASETS.CUSTOM`` and ``.IMAGE_FOLDERS``."""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog

from .coco_instances import register_coco_instances
from .coco_panoptic import register_coco_panoptic
from .image_folder import register_image_folder
from .mask_folders import register_mask_folders
from .own import full_path

_FOLDER_KEYS = ("name", "root")


class _Form(NamedTuple):
    """One form that an entry of DATASETS.CUSTOM may have."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    register: Callable[..., None]


_PANOPTIC = _Form(("name", "images", "panoptic", "json"), (), register_coco_panoptic)
_MASKS = _Form(("name", "images", "semantic", "classes"), ("instances",), register_mask_folders)
_INSTANCES = _Form(
    ("name", "images", "instances_json"), ("semantic", "classes"), register_coco_instances
)
# All other keys name folders.
_FILES = ("json", "instances_json", "classes")

_RIGHT_FORM = """The right form in a yaml file is one of these

DATASETS:
  CUSTOM:
    - name: my_train
      images: data/train/images            # folder of the pictures
      panoptic: data/train/panoptic        # folder of the panoptic png files
      json: data/train/panoptic.json       # COCO panoptic json
    - {name: my_val, images: data/val/images, panoptic: data/val/panoptic, json: data/val.json}
    - name: my_masks
      images: data/images
      semantic: data/semantic              # folder of masks of classes
      instances: data/instances            # folder of masks of instances; may be left out
      classes: data/classes.yaml           # the classes of the masks
    - name: my_instances
      images: data/images
      instances_json: data/instances.json  # COCO instance json
      semantic: data/semantic              # with classes; may both be left out
      classes: data/classes.yaml
  TRAIN: ("my_train",)
  TEST: ("my_val",)

and on the command line

DATASETS.CUSTOM "[{'name': 'my_train', 'images': '...', 'panoptic': '...', 'json': '...'}]"
"""

_RIGHT_FOLDER_FORM = """The right form in a yaml file is

DATASETS:
  IMAGE_FOLDERS:
    - {name: my_train, root: data/train}   # data/train/CLASS/*.jpg
    - {name: my_val, root: data/val}
  TRAIN: ("my_train",)
  TEST: ("my_val",)

and on the command line

DATASETS.IMAGE_FOLDERS "[{'name': 'my_train', 'root': 'data/train'}]"
"""


def register_custom(cfg: Any, *, need_pictures: bool = True) -> None:
    """Registers the datasets that a config names; calling it again does nothing.

    Args:
        cfg: a config with ``DATASETS.CUSTOM``, a list of mappings with the keys ``name``,
            ``images``, ``panoptic`` and ``json`` (see `axial_d2.data.register_coco_panoptic`), or
            ``name``, ``images``, ``semantic``, ``classes`` and perhaps ``instances`` (see
            `register_mask_folders`), or ``name``, ``images``, ``instances_json`` and perhaps
            ``semantic`` and ``classes`` (see `register_coco_instances`); and
            ``DATASETS.IMAGE_FOLDERS``, a list of mappings with the keys ``name`` and ``root`` (see
            `register_image_folder`).
        need_pictures: whether a missing folder of pictures is an error. Without them a panoptic
            dataset's classes are still known from its json, which is all that a prediction needs;
            those of a missing folder of class folders are not.

    Raises:
        ValueError: a list is not of this form, a path is missing, a json is not a COCO panoptic
            one, a folder has no class folders, or a name is taken. One error tells all the mistakes
            of a list and shows the right form.
    """

    def register_segments(entry: Mapping[str, str]) -> list[str]:
        problems = _path_problems(entry, need_pictures)
        if problems:
            return problems
        arguments = {"json" if k == "instances_json" else k: v for k, v in entry.items()}
        return _problems_of(_form_of(entry).register, **arguments)

    def register_folder(entry: Mapping[str, str]) -> list[str]:
        return _problems_of(register_image_folder, must_exist=need_pictures, **entry)

    _register_list(cfg, "CUSTOM", _form_of, register_segments, _RIGHT_FORM)
    folder = _Form(_FOLDER_KEYS, (), register_image_folder)
    _register_list(cfg, "IMAGE_FOLDERS", lambda _: folder, register_folder, _RIGHT_FOLDER_FORM)


def _form_of(entry: Mapping[str, Any]) -> _Form:
    """The form of an entry by the key that only this form has."""
    if "instances_json" in entry:
        return _INSTANCES
    if "panoptic" not in entry and ("semantic" in entry or "classes" in entry):
        return _MASKS
    return _PANOPTIC


def _register_list(
    cfg: Any,
    key: str,
    form_of: Callable[[Mapping[str, Any]], _Form],
    register: Callable[[Mapping[str, str]], list[str]],
    right_form: str,
) -> None:
    """Registers the entries of one list; `register` gives the problems of an entry, in words."""
    entries = cfg.DATASETS.get(key, [])
    problems = _list_problems(entries, form_of)
    for index, entry in enumerate([] if problems else entries, start=1):
        problems += [f"entry {index} ('{entry['name']}'): {problem}" for problem in register(entry)]
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ValueError(f"DATASETS.{key} is not right:\n{listed}\n{right_form}")


def _problems_of(register: Callable[..., None], **arguments: Any) -> list[str]:
    try:
        register(**arguments)
    except ValueError as error:
        return [str(error)]
    return []


def _list_problems(entries: Any, form_of: Callable[[Mapping[str, Any]], _Form]) -> list[str]:
    """Mistakes in the form of the list, in words."""
    if not isinstance(entries, list | tuple):
        return [f"expected a list of mappings, came a {type(entries).__name__}: {entries!r}"]
    problems = []
    for index, entry in enumerate(entries, start=1):
        form = form_of(entry if isinstance(entry, Mapping) else {})
        keys = (*form.needed, *form.optional)
        if not isinstance(entry, Mapping):
            problems.append(
                f"entry {index}: expected a mapping with the keys {', '.join(keys)}, "
                f"came a {type(entry).__name__}: {entry!r}"
            )
            continue
        missing = [key for key in form.needed if key not in entry]
        unknown = [key for key in entry if key not in keys]
        if missing:
            problems.append(f"entry {index}: {', '.join(missing)} missing in {dict(entry)}")
        if unknown:
            problems.append(
                f"entry {index}: expected the keys {', '.join(keys)}, came {unknown[0]!r} too"
            )
        problems += [
            f"entry {index}: {key}: expected a text that is not empty, came {entry[key]!r}"
            for key in keys
            if key in entry and (not isinstance(entry[key], str) or not entry[key])
        ]
    names = [entry.get("name") for entry in entries if isinstance(entry, Mapping)]
    problems += [
        f"the name {name!r} occurs {names.count(name)} times, expected once"
        for name in {name: None for name in names if isinstance(name, str)}
        if names.count(name) > 1
    ]
    return problems


def _path_problems(entry: Mapping[str, str], need_pictures: bool) -> list[str]:
    """Paths of one entry that are not there or not what they should be, in words."""
    problems = []
    for key in [key for key in entry if key != "name"]:
        path = full_path(entry[key])
        if key in _FILES:
            right, expected, other = os.path.isfile(path), "a file", "a folder"
        else:
            right, expected, other = os.path.isdir(path), "a folder", "a file"
            right = right or not need_pictures
        if not right:
            came = other if os.path.exists(path) else "nothing"
            problems.append(f"{key}: expected {expected} at {path}, came {came}")
    return problems


def check_names(cfg: Any) -> None:
    """Makes sure that every dataset of ``cfg.DATASETS.TRAIN`` and ``TEST`` is registered.

    Args:
        cfg: a config; call `register_custom` with it first.

    Raises:
        ValueError: a name is not registered. The error lists the names most like it.
    """
    names = [(f"DATASETS.{key}", name) for key in ("TRAIN", "TEST") for name in cfg.DATASETS[key]]
    _check_names(names)


def check_dataset_name(name: str, key: str) -> None:
    """Makes sure that a dataset is registered.

    Args:
        name: of the dataset.
        key: what names it, for the error.

    Raises:
        ValueError: the name is not registered. The error lists the names most like it.
    """
    _check_names([(key, name)])


def _check_names(names: Sequence[tuple[str, str]]) -> None:
    known = DatasetCatalog.list()
    problems = []
    for key, name in names:
        if name in known:
            continue
        close = difflib.get_close_matches(str(name), known, n=4, cutoff=0.6)
        hint = f"close to it: {', '.join(close)}" if close else "nothing like it is registered"
        problems.append(f"{key}: no dataset is named {name!r}; {hint}")
    if problems:
        problems.append(
            "Datasets of your own are named in DATASETS.CUSTOM (a list of mappings with "
            f"{', '.join(_PANOPTIC.needed)}) or DATASETS.IMAGE_FOLDERS ({', '.join(_FOLDER_KEYS)}),"
            " or registered with axial_d2.data.register_coco_panoptic or register_image_folder."
        )
        raise ValueError("\n".join(problems))
