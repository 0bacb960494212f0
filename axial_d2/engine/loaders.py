"""Data loaders, and how many worker processes the machine's shared memory can feed."""

import contextlib
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader

from axial_d2.engine.errors import SetupError

logger = logging.getLogger(__name__)

Mapper = Callable[[dict[str, Any]], dict[str, Any]]

# Where Linux keeps tensors on their way from a worker; 64 MB by default in a container.
_SHARED_MEMORY = "/dev/shm"
# Batches a worker has ready at most: torch's default prefetch_factor.
_PREFETCH = 2
# Batches that have left a worker: the one in use and the one just taken.
_HELD = 2
# Draws of the augmentation that are measured, and what a larger draw may need beyond them.
_DRAWS = 3
_MARGIN = 1.25


def build_train_loader(cfg: CfgNode, mapper: Mapper) -> Any:
    """Endless batches of DATASETS.TRAIN.

    Args:
        cfg: DATASETS, DATALOADER, SOLVER.IMS_PER_BATCH and SEED are read. With a SEED of 0 or more
            the order of the pictures is the same in every run; otherwise it is not.
        mapper: from dataset dict to the model's input.

    Returns:
        An iterable of lists of IMS_PER_BATCH / processes mapped dicts.

    Raises:
        SetupError: a sampler that these data have no use for.
    """
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise SetupError(
            "DATALOADER.SAMPLER_TRAIN: expected TrainingSampler, the only one that needs no box "
            f"annotations, got {cfg.DATALOADER.SAMPLER_TRAIN}"
        )
    dicts = _dicts(list(cfg.DATASETS.TRAIN))
    per_process = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    # Handed over because the versions of Detectron2 disagree on what SEED means for the order.
    sampler = TrainingSampler(len(dicts), seed=cfg.SEED if cfg.SEED >= 0 else None)
    return build_detection_train_loader(
        dicts,
        mapper=mapper,
        sampler=sampler,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        # Crops for classification are of one size, whatever the picture's.
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING and "label" not in dicts[0],
        num_workers=workers_that_fit(cfg.DATALOADER.NUM_WORKERS, dicts, mapper, per_process),
    )


def build_test_loader(cfg: CfgNode, dataset_name: str, mapper: Mapper) -> DataLoader:
    """Every picture of a dataset once, shared among the processes.

    Args:
        cfg: DATALOADER.NUM_WORKERS is read.
        dataset_name: a registered dataset.
        mapper: from dataset dict to the model's input.

    Returns:
        A loader of lists of one mapped dict.
    """
    dicts = _dicts([dataset_name])
    return build_detection_test_loader(
        dicts,
        mapper=mapper,
        num_workers=workers_that_fit(cfg.DATALOADER.NUM_WORKERS, dicts, mapper, 1),
    )


def _dicts(names: list[str]) -> list[dict[str, Any]]:
    try:
        return get_detection_dataset_dicts(names, filter_empty=False)
    except (ValueError, OSError, AssertionError) as error:  # Detectron2's loaders assert
        raise SetupError(f"the dataset {', '.join(names)} cannot be loaded: {error}") from error


def workers_that_fit(
    wanted: int, dicts: list[dict[str, Any]], mapper: Mapper, batch_size: int
) -> int:
    """How many loader processes the free shared memory can feed.

    A worker hands its tensors over in shared memory, and one that finds it full dies of a bus error
    that names no cause.

    Args:
        wanted: the number asked for (DATALOADER.NUM_WORKERS).
        dicts: the dataset; its largest picture is mapped to measure it.
        mapper: what the workers do.
        batch_size: pictures in one process's batch.

    Returns:
        `wanted`, or 0 (load in the training process) where the memory is too small for that; this
        is logged in one line. `wanted` where there is no shared memory to be looked at.
    """
    free = free_shared_memory()
    if wanted == 0 or free is None:
        return wanted
    batch = largest_sample(dicts, mapper) * batch_size
    needed = batch * (wanted * _PREFETCH + _HELD) * comm.get_local_size()
    if needed <= free:
        return wanted
    logger.warning(
        "Loading pictures in the training process, not in %d workers: these may need %d MB of "
        "shared memory, %s has %d MB free (a container gets more with --shm-size)",
        wanted,
        -(-needed // 2**20),
        _SHARED_MEMORY,
        free // 2**20,
    )
    return 0


def free_shared_memory() -> int | None:
    """Free bytes of the machine's shared memory.

    Returns:
        Bytes; None where the system shows none (not Linux), or torch does not use it.
    """
    if not os.path.isdir(_SHARED_MEMORY):
        return None
    return shutil.disk_usage(_SHARED_MEMORY).free


def largest_sample(dicts: list[dict[str, Any]], mapper: Mapper) -> int:
    """Bytes of the tensors of one mapped picture, for the largest picture of a dataset.

    The random generators are left as they were.

    Args:
        dicts: the dataset.
        mapper: what is done to each dict.

    Returns:
        Bytes, with a margin for the draws of the augmentation that were not seen.
    """
    largest = max(dicts, key=lambda d: d.get("height", 0) * d.get("width", 0))
    with _random_state_kept():
        draws = [mapper(dict(largest)) for _ in range(_DRAWS)]
    return int(_MARGIN * max(_tensor_bytes(draw) for draw in draws))


def _tensor_bytes(sample: dict[str, Any]) -> int:
    tensors = (value for value in sample.values() if isinstance(value, torch.Tensor))
    return sum(t.numel() * t.element_size() for t in tensors)


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
