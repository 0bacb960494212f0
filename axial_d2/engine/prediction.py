"""Predictions as pictures: on files of one's own, or beside the truth of a dataset."""

import difflib
import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultPredictor
from PIL import Image

from axial_d2.data.classes import SegmentClasses, segment_classes
from axial_d2.data.datasets import load_dataset
from axial_d2.data.pictures import read_picture
from axial_d2.data.segments import has_truth, read_segments
from axial_d2.engine.checkpointer import Checkpointer
from axial_d2.engine.checks import check_test_augmentation, is_classifier, require_weights
from axial_d2.engine.errors import SetupError
from axial_d2.engine.loading_report import network_facts
from axial_d2.panoptic.merging import find_centers
from axial_d2.visualization import draw_centers, draw_offsets, draw_panoptic, stack_pictures
from axial_d2.visualization.canvas import drawing_scale, enlarge

# What is taken from a directory; a file that is named is tried whatever its name.
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_DEBUG = ("_centers", "_offsets")


class PicturePredictor:
    """Runs a trained model on pictures and draws what it finds, through DefaultPredictor."""

    def __init__(self, cfg: CfgNode, *, debug: bool = False) -> None:
        """Builds the model and loads its weights.

        Args:
            cfg: from `load_config`; MODEL.WEIGHTS is needed.
            debug: also draw centres and offsets.

        Raises:
            SetupError: no weights, weights of another model, TEST.AUG keys that the model cannot
                follow, a model that has no maps to show, or a classifier.
        """
        if is_classifier(cfg):
            raise SetupError(
                "MODEL.META_ARCHITECTURE: expected a model that finds segments to draw, got the "
                f"classifier {cfg.MODEL.META_ARCHITECTURE}; docs/imagenet.md shows how to classify "
                "a picture"
            )
        require_weights(cfg)
        check_test_augmentation(cfg)
        bare = cfg.clone()
        bare.defrost()
        # Loaded below, by the checkpointer that knows a file of another model.
        bare.MODEL.WEIGHTS = ""
        self._predictor = DefaultPredictor(bare)
        self._model = self._predictor.model
        Checkpointer(self._model, facts=network_facts(cfg)).load(cfg.MODEL.WEIGHTS)
        if debug and not hasattr(self._model, "maps"):
            raise SetupError(
                "--debug: expected MODEL.META_ARCHITECTURE AxialDeepLab, which shows its maps; got "
                f"{cfg.MODEL.META_ARCHITECTURE}"
            )
        self._debug = debug
        self._merging = cfg.MODEL.PANOPTIC_DEEPLAB
        self._classes = segment_classes(cfg.DATASETS.TRAIN[0])

    def draw(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Predicts one picture.

        Args:
            image: (H, W, 3) uint8, BGR as OpenCV reads it.

        Returns:
            RGB pictures by what is added to the file's name: "" the panoptic overlay; with debug
            "_centers" and "_offsets".
        """
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        # With the maps comes the prediction: the network runs once.
        found = (
            self._model.maps([self._inputs(image)])[0] if self._debug else self._predictor(image)
        )
        panoptic_seg, segments_info = found["panoptic_seg"]
        metadata = _as_metadata(self._classes)
        drawn = {"": draw_panoptic(rgb, panoptic_seg, segments_info, metadata)}
        if self._debug:
            drawn["_centers"] = draw_centers(rgb, found["center"], self._peaks(found["center"]))
            drawn["_offsets"] = draw_offsets(found["offset"], self._things(found["sem_seg"]), rgb)
        return drawn

    def draw_beside_truth(
        self, entry: Mapping[str, Any], classes: SegmentClasses
    ) -> dict[str, np.ndarray]:
        """Predicts one picture of a dataset.

        Args:
            entry: a dataset dict with its truth.
            classes: of the dataset.

        Returns:
            As `draw`, except that "" is three pictures in a row: image, truth, prediction.
        """
        image = read_picture(entry["file_name"], "BGR")
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        segments = read_segments(entry, classes)
        truth = draw_panoptic(rgb, segments.ids(), segments.segments_info, _as_metadata(classes))
        drawn = self.draw(image)
        plain = enlarge(rgb, drawing_scale(*rgb.shape[:2]))
        drawn[""] = stack_pictures([plain, truth, drawn[""]], ["image", "truth", "prediction"])
        return drawn

    def _inputs(self, image: np.ndarray) -> dict[str, Any]:
        """What DefaultPredictor gives the model for a picture; it keeps that to itself."""
        predictor = self._predictor
        height, width = image.shape[:2]
        if predictor.input_format == "RGB":
            image = image[:, :, ::-1]
        image = predictor.aug.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))  # (3, H, W)
        return {"image": tensor, "height": height, "width": width}

    def _peaks(self, center: torch.Tensor) -> torch.Tensor:
        node = self._merging
        points, _ = find_centers(
            center,
            threshold=node.CENTER_THRESHOLD,
            nms_kernel=node.NMS_KERNEL,
            top_k=node.TOP_K_INSTANCE,
        )
        return points

    def _things(self, sem_seg: torch.Tensor) -> np.ndarray:
        return np.isin(sem_seg.argmax(dim=0).cpu().numpy(), self._classes.thing_ids)


def _as_metadata(classes: SegmentClasses) -> SimpleNamespace:
    return SimpleNamespace(**classes.metadata())


def draw_files(
    predictor: PicturePredictor, inputs: Sequence[str], output: str, *, debug: bool = False
) -> Iterator[tuple[str, list[Path] | Exception]]:
    """Predicts picture files, one after another.

    Args:
        predictor: the model.
        inputs: files, patterns (`*`, `**`), directories (their pictures, not those further down).
        output: directory to write to, made if missing.
        debug: whether `predictor` draws centres and offsets.

    Yields:
        Per picture its path, and the files written or the error that kept it from being drawn.

    Raises:
        SetupError: an input that matches no file.
    """
    paths = find_pictures(inputs)
    for path, target in zip(paths, output_paths(paths, output, debug=debug), strict=True):
        try:
            drawn = predictor.draw(read_picture(str(path), "BGR"))
            yield str(path), _write(drawn, target)
        except Exception as error:  # One bad picture must not cost the others.
            yield str(path), error


def draw_dataset(
    predictor: PicturePredictor, name: str, output: str, *, limit: int | None, debug: bool = False
) -> Iterator[tuple[str, list[Path] | Exception]]:
    """Predicts pictures of a registered dataset and draws them beside the truth.

    Args:
        predictor: the model.
        name: of the dataset.
        output: directory to write to, made if missing.
        limit: the first so many pictures; None for all.
        debug: whether `predictor` draws centres and offsets.

    Yields:
        As `draw_files`.

    Raises:
        SetupError: no such dataset, or one without a truth of segments.
    """
    if name not in DatasetCatalog.list():
        near = difflib.get_close_matches(name, DatasetCatalog.list())
        hint = f" (nearest: {', '.join(near)})" if near else ""
        raise SetupError(f"--dataset: no dataset is named {name!r}{hint}")
    try:
        entries = load_dataset(name)[:limit]
    except ValueError as error:
        raise SetupError(f"--dataset: {error}") from error
    if not has_truth(entries[0]):
        raise SetupError(f"--dataset: {name} has no truth of segments to show")
    classes = segment_classes(name)
    paths = [Path(entry["file_name"]) for entry in entries]
    targets = output_paths(paths, output, debug=debug)
    for entry, target in zip(entries, targets, strict=True):
        try:
            yield entry["file_name"], _write(predictor.draw_beside_truth(entry, classes), target)
        except Exception as error:
            yield entry["file_name"], error


def find_pictures(inputs: Iterable[str]) -> list[Path]:
    """Lists the picture files meant by the words of a command line.

    Args:
        inputs: files, patterns, directories.

    Returns:
        Files in the order given, those of a pattern or directory sorted; none twice.

    Raises:
        SetupError: an input that matches nothing.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text).expanduser()
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in _PICTURES)
            missing = f"no picture ({', '.join(_PICTURES)}) in the directory {text}"
        elif path.is_file():
            files, missing = [path], ""
        else:
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
            files = [p for p in matches if p.is_file()]
            missing = f"no such file, and no file matches: {text}"
        if not files:
            raise SetupError(f"--input: {missing}")
        found.update(dict.fromkeys(files))
    return list(found)


