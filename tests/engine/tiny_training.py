"""A dataset of six small pictures and a model small enough to train on them in a test."""

import argparse
import atexit
import contextlib
import json
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

import axial_d2  # noqa: F401  (first; a spawned process may import this module before all else)

HEIGHT, WIDTH = 48, 64
CATEGORIES = [
    {"id": 4, "name": "sky", "isthing": 0, "color": [90, 140, 220]},
    {"id": 9, "name": "car", "isthing": 1, "color": [200, 40, 40]},
    {"id": 2, "name": "road", "isthing": 0, "color": [120, 90, 130]},
]


def write_dataset(root, *, pictures=6):
    """Writes pictures with sky over road and two cars; returns a DATASETS.CUSTOM entry's paths."""
    content = {"images": [], "annotations": [], "categories": CATEGORIES}
    for folder in ("images", "panoptic"):
        (root / folder).mkdir(parents=True)
    for number in range(pictures):
        ids = np.full((HEIGHT, WIDTH), 1)
        ids[20:] = 2
        ids[14:26, 4 + number : 20 + number] = 300
        ids[24:40, 36:58] = 70000
        noise = np.random.default_rng(number).integers(0, 30, (HEIGHT, WIDTH, 3))
        colors = {1: (90, 140, 220), 2: (120, 90, 130), 300: (200, 40, 40), 70000: (180, 60, 20)}
        picture = sum((ids == i)[..., None] * np.array(c) for i, c in colors.items()) + noise
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / f"images/p{number}.png")
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
        Image.fromarray(rgb).save(root / f"panoptic/p{number}.png")
        size = {"height": HEIGHT, "width": WIDTH}
        content["images"].append({"id": number, "file_name": f"p{number}.png", **size})
        content["annotations"].append(
            {
                "image_id": number,
                "file_name": f"p{number}.png",
                "segments_info": [
                    _segment(ids, 1, 4),
                    _segment(ids, 2, 2),
                    _segment(ids, 300, 9),
                    _segment(ids, 70000, 9),
                ],
            }
        )
    (root / "panoptic.json").write_text(json.dumps(content))
    return {
        "images": str(root / "images"),
        "panoptic": str(root / "panoptic"),
        "json": str(root / "panoptic.json"),
    }


def _segment(ids, segment, category):
    rows, columns = np.nonzero(ids == segment)
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    return {
        "id": segment,
        "category_id": category,
        "iscrowd": 0,
        "area": len(rows),
        "bbox": [int(value) for value in box],
    }


def write_config(path, dataset, name, output_dir):
    """Writes a config that trains a tiny Axial-DeepLab on the dataset, on one process."""
    branch = {
        "IN_FEATURES": ["res2", "res5"],
        "PROJECT_CHANNELS": [8],
        "ASPP_CHANNELS": 16,
        "HEAD_CHANNELS": 8,
        "COMMON_STRIDE": 4,
        "NORM": "BN",
    }
    content = {
        "MODEL": {
            "META_ARCHITECTURE": "AxialDeepLab",
            "BACKBONE": {"NAME": "build_axial_resnet_backbone", "FREEZE_AT": 0},
            "AXIAL_RESNET": {
                "DEPTH": 26,
                "WIDTH_MULTIPLIER": 0.125,
                "NUM_HEADS": 2,
                "MAX_DISTANCE": 20,
                "OUT_FEATURES": ["res2", "res5"],
            },
            "SEM_SEG_HEAD": {
                "NAME": "AxialDeepLabSemSegHead",
                "NUM_CLASSES": 3,
                "CONVS_DIM": 16,
                "LOSS_TYPE": "hard_pixel_mining",
                **branch,
            },
            "INS_EMBED_HEAD": {"NAME": "AxialDeepLabInsEmbedHead", "CONVS_DIM": 16, **branch},
            "PANOPTIC_DEEPLAB": {"STUFF_AREA": 16},
        },
        "DATASETS": {"TRAIN": [name], "TEST": [name], "CUSTOM": [{"name": name, **dataset}]},
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {
            "FORMAT": "RGB",
            "CROP_SIZE": [HEIGHT, WIDTH],
            "MIN_SIZE_TRAIN": [0],
            "MIN_SIZE_TEST": 0,
            "MAX_SIZE_TEST": 0,
        },
        "SOLVER": {
            "IMS_PER_BATCH": 2,
            "MAX_ITER": 4,
            "BASE_LR": 0.002,
            "WARMUP_ITERS": 2,
            "LR_SCHEDULER_NAME": "WarmupPolyLR",
            "CHECKPOINT_PERIOD": 1000,
        },
        "SEED": 7,
        "VERSION": 2,
        "OUTPUT_DIR": str(output_dir),
    }
    path.write_text(yaml.safe_dump(content))
    return path


