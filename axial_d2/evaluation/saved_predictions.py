"""Reads saved predictions, ours or another project's, as if a model gave them.

Known are the formats of the servers: COCO's panoptic json with its pngs (Cityscapes' too), COCO's
results json of instances, Cityscapes' text files of instances with their masks, and semantic masks.
"""

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Instances

from axial_d2.data.pictures import read_labels, read_picture
from axial_d2.data.segments import annotation_mask
from axial_d2.evaluation.truth import PanopticTruth
from axial_d2.panoptic.encoding import rgb_to_id

_LOOKED_FOR = """\
looked for, in the folder and in those in it:
  a json with a list 'annotations' whose entries have 'segments_info', beside the folder of its png
    files (COCO's panoptic format; Cityscapes takes it too)
  a json that is a list of results with 'segmentation' and 'score' (COCO's instances)
  text files CITY_NNNNNN_NNNNNN*.txt that name masks (Cityscapes' instances)
  a folder 'semantic' of png files named as the pictures, or such files in the folder itself"""


class _Found(NamedTuple):
    """Where the predictions of each kind are; None: there are none."""

    panoptic: tuple[Path, dict] | None
    instances: tuple[Path, list] | None
    texts: dict[str, Path] | None
    semantic: dict[str, Path] | None


class SavedPredictions:
    """Predictions for a registered data set.

    Attributes:
        tasks: what there is: some of "panoptic_seg", "segm", "sem_seg".
    """

    def __init__(self, truth: PanopticTruth, folder: str | os.PathLike[str]):
        """
        Args:
            truth: of the data set.
            folder: holds the predictions; or a zip of such a folder, unpacked for the time being.

        Raises:
            ValueError: no such folder, nothing in it that is known, two files of one kind, an
                image_id or a category that the data set lacks, or pictures without a prediction.
        """
        self._truth = truth
        self._contiguous = {value: key for key, value in truth.dataset_ids.items()}
        self._stack = contextlib.ExitStack()
        self._root = self._unpacked(Path(folder).expanduser())
        found = _find(self._root, truth)
        if not any(found):
            raise ValueError(f"no predictions in {folder}; {_LOOKED_FOR}")
        self._texts, self._semantic = found.texts, found.semantic
        self._panoptic = self._by_picture(found.panoptic)
        self._instances = self._group(found.instances)
        kinds = {
            "panoptic_seg": found.panoptic,
            "segm": found.instances or found.texts,
            "sem_seg": found.semantic,
        }
        self.tasks = tuple(task for task, there in kinds.items() if there)
        self._check_complete(folder)

    def close(self) -> None:
        """Deletes what was unpacked."""
        self._stack.close()

    def _unpacked(self, folder: Path) -> Path:
        if folder.is_dir():
            return folder
        if not folder.is_file():
            raise ValueError(f"predictions: expected a folder or a zip, {folder} is not there")
        root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="axial_d2_")))
        try:
            with zipfile.ZipFile(folder) as archive:
                archive.extractall(root)  # which keeps paths inside of it
        except (zipfile.BadZipFile, OSError) as error:
            self.close()
            raise ValueError(f"predictions: cannot unpack {folder}: {error}") from error
        return root

    def _by_picture(self, found: tuple[Path, dict] | None) -> dict[Hashable, Mapping[str, Any]]:
        """The panoptic annotations by the picture's key."""
        if found is None:
            return {}
        self._panoptic_json = path = found[0]
        annotations = {}
        for entry in found[1]["annotations"]:
            missing = [k for k in ("image_id", "file_name", "segments_info") if k not in entry]
            if missing:
                raise ValueError(f"{path}: expected {', '.join(missing)} in each annotation")
            annotations[self._known(entry["image_id"], path)] = entry
        self._pngs = _png_folder(path, annotations)
        return annotations

    def _group(self, found: tuple[Path, list] | None) -> dict[Hashable, list[Mapping[str, Any]]]:
        """COCO's results by the picture's key."""
        results: dict[Hashable, list[Mapping[str, Any]]] = {}
        for entry in found[1] if found else []:
            missing = [
                key
                for key in ("image_id", "category_id", "segmentation", "score")
                if key not in entry
            ]
            if missing:
                raise ValueError(f"{found[0]}: expected {', '.join(missing)} in each result")
            key = self._known(entry["image_id"], found[0])
            self._class_of(entry["category_id"], found[0], things=True)
            results.setdefault(key, []).append(entry)
        return results

    def _known(self, image_id: Any, path: Path) -> Hashable:
        if not isinstance(image_id, int | str) or image_id not in self._truth.records():
            raise ValueError(f"{path}: the data set has no picture with the image_id {image_id!r}")
        return image_id

    def _class_of(self, category: Any, path: Path, *, things: bool = False) -> int:
        if not isinstance(category, int) or category not in self._contiguous:
            raise ValueError(
                f"{path}: expected a category_id of the data set, "
                f"{sorted(self._contiguous)[:5]} ..., came {category!r}"
            )
        if things and self._contiguous[category] not in self._truth.thing_ids:
            raise ValueError(f"{path}: expected the category_id of a thing, came {category!r}")
        return self._contiguous[category]

    def _check_complete(self, folder: Any) -> None:
        """Instances may be none in a picture; all else has to be there for each."""
        records = self._truth.records()
        there = {
            "panoptic": self._panoptic if "panoptic_seg" in self.tasks else records,
            "semantic": self._named(self._semantic),
            "instance": self._named(self._texts),
        }
        for kind, having in there.items():
            lacking = [key for key in records if key not in having]
            if lacking:
                raise ValueError(
                    f"{folder}: {len(lacking)} of {len(records)} pictures have no {kind} "
                    f"prediction, the first: {records[lacking[0]]['file_name']}"
                )

    def _named(self, files: Mapping[str, Path] | None) -> Mapping[Hashable, Any]:
        """The pictures that have a file; all of them where there are no such predictions."""
        records = self._truth.records()
        if files is None:
            return records
        return {k: r for k, r in records.items() if _file_of(r, files) is not None}

    def _stem(self, key: Hashable, files: Mapping[str, Path] | None) -> Path | None:
        return _file_of(self._truth.records()[key], files or {})

    def __len__(self) -> int:
        return len(self._truth.records())

    def __iter__(self) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
        """Per picture of the data set its dict, and what a model would have given.

        Raises:
            ValueError: a file is missing or unreadable, has another size than the truth, or a png
                holds an id that the json lacks; the message names it.
        """
        for key, record in self._truth.records().items():
            output: dict[str, Any] = {}
            if "panoptic_seg" in self.tasks:
                output["panoptic_seg"] = self._read_panoptic(self._panoptic[key])
            if "segm" in self.tasks:
                size = self._truth.picture(key).index.shape
                output["instances"] = (
                    self._read_text(self._stem(key, self._texts), size)
                    if self._texts is not None
                    else self._decoded(self._instances.get(key, []), size, record["file_name"])
                )
            if "sem_seg" in self.tasks:
                output["sem_seg"] = self._read_semantic(self._stem(key, self._semantic))
            yield record, output

    def _read_panoptic(self, entry: Mapping[str, Any]) -> tuple[torch.Tensor, list[dict]]:
        path = self._pngs / entry["file_name"]
        ids = rgb_to_id(read_picture(str(path), "RGB"))
        infos = [
            {"id": s["id"], "category_id": self._class_of(s["category_id"], self._panoptic_json)}
            for s in entry["segments_info"]
        ]
        listed = {info["id"] for info in infos}
        present = set(np.unique(ids).tolist()) - {0}
        for what, some in (("the json lacks", present - listed), ("it lacks", listed - present)):
            if some:
                raise ValueError(
                    f"{path}: expected the ids of {self._panoptic_json}; {what} {sorted(some)[:5]}"
                )
        return torch.from_numpy(ids), infos

    def _decoded(
        self, entries: Sequence[Mapping[str, Any]], size: tuple[int, ...], file_name: str
    ) -> Instances:
        masks = [annotation_mask(entry, size, file_name) for entry in entries]
        classes = [self._contiguous[entry["category_id"]] for entry in entries]
        return _as_instances(masks, classes, [float(e["score"]) for e in entries], size)

    def _read_text(self, path: Path | None, size: tuple[int, ...]) -> Instances:
        masks, classes, scores = [], [], []
        assert path is not None  # _check_complete has looked
        for line in path.read_text().splitlines():
            parts = line.split()
            if not parts:
                continue
            try:
                name, label, score = parts[0], int(float(parts[1])), float(parts[2])
            except (IndexError, ValueError) as error:
                raise ValueError(f"{path}: expected MASK CLASS SCORE, came {line!r}") from error
            category = self._contiguous.get(label)
            if category not in self._truth.thing_ids:
                continue  # as the official script does
            mask = read_labels(str(path.parent / name))
            mask = mask.any(axis=2) if mask.ndim == 3 else mask != 0
            if mask.shape != size:
                raise ValueError(
                    f"{path.parent / name}: expected {size[1]}x{size[0]}, came "
                    f"{mask.shape[1]}x{mask.shape[0]} (width x height)"
                )
            masks.append(mask)
            classes.append(category)
            scores.append(score)
        return _as_instances(masks, classes, scores, size)

    def _read_semantic(self, path: Path | None) -> np.ndarray:
        assert path is not None  # _check_complete has looked
        labels = read_labels(str(path))
        if labels.ndim == 3:
            raise ValueError(f"{path}: expected class ids in grey, came colours")
        table = np.full(max(*self._contiguous, int(labels.max(initial=0))) + 1, -1)
        table[list(self._contiguous)] = list(self._contiguous.values())
        return table[labels]


