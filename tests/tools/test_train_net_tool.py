"""tools/train_net.py as a user calls it."""

import pytest
import torch


def test_the_end_tells_numbers_and_files(tool, trained, capsys):
    checkpoint = trained / "out/model_final.pth"
    words = ("--config-file", trained / "tiny.yaml", "--eval-only", "MODEL.WEIGHTS", checkpoint)
    assert tool("train_net")(*words) == 0
    last = capsys.readouterr().out.split("mIoU")[-1]
    assert f"results:    {trained}/out/results.json" in last
    assert f"checkpoint: {checkpoint}" in last
    assert f"log:        {trained}/out/log.txt" in last


def test_evaluation_without_weights_is_one_line(tool, trained, capsys):
    words = ("--config-file", trained / "tiny.yaml", "--eval-only")
    assert tool("train_net")(*words) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: MODEL.WEIGHTS: expected a file with trained weights, got none (OUTPUT_DIR has one: "
        f"{trained}/out/model_final.pth)"
    )


def test_wrong_file_and_key_are_one_line(tool, trained, capsys):
    run = tool("train_net")
    assert run("--config-file", trained / "tinny.yaml") == 1
    assert run("--config-file", trained / "tiny.yaml", "SOLVER.LR", "1") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "no such file" in first and "tiny.yaml" in first
    assert second.startswith("error: command line: unknown config key SOLVER.LR (nearest: ")


def test_help_has_examples(tool, capsys):
    with pytest.raises(SystemExit) as end:
        tool("train_net")("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for words in ("--num-gpus 4", "torchrun --nproc_per_node 4", "--resume", "--eval-only"):
        assert words in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: this is for the CPU")
def test_mistake_found_by_two_processes_ends_both_with_one_line(tool, trained, capfd):
    words = ("--config-file", trained / "tiny.yaml", "--num-gpus", "2")
    words += ("SOLVER.IMS_PER_BATCH", "3", "OUTPUT_DIR", trained / "two")
    with pytest.raises(SystemExit) as end:
        tool("train_net")(*words)
    assert end.value.code == 1
    said = capfd.readouterr().err
    assert {line for line in said.splitlines() if line.startswith("error: ")} == {
        "error: SOLVER.IMS_PER_BATCH: expected a multiple of the 2 processes, which share it; got 3"
    }
    assert "Traceback" not in said