def arguments(config_file, *opts, resume=False, eval_only=False):
    """The arguments of a command line."""
    return argparse.Namespace(
        config_file=str(config_file), opts=list(opts), resume=resume, eval_only=eval_only
    )


class Losses(torch.nn.Module):
    """A model without norms, whose two losses are means over the pictures of a batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
        self.bias = torch.nn.Parameter(torch.zeros(4))

    def forward(self, pictures):
        """Losses of (N, 3, H, W) pictures."""
        maps = torch.nn.functional.conv2d(pictures, self.weight, self.bias)
        return {"square": (maps - 1).pow(2).mean(), "absolute": maps.abs().mean()}


def optimizer_tensors(optimizer):
    """The optimiser's state, flat: (parameter, name) -> value."""
    states = optimizer.state_dict()["state"]
    return {(i, name): value for i, state in states.items() for name, value in state.items()}


def assert_same(first, second):
    """Two flat dicts of tensors or numbers hold the same, to the bit."""
    assert first.keys() == second.keys() and len(first) > 0
    for key, value in first.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key])), key


def train_and_save(args):
    """Trains in one of several processes and saves what it ends with, by rank.

    The parameters, and the whole model that is evaluated, which is another with SOLVER.EMA.
    """
    from detectron2.utils import comm

    from axial_d2.engine import Trainer, setup_cfg

    cfg = setup_cfg(args)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    named = trainer.model.module.named_parameters()
    torch.save({n: p.detach() for n, p in named}, f"{cfg.OUTPUT_DIR}/rank{comm.get_rank()}.pt")
    state = trainer.evaluated_model.state_dict()
    torch.save(state, f"{cfg.OUTPUT_DIR}/evaluated{comm.get_rank()}.pt")
    Path(f"{cfg.OUTPUT_DIR}/threads{comm.get_rank()}.txt").write_text(str(gloo_threads()))
    atexit.register(note_lasting_threads, f"{cfg.OUTPUT_DIR}/threads_at_exit{comm.get_rank()}.txt")


def gloo_threads():
    """How many threads of this process work for gloo; on Linux."""
    names = []
    for task in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # It has just ended.
            names.append(task.read_text())
    return sum("gloo" in name for name in names)


def note_lasting_threads(path):
    """Writes how many of them last; one that has ended may be listed for a moment."""
    end = time.monotonic() + 1
    while (threads := gloo_threads()) and time.monotonic() < end:
        time.sleep(0.01)
    Path(path).write_text(str(threads))


def train_and_accumulate(args, pictures, weights, folder):
    """`train_and_save`; then two iterations of two batches, whose pictures the processes share.

    Saves the weights of the latter and its reductions. One function: processes start slowly.
    """
    from detectron2.utils import comm
    from detectron2.utils.events import EventStorage
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    from axial_d2.engine.train_loop import AccumulatingTrainer, over_processes

    train_and_save(args)
    net = Losses()
    net.load_state_dict(weights)
    wrapped = over_processes(net)
    reductions = []

    def counting(state, bucket):
        reductions.append(bucket.index())
        return default_hooks.allreduce_hook(state, bucket)

    wrapped.register_comm_hook(None, counting)
    batches = [batch.chunk(2)[comm.get_rank()] for batch in pictures]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    inner = AccumulatingTrainer(wrapped, batches, optimizer, steps=2)
    for inner.iter in range(2):
        with EventStorage(inner.iter):
            inner.run_step()
    torch.save([net.state_dict(), reductions], f"{folder}/accumulated{comm.get_rank()}.pt")
    wrapped.held = [wrapped]  # A cycle, as any program may have: only the collector frees it.


def diverge() -> None:
    """Fails as a training does whose loss is no longer finite."""
    raise FloatingPointError("loss became infinite or NaN at iteration=3")
