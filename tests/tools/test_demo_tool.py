"""tools/demo.py as a user calls it."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from axial_d2.modeling import AxialResNet


@pytest.fixture
def demo(tool, trained, tmp_path):
    """demo(word, ...) -> exit code, with config, weights and output filled in."""
    run = tool("demo")

    def call(*words, weights=trained / "out/model_final.pth"):
        fixed = ("--config-file", trained / "tiny.yaml", "--output", tmp_path / "drawn")
        opts = ("--opts", "MODEL.WEIGHTS", weights) if weights else ()
        return run(*fixed, *words, *opts)

    return call


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_broken_picture_among_many(demo, trained, tmp_path, capsys):
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    shutil.copy(trained / "data/images/p0.png", source / "a.png")
    shutil.copy(trained / "data/images/p1.png", source / "sub/a.png")
    (source / "broken.jpg").write_bytes(b"not a picture")
    whole = (trained / "data/images/p2.png").read_bytes()
    (source / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (17, 33), 80).save(source / "narrow.jpg")

    assert demo("--debug", "--input", source, source / "sub/*.png") == 1
    stems = ("a", "a_2", "narrow")
    assert names(tmp_path / "drawn") == sorted(
        f"{stem}{suffix}.png" for stem in stems for suffix in ("", "_centers", "_offsets")
    )
    said = capsys.readouterr()
    failed = [line for line in said.err.splitlines() if line.startswith(str(source))]
    assert [line.split(":")[0] for line in failed] == [f"{source}/broken.jpg", f"{source}/cut.png"]
    assert f"{source}/a.png -> {tmp_path}/drawn/a.png, " in said.out
    assert said.out.splitlines()[-1] == f"3 of 5 pictures drawn to {tmp_path}/drawn"
    drawn = np.asarray(Image.open(tmp_path / "drawn/narrow.png"))
    assert drawn.shape == (33 * 30, 17 * 30, 3)


def test_all_well_is_exit_code_0(demo, trained, tmp_path):
    assert demo("--input", trained / "data/images/p0.png") == 0
    assert names(tmp_path / "drawn") == ["p0.png"]


def test_debug_pictures_go_with_the_same_overlay(demo, trained, tmp_path):
    overlays, heat = {}, {}
    for words in ((), ("--debug",), ("--tta",), ("--tta", "--debug")):
        assert demo(*words, "--input", trained / "data/images/p0.png") == 0
        overlays[words] = np.asarray(Image.open(tmp_path / "drawn/p0.png"))
        if "--debug" in words:
            assert names(tmp_path / "drawn") == ["p0.png", "p0_centers.png", "p0_offsets.png"]
            heat[words] = np.asarray(Image.open(tmp_path / "drawn/p0_centers.png"))
    assert (overlays[()] == overlays[("--debug",)]).all()
    assert (overlays[("--tta",)] == overlays[("--tta", "--debug")]).all()
    # The maps shown are those that were averaged.
    assert heat[("--debug",)].shape == heat[("--tta", "--debug")].shape
    assert (heat[("--debug",)] != heat[("--tta", "--debug")]).any()


@pytest.mark.parametrize(("words", "sizes"), [((), 1), (("--debug",), 1), (("--tta",), 10)])
def test_the_network_runs_once_per_look(demo, trained, monkeypatch, words, sizes):
    seen = []
    forward = AxialResNet.forward
    monkeypatch.setattr(
        AxialResNet, "forward", lambda self, x: seen.append(x.shape[-2:]) or forward(self, x)
    )
    assert demo(*words, "--input", trained / "data/images/p0.png") == 0
    assert len(seen) == sizes
    assert seen.count((48, 64)) == max(1, 2 * (sizes == 10))
    if sizes == 10:
        # Scales 1.5 to 0.5 of 48x64 on multiples of 16, each twice.
        largest_first = [(80, 96), (64, 80), (48, 64), (48, 48), (32, 32)]
        assert seen == [size for size in largest_first for _ in range(2)]


def test_dataset_beside_its_truth(demo, tmp_path):
    assert demo("--dataset", "tiny_tools_panoptic", "--limit", "2") == 0
    assert names(tmp_path / "drawn") == ["p0.png", "p1.png"]
    sheet = np.asarray(Image.open(tmp_path / "drawn/p0.png"))
    assert sheet.shape == (48 * 15 + 36, 3 * 64 * 15 + 2 * 8, 3)
    # Truth in the middle: the left car, 12 rows from row 14 and 16 columns from column 4 on.
    truth = sheet[36:, 968 : 968 + 960]
    assert (truth[14 * 15, 4 * 15 : 20 * 15] == 255).all()  # its upper outline


def test_mistakes_are_one_line(demo, trained, tmp_path, capsys):
    def error():
        return capsys.readouterr().err.splitlines()[-1]

    picture = trained / "data/images/p0.png"
    assert demo("--input", picture, weights=None) == 1
    assert error().startswith("error: MODEL.WEIGHTS: expected a file with trained weights")
    assert demo("--input", picture, weights=tmp_path / "no.pth") == 1
    assert error().startswith("error: MODEL.WEIGHTS: no such file")
    torch.save({"model": {"backbone.other": torch.zeros(3)}}, tmp_path / "other.pth")
    assert demo("--input", picture, weights=tmp_path / "other.pth") == 1
    assert "weights of another model" in error()
    assert demo("--input", tmp_path / "nowhere.jpg") == 1
    assert "no such file, and no file matches" in error()
    keys = ("--tta", "--opts", "MODEL.WEIGHTS", trained / "out/model_final.pth")
    words = ("--input", picture, *keys)
    assert demo(*words, "TEST.AUG.SCALES", "()", weights=None) == 1
    assert error() == "error: TEST.AUG.SCALES: expected one positive number or more, got ()"
    assert demo(*words, "MODEL.META_ARCHITECTURE", "PanopticDeepLab", weights=None) == 1
    assert error().startswith("error: TEST.AUG.ENABLED: multi-scale and flip testing is AxialDeepL")
    assert demo("--dataset", "tiny_tool_panoptic") == 1
    expected = "error: --dataset: no dataset is named 'tiny_tool_panoptic' (nearest: tiny_tools_"
    assert error().startswith(expected)
    assert not (tmp_path / "drawn").exists()


def test_input_or_dataset_is_required(demo, capsys):
    with pytest.raises(SystemExit) as end:
        demo()
    assert end.value.code == 2
    assert "--input --dataset is required" in capsys.readouterr().err
