"""Several processes on a CPU: spawned by us, and by torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from tiny_training import (
    Losses,
    arguments,
    assert_same,
    diverge,
    train_and_accumulate,
    train_and_save,
)

from axial_d2.engine import SetupError, launch, under_torchrun

ROOT = Path(__file__).parents[2]
OPTIONS = ("SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()", "MODEL.DEVICE", "cpu")


def assert_same_weights(out):
    first, second = (torch.load(out / f"rank{rank}.pt") for rank in (0, 1))
    assert first.keys() == second.keys() and len(first) > 50
    assert all(torch.equal(first[name], second[name]) for name in first)


def assert_gloo_threads_ended_before_python(out):
    """A thread that meets the interpreter's end aborts the process, now and then."""
    if sys.platform != "linux":
        return
    for rank in (0, 1):
        assert int((out / f"threads{rank}.txt").read_text()) > 0
        assert int((out / f"threads_at_exit{rank}.txt").read_text()) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: this is for the CPU")
def test_two_spawned_processes_end_with_the_same_weights(config_file, tmp_path):
    launch(train_and_save, 2, args=(arguments(config_file, *OPTIONS),))
    assert_same_weights(tmp_path / "out")
    assert (tmp_path / "out/model_final.pth").exists()
    assert (tmp_path / "out/log.txt.rank1").exists()
    assert_gloo_threads_ended_before_python(tmp_path / "out")


def test_two_processes_of_torchrun_end_with_the_same_weights(config_file, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
        "from tiny_training import arguments, train_and_save\n"
        "from axial_d2.engine import launch\n"
        f"args = arguments({str(config_file)!r}, *{OPTIONS!r})\n"
        "launch(train_and_save, args=(args,))\n"
    )
    run = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
    run += ["--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*run, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_weights(tmp_path / "out")
    assert_gloo_threads_ended_before_python(tmp_path / "out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: this is for the CPU")
def test_two_processes_with_average_lookahead_and_accumulation(seed, config_file, tmp_path):
    options = (*OPTIONS, "SOLVER.OPTIMIZER", "RADAM", "SOLVER.LOOKAHEAD.ENABLED", "True")
    options += ("SOLVER.LOOKAHEAD.STEPS", "2", "SOLVER.ACCUMULATION_STEPS", "2")
    options += ("SOLVER.EMA.ENABLED", "True")
    args = arguments(config_file, *options)
    pictures = torch.randn(4, 4, 3, 5, 7)  # batches, pictures of one
    net = Losses()
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    launch(train_and_accumulate, 2, args=(args, pictures, weights, str(tmp_path)))

    out = tmp_path / "out"
    assert_same_weights(out)
    assert_gloo_threads_ended_before_python(out)
    first, second = (torch.load(out / f"evaluated{rank}.pt") for rank in (0, 1))
    assert_same(first, second)
    assert_same(first, torch.load(out / "model_final.pth")["model"])
    trained = torch.load(out / "rank0.pt")
    assert any(not torch.equal(trained[name], first[name]) for name in trained)

    # Accumulation: all pictures of an iteration in one batch, one reduction of the one bucket.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    whole = SimpleTrainer(net, [pictures[:2].flatten(0, 1), pictures[2:].flatten(0, 1)], optimizer)
    for whole.iter in range(2):
        with EventStorage(whole.iter):
            whole.run_step()
    (first, reductions), (second, _) = (
        torch.load(tmp_path / f"accumulated{rank}.pt") for rank in (0, 1)
    )
    assert_same(first, second)
    assert reductions == [0, 0]
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: this is for the CPU")
def test_a_loss_that_is_not_finite_ends_several_processes_with_one_line(capfd):
    with pytest.raises(SystemExit) as caught:
        launch(diverge, 2)
    assert caught.value.code == 1
    errors = capfd.readouterr().err
    assert "error: loss became infinite or NaN at iteration=3\n" in errors
    assert "Traceback" not in errors


def test_one_process_is_this_one():
    seen = []
    launch(lambda *args: seen.append((os.getpid(), *args)), args=(1, 2))
    assert seen == [(os.getpid(), 1, 2)]
    assert not under_torchrun()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank: expected 0 to 1 .* got 2"),
        ({"num_machines": 2}, "--dist-url: several machines need tcp://HOST:PORT"),
    ],
)
def test_mistakes_in_the_arguments(kwargs, message):
    with pytest.raises(SetupError, match=message):
        launch(print, 1, **kwargs)


def test_more_processes_than_gpus_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SetupError, match="--num-gpus: expected at most 2, the GPUs found, got 3"):
        launch(print, 3)


def test_num_gpus_must_agree_with_torchrun(monkeypatch):
    values = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}
    for name, value in {**values, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert under_torchrun()
    with pytest.raises(SetupError, match="torchrun started 2 processes here, got 4"):
        launch(print, 4)
