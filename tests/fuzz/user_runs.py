"""What a user runs on a dataset, in this process: check, train, evaluate, predict."""

import contextlib
import copy
import hashlib
import math
import os
import shutil
import stat
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("data", "engine")]
import own_forms  # noqa: E402
import tiny_folders  # noqa: E402
import tiny_panoptic  # noqa: E402
import tiny_training  # noqa: E402

from axial_d2.data import segment_classes  # noqa: E402
from axial_d2.engine import (  # noqa: E402
    PicturePredictor,
    SetupError,
    train_or_evaluate,
)
from axial_d2.engine.setup import load_config  # noqa: E402

NAME = "fuzz_tiny"
FORMS = ("panoptic", "masks", "instances", "folders")
_LEFT_WHEN_DONE = ("results.json", "model_final.pth", "last_checkpoint")
# By meta-architecture: a model and the weights that it had when it was built.
_models: dict[str, tuple[torch.nn.Module, dict]] = {}


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        kind: "works"; "error": one text for the user; "traceback": an exception that no command
            turns into one.
        message: the text, or the traceback.
        problems: of what it left behind, in words.
        seconds: it took.
    """

    kind: str
    message: str
    problems: list[str]
    seconds: float


def write_good(root: Path, form: str) -> None:
    """Writes a good dataset of a few tiny pictures.

    Args:
        root: folder of the dataset.
        form: one of `FORMS`.
    """
    if form == "panoptic":
        tiny_panoptic.write_dataset(root)
    elif form == "masks":
        own_forms.write_mask_folders(root)
    elif form == "instances":
        own_forms.write_coco_instances(root)
    else:
        for split in ("train", "val"):
            for number, name in enumerate(("cat", "dog", "owl")):
                (root / split / name).mkdir(parents=True)
                for index in range(2):
                    noise = np.random.default_rng((number, index)).integers(0, 256, (24, 33, 3))
                    picture = Image.fromarray(noise.astype(np.uint8))
                    picture.save(root / split / name / f"{index}.jpg")


def write_config(root: Path, form: str, output: str) -> Path:
    """Writes a config that trains a tiny model for an iteration on the dataset in `root`."""
    path = root.parent / "config.yaml"
    if form == "folders":
        names = {split: f"{NAME}_{split}" for split in ("train", "val")}
        entries = [{"name": name, "root": str(root / split)} for split, name in names.items()]
        tiny_folders.write_classifier_config(path, entries, output)
        change = {"DATASETS": {"TRAIN": [names["train"]], "TEST": [names["val"]]}}
        change["INPUT"] = {"CROP_SIZE": [16, 20], "MIN_SIZE_TEST": 22}
    else:
        entry = {
            "panoptic": {"images": "images", "panoptic": "panoptic", "json": "panoptic.json"},
            "masks": {
                "images": "images",
                "semantic": "semantic",
                "instances": "instances",
                "classes": "classes.yaml",
            },
            "instances": {
                "images": "images",
                "instances_json": "instances.json",
                "semantic": "semantic",
                "classes": "classes.yaml",
            },
        }[form]
        entry = {key: str(root / name) for key, name in entry.items()}
        tiny_training.write_config(path, entry, NAME, output)
        change = {"MODEL": {"SEM_SEG_HEAD": {"NUM_CLASSES": 4}}}
        change["INPUT"] = {"CROP_SIZE": [25, 33]}
    change["SOLVER"] = {"MAX_ITER": 1, "WARMUP_ITERS": 0, "IMS_PER_BATCH": 3}
    content = yaml.safe_load(path.read_text())
    _merge(content, change)
    path.write_text(yaml.safe_dump(content))
    return path


def _merge(content: dict, change: dict) -> None:
    for key, value in change.items():
        if isinstance(value, dict):
            _merge(content.setdefault(key, {}), value)
        else:
            content[key] = value


def run(root: Path, form: str, options: list[str], output: str | None = None) -> Outcome:
    """Trains, evaluates and predicts, as tools/train_net.py and tools/demo.py do.

    The functions are those that the tools call. Two things are left out for speed: the report of
    the environment at the start, and the building of a new model for each run; all runs of a form
    share one, whose weights are put back.

    Args:
        root: folder of the dataset.
        form: of the dataset.
        options: `KEY VALUE ...` of the command line.
        output: OUTPUT_DIR; by default "out" beside the dataset.

    Returns:
        How it ended.
    """
    output = str(root.parent / "out") if output is None else output
    config = write_config(root, form, output)
    before = _tree(root)
    start = time.perf_counter()
    results, drawn = {}, []
    with _shared_models():
        try:
            results = train_or_evaluate(tiny_training.arguments(config, *options))
            drawn = [] if form == "folders" else _predict(config, options)
            kind, message = "works", ""
        except (SetupError, FloatingPointError, _NotDrawn) as error:  # what the tools print
            kind, message = "error", str(error)
        except Exception:
            kind, message = "traceback", traceback.format_exc()
    seconds = time.perf_counter() - start
    problems = list(_left_behind(Path(output), done=kind == "works"))
    if _tree(root) != before:
        problems.append("the dataset is not what it was")
    if kind == "works":
        problems += _not_finite(results)
        problems += [f"a drawing of {array.shape}" for array in drawn if min(array.shape[:2]) < 1]
    return Outcome(kind, message, problems, seconds)


def _predict(config: Path, options: list[str]) -> list[np.ndarray]:
    """The first picture beside its truth, as tools/demo.py draws it, but not written."""
    predictor = PicturePredictor(load_config(str(config), options))
    entry = DatasetCatalog.get(NAME)[0]
    try:
        return list(predictor.draw_beside_truth(entry, segment_classes(NAME)).values())
    except (ValueError, OSError) as error:  # tools/demo.py tells it, and draws the others
        raise _NotDrawn(str(error)) from error


class _NotDrawn(Exception):
    """A picture that could not be drawn."""


@contextlib.contextmanager
def _shared_models() -> Iterator[None]:
    """Within it models are built once, and a run writes no log."""

    def build(cfg):
        key = cfg.MODEL.META_ARCHITECTURE
        if key not in _models:
            model = build_model(cfg)
            _models[key] = model, copy.deepcopy(model.state_dict())
        model, state = _models[key]
        model.load_state_dict(state)
        return model.train()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detectron2.engine.defaults.build_model", build)
        patch.setattr("axial_d2.engine.setup.default_setup", lambda cfg, args: None)
        patch.setattr("axial_d2.engine.setup.setup_logger", lambda *args, **kwargs: None)
        patch.setattr("axial_d2.engine.prediction.require_weights", lambda cfg: None)
        yield


def _tree(root: Path) -> dict[str, str]:
    """Every file below a folder, with a digest; links are not followed."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            plain = stat.S_ISREG(mode)
            content = hashlib.sha1(path.read_bytes()).hexdigest() if plain else oct(mode)
            found[str(path.relative_to(root))] = content
    return found


