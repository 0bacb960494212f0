"""Loaders: order of the pictures, and workers only where the shared memory can feed them."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from axial_d2.engine import SetupError, Trainer, load_config, loaders

DICTS = [{"height": 10, "width": 10}, {"height": 40, "width": 50}]


def mapper(entry):
    """Maps a dict to its size in bytes, and draws from all generators."""
    random.random(), np.random.rand(), torch.rand(1)
    return {"image": torch.zeros(entry["height"], entry["width"], dtype=torch.uint8), "id": 3}


def first_files(cfg, count=4):
    batches = itertools.islice(Trainer.build_train_loader(cfg), count)
    return [entry["file_name"] for batch in batches for entry in batch]


def test_batches_have_images_and_targets(config_file):
    batch = next(iter(Trainer.build_train_loader(load_config(str(config_file)))))
    assert len(batch) == 2
    assert batch[0]["image"].shape == (3, 48, 64)
    assert batch[0]["sem_seg"].shape == (48, 64) and batch[0]["offset"].shape == (2, 48, 64)


def test_seed_fixes_the_order(config_file):
    cfg = load_config(str(config_file))
    order = first_files(cfg)
    np.random.rand(3)  # The order must not hang on the global generators either.
    assert first_files(cfg) == order
    other = load_config(str(config_file), ["SEED", "8"])
    assert first_files(other) != order


def test_without_a_seed_runs_differ(config_file):
    cfg = load_config(str(config_file), ["SEED", "-1"])
    orders = set()
    for seed in range(5):
        np.random.seed(seed)  # As Detectron2 does at the start, from the clock.
        orders.add(tuple(first_files(cfg)))
    assert len(orders) > 1


def test_another_sampler_is_refused(config_file):
    cfg = load_config(str(config_file), ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"])
    with pytest.raises(SetupError, match="expected TrainingSampler.*got RepeatFactor"):
        Trainer.build_train_loader(cfg)


def test_test_loader_gives_every_picture_once(config_file):
    cfg = load_config(str(config_file))
    loader = Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    assert len({entry["file_name"] for (entry,) in loader}) == 6


def test_the_largest_picture_is_measured_and_no_random_number_spent():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    assert loaders.largest_sample(DICTS, mapper) == 2500  # 40 * 50 bytes and a margin of 1/4
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


@pytest.mark.parametrize(
    ("free", "workers"),
    # 2500 bytes * 3 pictures * (4 workers * 2 batches ready + 2 in use) = 75000
    [(75000, 4), (74999, 0), (0, 0), (None, 4)],
)
def test_workers_need_shared_memory(monkeypatch, free, workers):
    lines = []
    monkeypatch.setattr(loaders, "free_shared_memory", lambda: free)
    monkeypatch.setattr(loaders.logger, "warning", lambda text, *args: lines.append(text % args))
    assert loaders.workers_that_fit(4, DICTS, mapper, 3) == workers
    assert len(lines) == (workers == 0)
    assert all("in the training process, not in 4 workers" in line for line in lines)


def test_no_workers_asked_for_measures_nothing():
    assert loaders.workers_that_fit(0, DICTS, None, 3) == 0


def test_free_shared_memory_is_the_systems():
    free = loaders.free_shared_memory()
    assert free is None or free >= 0


def test_small_shared_memory_reaches_the_loader(config_file, monkeypatch):
    cfg = load_config(str(config_file), ["DATALOADER.NUM_WORKERS", "2"])
    seen = []
    original = DataLoader.__init__

    def watch(self, *args, num_workers=0, **kwargs):
        seen.append(num_workers)
        original(self, *args, num_workers=num_workers, **kwargs)

    monkeypatch.setattr(DataLoader, "__init__", watch)
    monkeypatch.setattr(loaders, "free_shared_memory", lambda: 64 * 2**20)
    Trainer.build_train_loader(cfg)  # 48 x 64 pictures: 64 MB, a container's default, are plenty
    monkeypatch.setattr(loaders, "free_shared_memory", lambda: 2**20)
    Trainer.build_train_loader(cfg)
    assert seen == [2, 0]
