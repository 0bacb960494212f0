"""The average of the weights: its numbers, what is evaluated, saved and resumed."""

import pytest
import torch
from detectron2.engine import DefaultPredictor, DefaultTrainer
from tiny_training import WIDTH, arguments, assert_same, optimizer_tensors
from torch import nn

from axial_d2.engine import SetupError, Trainer, load_config, train_or_evaluate
from axial_d2.engine.average import AverageWeights

ON = ("SOLVER.EMA.ENABLED", "True")
EVERYTHING = (
    *ON,
    *("SOLVER.OPTIMIZER", "RADAM", "SOLVER.LOOKAHEAD.ENABLED", "True"),
    *("SOLVER.LOOKAHEAD.STEPS", "2", "SOLVER.ACCUMULATION_STEPS", "2"),
    *("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"),
)


def started(trainer, *, resume=False):
    trainer.resume_or_load(resume=resume)
    return trainer


def test_numbers_worked_by_hand():
    net = nn.BatchNorm1d(1)
    average = AverageWeights(net, decay=0.2)
    seen = []
    for number in (1.0, 2.0, 4.0, 8.0):
        net.weight.data.fill_(number)
        net.running_mean.fill_(-number)
        net.num_batches_tracked.fill_(int(number))
        average.after_step()
        seen.append((average.model.weight.item(), average.model.running_mean.item()))
        assert average.model.num_batches_tracked == int(number)
    # The first is taken over; then the decay is 2/11, and 0.2 from 3/12 on.
    second = (2 * 1 + 9 * 2) / 11
    third = 0.2 * second + 0.8 * 4
    expected = [1.0, second, third, 0.2 * third + 0.8 * 8]
    assert [weight for weight, _ in seen] == pytest.approx(expected)
    assert [mean for _, mean in seen] == pytest.approx([-e for e in expected])
    assert average.updates == 4 and net.weight.item() == 8.0
    assert not any(p.requires_grad for p in average.model.parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=f"decay: expected 0 or more .* got {decay}"):
        AverageWeights(nn.Linear(1, 1), decay)


def test_resumed_equals_unbroken_with_everything_on(trainer_of, tmp_path):
    options = (*EVERYTHING, "SOLVER.MAX_ITER", "5", "SOLVER.CHECKPOINT_PERIOD", "3")
    whole = started(trainer_of("whole", *options))
    whole.train()
    (tmp_path / "whole/last_checkpoint").write_text("model_0000002.pth")
    resumed = started(trainer_of("whole", *options), resume=True)
    assert resumed.start_iter == 3 and resumed._average.updates == 3
    resumed.train()

    assert_same(whole.model.state_dict(), resumed.model.state_dict())
    assert_same(whole.evaluated_model.state_dict(), resumed.evaluated_model.state_dict())
    assert_same(optimizer_tensors(whole.optimizer), optimizer_tensors(resumed.optimizer))
    slow, again = (t.optimizer.state_dict()["lookahead"] for t in (whole, resumed))
    assert slow["steps_done"] == again["steps_done"] == 5
    assert_same(dict(enumerate(slow["slow"])), dict(enumerate(again["slow"])))
    assert whole.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]


def test_the_average_does_not_change_the_training(trainer_of):
    plain = trainer_of("plain", "SOLVER.MAX_ITER", "2")
    averaged = trainer_of("averaged", *ON, "SOLVER.MAX_ITER", "2")
    averaged.model.load_state_dict(plain.model.state_dict())
    plain.train()
    averaged.train()
    assert_same(plain.model.state_dict(), averaged.model.state_dict())


