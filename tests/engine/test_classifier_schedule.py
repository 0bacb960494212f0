"""The recipe of ImageNet pre-training: schedule, optimiser groups, SyncBN on the CPU."""

import math

import pytest
import torch
from detectron2.utils import comm
from tiny_folders import write_classifier_config, write_folders

from axial_d2.engine import SetupError, load_config
from axial_d2.engine.checks import check_before_training
from axial_d2.engine.optimizer import build_lr_scheduler, build_optimizer


@pytest.fixture
def config(tmp_path):
    folders = write_folders(tmp_path / "data", pictures=1)
    return write_classifier_config(tmp_path / "tiny.yaml", folders, tmp_path / "out")


def test_cosine_schedule_with_linear_warm_up(config):
    options = ["SOLVER.MAX_ITER", "130", "SOLVER.WARMUP_ITERS", "10", "SOLVER.BASE_LR", "0.4"]
    options += ["SOLVER.WARMUP_FACTOR", "0.0"]
    cfg = load_config(str(config), options)
    optimizer = build_optimizer(cfg, torch.nn.Linear(3, 3))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["nesterov"] and optimizer.defaults["momentum"] == 0.9
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(130):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # The warm-up ends where the cosine is by then, or at the full rate, as the version has it.
    steps = [b - a for a, b in zip(rates[:9], rates[1:10], strict=True)]
    assert rates[0] == 0 and min(steps) > 0 and max(steps) - min(steps) < 0.02 * max(steps)
    cosine = [0.2 * (1 + math.cos(math.pi * i / 130)) for i in range(130)]
    assert rates[10:] == pytest.approx(cosine[10:], abs=1e-9)
    assert rates[-1] < 0.0001 and optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_syncbn_of_the_backbone_alone_counts_on_the_cpu(config, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    options = ["MODEL.DEVICE", "cpu"]
    # Detectron2's defaults name SyncBN for heads that a classifier does not have.
    check_before_training(load_config(str(config), options))
    cfg = load_config(str(config), [*options, "MODEL.AXIAL_RESNET.NORM", "SyncBN"])
    with pytest.raises(SetupError, match=r"naiveSyncBN or BN for MODEL\.AXIAL_RESNET\.NORM$"):
        check_before_training(cfg)
