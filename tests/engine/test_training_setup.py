"""From command line to config: mistakes are told in one line that names file, key and neighbour."""

import shutil

import pytest
import torch
import yaml
from tiny_training import arguments

from axial_d2.engine import SetupError, argument_parser, load_config, setup_cfg

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def edited(config_file, name, **changes):
    """A copy of the config with other values under MODEL; returns its path."""
    content = yaml.safe_load(config_file.read_text())
    content["MODEL"].update(changes)
    path = config_file.with_name(name)
    path.write_text(yaml.safe_dump(content))
    return path


def test_config_is_read_frozen_and_its_dataset_registered(config_file):
    from detectron2.data import DatasetCatalog

    cfg = load_config(str(config_file), ["SOLVER.BASE_LR", "0.5"])
    assert cfg.is_frozen()
    assert cfg.SOLVER.BASE_LR == 0.5
    assert len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == 6


@no_gpu
def test_cpu_is_taken_where_there_is_no_gpu_unless_cuda_is_asked_for(config_file):
    assert load_config(str(config_file)).MODEL.DEVICE == "cpu"
    with pytest.raises(SetupError, match="MODEL.DEVICE: cuda was asked for on the command line"):
        load_config(str(config_file), ["MODEL.DEVICE", "cuda"])


def test_missing_file_is_named_with_its_nearest(config_file):
    wrong = config_file.with_name("tinny.yaml")
    with pytest.raises(SetupError, match=r"no such file: .*tinny\.yaml \(nearest: .*tiny\.yaml"):
        load_config(str(wrong))


def test_config_file_is_required():
    with pytest.raises(SetupError, match="--config-file FILE is required"):
        load_config("")


def test_unknown_key_names_its_file_and_the_nearest_key(config_file):
    wrong = edited(config_file, "wrong.yaml", AXIAL_RESNET={"WIDTH_MULTIPLIR": 0.5})
    with pytest.raises(
        SetupError,
        match=r"wrong\.yaml: unknown config key MODEL\.AXIAL_RESNET\.WIDTH_MULTIPLIR "
        r"\(nearest: MODEL\.AXIAL_RESNET\.WIDTH_MULTIPLIER",
    ):
        load_config(str(wrong))


def test_the_file_named_is_the_base_where_the_mistake_is_the_bases(config_file):
    edited(config_file, "base.yaml", NO_SUCH_THING=1)
    leaf = config_file.with_name("leaf.yaml")
    leaf.write_text("_BASE_: base.yaml\nSEED: 3\n")
    with pytest.raises(SetupError, match=r"base\.yaml: unknown config key MODEL\.NO_SUCH_THING"):
        load_config(str(leaf))


def test_of_several_bases_the_one_with_the_mistake_is_named(config_file):
    good, bad = config_file.with_name("good.yaml"), config_file.with_name("bad.yaml")
    good.write_text("SEED: 4\n")
    bad.write_text("SOLVER: {NO_SUCH_RATE: 1}\n")
    leaf = config_file.with_name("leaf.yaml")
    leaf.write_text("_BASE_: [bad.yaml, good.yaml]\n")
    with pytest.raises(SetupError, match=r"bad\.yaml: unknown config key SOLVER\.NO_SUCH_RATE"):
        load_config(str(leaf))
    # The last base wins, so its mistake is the one that is met.
    leaf.write_text("_BASE_: [good.yaml, last.yaml]\n")
    good.write_text("SEED: [1]\n")
    config_file.with_name("last.yaml").write_text("SEED: [2]\n")
    with pytest.raises(SetupError, match=r"last\.yaml: SEED: expected a value of type int"):
        load_config(str(leaf))


def test_missing_base_is_told(config_file):
    leaf = config_file.with_name("leaf.yaml")
    leaf.write_text("_BASE_: gone.yaml\n")
    with pytest.raises(SetupError, match=r"leaf\.yaml: the file of its _BASE_ is missing.*gone"):
        load_config(str(leaf))


def test_wrong_type_names_expected_and_came(config_file):
    wrong = edited(config_file, "wrong.yaml", AXIAL_RESNET={"DEPTH": "deep"})
    with pytest.raises(
        SetupError,
        match=r"wrong\.yaml: MODEL\.AXIAL_RESNET\.DEPTH: expected a value of type int \(its "
        r"default is 50\), got str",
    ):
        load_config(str(wrong))


def test_broken_yaml_names_file_and_line(config_file):
    broken = config_file.with_name("broken.yaml")
    broken.write_text("MODEL:\n  DEVICE: [cpu\n")
    with pytest.raises(SetupError, match=r"(?s)broken\.yaml: not valid YAML.*line"):
        load_config(str(broken))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["SOLVER.WEIGHTS", "x"], r"unknown config key SOLVER\.WEIGHTS \(nearest: MODEL\.WEIGHTS"),
        (["SOLVR.BASE_LR", "1"], r"unknown config key SOLVR\.BASE_LR \(nearest: SOLVER\.BASE_LR"),
        (["SOLVER.MAX_ITER"], "expected KEY VALUE pairs after the options, got 1 words"),
        (["SEED", "1", "--resume"], "expected --resume before the KEY VALUE pairs"),
        (["SEED", "1", "--num-gpus", "2"], "expected --num-gpus before the KEY VALUE pairs"),
        (["SOLVER.MAX_ITER", "many"], r"SOLVER\.MAX_ITER: expected a value of type int"),
    ],
)
def test_mistakes_on_the_command_line(config_file, options, message):
    with pytest.raises(SetupError, match=f"^command line: {message}"):
        load_config(str(config_file), options)


def test_unregistered_dataset_is_an_error_before_anything_is_built(config_file):
    with pytest.raises(SetupError, match="tiny_training_panoptik"):
        load_config(str(config_file), ["DATASETS.TEST", "('tiny_training_panoptik',)"])


def test_output_that_cannot_be_written_is_an_error(config_file, tmp_path):
    (tmp_path / "file").write_text("")
    args = arguments(config_file, "OUTPUT_DIR", str(tmp_path / "file" / "out"))
    with pytest.raises(SetupError, match="OUTPUT_DIR: cannot write to .*file/out"):
        setup_cfg(args)


def test_setup_writes_config_and_log_and_seeds(config_file, tmp_path):
    draws = []
    for _ in range(2):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        setup_cfg(arguments(config_file))
        draws.append(torch.rand(3))
    assert torch.equal(*draws)
    assert yaml.safe_load((tmp_path / "out/config.yaml").read_text())["SEED"] == 7


def test_arguments_are_detectron2s(capsys):
    from detectron2.engine import default_argument_parser

    words = ["--config-file", "f.yaml", "--num-gpus", "2", "--resume", "SOLVER.MAX_ITER", "3"]
    ours = vars(argument_parser().parse_args(words))
    theirs = vars(default_argument_parser().parse_args(words))
    assert ours.keys() == theirs.keys()
    assert {k: v for k, v in ours.items() if k != "dist_url"} == {
        k: v for k, v in theirs.items() if k != "dist_url"
    }
    with pytest.raises(SystemExit):
        argument_parser().parse_args(["--num-gpus", "0"])
    assert "expected 1 or more, got 0" in capsys.readouterr().err
