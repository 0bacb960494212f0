"""The trainer as a whole, on one process: train, resume, evaluate, fail, be interrupted."""

import json
import os
import signal
import time

import pytest
import torch
from detectron2.engine import AMPTrainer
from tiny_training import WIDTH, arguments, assert_same, optimizer_tensors

from axial_d2.engine import SetupError, Trainer, train_or_evaluate
from axial_d2.engine import trainer as trainer_module


def test_training_evaluates_and_leaves_everything(config_file, tmp_path):
    results = train_or_evaluate(arguments(config_file))
    assert set(results) == {"panoptic_seg", "segm", "sem_seg"}
    out = tmp_path / "out"
    saved = json.loads((out / "results.json").read_text())
    assert saved["sem_seg"]["mIoU"] == pytest.approx(results["sem_seg"]["mIoU"])
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert "eta: " in (out / "log.txt").read_text()
    losses = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert all(line["total_loss"] > 0 for line in losses if "total_loss" in line)

    options = ("MODEL.WEIGHTS", str(out / "model_final.pth"))
    again = train_or_evaluate(arguments(config_file, *options, eval_only=True))
    assert again["sem_seg"]["mIoU"] == pytest.approx(results["sem_seg"]["mIoU"])
    again = train_or_evaluate(arguments(config_file, eval_only=True, resume=True))
    assert again["sem_seg"]["mIoU"] == pytest.approx(results["sem_seg"]["mIoU"])


def test_resumed_equals_unbroken(trainer_of, tmp_path):
    torch.manual_seed(0)
    whole = trainer_of("whole", "SOLVER.CHECKPOINT_PERIOD", "2")
    whole.resume_or_load(resume=False)
    whole.train()
    (tmp_path / "whole/last_checkpoint").write_text("model_0000001.pth")

    resumed = trainer_of("whole", "SOLVER.CHECKPOINT_PERIOD", "2")
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    saved = torch.load(tmp_path / "whole/model_0000001.pth")["trainer"]["_trainer"]["optimizer"]
    states = resumed.optimizer.state_dict()["state"]
    trained = sum(p.requires_grad for p in resumed.model.parameters())
    assert len(states) == len(saved["state"]) == trained  # none lost
    resumed.train()

    assert_same(whole.model.state_dict(), resumed.model.state_dict())
    assert_same(optimizer_tensors(whole.optimizer), optimizer_tensors(resumed.optimizer))
    assert whole.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]
    assert whole.scheduler.last_epoch == resumed.scheduler.last_epoch == 4
    assert whole.iter == resumed.iter


def test_finished_training_can_be_made_longer(trainer_of, tmp_path):
    short = trainer_of("long", "SOLVER.MAX_ITER", "2")
    short.resume_or_load(resume=False)
    short.train()
    long = trainer_of("long", "SOLVER.MAX_ITER", "5")
    long.resume_or_load(resume=True)
    assert long.start_iter == 2 and long.scheduler.max_iters == 5
    assert_same(optimizer_tensors(short.optimizer), optimizer_tensors(long.optimizer))
    assert long.optimizer.param_groups[0]["lr"] == pytest.approx(0.002 * (1 - 2 / 5) ** 0.9)
    long.train()
    assert long.scheduler.last_epoch == 5


def test_a_resumed_training_goes_by_the_config(trainer_of):
    done = trainer_of("config", "SOLVER.MAX_ITER", "2", "SOLVER.POLY_LR_POWER", "3.0")
    done.resume_or_load(resume=False)
    done.train()
    options = (
        "SOLVER.BASE_LR",
        "0.0001",
        "SOLVER.WEIGHT_DECAY",
        "0.5",
        "SOLVER.OPTIMIZER",
        "RADAM",
    )
    again = trainer_of("config", "SOLVER.MAX_ITER", "5", *options)
    again.resume_or_load(resume=True)
    group = again.optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(0.0001 * (1 - 2 / 5) ** 0.9)
    assert group["weight_decay"] == 0.5 and group["decoupled_weight_decay"]
    assert_same(optimizer_tensors(done.optimizer), optimizer_tensors(again.optimizer))
    again.train()


@pytest.mark.parametrize(("first", "then"), [("ADAM", "SGD"), ("SGD", "RADAM")])
def test_sgd_is_not_resumed_by_the_adam_family(trainer_of, first, then):
    done = trainer_of("kinds", "SOLVER.MAX_ITER", "2", "SOLVER.OPTIMIZER", first)
    done.resume_or_load(resume=False)
    done.train()
    again = trainer_of("kinds", "SOLVER.OPTIMIZER", then)
    with pytest.raises(SetupError, match=rf"SOLVER\.OPTIMIZER was .*{first}.* and is .*{then}"):
        again.resume_or_load(resume=True)


def test_resuming_a_finished_training_trains_no_more(trainer_of):
    done = trainer_of("done", "SOLVER.MAX_ITER", "3")
    done.resume_or_load(resume=False)
    done.train()
    again = trainer_of("done", "SOLVER.MAX_ITER", "2")
    again.resume_or_load(resume=True)
    again.train()
    assert_same(done.model.state_dict(), again.model.state_dict())