def output_paths(paths: Sequence[Path], output: str, *, debug: bool = False) -> list[Path]:
    """Chooses where the picture of each file goes.

    Args:
        paths: the files read.
        output: directory to write to.
        debug: whether names with _centers and _offsets are written too.

    Returns:
        `output`/<name>.png for each, with _2, _3 ... where that would overwrite the picture of
        another file, or one of the files read.
    """
    suffixes = ("", *_DEBUG) if debug else ("",)
    # Some file systems do not tell upper from lower case.
    taken = {str(path.resolve()).casefold() for path in paths}
    chosen = []
    for path in paths:
        number = 1
        while True:
            stem = path.stem if number == 1 else f"{path.stem}_{number}"
            wanted = [Path(output, f"{stem}{suffix}.png") for suffix in suffixes]
            keys = {str(w.resolve()).casefold() for w in wanted}
            if not keys & taken:
                break
            number += 1
        taken |= keys
        chosen.append(wanted[0])
    return chosen


def _write(drawn: Mapping[str, np.ndarray], target: Path) -> list[Path]:
    os.makedirs(target.parent, exist_ok=True)
    written = []
    for suffix, picture in drawn.items():
        path = target.with_name(f"{target.stem}{suffix}.png")
        Image.fromarray(picture).save(path)
        written.append(path)
    return written