def _as_instances(
    masks: Sequence[np.ndarray],
    classes: Sequence[int],
    scores: Sequence[float],
    size: tuple[int, ...],
) -> Instances:
    instances = Instances(size)
    stacked = np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
    instances.pred_masks = torch.from_numpy(stacked)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    instances.scores = torch.tensor(scores, dtype=torch.float64)
    return instances


def _find(root: Path, truth: PanopticTruth) -> _Found:
    """Looks for predictions of each kind in a folder and those in it."""
    folders = [root, *sorted(p for p in root.iterdir() if p.is_dir())]
    found: dict[str, list[tuple[Path, Any]]] = {"panoptic": [], "instances": []}
    for path in (p for folder in folders for p in sorted(folder.glob("*.json"))):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} is not a json file: {error}") from error
        kind = _kind_of(content)
        if kind:
            found[kind].append((path, content))
    for kind, several in found.items():
        if len(several) > 1:
            names = " and ".join(str(path) for path, _ in several[:2])
            raise ValueError(f"expected one json of {kind} predictions in {root}, came {names}")
    records = truth.records().values()
    texts = _named_as_pictures(folders, "*.txt", records)
    own = root / "semantic"
    places = [own] if own.is_dir() else ([] if found["panoptic"] else [root])
    semantic = {} if texts and not own.is_dir() else _named_as_pictures(places, "*.png", records)
    return _Found(
        next(iter(found["panoptic"]), None),
        next(iter(found["instances"]), None),
        texts or None,
        semantic or None,
    )


