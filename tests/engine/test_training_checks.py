"""What is wrong is found before the first iteration."""

import pytest
import torch
from detectron2.utils import comm

from axial_d2.engine import SetupError, Trainer, load_config
from axial_d2.engine.checkpointer import Checkpointer, last_checkpoint
from axial_d2.engine.checks import check_before_evaluation, check_before_training


def test_a_right_config_passes(config_file):
    check_before_training(load_config(str(config_file)))


def test_classes_of_heads_and_dataset_must_agree(config_file):
    cfg = load_config(str(config_file), ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19"])
    with pytest.raises(SetupError, match=r"NUM_CLASSES: expected 3, .*tiny_training.*, got 19"):
        check_before_training(cfg)


def test_broken_data_stop_the_training(config_file, tiny_dataset, tmp_path):
    import shutil
    from pathlib import Path

    shutil.copytree(Path(tiny_dataset["json"]).parent, tmp_path / "broken")
    (tmp_path / "broken/panoptic/p3.png").unlink()
    entry = {k: str(tmp_path / "broken" / Path(v).name) for k, v in tiny_dataset.items()}
    options = ["DATASETS.CUSTOM", str([{"name": "tiny_broken", **entry}])]
    options += ["DATASETS.TRAIN", "('tiny_broken',)", "DATASETS.TEST", "()"]
    with pytest.raises(SetupError, match=r"p3\.png"):
        Trainer(load_config(str(config_file), options))
    check_before_training(load_config(str(config_file), [*options, "DATASETS.CHECK", "False"]))


def test_weights_must_be_there(config_file, tmp_path):
    cfg = load_config(str(config_file), ["MODEL.WEIGHTS", str(tmp_path / "no.pth")])
    with pytest.raises(SetupError, match=r"MODEL\.WEIGHTS: no such file: .*no\.pth"):
        check_before_training(cfg)


def test_evaluation_needs_weights_and_is_told_of_those_at_hand(config_file, tmp_path):
    cfg = load_config(str(config_file))
    with pytest.raises(SetupError, match="expected a file with trained weights, got none$"):
        check_before_evaluation(cfg, resume=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model_final.pth").write_bytes(b"")
    (tmp_path / "out/last_checkpoint").write_text("model_final.pth")
    with pytest.raises(SetupError, match=r"OUTPUT_DIR has one: .*out/model_final\.pth"):
        check_before_evaluation(cfg, resume=False)
    check_before_evaluation(cfg, resume=True)
    assert last_checkpoint(cfg.OUTPUT_DIR) == str(tmp_path / "out/model_final.pth")


@pytest.mark.parametrize("key", ["MAX_ITER", "IMS_PER_BATCH"])
def test_nothing_to_do_is_refused(config_file, key):
    cfg = load_config(str(config_file), [f"SOLVER.{key}", "0"])
    with pytest.raises(SetupError, match=f"SOLVER.{key}: expected 1 or more, got 0"):
        check_before_training(cfg)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ACCUMULATION_STEPS", "0", "1 or more"),
        ("LOOKAHEAD.STEPS", "0", "1 or more"),
        ("CHECKPOINT_PERIOD", "0", "1 or more"),
        ("BASE_LR", "-1.0", "more than 0"),
        ("CLIP_GRADIENTS.CLIP_VALUE", "-1.0", "more than 0"),
        ("MOMENTUM", "-0.5", "0 or more"),
        ("POLY_LR_POWER", "-1.0", "0 or more"),
        ("WARMUP_ITERS", "-5", "0 or more"),
        ("WARMUP_FACTOR", "-0.1", "0 or more"),
        ("LOOKAHEAD.ALPHA", "0.0", "more than 0 and at most 1"),
        ("LOOKAHEAD.ALPHA", "1.1", "more than 0 and at most 1"),
        ("EMA.DECAY", "1.0", "0 or more and less than 1"),
        ("EMA.DECAY", "-0.5", "0 or more and less than 1"),
        ("WEIGHT_DECAY", "-0.1", "a number, 0 or more"),
        ("WEIGHT_DECAY_NORM", "-0.1", "a number, 0 or more, or None: as all others"),
        ("WEIGHT_DECAY_TABLE", "-0.1", "a number, 0 or more, or None: as all others"),
        ("WEIGHT_DECAY_TABLE", "none", "a number, 0 or more, or None: as all others"),
        ("WARMUP_METHOD", "cubic", "one of constant, linear"),
        ("CLIP_GRADIENTS.CLIP_TYPE", "global", "one of full_model, norm, value"),
    ],
)
def test_values_of_the_solver_out_of_range(config_file, key, value, expected):
    cfg = load_config(str(config_file), [f"SOLVER.{key}", value])
    with pytest.raises(SetupError, match=f"^SOLVER.{key}: expected {expected}; got {value}$"):
        check_before_training(cfg)


