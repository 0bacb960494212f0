"""The recipe of ImageNet pre-training: schedule, optimiser groups, SyncBN on the CPU."""

import math
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from tiny_folders import write_classifier_config, write_folders
from torch import nn

from axial_d2.data import build_mapper
from axial_d2.engine import SetupError, load_config
from axial_d2.engine.checks import check_before_training
from axial_d2.engine.optimizer import build_lr_scheduler, build_optimizer
from axial_d2.layers import LogitNorm, RelativePositionTable

ROOT = Path(__file__).parents[2]


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


def test_recipe_of_the_config():
    cfg = load_config(str(ROOT / "configs/imagenet-classification/axial_resnet50_s.yaml"))
    model = build_model(cfg)
    # The paper's 12.4M, and the official implementation's longer position tables.
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(12.48e6, rel=0.001)
    assert build_mapper(cfg, True).augmentations.augs[0].size == (224, 224)
    epoch = 1_281_167 / cfg.SOLVER.IMS_PER_BATCH
    assert cfg.SOLVER.MAX_ITER == round(130 * epoch)
    assert cfg.SOLVER.WARMUP_ITERS == cfg.SOLVER.CHECKPOINT_PERIOD == round(10 * epoch)
    assert cfg.SOLVER.BASE_LR == pytest.approx(1.6 * cfg.SOLVER.IMS_PER_BATCH / 4096)
    # Neither norms nor tables decay.
    groups = build_optimizer(cfg, model).param_groups
    decays = {p: group["weight_decay"] for group in groups for p in group["params"]}
    spared = (nn.BatchNorm2d, LogitNorm, RelativePositionTable)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            assert decays[parameter] == (0 if isinstance(module, spared) else 8e-5)


def test_folders_of_the_documentation(tmp_path):
    (_, folders) = (ROOT / "docs/imagenet.md").read_text().split("```yaml\n")
    (tmp_path / "folders.yaml").write_text(folders.split("```")[0])
    # The form is right: what is told is that the folders are not there.
    with pytest.raises(SetupError, match="data/birds/train, came nothing"):
        load_config(str(tmp_path / "folders.yaml"))
