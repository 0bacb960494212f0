"""Keeps predictions on disk, in the formats that COCO's and Cityscapes' servers take."""

import contextlib
import json
import logging
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
from axial_d2.evaluation.cityscapes import write_instances
from axial_d2.evaluation.panoptic import predicted_segments
from axial_d2.evaluation.prediction_files import (
    INSTANCES,
    PANOPTIC,
    SEMANTIC,
    no_class,
    picture_names,
)
from axial_d2.evaluation.truth import PanopticTruth
from axial_d2.panoptic.encoding import id_to_rgb

logger = logging.getLogger(__name__)

# Where all is until the last picture has come.
_UNFINISHED = ".unfinished"
# What a grey png can hold.
_MAX_LABEL = 65535


class PredictionWriter(DatasetEvaluator):
    """Writes what a model predicts while the pictures come; scores nothing.

    Below the folder, for what the truth can judge:

    * ``panoptic.json`` with ``panoptic/PICTURE.png`` (COCO's panoptic format, which Cityscapes
      takes too), and both once more in ``panoptic.zip``;
    * ``instances.json`` (COCO's results: run-length codes), for Cityscapes' datasets instead
      ``instances/PICTURE.txt`` with a mask for each instance;
    * ``semantic/PICTURE.png``, grey, with the dataset's own class ids.

    All of it appears when the last picture has come, and takes the place of an earlier run's, which
    stays until then.
    """

    def __init__(self, truth: PanopticTruth, folder: str, tasks: Sequence[str]):
        """
        Args:
            truth: of the dataset.
            folder: where to write, made if missing.
            tasks: some of "panoptic_seg", "segm", "sem_seg". Masks of classes whose ids no grey png
                can hold (0 to 65535) are left out, with a warning.
        """
        self._truth = truth
        self._folder = folder
        self._tasks = tuple(tasks)
        ids = (*truth.classes.dataset_ids, no_class(truth))
        if "sem_seg" in tasks and not 0 <= min(ids) <= max(ids) <= _MAX_LABEL:
            logger.warning("No semantic masks are kept: a png cannot hold the ids %s", sorted(ids))
            self._tasks = tuple(task for task in tasks if task != "sem_seg")
        self.reset()

    def reset(self) -> None:
        self._names = picture_names(self._truth)
        if comm.is_main_process():
            shutil.rmtree(self._path(), ignore_errors=True)
            folders = {"panoptic_seg": PANOPTIC, "segm": INSTANCES, "sem_seg": SEMANTIC}
            for task in self._tasks:
                if task != "segm" or self._truth.is_cityscapes:
                    os.makedirs(self._path(folders[task]), exist_ok=True)
            os.makedirs(self._path(), exist_ok=True)
        comm.synchronize()

    def _path(self, *names: str) -> str:
        """What is not finished."""
        return os.path.join(self._folder, _UNFINISHED, *names)

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
                if self._truth.is_cityscapes:
                    ids = self._truth.classes.dataset_ids
                    folder = self._path(INSTANCES)
                    write_instances(folder, self._names[key], output["instances"], ids)
                else:
                    self._append(INSTANCES, self._coded(key, output["instances"]))
            if "sem_seg" in self._tasks and "sem_seg" in output:
                self._write_semantic(key, output["sem_seg"])

    def _append(self, what: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """A line of json for each picture, in a file of this process."""
        path = self._path(f"{what}.{comm.get_rank()}.lines")
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entries) + "\n")

    def _write_panoptic(self, key: Any, panoptic_seg: Any) -> dict[str, Any]:
        ids, segments = predicted_segments(panoptic_seg, (), self._truth.classes.label_divisor)
        # Numbered anew: any number fits into three channels then.
        table = {segment["id"]: number for number, segment in enumerate(segments, start=1)}
        present, inverse = np.unique(ids, return_inverse=True)
        numbers = np.array([table.get(int(value), 0) for value in present])[inverse]
        name = f"{self._names[key]}.png"
        colors = id_to_rgb(numbers.reshape(ids.shape))  # (H, W, 3)
        Image.fromarray(colors).save(self._path(PANOPTIC, name))
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
        none = no_class(self._truth)
        kind = np.uint8 if max(*ids, none) < 256 else np.uint16
        table = np.array([*ids, none], dtype=kind)
        known = (labels >= 0) & (labels < len(ids))
        masks = table[np.where(known, labels, len(ids))]
        Image.fromarray(masks).save(self._path(SEMANTIC, self._names[key] + ".png"))

    def evaluate(self) -> None:
        """Puts the json files together. Every process has to call it."""
        comm.synchronize()
        if not comm.is_main_process():
            return
        finished = []
        if "panoptic_seg" in self._tasks:
            self._join(PANOPTIC, '{"annotations": [', "]}")
            self._zip()
            finished += [PANOPTIC, f"{PANOPTIC}.json", f"{PANOPTIC}.zip"]
        if "segm" in self._tasks:
            if not self._truth.is_cityscapes:
                self._join(INSTANCES, "[", "]")
            finished.append(INSTANCES if self._truth.is_cityscapes else f"{INSTANCES}.json")
        if "sem_seg" in self._tasks:
            finished.append(SEMANTIC)
        self._replace(finished)

    def _replace(self, finished: Sequence[str]) -> None:
        """Puts what is finished in the place of all that an earlier run has left."""
        for what in (PANOPTIC, INSTANCES, SEMANTIC):
            for name in (f"{what}.json", f"{what}.zip"):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(self._folder, name))
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(os.path.join(self._folder, what))
        for name in finished:
            os.replace(self._path(name), os.path.join(self._folder, name))
        shutil.rmtree(self._path(), ignore_errors=True)

    def _join(self, what: str, head: str, tail: str) -> None:
        with open(self._path(f"{what}.json"), "w", encoding="utf-8") as file:
            file.write(head)
            first = True
            for entry in self._entries(what):
                file.write(("" if first else ",\n") + json.dumps(entry))
                first = False
            file.write(tail)

    def _entries(self, what: str) -> Iterator[dict[str, Any]]:
        """The entries of all processes; a picture that two have had counts once."""
        seen = set()
        for name in sorted(os.listdir(self._path())):
            if not name.startswith(f"{what}.") or not name.endswith(".lines"):
                continue
            with open(self._path(name), encoding="utf-8") as file:
                for line in file:
                    entries = json.loads(line)
                    if entries and entries[0]["image_id"] not in seen:
                        seen.add(entries[0]["image_id"])
                        yield from entries

    def _zip(self) -> None:
        path = self._path(f"{PANOPTIC}.zip")
        # Pngs are packed already.
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.write(self._path(f"{PANOPTIC}.json"), f"{PANOPTIC}.json")
            for entry in self._entries(PANOPTIC):
                name = entry["file_name"]
                archive.write(self._path(PANOPTIC, name), f"{PANOPTIC}/{name}")
