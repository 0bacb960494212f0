"""Predictions on disk: what they are called, and where they lie in a folder of anyone's."""

import logging
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from axial_d2.data.datasets.own import read_json
from axial_d2.evaluation.truth import PanopticTruth

logger = logging.getLogger(__name__)

#: Names in the folder of predictions.
PANOPTIC, INSTANCES, SEMANTIC = "panoptic", "instances", "semantic"
#: Cityscapes' id of pixels without a class ("unlabeled"), which its scripts count as wrong.
UNLABELED = 0

_LOOKED_FOR = """\
looked for, in the folder and all those in it:
  a json with a list 'annotations' whose entries have 'segments_info', beside the folder of its png
    files (COCO's panoptic format; Cityscapes takes it too)
  a json that is a list of results with 'segmentation' and 'score' (COCO's instances)
  for Cityscapes text files CITY_NNNNNN_NNNNNN*.txt that name masks (instances)
  a folder 'semantic' of png files named as the pictures; or such files alone"""


class FoundPredictions(NamedTuple):
    """Where the predictions of each kind are; None: there are none.

    Attributes:
        panoptic: the json and its content.
        instances: the json and its content.
        texts, semantic: a file by the key of the picture that it is named as.
    """

    panoptic: tuple[Path, dict] | None
    instances: tuple[Path, list] | None
    texts: dict[Hashable, Path] | None
    semantic: dict[Hashable, Path] | None


def picture_names(truth: PanopticTruth) -> dict[Hashable, str]:
    """How the files of each picture are called: as itself, with a number where two are called so.

    Args:
        truth: of the data set.

    Returns:
        A name without extension by the picture's key.
    """
    names: dict[Hashable, str] = {}
    taken: set[str] = set()
    for key, record in truth.records().items():
        stem = _stem(record)
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names[key] = name
    return names


def no_class(truth: PanopticTruth) -> int:
    """What stands in a semantic mask where nothing was predicted; no class of the data set has it.

    Args:
        truth: of the data set.
    """
    if truth.is_cityscapes:
        return UNLABELED
    ids = truth.classes.dataset_ids
    return max(*ids, 0) + 1 if truth.classes.ignore_label in ids else truth.classes.ignore_label


def find_predictions(root: Path, sole: Path | None, truth: PanopticTruth) -> FoundPredictions:
    """Looks for predictions of each kind in a folder and all those in it.

    What begins with a dot and what a Mac adds to a zip is passed over.

    Args:
        root: the folder.
        sole: a json of the folder that alone is meant.
        truth: of the data set.

    Raises:
        ValueError: there are none, a json cannot be read, or of one kind there are two.
    """
    folders, files = _contents(root)
    jsons = [sole] if sole else [path for path in files if path.suffix == ".json"]
    panoptic, instances = _sort_jsons(jsons, root)
    texts = semantic = None
    if sole is None and truth.is_cityscapes:
        named = _by_picture([p for p in files if p.suffix == ".txt"], truth, "instance text")
        texts = named or None
    if instances and texts:
        text = next(iter(texts.values()))
        raise ValueError(
            f"expected one kind of instances in {root}, came {instances[0]} and texts as {text}"
        )
    if sole is None:
        semantic = _find_semantic(folders, files, truth, alone=not (panoptic or instances or texts))
    found = FoundPredictions(panoptic, instances, texts, semantic)
    if all(each is None for each in found):
        raise ValueError(f"no predictions in {sole or root}; {_LOOKED_FOR}")
    return found


def panoptic_folder(path: Path, names: Sequence[str]) -> Path:
    """The folder that the png files of a panoptic json are in.

    Args:
        path: of the json.
        names: of the files.

    Returns:
        The folder of the json's name or, where that has none of them, the one beside it that has.

    Raises:
        ValueError: there is none, there are two, or it lacks some of the files.
    """
    own = path.with_suffix("")
    folder = own if _count(own, names) or not names else _folder_beside(path, names)
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise ValueError(
            f"{path}: {len(lacking)} of its {len(names)} png files are not in {folder}, the "
            f"first: {lacking[0]}"
        )
    return folder


def _folder_beside(path: Path, names: Sequence[str]) -> Path:
    """The folder beside a json that has most of the files."""
    # Masks of classes may be named alike.
    beside = [p for p in path.parent.iterdir() if p.is_dir() and p.name != SEMANTIC]
    counts = {p: _count(p, names) for p in (path.parent, *sorted(beside)) if not _is_hidden(p.name)}
    most = max(counts.values(), default=0)
    best = [p for p, count in counts.items() if count == most]
    own = path.with_suffix("")
    if most == 0:
        raise ValueError(f"{path}: expected its png files in {own}, {names[0]} is not there")
    if len(best) > 1:
        raise ValueError(f"{path}: expected its png files in {own}, came {best[0]} and {best[1]}")
    return best[0]


def _count(folder: Path, names: Sequence[str]) -> int:
    return sum((folder / name).is_file() for name in names)


