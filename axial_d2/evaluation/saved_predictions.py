"""Reads saved predictions, ours or another project's, as if a model gave them.

Known are the formats of the servers: COCO's panoptic json with its pngs (Cityscapes' too), COCO's
results json of instances, Cityscapes' text files of instances with their masks, and semantic masks.
"""

import contextlib
import logging
import lzma
import math
import os
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from axial_d2.data.pictures import read_labels, read_picture, size_text
from axial_d2.data.segments import annotation_mask
from axial_d2.evaluation.prediction_files import find_predictions, no_class, panoptic_folder
from axial_d2.evaluation.truth import PanopticTruth
from axial_d2.panoptic.encoding import compact_ids, rgb_to_id

logger = logging.getLogger(__name__)

_ZIP_ERRORS = (
    zipfile.BadZipFile, OSError, EOFError, zlib.error, lzma.LZMAError,
    RuntimeError,  # of an encrypted one, or of an unknown method
)  # fmt: skip
_ANNOTATION = {"image_id": (int, str), "file_name": str, "segments_info": list}
_SEGMENT = {"id": int, "category_id": int}
_RESULT = {
    "image_id": (int, str),
    "category_id": int,
    "segmentation": (dict, list),
    "score": (int, float),
}
_WORDS = {
    int: "a whole number", str: "a text", list: "a list", dict: "an object", float: "a fraction",
}  # fmt: skip
# Cityscapes' ids that are not evaluated go up to 33.
_LAST_CITYSCAPES_ID = 33


