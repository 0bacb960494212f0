"""Before all tests: the bridges, few threads, and a fixed seed for whoever asks."""

import numpy as np
import pytest
import torch

import axial_d2  # noqa: F401  (first: it applies the bridges to Detectron2)

# On tensors as small as the tests', threads cost more in waiting for each other than they do.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what asks for a backend that this machine can't have, and says why."""
    from axial_d2.ops import compiled

    why_not = compiled.why_not(torch.float32, torch.device("cpu"))
    for item in items:
        parameters = getattr(item, "callspec", None)
        if why_not and parameters and parameters.params.get("backend") == "compiled":
            item.add_marker(pytest.mark.skip(reason=f"no compiled operator: {why_not}"))


@pytest.fixture
def seed() -> int:
    """Seeds torch and numpy's global generators; gives the seed, for generators of one's own."""
    number = 20
    torch.manual_seed(number)
    np.random.seed(number)
    return number


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs where there is no compiler, and on the meta device."""
    from axial_d2.ops import compiled

    monkeypatch.setattr(compiled, "why_not", lambda *_: "the test does without")
