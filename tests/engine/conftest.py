"""Fixtures of the training tests."""

import pytest
from tiny_training import write_config, write_dataset

NAME = "tiny_training_panoptic"


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """The paths of the dataset of tiny_training, written once."""
    return write_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture
def config_file(tmp_path, tiny_dataset):
    """A config that trains on it; the output goes to tmp_path / "out"."""
    return write_config(tmp_path / "tiny.yaml", tiny_dataset, NAME, tmp_path / "out")
