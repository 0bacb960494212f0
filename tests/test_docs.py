"""What README and docs point to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert not missing


def test_configs_name_pages_that_exist() -> None:
    for config in (ROOT / "configs").rglob("*.yaml"):
        for page in re.findall(r"docs/\w+\.md", config.read_text()):
            assert (ROOT / page).exists(), f"{config.name} names {page}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_placeholder_is_left(page: Path) -> None:
    # The words are what is searched for in the pages; nothing is left to do here.
    assert not re.search(r"\b[A-Z]+_(TABLE|TEXT|LINE|HERE)\b|TODO|\?\?\?", page.read_text())
