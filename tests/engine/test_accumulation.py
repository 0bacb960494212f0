"""Several batches per iteration."""

import contextlib

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils.events import EventStorage
from tiny_training import Losses, assert_same, optimizer_tensors

from axial_d2.config import add_axial_config
from axial_d2.engine.train_loop import AccumulatingTrainer, inner_trainer


def run(kind, net, batches, iterations, **options):
    """Runs iterations over the batches; returns the logged numbers of each."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    inner = kind(net, batches, optimizer, **options)
    logged = []
    for inner.iter in range(iterations):
        with EventStorage(inner.iter) as storage:
            inner.run_step()
            logged.append({k: v for k, (v, _) in storage.latest().items() if "time" not in k})
    return logged


@pytest.mark.filterwarnings("ignore:.*GradScaler", "ignore:CUDA is not available")
@pytest.mark.parametrize(
    ("device", "amp", "steps", "kind", "autocast"),
    [
        ("cpu", False, 1, SimpleTrainer, None),
        ("cuda", True, 1, AMPTrainer, None),
        ("cpu", False, 2, AccumulatingTrainer, None),
        ("cpu", True, 1, AccumulatingTrainer, ("cpu", torch.bfloat16)),
        ("cuda", True, 2, AccumulatingTrainer, ("cuda", torch.float16)),
    ],
)
def test_detectron2s_trainers_run_what_they_can(device, amp, steps, kind, autocast):
    cfg = get_cfg()
    add_axial_config(cfg)
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.ACCUMULATION_STEPS = device, amp, steps
    net = Losses()
    inner = inner_trainer(cfg, net, [0], torch.optim.SGD(net.parameters(), lr=0.1))
    assert type(inner) is kind
    if kind is AccumulatingTrainer:
        assert inner.steps == steps
        # Loss scaling is for float16, and for where there is a GPU.
        assert inner.grad_scaler.is_enabled() == (device == "cuda" and torch.cuda.is_available())
        context = inner.autocast()
        if autocast:
            assert (context.device, context.fast_dtype) == autocast
        else:
            assert isinstance(context, contextlib.nullcontext)


def test_batches_of_two_are_a_batch_of_four(seed):
    pictures = torch.randn(12, 3, 5, 7)
    together, apart = Losses(), Losses()
    apart.load_state_dict(together.state_dict())
    expected = run(SimpleTrainer, together, pictures.split(4), 3)
    found = run(AccumulatingTrainer, apart, pictures.split(2), 3, steps=2)
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    for a, b in zip(expected, found, strict=True):
        assert set(b) == {"total_loss", "square", "absolute"}
        assert b == pytest.approx(a, rel=1e-5)


def test_one_batch_is_what_simple_trainer_does(seed):
    pictures = torch.randn(6, 3, 5, 7)
    theirs, ours = Losses(), Losses()
    ours.load_state_dict(theirs.state_dict())
    assert run(SimpleTrainer, theirs, pictures.split(2), 3) == run(
        AccumulatingTrainer, ours, pictures.split(2), 3
    )
    assert_same(theirs.state_dict(), ours.state_dict())


def test_a_loss_that_is_no_number_in_any_batch_is_found_before_the_step(seed):
    pictures = torch.randn(4, 3, 5, 7)
    pictures[0] = float("nan")
    net = Losses()
    before = net.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="infinite or NaN at iteration=0"):
        run(AccumulatingTrainer, net, pictures.split(1), 1, steps=3)
    assert torch.equal(net.weight, before)


def test_a_gradient_that_overflows_in_any_batch_leaves_the_step_out(seed):
    pictures = torch.randn(4, 3, 5, 7)
    net = Losses()
    before = net.weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38, growth_interval=1)
    run(AccumulatingTrainer, net, pictures.split(2), 1, steps=2, grad_scaler=scaler)
    assert torch.equal(net.weight, before)
    assert scaler.get_scale() == pytest.approx(1.5e38)
    # And where nothing overflows, the step is that without a scale.
    plain = Losses()
    plain.load_state_dict(net.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    run(AccumulatingTrainer, net, pictures.split(2), 1, steps=2, grad_scaler=scaler)
    run(AccumulatingTrainer, plain, pictures.split(2), 1, steps=2)
    assert_same(net.state_dict(), plain.state_dict())


def test_state_is_that_of_detectron2s_trainers(seed):
    def trainer(scale):
        net = Losses()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
        return AccumulatingTrainer(net, [0], optimizer, steps=2, grad_scaler=scaler)

    scaled = trainer(8.0)
    other = trainer(2.0)
    other.load_state_dict(scaled.state_dict())
    assert other.grad_scaler.get_scale() == 8.0
    other.load_state_dict(trainer(None).state_dict())  # nothing was scaled there
    assert other.grad_scaler.get_scale() == 8.0
    net = Losses()
    simple = SimpleTrainer(net, [0], torch.optim.SGD(net.parameters(), lr=0.1))
    simple.load_state_dict(scaled.state_dict())
    other.load_state_dict(simple.state_dict())


def test_equal_batches_train_as_one_of_them_does(trainer_of):
    """Of the whole trainer. Halves of equal gradients add up to the bit; statistics move twice."""
    one = trainer_of("one", "SOLVER.MAX_ITER", "2")
    two = trainer_of("two", "SOLVER.MAX_ITER", "2", "SOLVER.ACCUMULATION_STEPS", "2")
    assert type(one._trainer) is SimpleTrainer
    two.model.load_state_dict(one.model.state_dict())
    one.train()
    two.train()
    assert_same(dict(one.model.named_parameters()), dict(two.model.named_parameters()))
    assert_same(optimizer_tensors(one.optimizer), optimizer_tensors(two.optimizer))
    assert one.scheduler.last_epoch == two.scheduler.last_epoch == 2
    counters = [b for n, b in two.model.named_buffers() if n.endswith("num_batches_tracked")]
    assert {int(c) for c in counters} == {4}


def test_mixed_precision_on_the_cpu_accumulates(trainer_of):
    options = ("SOLVER.MAX_ITER", "1", "SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cpu")
    trainer = trainer_of("amp", *options, "SOLVER.ACCUMULATION_STEPS", "3")
    seen = []
    trainer.model.register_forward_pre_hook(
        lambda *_: seen.append(
            torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        )
    )
    trainer.train()
    assert seen == [torch.bfloat16] * 3
    assert all(p.isfinite().all() for p in trainer.model.parameters())