def test_what_is_evaluated_is_saved_and_gives_the_same_numbers(config_file, tmp_path, monkeypatch):
    evaluated = []
    test = DefaultTrainer.test.__func__

    def recorded(cls, cfg, model, evaluators=None):
        evaluated.append({k: v.clone() for k, v in model.state_dict().items()})
        return test(cls, cfg, model, evaluators)

    monkeypatch.setattr(DefaultTrainer, "test", classmethod(recorded))
    options = (*ON, "TEST.EVAL_PERIOD", "3", "SOLVER.CHECKPOINT_PERIOD", "3")
    train_or_evaluate(arguments(config_file, *options))
    out = tmp_path / "out"
    results = (out / "results.json").read_text()
    for number, name in enumerate(("model_0000002.pth", "model_final.pth")):
        saved = torch.load(out / name)
        assert_same(saved["model"], evaluated[number])
        raw = saved["trainer"]["hooks"]["AverageWeights"]["training_weights"]
        assert raw.keys() == saved["model"].keys()
        assert sum(not torch.equal(raw[n], saved["model"][n]) for n in raw) > 0.5 * len(raw)

    # The file that the summary names, by MODEL.WEIGHTS and by --resume, with and without the key.
    weights = ("MODEL.WEIGHTS", str(out / "model_final.pth"))
    for words, given in ((weights, {}), (ON, {"resume": True})):
        (out / "results.json").unlink()
        train_or_evaluate(arguments(config_file, *words, eval_only=True, **given))
        assert (out / "results.json").read_text() == results
    assert_same(evaluated[2], evaluated[1])
    assert_same(evaluated[3], evaluated[1])
    predictor = DefaultPredictor(load_config(str(config_file), list(weights)))
    assert_same(predictor.model.state_dict(), evaluated[1])
    picture = torch.randint(0, 256, (31, WIDTH, 3), dtype=torch.uint8).numpy()
    assert predictor(picture)["sem_seg"].shape == (3, 31, WIDTH)


def test_an_evaluation_that_fails_leaves_both_models(config_file, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("evaluation broke")

    monkeypatch.setattr(Trainer, "build_evaluator", fail)
    trainer = started(Trainer(load_config(str(config_file), [*ON, "SOLVER.MAX_ITER", "2"])))
    with pytest.raises(RuntimeError, match="evaluation broke"):
        trainer.train()
    saved = torch.load(tmp_path / "out/model_final.pth")
    raw = saved["trainer"]["hooks"]["AverageWeights"]["training_weights"]
    assert_same(saved["model"], trainer.evaluated_model.state_dict())
    assert_same(raw, trainer.model.state_dict())


def test_the_average_may_be_switched_off_and_on_at_a_resume(trainer_of):
    first = started(trainer_of("switched", *ON, "SOLVER.MAX_ITER", "2"))
    first.train()
    off = started(trainer_of("switched", "SOLVER.MAX_ITER", "4"), resume=True)
    assert_same(first.model.state_dict(), off.model.state_dict())  # not the average
    assert off.start_iter == 2 and off.evaluated_model is off.model
    off.train()
    on = started(trainer_of("switched", *ON, "SOLVER.MAX_ITER", "5"), resume=True)
    assert on.start_iter == 4 and on._average.updates == 0
    assert_same(off.model.state_dict(), on.model.state_dict())
    on.train()
    assert_same(on.model.state_dict(), on.evaluated_model.state_dict())  # of one iteration


def test_a_resume_with_other_parameter_groups_is_told(trainer_of):
    trainer_of("groups", "SOLVER.MAX_ITER", "1").train()
    other = trainer_of("groups", "SOLVER.MAX_ITER", "2", "SOLVER.WEIGHT_DECAY_TABLE", "0.5")
    with pytest.raises(SetupError, match=r"model_final\.pth: .*SOLVER\.WEIGHT_DECAY_TABLE"):
        other.resume_or_load(resume=True)


def test_weights_to_start_from_reach_both_models(trainer_of, tmp_path):
    first = started(trainer_of("first", *ON, "SOLVER.MAX_ITER", "2"))
    first.train()
    weights = ("MODEL.WEIGHTS", str(tmp_path / "first/model_final.pth"))
    second = started(trainer_of("second", *ON, *weights))
    assert second.start_iter == second._average.updates == 0
    assert_same(second.model.state_dict(), first.evaluated_model.state_dict())
    assert_same(second.evaluated_model.state_dict(), first.evaluated_model.state_dict())
