"""Lookahead: by hand, over every optimiser, saved and resumed."""

import io

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from axial_d2.config import add_axial_config
from axial_d2.engine.lookahead import with_lookahead
from axial_d2.engine.optimizer import build_lr_scheduler, build_optimizer


def config(*options):
    cfg = get_cfg()
    add_axial_config(cfg)
    cfg.merge_from_list(["SOLVER.LOOKAHEAD.ENABLED", True, "MODEL.DEVICE", "cpu", *options])
    return cfg


def saved_and_loaded(state):
    """A state through a file, as a checkpoint takes it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)  # weights_only


def test_numbers_worked_by_hand():
    weight = nn.Parameter(torch.zeros(1))
    kind = with_lookahead(torch.optim.SGD, steps=2, alpha=0.5)
    optimizer = kind([weight], lr=1.0, momentum=0.5)
    seen = []
    for _ in range(4):
        weight.grad = torch.ones(1)
        optimizer.step()
        seen.append(weight.item())
    # Velocity 1, 1.5, 1.75, 1.875: it is kept where the slow weight steps.
    # Fast -1, -2.5; slow 0 - 0.5 * 2.5 = -1.25. Fast -3, -4.875; slow -1.25 - 0.5 * 3.625.
    assert seen == [-1.0, -1.25, -3.0, -3.0625]


def test_alpha_of_one_changes_nothing():
    def trained(kind):
        torch.manual_seed(3)
        net = nn.Linear(5, 3)
        optimizer = kind(net.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.randn(4, 5)).pow(2).sum().backward()
            optimizer.step()
        return net.weight

    looking = with_lookahead(torch.optim.Adam, steps=2, alpha=1.0)
    assert torch.equal(trained(looking), trained(torch.optim.Adam))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0, "alpha": 0.5}, "steps: expected 1 or more, got 0"),
        ({"steps": 5, "alpha": 0.0}, "alpha: expected more than 0 and at most 1, got 0.0"),
        ({"steps": 5, "alpha": 1.5}, "alpha: .* got 1.5"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        with_lookahead(torch.optim.SGD, **values)


def test_the_weights_it_starts_from_are_those_of_the_first_step():
    """A checkpoint is loaded after the optimiser was built."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = with_lookahead(torch.optim.SGD, steps=1, alpha=0.5)([weight], lr=1.0)
    weight.data.fill_(10.0)
    weight.grad = torch.full((1,), 2.0)
    optimizer.step()
    assert weight.item() == 9.0


def test_a_gradient_that_comes_late():
    """Adam must not take a parameter with a slow weight for one that has moments."""
    first, late = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = with_lookahead(torch.optim.Adam, steps=2, alpha=0.5)([first, late], lr=1.0)
    first.grad = torch.ones(1)
    optimizer.step()
    first.grad, late.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert first.item() == pytest.approx(-1.0) and late.item() == pytest.approx(-0.5)


CLIPPING = {
    "none": (),
    "norm": ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
    "full": (
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        "full_model",
    ),
}


@pytest.mark.parametrize("clipping", CLIPPING)
@pytest.mark.parametrize("name", ["ADAM", "ADAMW", "RADAM", "SGD"])
def test_resumed_in_the_middle_of_a_period_equals_unbroken(name, clipping):
    cfg = config("SOLVER.OPTIMIZER", name, "SOLVER.LOOKAHEAD.STEPS", 4, *CLIPPING[clipping])
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER = 0.02, 3, 12
    generator = torch.Generator().manual_seed(5)
    batches = torch.randn(10, 7, 3, generator=generator)

    def start():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        optimizer = build_optimizer(cfg, net)
        return net, optimizer, build_lr_scheduler(cfg, optimizer)

    def train(net, optimizer, scheduler, batches):
        for batch in batches:
            optimizer.zero_grad()
            net(batch).pow(2).sum().backward()
            optimizer.step()
            scheduler.step()

    whole = start()
    train(*whole, batches)
    first = start()
    train(*first, batches[:6])
    rest = start()
    for part, saved in zip(rest, first, strict=True):
        part.load_state_dict(saved_and_loaded(saved.state_dict()))
    assert rest[1].state_dict()["lookahead"]["steps_done"] == 6
    train(*rest, batches[6:])
    for a, b in zip(whole[0].parameters(), rest[0].parameters(), strict=True):
        assert torch.equal(a, b) and a.isfinite().all()
    assert not torch.equal(whole[0][0].weight, start()[0][0].weight)


def test_state_of_an_optimiser_without_lookahead_begins_a_period():
    weight = nn.Parameter(torch.zeros(1))
    plain = torch.optim.SGD([weight], lr=1.0, momentum=0.5)
    weight.grad = torch.ones(1)
    plain.step()
    optimizer = with_lookahead(torch.optim.SGD, steps=1, alpha=0.5)([weight], lr=1.0, momentum=0.5)
    optimizer.load_state_dict(plain.state_dict())
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == -1.0 - 0.5 * 1.5
    # And the other way round: what only Lookahead has is left alone.
    plain.load_state_dict(optimizer.state_dict())
    assert set(plain.state_dict()) == {"state", "param_groups"}


def test_clipping_sees_the_gradients_of_the_whole_model():
    cfg = config(
        *("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0),
        *("SOLVER.BASE_LR", 1.0, "SOLVER.LOOKAHEAD.STEPS", 2, *CLIPPING["full"]),
    )
    net = nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    optimizer = build_optimizer(cfg, net)
    for _ in range(2):
        net[0].grad, net[1].grad = torch.full((1,), 30.0), torch.full((1,), 40.0)
        optimizer.step()
    # Norm 50 is clipped to 1: 0.6 and 0.8 a step; after two steps half the way.
    assert [p.item() for p in net] == pytest.approx([-0.6, -0.8], rel=1e-5)


def test_a_step_that_loss_scaling_leaves_out_is_none():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = with_lookahead(torch.optim.SGD, steps=2, alpha=0.5)([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((weight * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.state_dict()["lookahead"]["steps_done"] == 2
    assert weight.item() == -1.0
