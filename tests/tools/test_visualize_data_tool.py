"""tools/visualize_data.py and what it calls."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "engine"))
from tiny_training import write_config, write_dataset  # noqa: E402

from axial_d2.engine import SetupError, draw_training_data, load_config  # noqa: E402

ROOT = Path(__file__).parents[2]
NAME = "tests_visualize_data"


@pytest.fixture
def config(tmp_path):
    dataset = write_dataset(tmp_path / "data", pictures=2)
    return write_config(tmp_path / "c.yaml", dataset, NAME, tmp_path / "out")


def draw(config, output, *options, name=None, **more):
    cfg = load_config(str(config), list(options))
    settings = {"limit": None, "draws": 1, "seed": 0, **more}
    return list(draw_training_data(cfg, name, str(output), **settings))


def test_a_seed_gives_the_same_sheets_again(config, tmp_path):
    options = ("INPUT.CROP_SIZE", "(24, 24)", "INPUT.SCALE_JITTER", "(0.5, 2.0)")
    first = draw(config, tmp_path / "a", *options, draws=2)
    again = draw(config, tmp_path / "b", *options, draws=2, limit=1)
    other = draw(config, tmp_path / "c", *options, draws=2, limit=1, seed=1)
    assert [path.name for _, found in first for path in found] == [
        "p0-1.png", "p0-2.png", "p1-1.png", "p1-2.png",
    ]  # fmt: skip
    pictures = [np.asarray(Image.open(found[0][1][0])) for found in (first, again, other)]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_a_broken_picture_does_not_keep_the_others(config, tmp_path):
    (tmp_path / "data/images/p0.png").write_bytes(b"no png")
    (path, error), (_, written) = draw(config, tmp_path / "seen")
    assert isinstance(error, ValueError) and path in str(error)
    assert [p.name for p in written] == ["p1.png"]


def test_mistakes(config, tmp_path):
    with pytest.raises(SetupError, match=f"--dataset: no dataset is named .* close to it: {NAME}"):
        draw(config, tmp_path, name=NAME + "s")
    with pytest.raises(SetupError, match="expected a dataset of segmentation for the model"):
        draw(config, tmp_path, name="imagenet_val")
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="--output: cannot write to"):
        draw(config, tmp_path / "file")


def test_the_command(config, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / "tools/visualize_data.py", *arguments],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip

    (tmp_path / "data/panoptic/p1.png").write_bytes(b"no png")
    done = run("--config-file", str(config), "--output", "seen")
    assert done.returncode == 1 and "p1.png: NOT DRAWN: cannot read the picture" in done.stderr
    assert "p0.png -> seen/p0.png" in done.stdout and "Traceback" not in done.stderr
    with Image.open(tmp_path / "seen/p0.png") as sheet:
        assert sheet.width > 2000