def test_checkpoint_of_an_old_detectron2_without_optimiser_is_taken(trainer_of):
    trainer = trainer_of("old")
    state = trainer.state_dict()
    assert state.pop("_trainer")
    trainer.load_state_dict({**state, "iteration": 9})
    assert trainer.iter == 9


def test_state_without_loss_scale_goes_into_a_trainer_with_one(trainer_of):
    trainer = trainer_of("amp")
    trainer.resume_or_load(resume=False)
    trainer.train()
    state = trainer.state_dict()
    target = trainer_of("amp2")
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    target._trainer = AMPTrainer(
        target.model, target.data_loader, target.optimizer, grad_scaler=scaler
    )
    target.load_state_dict(state)
    assert scaler.get_scale() == 64.0
    assert_same(optimizer_tensors(trainer.optimizer), optimizer_tensors(target.optimizer))


def test_mixed_precision_on_the_cpu_is_bfloat16(trainer_of):
    trainer = trainer_of("amp", "SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cpu")
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    convolution = next(m for m in trainer.model.modules() if isinstance(m, torch.nn.Conv2d))
    norm = next(m for m in trainer.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.num_features == convolution.out_channels  # it follows the convolution
    seen = set()
    norm.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].dtype))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert seen == {torch.bfloat16}
    after = dict(trainer.model.named_parameters())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after.values())
    moved = sum(not torch.equal(before[n], after[n]) for n in before)
    assert moved > 0.9 * len(before)


def test_a_failing_evaluation_leaves_the_checkpoint(config_file, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("evaluation broke")

    (tmp_path / "out").mkdir()
    (tmp_path / "out/results.json").write_text("{}")  # of an earlier training
    monkeypatch.setattr(Trainer, "build_evaluator", fail)
    with pytest.raises(RuntimeError, match="evaluation broke"):
        train_or_evaluate(arguments(config_file))
    assert (tmp_path / "out/model_final.pth").stat().st_size > 0
    assert not (tmp_path / "out/results.json").exists()


def test_loss_that_is_no_number_gives_a_hint(trainer_of):
    trainer = trainer_of("nan")
    torch.nn.init.constant_(next(trainer.model.parameters()), float("nan"))
    with pytest.raises(FloatingPointError, match=r"(?s)iteration=0.*smaller SOLVER\.BASE_LR"):
        trainer.train()


def test_ctrl_c_finishes_the_iteration_and_saves(trainer_of, tmp_path, monkeypatch):
    trainer = trainer_of("stopped", "SOLVER.MAX_ITER", "50")
    trainer.resume_or_load(resume=False)
    forward = trainer.model.forward

    def interrupted(batch):
        if trainer.iter == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(batch)

    monkeypatch.setattr(trainer.model, "forward", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "stopped/last_checkpoint").read_text() == "model_0000002.pth"

    resumed = trainer_of("stopped", "SOLVER.MAX_ITER", "50")
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3 and resumed.scheduler.last_epoch == 3
    assert_same(trainer.model.state_dict(), resumed.model.state_dict())
    assert_same(optimizer_tensors(trainer.optimizer), optimizer_tensors(resumed.optimizer))


@pytest.fixture
def ctrl_c():
    """Python's own answer to Ctrl-C, which a shell's background command does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_second_ctrl_c_is_not_held_back(trainer_of, tmp_path, monkeypatch, ctrl_c):
    trainer = trainer_of("killed", "SOLVER.MAX_ITER", "50")
    trainer.resume_or_load(resume=False)

    def interrupted_twice(_):
        # Not os.kill: its signals go to any thread. Two that wait together count as one: the second
        # follows when the first has been held, which gives the signal back.
        holding = signal.getsignal(signal.SIGINT)
        end = time.monotonic() + 30
        signal.raise_signal(signal.SIGINT)
        while signal.getsignal(signal.SIGINT) == holding and time.monotonic() < end:
            time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)
        time.sleep(1)
        raise AssertionError("the second must end the iteration")

    monkeypatch.setattr(trainer.model, "forward", interrupted_twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not (tmp_path / "killed/last_checkpoint").exists()


def test_starting_anew_over_a_checkpoint_is_told(trainer_of, tmp_path, monkeypatch):
    first = trainer_of("twice", "SOLVER.MAX_ITER", "1")
    first.resume_or_load(resume=False)
    first.train()
    said = []
    second = trainer_of("twice", "SOLVER.MAX_ITER", "1")
    monkeypatch.setattr(
        trainer_module.logger, "warning", lambda text, *args: said.append(text % args)
    )
    second.resume_or_load(resume=False)
    (line,) = said
    assert str(tmp_path / "twice/model_final.pth") in line and "--resume would go on" in line
    assert second.start_iter == 0


def test_predictor_of_detectron2_works(trainer_of, tmp_path):
    from detectron2.engine import DefaultPredictor

    trainer = trainer_of("predict", "SOLVER.MAX_ITER", "1")
    trainer.resume_or_load(resume=False)
    trainer.train()
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(tmp_path / "predict/model_final.pth")
    picture = torch.randint(0, 256, (31, WIDTH, 3), dtype=torch.uint8).numpy()
    found = DefaultPredictor(cfg)(picture)
    assert found["sem_seg"].shape == (3, 31, WIDTH)
    assert found["panoptic_seg"][0].shape == (31, WIDTH)