def _kind_of(content: Any) -> str | None:
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        entries = content["annotations"]
        if entries and isinstance(entries[0], dict) and "segments_info" in entries[0]:
            return "panoptic"
    if isinstance(content, list) and content and isinstance(content[0], dict):
        if {"segmentation", "score"} <= set(content[0]):
            return "instances"
    return None


def _named_as_pictures(folders: Sequence[Path], pattern: str, records: Any) -> dict[str, Path]:
    """The files of the folders, by stem, where there is one for any of the pictures."""
    files = {path.stem: path for folder in folders for path in sorted(folder.rglob(pattern))}
    return files if any(_file_of(record, files) for record in records) else {}


def _file_of(record: Mapping[str, Any], files: Mapping[str, Path]) -> Path | None:
    """The file named as a picture: by its whole name, or by Cityscapes' first three parts."""
    stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
    if stem in files:
        return files[stem]
    if not stem.endswith("_leftImg8bit"):
        return None
    head = stem.removesuffix("_leftImg8bit")
    return next((path for name, path in files.items() if name.startswith(head)), None)


def _png_folder(path: Path, annotations: Mapping[Any, Mapping[str, Any]]) -> Path:
    """The folder of the png files of a panoptic json: of its name, or any that has the first."""
    first = next(iter(annotations.values()))["file_name"] if annotations else ""
    around = [path.with_suffix(""), path.parent, *sorted(p for p in path.parent.iterdir())]
    for folder in around:
        if first and (folder / first).is_file():
            return folder
    raise ValueError(
        f"{path}: expected its png files in {path.with_suffix('')}, {first} is not there"
    )
