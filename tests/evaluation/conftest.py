"""The fixture that makes small panoptic data sets."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from evaluation_data import Data, random_data


@pytest.fixture
def make_data(tmp_path):
    """make_data(...) -> Data, as `evaluation_data.random_data`; unregistered after the test."""
    made = []

    def make(**kwargs) -> Data:
        data = random_data(tmp_path / f"data{len(made)}", **kwargs)
        made.append(data.name)
        return data

    yield make
    for name in made:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
