"""ImageNet's way through tools/train_net.py, on three colours."""

import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from tiny_folders import COLORS, write_classifier_config, write_folders

from axial_d2.engine import load_config


@pytest.fixture(scope="module")
def colors(tmp_path_factory, tool):
    """A folder with data/, colors.yaml and out/, in which a classifier has been trained."""
    root = tmp_path_factory.mktemp("colors")
    folders = write_folders(root / "data")
    config = write_classifier_config(root / "colors.yaml", folders, root / "out")
    assert tool("train_net")("--config-file", config) == 0
    return root


def results(directory):
    return json.loads((directory / "results.json").read_text())["classification"]


def test_it_learns_the_classes(colors):
    scores = results(colors / "out")
    assert scores["top1"] >= 90
    assert scores["top5"] == 100
    lines = (colors / "out/metrics.json").read_text().splitlines()
    losses = [row["total_loss"] for row in map(json.loads, lines) if "total_loss" in row]
    assert losses[-1] < 0.2 < np.log(3)


def test_evaluation_alone_gives_the_same(colors, tool, capsys):
    words = ("--config-file", colors / "colors.yaml", "--eval-only")
    words += ("MODEL.WEIGHTS", colors / "out/model_final.pth", "OUTPUT_DIR", colors / "again")
    assert tool("train_net")(*words) == 0
    assert results(colors / "again") == results(colors / "out")
    header, _, row = capsys.readouterr().out.split("top1")[-1].splitlines()[:3]
    assert header.split() == ["top5"]
    assert row.split() == [f"{results(colors / 'out')['top1']:.1f}", "100.0"]


def test_default_predictor_classifies_a_whole_picture(colors):
    options = ["MODEL.WEIGHTS", str(colors / "out/model_final.pth")]
    predictor = DefaultPredictor(load_config(str(colors / "colors.yaml"), options))
    right = 0
    for label, name in enumerate(sorted(COLORS)):
        for number in range(4):
            image = read_image(str(colors / f"data/val/{name}/{number}.jpg"), format="BGR")
            scores = predictor(image)["scores"]
            assert scores.shape == (3,) and scores.sum().item() == pytest.approx(1, abs=1e-5)
            right += scores.argmax().item() == label
        # 44 by 61 pixels: not a multiple of the stride either way.
        assert predictor(image[:, :53])["scores"].isfinite().all()
    assert right >= 10
    assert predictor.metadata.classes == sorted(COLORS)


def test_training_is_resumed(colors, tool):
    shutil.copytree(colors / "out", colors / "longer")
    words = ("--config-file", colors / "colors.yaml", "--resume")
    assert tool("train_net")(*words, "SOLVER.MAX_ITER", 42, "OUTPUT_DIR", colors / "longer") == 0
    saved = torch.load(colors / "longer/model_final.pth", weights_only=True)
    assert saved["iteration"] == 41


def refused(tool, capsys, colors, *words):
    """What train_net says against a config with other values, from its one "error: " on."""
    arguments = ("--config-file", colors / "colors.yaml", *words, "OUTPUT_DIR", colors / "refused")
    assert tool("train_net")(*arguments) == 1
    # Before it stand the log's complaints of streams that pytest has closed.
    _, text = capsys.readouterr().err.split("error: ")
    return text.strip()


def test_mistakes_are_one_clear_error(colors, tool, capsys, tmp_path):
    def error(*words):
        return refused(tool, capsys, colors, *words)

    assert error("MODEL.AXIAL_CLASSIFIER.NUM_CLASSES", 1000) == (
        "MODEL.AXIAL_CLASSIFIER.NUM_CLASSES: expected 3, the number of class folders of dataset "
        "tiny_folders_train, got 1000"
    )
    assert error("INPUT.CROP_SIZE", "(0, 0)") == (
        "INPUT: INPUT.CROP_SIZE: expected (height, width) in pixels, such as (224, 224) for a "
        "classifier, came (0, 0)"
    )
    assert error("DATASETS.TRAIN", "('coco_2017_val_panoptic',)") == (
        "DATASETS.TRAIN: expected a dataset of class folders (see DATASETS.IMAGE_FOLDERS) for the "
        "model AxialClassifier, got 'coco_2017_val_panoptic'"
    )
    assert error("MODEL.META_ARCHITECTURE", "AxialDeepLab") == (
        "DATASETS.TRAIN: expected a panoptic dataset for the model AxialDeepLab, got "
        "'tiny_folders_train'"
    )
    folders = write_folders(tmp_path / "odd", pictures=1)
    (tmp_path / "odd/val/red").rename(tmp_path / "odd/val/rot")
    named = [{"name": f"odd_{f['name']}", "root": f["root"]} for f in folders]
    names = [f"('{entry['name']}',)" for entry in named]
    opts = ("DATASETS.IMAGE_FOLDERS", named, "DATASETS.TRAIN", names[0], "DATASETS.TEST", names[1])
    assert "folders of 'odd_tiny_folders_train'; lacks red, has besides rot" in error(*opts)
    gone = [{"name": "gone", "root": str(tmp_path / "gone")}]
    assert f"{tmp_path}/gone, came nothing" in error("DATASETS.IMAGE_FOLDERS", gone)
    words = ("DATASETS.TEST", "('imagenet_val',)")
    assert "the dataset 'imagenet_val': expected a folder" in error(*words)
    assert error(*words, "DATASETS.CHECK", False).startswith("the dataset 'imagenet_val': expected")


def test_demo_says_that_it_draws_segments(colors, tool, capsys, tmp_path):
    picture = next((colors / "data/val/red").iterdir())
    words = ("--config-file", colors / "colors.yaml", "--input", picture, "--output", tmp_path)
    words += ("--opts", "MODEL.WEIGHTS", colors / "out/model_final.pth")
    assert tool("demo")(*words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a model that finds segments to draw, got the classifier" in line