def _left_behind(output: Path, *, done: bool):
    """What a run must not leave in OUTPUT_DIR, or must, in words."""
    if not os.path.isdir(output):
        return
    files = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    for name in files:
        if "tmp" in name or name.endswith(".part"):
            yield f"{name} is a temporary file"
    if not done and "results.json" in files:
        yield "results.json stands for an evaluation that failed"
    if done:
        yield from (f"{name} is missing" for name in _LEFT_WHEN_DONE if name not in files)
    for name in files:
        if name.endswith(".pth"):
            torch.load(output / name, map_location="cpu", weights_only=False)  # whole
    if "last_checkpoint" in files and (output / "last_checkpoint").read_text() not in files:
        yield "last_checkpoint names a file that is not there"


def _not_finite(results: dict) -> list[str]:
    """Scores must be numbers of percent; nan stands for "nothing to score"."""
    problems = []
    every = [value for scores in results.values() for value in scores.values()]
    if not any(math.isfinite(value) for value in every):
        problems.append(f"no score is finite: {results}")
    for group, scores in results.items():
        problems += [
            f"{group}.{key} is {value}"
            for key, value in scores.items()
            if not (math.isnan(value) or 0 <= value <= 100)
        ]
    return problems


def fresh_copy(good: Path, place: Path) -> Path:
    """Copies a good dataset to be damaged; returns the copy's folder."""
    shutil.copytree(good, place / "data", symlinks=True)
    return place / "data"
