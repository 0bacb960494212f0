"""Optimiser, parameter groups and schedule."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import NaiveSyncBatchNorm
from torch import nn

from axial_d2.config import add_axial_config
from axial_d2.engine import SetupError
from axial_d2.engine.optimizer import (
    build_lr_scheduler,
    build_optimizer,
    follow_new_schedule,
    parameter_groups,
)
from axial_d2.layers import LogitNorm


def config(*options):
    cfg = get_cfg()
    add_axial_config(cfg)
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.01, *options])
    return cfg


def model():
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), LogitNorm(2), NaiveSyncBatchNorm(4), nn.Linear(4, 1)
    )


def test_norms_decay_by_their_own_factor_and_biases_learn_at_theirs():
    net = model()
    net[4].weight = net[0].weight  # shared: taken once
    net[4].bias.requires_grad_(False)  # frozen: left out
    groups = parameter_groups(
        net, lr=0.1, weight_decay=0.01, weight_decay_norm=0.0, bias_lr_factor=2.0
    )
    found = {(g["lr"], g["weight_decay"]): g["params"] for g in groups}
    assert set(found) == {(0.1, 0.01), (0.2, 0.01), (0.1, 0.0), (0.2, 0.0)}
    assert [id(p) for p in found[0.1, 0.01]] == [id(net[0].weight)]
    assert [id(p) for p in found[0.2, 0.01]] == [id(net[0].bias)]
    assert {id(p) for p in found[0.1, 0.0]} == {id(net[i].weight) for i in (1, 2, 3)}
    assert {id(p) for p in found[0.2, 0.0]} == {id(net[i].bias) for i in (1, 3)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ADAM", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("SGD", torch.optim.SGD)],
)
def test_optimisers_step(name, kind):
    net = nn.Linear(2, 1)
    optimizer = build_optimizer(config("SOLVER.OPTIMIZER", name), net)
    assert type(optimizer) is kind
    net(torch.ones(1, 2)).sum().backward()
    before = net.weight.detach().clone()
    optimizer.step()
    assert (net.weight < before).all()


def test_a_fused_optimiser_is_for_the_cpu_alone():
    """On a GPU it would take the scale of mixed precision on itself, after the clipping."""
    net = nn.Linear(2, 1)
    for device, fused in (("cpu", True), ("cuda", False)):
        optimizer = build_optimizer(config("MODEL.DEVICE", device), net)
        assert optimizer.param_groups[0]["fused"] is fused
        assert bool(getattr(optimizer, "_step_supports_amp_scaling", False)) is fused


def test_sgd_has_momentum_and_nesterov():
    cfg = config("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.8, "SOLVER.NESTEROV", True)
    group = build_optimizer(cfg, nn.Linear(2, 1)).param_groups[0]
    assert group["momentum"] == 0.8 and group["nesterov"]


def test_unknown_names_list_the_known():
    with pytest.raises(SetupError, match="expected one of ADAM, ADAMW, SGD, got LION"):
        build_optimizer(config("SOLVER.OPTIMIZER", "LION"), nn.Linear(2, 1))
    cfg = config("SOLVER.LR_SCHEDULER_NAME", "Poly")
    with pytest.raises(SetupError, match="expected one of WarmupPolyLR, .* got Poly"):
        build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(2, 1)))


def test_gradients_are_clipped():
    cfg = config(
        *("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0),
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5),
    )
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    optimizer = build_optimizer(cfg, net)
    net.weight.grad = torch.full_like(net.weight, 100.0)
    optimizer.step()
    assert net.weight.item() == pytest.approx(-0.1 * 0.5)


@pytest.mark.parametrize("name", ["WarmupPolyLR", "WarmupCosineLR", "WarmupMultiStepLR"])
def test_schedules_warm_up_and_fall(name):
    cfg = config("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.MAX_ITER", 20, "SOLVER.WARMUP_ITERS", 5)
    cfg.SOLVER.STEPS = (15,)
    optimizer = build_optimizer(cfg, nn.Linear(2, 1))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] < rates[3] < rates[5] and rates[-1] < rates[5] <= 0.1


@pytest.mark.parametrize("name", ["WarmupPolyLR", "WarmupCosineLR"])
def test_a_longer_schedule_is_followed_from_the_next_iteration_on(name):
    def start(iterations):
        cfg = config("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.MAX_ITER", iterations)
        cfg.SOLVER.WARMUP_ITERS = 0
        optimizer = build_optimizer(cfg, nn.Linear(2, 1))
        return optimizer, build_lr_scheduler(cfg, optimizer)

    short, short_schedule = start(4)
    for _ in range(4):
        short.step()
        short_schedule.step()
    assert short.param_groups[0]["lr"] == pytest.approx(0)
    long, long_schedule = start(8)

    def restore():
        long.load_state_dict(short.state_dict())
        long_schedule.load_state_dict(short_schedule.state_dict())

    follow_new_schedule(long_schedule, restore)
    reference, reference_schedule = start(8)
    for _ in range(4):
        reference.step()
        reference_schedule.step()
    for _ in range(4):
        assert long.param_groups[0]["lr"] == pytest.approx(reference.param_groups[0]["lr"])
        assert long.param_groups[0]["lr"] > 0
        for optimizer, schedule in ((long, long_schedule), (reference, reference_schedule)):
            optimizer.step()
            schedule.step()