def test_the_solvers_limits_pass(config_file):
    options = ["SOLVER.LOOKAHEAD.ALPHA", "1.0", "SOLVER.EMA.DECAY", "0.0"]
    options += ["SOLVER.WEIGHT_DECAY_TABLE", "0", "SOLVER.WEIGHT_DECAY_NORM", "None"]
    check_before_training(load_config(str(config_file), options))


def test_what_does_not_go_together_in_the_solver(config_file):
    options = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.NESTEROV", "True", "SOLVER.MOMENTUM", "0.0"]
    with pytest.raises(SetupError, match=r"SOLVER\.MOMENTUM: expected more than 0 with .*NESTEROV"):
        check_before_training(load_config(str(config_file), options))
    options = ["SOLVER.EMA.ENABLED", "True", "TEST.PRECISE_BN.ENABLED", "True"]
    with pytest.raises(SetupError, match=r"PRECISE_BN\.ENABLED: expected False with SOLVER\.EMA"):
        check_before_training(load_config(str(config_file), options))


def test_batch_is_shared_evenly(config_file, monkeypatch):
    cfg = load_config(str(config_file))
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    with pytest.raises(SetupError, match="IMS_PER_BATCH: expected a multiple of the 4 .* got 2"):
        check_before_training(cfg)


def test_syncbn_on_several_cpu_processes_is_refused_with_the_keys(config_file, monkeypatch):
    cfg = load_config(
        str(config_file), ["MODEL.SEM_SEG_HEAD.NORM", "SyncBN", "MODEL.DEVICE", "cpu"]
    )
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    with pytest.raises(SetupError, match=r"naiveSyncBN or BN for .*MODEL\.SEM_SEG_HEAD\.NORM"):
        check_before_training(cfg)


def test_values_that_the_model_refuses_are_told_in_one_line(config_file):
    cfg = load_config(str(config_file), ["MODEL.AXIAL_RESNET.DEPTH", "27"])
    with pytest.raises(SetupError, match=r"the model cannot be built: .*27"):
        Trainer.build_model(cfg)
    cfg = load_config(str(config_file), ["MODEL.BACKBONE.NAME", "build_no_such_backbone"])
    with pytest.raises(SetupError, match="the model cannot be built: .*build_no_such_backbone"):
        Trainer.build_model(cfg)


def test_a_file_of_another_model_is_an_error_and_a_partial_one_is_not(tmp_path):
    torch.save({"model": {"a.weight": torch.zeros(2, 5)}}, tmp_path / "other.pth")
    torch.save({"model": {"0.weight": torch.ones(4, 3)}}, tmp_path / "part.pth")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    with pytest.raises(SetupError, match=r"other\.pth: weights of another model: none of the 1 "):
        Checkpointer(model).load(str(tmp_path / "other.pth"))
    Checkpointer(model).load(str(tmp_path / "part.pth"))
    assert (model[0].weight == 1).all()


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_a_file_that_holds_no_weights_is_told_in_one_line(tmp_path, name):
    (tmp_path / name).write_text("garbage\n")
    with pytest.raises(SetupError, match=rf"{name}: expected a file of weights, which this is not"):
        Checkpointer(torch.nn.Linear(3, 4)).load(str(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "came"),
    [
        ({"state_dict": {"weight": torch.zeros(4, 3)}}, "'state_dict', a dict"),
        ({"model": [torch.zeros(4, 3)]}, "a list"),
        ([1, 2], "a list"),
    ],
)
def test_weights_in_another_programs_form_are_told_in_one_line(tmp_path, content, came):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(SetupError, match=rf"weights\.pth: expected a file with .* got {came}"):
        Checkpointer(torch.nn.Linear(3, 4)).load(str(tmp_path / "weights.pth"))
