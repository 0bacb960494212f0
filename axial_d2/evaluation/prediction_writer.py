"""Keeps predictions on disk, in the formats that COCO's and Cityscapes' servers take."""

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image
from pycocotools import mask as rle

from axial_d2.data.classes import record_key
from axial_d2.evaluation.cityscapes import UNLABELED, write_instances
from axial_d2.evaluation.panoptic import predicted_segments
from axial_d2.evaluation.truth import PanopticTruth
from axial_d2.panoptic.encoding import id_to_rgb

#: Names in the folder of predictions.
PANOPTIC, INSTANCES, SEMANTIC = "panoptic", "instances", "semantic"
_PARTS = ".parts"


class PredictionWriter(DatasetEvaluator):
    """Writes what a model predicts while the pictures come; scores nothing.

    Below the folder, for what the truth can judge:

    * ``panoptic.json`` with ``panoptic/PICTURE.png`` (COCO's panoptic format, which Cityscapes
      takes too), and both once more in ``panoptic.zip``;
    * ``instances.json`` (COCO's results: run-length codes), for Cityscapes' datasets instead
      ``instances/PICTURE.txt`` with a mask for each instance;
    * ``semantic/PICTURE.png``, grey, with the dataset's own class ids.

    The json files are put together at the end; until then none is there.
    """

    def __init__(self, truth: PanopticTruth, folder: str, tasks: Sequence[str]):
        """
        Args:
            truth: of the dataset.
            folder: where to write, made if missing. Predictions of an earlier run are written over.
            tasks: some of "panoptic_seg", "segm", "sem_seg".
        """
        self._truth = truth
        self._folder = folder
        self._tasks = tuple(tasks)
        kind = str(truth.metadata.get("evaluator_type"))
        self._cityscapes = kind.startswith("cityscapes_")
        self.reset()

    def reset(self) -> None:
        self._names = _picture_names(self._truth)
        if comm.is_main_process():
            for name in (f"{PANOPTIC}.json", f"{INSTANCES}.json", f"{PANOPTIC}.zip"):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(self._path(name))
            shutil.rmtree(self._path(_PARTS), ignore_errors=True)
            for name in (_PARTS, PANOPTIC, INSTANCES, SEMANTIC):
                if name != INSTANCES or self._cityscapes:
                    os.makedirs(self._path(name), exist_ok=True)
        comm.synchronize()

    def _path(self, *names: str) -> str:
        return os.path.join(self._folder, *names)

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Writes the predictions of a batch.

        Args:
            inputs: per picture its dataset dict.
            outputs: as the evaluators take them. What is not there is not written.

        Raises:
            OSError: a file cannot be written; the message names it.
        """
        for given, output in zip(inputs, outputs, strict=True):
            key = record_key(given)
            if "panoptic_seg" in self._tasks and "panoptic_seg" in output:
                self._append(PANOPTIC, [self._write_panoptic(key, output["panoptic_seg"])])
            if "segm" in self._tasks and "instances" in output:
                if self._cityscapes:
                    ids = self._truth.classes.dataset_ids
                    folder = self._path(INSTANCES)
                    write_instances(folder, self._names[key], output["instances"], ids)
                else:
                    self._append(INSTANCES, self._coded(key, output["instances"]))
            if "sem_seg" in self._tasks and "sem_seg" in output:
                self._write_semantic(key, output["sem_seg"])

    def _append(self, what: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """A line of json for each picture, in a file of this process."""
        with open(
            self._path(_PARTS, f"{what}.{comm.get_rank()}.lines"), "a", encoding="utf-8"
        ) as file:
            file.write(json.dumps(entries) + "\n")

    def _write_panoptic(self, key: Any, panoptic_seg: Any) -> dict[str, Any]:
        ids, segments = predicted_segments(panoptic_seg, (), self._truth.classes.label_divisor)
        # Numbered anew: any number fits into three channels then.
        table = {segment["id"]: number for number, segment in enumerate(segments, start=1)}
        present, inverse = np.unique(ids, return_inverse=True)
        numbers = np.array([table.get(int(value), 0) for value in present])[inverse]
        name = f"{self._names[key]}.png"
        _save(id_to_rgb(numbers.reshape(ids.shape)), self._path(PANOPTIC, name))  # (H, W, 3)
        infos = [
            {"id": number, "category_id": self._truth.dataset_ids[segment["category_id"]]}
            for number, segment in enumerate(segments, start=1)
        ]
        return {"image_id": key, "file_name": name, "segments_info": infos}

    def _coded(self, key: Any, instances: Any) -> list[dict[str, Any]]:
        """COCO's results of one picture."""
        found = []
        for category, score, mask in zip(
            instances.pred_classes.tolist(),
            instances.scores.tolist(),
            instances.pred_masks,
            strict=True,
        ):
            pixels = (mask > 0.5).cpu().numpy().astype(np.uint8)
            code = rle.encode(np.asfortranarray(pixels))
            found.append(
                {
                    "image_id": key,
                    "category_id": self._truth.dataset_ids[category],
                    "score": score,
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                }
            )
        return found

    def _write_semantic(self, key: Any, sem_seg: Any) -> None:
        labels = np.asarray((sem_seg.argmax(0) if sem_seg.ndim == 3 else sem_seg).cpu())
        ids = self._truth.classes.dataset_ids
        none = UNLABELED if self._cityscapes else self._truth.classes.ignore_label
        kind = np.uint8 if max(*ids, none) < 256 else np.uint16
        table = np.array([*ids, none], dtype=kind)
        known = (labels >= 0) & (labels < len(ids))
        _save(
            table[np.where(known, labels, len(ids))],
            self._path(SEMANTIC, self._names[key] + ".png"),
        )

    def evaluate(self) -> None:
        """Puts the json files together. Every process has to call it."""
        comm.synchronize()
        if not comm.is_main_process():
            return
        if "panoptic_seg" in self._tasks:
            self._join(PANOPTIC, '{"annotations": [', "]}")
            self._zip()
        if "segm" in self._tasks and not self._cityscapes:
            self._join(INSTANCES, "[", "]")
        shutil.rmtree(self._path(_PARTS), ignore_errors=True)

    def _join(self, what: str, head: str, tail: str) -> None:
        part = self._path(_PARTS, f"{what}.json")
        with open(part, "w", encoding="utf-8") as file:
            file.write(head)
            first = True
            for entry in self._entries(what):
                file.write(("" if first else ",\n") + json.dumps(entry))
                first = False
            file.write(tail)
        os.replace(part, self._path(f"{what}.json"))

    def _entries(self, what: str) -> Iterator[dict[str, Any]]:
        """The entries of all processes; a picture that two have had counts once."""
        seen = set()
        for name in sorted(os.listdir(self._path(_PARTS))):
            if not name.startswith(f"{what}.") or not name.endswith(".lines"):
                continue
            with open(self._path(_PARTS, name), encoding="utf-8") as file:
                for line in file:
                    entries = json.loads(line)
                    if entries and entries[0]["image_id"] not in seen:
                        seen.add(entries[0]["image_id"])
                        yield from entries

    def _zip(self) -> None:
        part = self._path(_PARTS, f"{PANOPTIC}.zip")
        # Pngs are packed already.
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            archive.write(self._path(f"{PANOPTIC}.json"), f"{PANOPTIC}.json")
            for entry in self._entries(PANOPTIC):
                name = entry["file_name"]
                archive.write(self._path(PANOPTIC, name), f"{PANOPTIC}/{name}")
        os.replace(part, self._path(f"{PANOPTIC}.zip"))


def _picture_names(truth: PanopticTruth) -> dict[Any, str]:
    """By key the name of each picture's files: its own, with a number where two have the same."""
    names: dict[Any, str] = {}
    taken: set[str] = set()
    for key, record in truth.records().items():
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names[key] = name
    return names


def _save(pixels: np.ndarray, path: str) -> None:
    """Writes a png; a broken-off run leaves none that is half there."""
    part = f"{path}.part"
    try:
        Image.fromarray(pixels).save(part, format="png")
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)