class SavedPredictions:
    """Predictions for a registered data set.

    Attributes:
        tasks: what there is that the truth can judge: some of "panoptic_seg", "segm", "sem_seg".
    """

    def __init__(self, truth: PanopticTruth, source: str | os.PathLike[str]):
        """
        Args:
            truth: of the data set.
            source: a folder of predictions, a zip of such a folder, unpacked for the time being, or
                one json of predictions.

        Raises:
            ValueError: no such file, nothing in it that is known, two files of one kind, an entry
                that is not in its format, an image_id or a category that the data set lacks, or
                pictures without a prediction.
        """
        self._truth = truth
        self._contiguous = {value: key for key, value in truth.dataset_ids.items()}
        self._source = Path(source).expanduser()
        self._stack = contextlib.ExitStack()
        self._foreign: Counter[int] = Counter()
        try:
            self._root, sole = self._opened()
            with self._as_given():
                self._load(sole)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Deletes what was unpacked."""
        self._stack.close()

    def _opened(self) -> tuple[Path, Path | None]:
        """The folder, and the json in it that alone is meant."""
        source = self._source
        if source.is_dir():
            return source, None
        if not source.is_file():
            what = "none of them" if source.exists() else "not there"
            raise ValueError(f"predictions: expected a folder, a zip or a json, {source} is {what}")
        if source.suffix == ".json":
            return source.parent, source
        root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="axial_d2_")))
        try:
            with zipfile.ZipFile(source) as archive:
                archive.extractall(root)  # which keeps paths inside of it
        except _ZIP_ERRORS as error:
            raise ValueError(f"predictions: cannot unpack {source}: {error}") from error
        return root, None

    @contextlib.contextmanager
    def _as_given(self) -> Iterator[None]:
        """Errors name what the user gave, not where it was unpacked."""
        try:
            yield
        except ValueError as error:
            raise ValueError(str(error).replace(str(self._root), str(self._source))) from error

    def _load(self, sole: Path | None) -> None:
        found = find_predictions(self._root, sole, self._truth)
        instances = found.instances if found.texts is None else found.texts
        kinds = {"panoptic_seg": found.panoptic, "segm": instances, "sem_seg": found.semantic}
        there = [task for task, each in kinds.items() if each is not None]
        self.tasks = tuple(task for task in there if task in self._truth.tasks)
        if not self.tasks:
            raise ValueError(
                f"{self._source}: expected predictions of {self._truth.tasks}, which the data set "
                f"can judge, came {tuple(there)}"
            )
        if set(there) - set(self.tasks):
            logger.info(
                "Left aside: %s, which the data set cannot judge", set(there) - set(self.tasks)
            )
        self._texts, self._semantic = found.texts, found.semantic
        self._panoptic: dict[Hashable, Mapping[str, Any]] = {}
        self._results: dict[Hashable, list[Mapping[str, Any]]] = {}
        if found.panoptic and "panoptic_seg" in self.tasks:
            self._load_panoptic(*found.panoptic)
        if found.instances and "segm" in self.tasks:
            self._load_results(*found.instances)
        self._check_complete()

    def _load_panoptic(self, path: Path, content: Mapping[str, Any]) -> None:
        """The annotations by the picture's key, and where their png files are."""
        self._panoptic_json = path
        for entry in content["annotations"]:
            _check_entry(entry, _ANNOTATION, path, "annotation")
            key = self._known(entry["image_id"], path)
            if key in self._panoptic:
                raise ValueError(f"{path}: two annotations have the image_id {key!r}")
            self._panoptic[key] = entry
            where = f"{path}: image_id {key!r}"
            seen = set()
            for segment in entry["segments_info"]:
                _check_entry(segment, _SEGMENT, where, "segment")
                self._class_of(segment["category_id"], path)
                if segment["id"] < 1 or segment["id"] in seen:
                    raise ValueError(
                        f"{where}: expected another id above 0 for each segment, came "
                        f"{segment['id']}"
                    )
                seen.add(segment["id"])
        names = [entry["file_name"] for entry in self._panoptic.values()]
        self._pngs = panoptic_folder(path, names)

    def _load_results(self, path: Path, content: Sequence[Any]) -> None:
        """COCO's results by the picture's key."""
        self._results_json = path
        for entry in content:
            _check_entry(entry, _RESULT, path, "result")
            if not math.isfinite(entry["score"]):
                raise ValueError(f"{path}: expected finite scores, came {entry['score']}")
            key = self._known(entry["image_id"], path)
            self._class_of(entry["category_id"], path, things=True)
            self._results.setdefault(key, []).append(entry)

    def _known(self, image_id: Any, path: Path) -> Hashable:
        if image_id not in self._truth.records():
            raise ValueError(f"{path}: the data set has no picture with the image_id {image_id!r}")
        return image_id

    def _class_of(self, category: int, path: Path, *, things: bool = False) -> int:
        if category not in self._contiguous:
            raise ValueError(
                f"{path}: expected a category_id of the data set, "
                f"{sorted(self._contiguous)[:5]} ..., came {category!r}"
            )
        if things and self._contiguous[category] not in self._truth.thing_ids:
            raise ValueError(f"{path}: expected the category_id of a thing, came {category!r}")
        return self._contiguous[category]

    def _check_complete(self) -> None:
        """Results of instances may be none in a picture; all else has to be there for each."""
        records = self._truth.records()
        kinds = {
            "panoptic": self._panoptic if "panoptic_seg" in self.tasks else None,
            "semantic": self._semantic if "sem_seg" in self.tasks else None,
            "instance": self._texts if "segm" in self.tasks else None,
        }
        for kind, having in kinds.items():
            lacking = [key for key in records if having is not None and key not in having]
            if lacking:
                raise ValueError(
                    f"{self._source}: {len(lacking)} of {len(records)} pictures have no {kind} "
                    f"prediction, the first: {records[lacking[0]]['file_name']}"
                )

    def __len__(self) -> int:
        return len(self._truth.records())

    def __iter__(self) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
        """Per picture of the data set its dict, and what a model would have given.

        Raises:
            ValueError: a file is unreadable, has another size than the truth, or holds ids that the
                json or the data set lacks; the message names it.
        """
        self._foreign.clear()
        for key, record in self._truth.records().items():
            size = self._truth.picture(key).index.shape
            with self._as_given():
                output = self._read(key, size)
            yield record, output
        if self._foreign:
            ids = ", ".join(str(value) for value in sorted(self._foreign))
            logger.warning(
                "%d pixels hold ids that Cityscapes does not evaluate (%s) and count as none. It "
                "takes the labelIds, not the trainIds.", self._foreign.total(), ids,
            )  # fmt: skip

    def _read(self, key: Hashable, size: tuple[int, ...]) -> dict[str, Any]:
        output: dict[str, Any] = {}
        if "panoptic_seg" in self.tasks:
            output["panoptic_seg"] = self._read_panoptic(self._panoptic[key], size)
        if "segm" in self.tasks:
            if self._texts is not None:
                output["instances"] = self._read_text(self._texts[key], size)
            else:
                where = f"{self._results_json}: image_id {key!r}"
                output["instances"] = self._decoded(self._results.get(key, []), size, where)
        if "sem_seg" in self.tasks and self._semantic is not None:
            output["sem_seg"] = self._read_semantic(self._semantic[key], size)
        return output

    def _read_panoptic(
        self, entry: Mapping[str, Any], size: tuple[int, ...]
    ) -> tuple[torch.Tensor, list[dict]]:
        path = self._pngs / entry["file_name"]
        ids = rgb_to_id(read_picture(str(path), "RGB"))
        _check_size(ids, size, path)
        infos = [
            {"id": s["id"], "category_id": self._contiguous[s["category_id"]]}
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
        self, entries: Sequence[Mapping[str, Any]], size: tuple[int, ...], where: str
    ) -> Instances:
        masks = [annotation_mask(entry, size, where) for entry in entries]
        classes = [self._contiguous[entry["category_id"]] for entry in entries]
        return _as_instances(masks, classes, [float(e["score"]) for e in entries], size)

    def _read_text(self, path: Path, size: tuple[int, ...]) -> Instances:
        masks, classes, scores = [], [], []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except ValueError as error:
            raise ValueError(f"cannot read the text {path}: {error}") from error
        for line in lines:
            if not line.strip():
                continue
            try:
                name, label, score = line.split()[:3]
                category = self._contiguous.get(int(float(label)))
                if not math.isfinite(float(score)):
                    raise ValueError
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{path}: expected MASK CLASS SCORE, came {line!r}") from error
            if category is None or category not in self._truth.thing_ids:
                continue  # as the official script does
            mask = read_labels(str(path.parent / name))
            mask = mask.any(axis=2) if mask.ndim == 3 else mask != 0
            _check_size(mask, size, path.parent / name)
            masks.append(mask)
            classes.append(category)
            scores.append(float(score))
        return _as_instances(masks, classes, scores, size)

    def _read_semantic(self, path: Path, size: tuple[int, ...]) -> np.ndarray:
        """(H, W) contiguous ids, -1 for none."""
        labels = read_labels(str(path))
        if labels.ndim == 3:
            raise ValueError(f"{path}: expected class ids in grey, came colours")
        _check_size(labels, size, path)
        present, index = compact_ids(labels)
        none = {no_class(self._truth), self._truth.classes.ignore_label}
        for value in present.tolist():
            if value in self._contiguous or value in none:
                continue
            pixels = int((labels == value).sum())
            if not (self._truth.is_cityscapes and 0 <= value <= _LAST_CITYSCAPES_ID):
                raise ValueError(
                    f"{path}: expected the class ids of the data set, "
                    f"{sorted(self._contiguous)[:5]} ..., or {no_class(self._truth)} for none, "
                    f"came {value} on {pixels} pixels"
                )
            self._foreign[value] += pixels
        return np.array([self._contiguous.get(v, -1) for v in present.tolist()])[index]  # (H, W)


def _check_entry(entry: Any, kinds: Mapping[str, Any], where: Any, what: str) -> None:
    """Raises a ValueError unless an entry of a json has fields of these types."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected {', '.join(kinds)} in each {what}, came {entry!r:.80}")
    for name, kind in kinds.items():
        if name not in entry:
            raise ValueError(f"{where}: expected {name} in each {what}, came {entry!s:.80}")
        value = entry[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            words = " or ".join(_WORDS[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(
                f"{where}: expected {words} as {name} of each {what}, came {value!r:.80}"
            )


def _check_size(labels: np.ndarray, size: tuple[int, ...], path: Path) -> None:
    if labels.shape != size:
        raise ValueError(
            f"{path}: expected {size[1]}x{size[0]}, the size of the truth, came "
            f"{size_text(labels)} (width x height)"
        )


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
