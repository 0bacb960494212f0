"""The tools as functions, and the tiny dataset and model of the training tests."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "engine"))
from tiny_training import write_config, write_dataset  # noqa: E402


@pytest.fixture(scope="session")
def tool():
    """tool(name) -> function that takes the words of a command line and returns the exit code."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def run(*words):
            before = sys.argv
            sys.argv = [f"{name}.py", *map(str, words)]
            try:
                return module.main()
            finally:
                sys.argv = before

        return run

    return load


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tool):
    """A folder with a trained tiny model: tiny.yaml, data/ and out/, and what train_net printed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("trained")
    dataset = write_dataset(root / "data")
    config = write_config(root / "tiny.yaml", dataset, "tiny_tools_panoptic", root / "out")
    assert tool("train_net")("--config-file", config, "SOLVER.MAX_ITER", "2") == 0
    torch.set_num_threads(threads)
    return root
