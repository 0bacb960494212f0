"""Optimiser, parameter groups and schedule."""

import io
import math

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
from axial_d2.layers import AxialAttention1d, LogitNorm, RelativePositionTable


def config(*options):
    cfg = get_cfg()
    add_axial_config(cfg)
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.01, *options])
    return cfg


def model():
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), LogitNorm(2), NaiveSyncBatchNorm(4), nn.Linear(4, 1)
    )


def attention():
    return AxialAttention1d(
        in_channels=8, out_channels=8, axis="height", num_heads=2, max_distance=5
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


def test_position_tables_decay_by_their_own_factor():
    net = attention()
    tables = [m.weight for m in net.modules() if isinstance(m, RelativePositionTable)]
    norms = [p for m in net.modules() if isinstance(m, LogitNorm) for p in m.parameters()]
    assert len(tables) == 3 and norms

    def decays(**given):
        groups = parameter_groups(net, lr=0.1, weight_decay=0.01, **given)
        return {id(p): g["weight_decay"] for g in groups for p in g["params"]}

    found = decays(weight_decay_norm=0.0, weight_decay_table=0.002)
    assert {found[id(p)] for p in tables} == {0.002}
    assert {found[id(p)] for p in norms} == {0.0}
    assert set(found.values()) == {0.0, 0.002, 0.01}
    assert {decays(weight_decay_norm=0.0, weight_decay_table=0.0)[id(p)] for p in tables} == {0.0}
    plain = decays(weight_decay_norm=0.0)
    assert {plain[id(p)] for p in tables} == {0.01}


def test_groups_are_those_of_old_checkpoints_where_tables_have_no_decay_of_their_own():
    net = nn.Sequential(attention(), nn.Linear(8, 1))
    norms = (nn.BatchNorm2d, LogitNorm)
    in_norms = [p for m in net.modules() if isinstance(m, norms) for p in m.parameters()]
    rest = [p for p in net.parameters() if all(p is not other for other in in_norms)]
    groups = build_optimizer(config("SOLVER.WEIGHT_DECAY_NORM", 0.0), net).param_groups
    assert [g["weight_decay"] for g in groups] == [0.01, 0.0]
    assert [[id(p) for p in g["params"]] for g in groups] == [
        [id(p) for p in rest],
        [id(p) for p in in_norms],
    ]


def test_radam_is_the_papers_with_decoupled_decay():
    """Liu et al. 2020, algorithm 2, written out for one weight."""
    lr, decay, b1, b2, eps = 0.1, 0.01, 0.9, 0.999, 1e-8
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    optimizer = build_optimizer(config("SOLVER.OPTIMIZER", "RADAM"), net)
    weight, m, v = 2.0, 0.0, 0.0
    longest = 2 / (1 - b2) - 1
    rectified = 0
    for t in range(1, 9):
        gradient = 3.0 * (-0.7) ** t
        net.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        length = longest - 2 * t * b2**t / (1 - b2**t)
        step = m / (1 - b1**t)
        if length > 5:
            rectified += 1
            r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            step *= math.sqrt(r) / (math.sqrt(v / (1 - b2**t)) + eps)
        weight = weight * (1 - lr * decay) - lr * step
        assert net.weight.item() == pytest.approx(weight, rel=1e-5)
    assert 0 < rectified < 8


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ADAM", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("RADAM", torch.optim.RAdam),
        ("SGD", torch.optim.SGD),
    ],
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


def test_nesterov_by_hand():
    cfg = config("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.5, "SOLVER.NESTEROV", True)
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    optimizer = build_optimizer(cfg, net)
    seen = []
    for _ in range(2):
        net.weight.grad = torch.ones(1, 1)
        optimizer.step()
        seen.append(net.weight.item())
    # Velocity 1, then 1.5; steps 0.1 * (1 + 0.5 * velocity).
    assert seen == pytest.approx([-0.15, -0.15 - 0.175])


def test_sgd_has_momentum_and_nesterov():
    cfg = config("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.8, "SOLVER.NESTEROV", True)
    group = build_optimizer(cfg, nn.Linear(2, 1)).param_groups[0]
    assert group["momentum"] == 0.8 and group["nesterov"]


def test_unknown_names_list_the_known():
    with pytest.raises(SetupError, match="expected one of ADAM, ADAMW, RADAM, SGD, got LION"):
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


def rates_of(scheduler, optimizer, iterations):
    """The rate of each iteration, and the one that would follow."""
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(iterations):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_values_of_warm_up_and_decay():
    options = ("SOLVER.MAX_ITER", 20, "SOLVER.WARMUP_ITERS", 4, "SOLVER.WARMUP_FACTOR", 0.2)

    def rates(*more):
        cfg = config(*options, *more)
        optimizer = build_optimizer(cfg, nn.Linear(2, 1))
        return rates_of(build_lr_scheduler(cfg, optimizer), optimizer, 20)

    warm = [0.2, 0.4, 0.6, 0.8] + [1.0] * 17
    poly = [0.1 * w * (1 - t / 20) ** 0.9 for t, w in enumerate(warm)]
    found = rates("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR")
    assert found == pytest.approx(poly)
    assert found[19] == pytest.approx(0.1 * 0.05**0.9) and found[20] == 0
    # Detectron2's warm-up leads in a straight line to the cosine's value at its end.
    cosine = [0.05 * (1 + math.cos(math.pi * t / 20)) for t in range(21)]
    line = [0.02 + (cosine[4] - 0.02) * t / 4 for t in range(4)]
    found = rates("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")
    assert found == pytest.approx(line + cosine[4:])
    found = rates("SOLVER.WARMUP_METHOD", "constant", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")
    assert found[:4] == pytest.approx([0.02] * 4) and found[4:] == pytest.approx(cosine[4:])
    found = rates("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.POLY_LR_CONSTANT_ENDING", 0.3)
    assert min(found[4:]) == pytest.approx(0.03) == found[20]


@pytest.mark.parametrize("name", ["WarmupPolyLR", "WarmupCosineLR"])
@pytest.mark.parametrize("done", [2, 7])
def test_a_resumed_schedule_goes_on(name, done):
    """In the warm-up, and after it."""

    def start():
        cfg = config("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.MAX_ITER", 12)
        cfg.SOLVER.WARMUP_ITERS = 4
        optimizer = build_optimizer(cfg, nn.Linear(2, 1))
        return build_lr_scheduler(cfg, optimizer), optimizer

    whole = rates_of(*start(), 12)
    first = start()
    rates_of(*first, done)
    resumed = start()
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)

    def restore():
        for part, state in zip(resumed, torch.load(file), strict=True):
            part.load_state_dict(state)

    follow_new_schedule(resumed[0], restore)
    assert rates_of(*resumed, 12 - done) == pytest.approx(whole[done:])


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
