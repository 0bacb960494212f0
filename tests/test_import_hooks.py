"""The import hooks under the bridges."""

import importlib
import importlib.util
import sys

import pytest

from axial_d2.import_hooks import is_found, run_around, stand_in


@pytest.fixture
def forget_modules():
    """Forgets modules imported by a test."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_stand_in_serves_where_nothing_is_found(forget_modules):
    name = "axial_d2_tests_nowhere"
    stand_in(name)
    stand_in(f"{name}.inner", lambda module: setattr(module, "answer", 42))
    assert not is_found(name) and not is_found(f"{name}.inner")
    assert importlib.import_module(f"{name}.inner").answer == 42
    assert not is_found(f"{name}.inner")  # not once it is imported either
    with pytest.raises(ModuleNotFoundError, match="axial_d2_tests_nowhere.other"):
        importlib.import_module(f"{name}.other")


def test_stand_in_gives_way_to_the_real_module(tmp_path, monkeypatch, forget_modules):
    stand_in("axial_d2_tests_real", lambda module: pytest.fail("not the stand-in"))
    (tmp_path / "axial_d2_tests_real.py").write_text("answer = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert is_found("axial_d2_tests_real")
    assert importlib.import_module("axial_d2_tests_real").answer == 1


def test_run_around_and_find_spec(tmp_path, monkeypatch, forget_modules):
    seen = []

    def around(execute, module):
        seen.append(hasattr(module, "answer"))
        execute(module)
        module.answer += 1

    (tmp_path / "axial_d2_tests_around.py").write_text("answer = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    run_around("axial_d2_tests_around", around)
    assert importlib.util.find_spec("axial_d2_tests_around").origin.endswith("around.py")
    assert seen == []
    assert importlib.import_module("axial_d2_tests_around").answer == 2
    assert seen == [False]
    run_around("axial_d2_tests_absent", around)
    assert importlib.util.find_spec("axial_d2_tests_absent") is None
