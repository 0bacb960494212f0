"""Bad input ends in a result or in one clear error: no traceback, no hang, nothing half-written."""

import os
from pathlib import Path

import pytest
from damages import WORKS, catalogue
from user_runs import FORMS, fresh_copy, run, write_good

# A run takes a fraction of a second; a hang is found long before the tests' own limit.
_SECONDS = 60


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A good dataset of each form, by its name."""
    root = tmp_path_factory.mktemp("good")
    for form in FORMS:
        write_good(root / form, form)
    return {form: root / form for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_the_good_dataset_works(form, good, tmp_path):
    outcome = run(fresh_copy(good[form], tmp_path), form, [])
    assert (outcome.kind, outcome.problems) == ("works", []), outcome.message


def _runs():
    """Each damage with the check before training, and what it finds without it as well."""
    for damage in catalogue():
        yield pytest.param(damage, True, id=f"{damage.name}, checked")
        if damage.words != WORKS:
            yield pytest.param(damage, False, id=f"{damage.name}, unchecked")


@pytest.mark.parametrize(("damage", "check"), _runs())
def test_damage(damage, check, good, tmp_path):
    if os.geteuid() == 0 and "may not be" in damage.name:
        pytest.skip("the superuser may read and write everything")
    root = fresh_copy(good[damage.form], tmp_path)
    damage.do(root)
    options = [text.replace("{}", str(tmp_path)) for text in damage.options]
    output = options[1] if options[:1] == ["OUTPUT_DIR"] else None
    outcome = run(root, damage.form, [*options, "DATASETS.CHECK", str(check)], output)
    expected = damage.expected(check=check)
    assert outcome.kind == ("works" if expected == WORKS else "error"), outcome.message
    for words in expected:
        assert words in outcome.message
    assert "Traceback" not in outcome.message
    assert outcome.problems == [] and outcome.seconds < _SECONDS


def test_the_page_lists_every_damage():
    page = (Path(__file__).parents[2] / "docs/bad_input.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| ")]
    said = {name.removeprefix("| "): outcome for name, outcome in rows}
    for damage in catalogue():
        if "may not be" not in damage.name:  # left out where the superuser made the page
            expected = "works" if damage.words == WORKS else "error"
            assert said[damage.name] == expected, damage.name
