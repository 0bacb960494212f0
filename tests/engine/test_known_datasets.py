"""Training, evaluation and prediction on miniatures of known datasets, under their real names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import axial_d2  # noqa: F401  (first: it makes Detectron2 ready)

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[0] / "data"))
from miniature_cityscapes import write_download  # noqa: E402
from miniature_releases import write_ade20k, write_coco, write_vistas  # noqa: E402

from axial_d2.data.preparation import RECIPES  # noqa: E402


def run(root, *names):
    """Runs a process with the datasets of `root`; gives the results by training dataset."""
    command = [sys.executable, str(HERE / "run_known_datasets.py"), str(root / "out"), *names]
    paths = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "DETECTRON2_DATASETS": str(root), "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"train"')]
    return {line["train"]: line["results"] for line in lines}


def test_cityscapes(tmp_path):
    write_download(tmp_path)
    RECIPES["cityscapes"].prepare(str(tmp_path), workers=1)
    kinds = {"panoptic": 19, "sem_seg": 19, "instance_seg": 9}
    prefix = "cityscapes_fine"
    names = [f"{prefix}_{k}_train:{prefix}_{k}_val:{count}" for k, count in kinds.items()]
    results = run(tmp_path, *names)
    groups = {name.removeprefix(f"{prefix}_"): set(found) for name, found in results.items()}
    assert groups == {
        "panoptic_train": {"panoptic_seg", "segm", "sem_seg"},
        "sem_seg_train": {"sem_seg"},
        "instance_seg_train": {"segm"},
    }
    panoptic = results[f"{prefix}_panoptic_train"]
    assert 0 <= panoptic["sem_seg"]["mIoU"] <= 100
    assert "iIoU" in panoptic["sem_seg"] and "AP50-car" in panoptic["segm"]


def test_coco_mapillary_and_ade20k(tmp_path):
    write_coco(tmp_path)
    write_vistas(tmp_path)
    write_ade20k(tmp_path)
    RECIPES["ade20k"].prepare(str(tmp_path), workers=1)
    results = run(
        tmp_path,
        "coco_2017_train_panoptic:coco_2017_val_panoptic:133",
        "coco_2017_train:coco_2017_val:81",
        "mapillary_vistas_panoptic_train:mapillary_vistas_panoptic_val:4",
        "ade20k_panoptic_train:ade20k_panoptic_val:150",
    )
    groups = {name: set(found) for name, found in results.items()}
    everything = {"panoptic_seg", "segm", "sem_seg"}
    assert groups == {
        "coco_2017_train_panoptic": everything,
        "coco_2017_train": {"segm"},
        "mapillary_vistas_panoptic_train": everything,
        "ade20k_panoptic_train": everything,
    }
    vistas = results["mapillary_vistas_panoptic_train"]["sem_seg"]
    assert {key for key in vistas if key.startswith("IoU-")} == {
        "IoU-Sky", "IoU-Road", "IoU-Person", "IoU-Car",
    }  # fmt: skip