def _contents(root: Path) -> tuple[list[Path], list[Path]]:
    """All folders below one, and all files; links are followed, once."""
    folders: list[Path] = []
    files: list[Path] = []
    seen = {os.path.realpath(root)}
    for place, names, others in os.walk(root, followlinks=True):
        names[:] = sorted(n for n in names if not _is_hidden(n))
        for name in list(names):
            real = os.path.realpath(os.path.join(place, name))
            if real in seen:
                names.remove(name)
            seen.add(real)
        folders += [Path(place, name) for name in names]
        paths = [Path(place, name) for name in sorted(others) if not _is_hidden(name)]
        files += [path for path in paths if path.is_file()]  # and no pipe, from which none reads on
    return folders, files


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _sort_jsons(
    paths: Sequence[Path], root: Path
) -> tuple[tuple[Path, dict] | None, tuple[Path, list] | None]:
    """The panoptic json and that of instances, read."""
    found: dict[str, list[tuple[Path, Any]]] = {PANOPTIC: [], INSTANCES: []}
    unreadable = None
    for path in paths:
        try:
            content = read_json(str(path), "predictions")
        except ValueError as error:
            if path.stem in found:
                raise
            # Such as the json lines of a training's metrics.
            logger.warning("Passed over: %s", error)
            unreadable = error
            continue
        kind = _kind_of(content)
        if kind:
            found[kind].append((path, content))
        elif path.stem in found:  # named as ours: it is meant
            raise ValueError(f"{path}: expected {path.stem} predictions; {_LOOKED_FOR}")
    for kind, several in found.items():
        if len(several) > 1:
            names = " and ".join(str(path) for path, _ in several[:2])
            raise ValueError(f"expected one json of {kind} predictions in {root}, came {names}")
    if unreadable and not any(found.values()):
        raise unreadable
    return next(iter(found[PANOPTIC]), None), next(iter(found[INSTANCES]), None)


def _kind_of(content: Any) -> str | None:
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return PANOPTIC if _any_has(content["annotations"], "segments_info") else None
    if isinstance(content, list):
        return INSTANCES if _any_has(content, "segmentation") else None
    return None


def _any_has(entries: Sequence[Any], key: str) -> bool:
    """Whether any of them has the key; none at all may be of any kind."""
    return not entries or any(isinstance(e, dict) and key in e for e in entries)


def _find_semantic(
    folders: Sequence[Path], files: Sequence[Path], truth: PanopticTruth, *, alone: bool
) -> dict[Hashable, Path] | None:
    """The masks of classes by picture: of the folder of that name, or all if there is no other."""
    own = [folder for folder in folders if folder.name == SEMANTIC]
    if len(own) > 1:
        raise ValueError(f"expected one folder of semantic predictions, came {own[0]} and {own[1]}")
    masks = [path for path in files if path.suffix == ".png"]
    if own:
        return _by_picture([p for p in masks if own[0] in p.parents], truth, SEMANTIC)
    return (_by_picture(masks, truth, SEMANTIC) if alone else None) or None


def _by_picture(paths: Sequence[Path], truth: PanopticTruth, what: str) -> dict[Hashable, Path]:
    """The files named as pictures, by the pictures' keys.

    By the whole name or, as Cityscapes' scripts do, by its first three parts; of pictures of one
    name by the number that ours have, or by the folders that a file is in.
    """
    by_name: dict[str, list[Path]] = {}
    for path in paths:
        name = _city_frame(path.stem) if truth.is_cityscapes else path.stem
        by_name.setdefault(name, []).append(path)
    found: dict[Hashable, Path] = {}
    taken: set[Path] = set()
    for (key, record), name in zip(
        truth.records().items(), picture_names(truth).values(), strict=True
    ):
        stem = _stem(record)
        if truth.is_cityscapes:
            options = by_name.get(_city_frame(stem), [])
        else:
            options = by_name.get(name) or by_name.get(stem) or []
        options = list(_closest([p for p in options if p not in taken], record["file_name"]))
        if len(options) > 1:
            raise ValueError(
                f"expected one {what} file for the picture {record['file_name']}, came "
                f"{options[0]} and {options[1]}"
            )
        if options:
            found[key] = options[0]
            taken.add(options[0])
    return found


def _city_frame(stem: str) -> str:
    """CITY_NNNNNN_NNNNNN of a name of Cityscapes."""
    return "_".join(stem.split("_")[:3])


def _stem(record: Mapping[str, Any]) -> str:
    return os.path.splitext(os.path.basename(record["file_name"]))[0]


def _closest(paths: Sequence[Path], file_name: str) -> Iterator[Path]:
    """Of several those that share most of the folders' names with the picture, from the last on."""
    shared = []
    for path in paths:
        pairs = list(zip(path.parts[-2::-1], Path(file_name).parts[-2::-1], strict=False))
        shared.append(next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs)))
    return (path for path, count in zip(paths, shared, strict=True) if count == max(shared))
