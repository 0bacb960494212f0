"""Fixtures of the training tests."""

import pytest
from tiny_training import write_config, write_dataset

from axial_d2.engine import Trainer, load_config

NAME = "tiny_training_panoptic"


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """The paths of the dataset of tiny_training, written once."""
    return write_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture
def config_file(tmp_path, tiny_dataset):
    """A config that trains on it; the output goes to tmp_path / "out"."""
    return write_config(tmp_path / "tiny.yaml", tiny_dataset, NAME, tmp_path / "out")


@pytest.fixture(scope="session")
def one_picture(tmp_path_factory):
    """A dataset of one picture: with no flip every batch is the same, whatever the order."""
    return write_dataset(tmp_path_factory.mktemp("one") / "data", pictures=1)


@pytest.fixture
def trainer_of(tmp_path, one_picture):
    """trainer_of(output, option, value, ...) -> Trainer on that picture, without evaluation."""
    path = write_config(tmp_path / "one.yaml", one_picture, "tiny_one_picture", tmp_path / "out")

    def make(output, *options):
        return Trainer(
            load_config(
                str(path),
                ["OUTPUT_DIR", str(tmp_path / output), "DATASETS.TEST", "()"]
                + ["INPUT.RANDOM_FLIP", "none", "SOLVER.IMS_PER_BATCH", "1", *options],
            )
        )

    return make
