"""dev/golden_errors.py and the page it writes."""

import importlib.util
from pathlib import Path

from golden_comparison import LAYERS, NET, QUANTITIES

ROOT = Path(__file__).parents[1]


def rows(page: str) -> dict[tuple[str, str], list[str]]:
    """The table's cells by file and dtype."""
    cells = [
        [c.strip() for c in line.split("|")[1:-1]] for line in page.splitlines() if "|" in line
    ]
    assert cells[0] == ["file", "dtype", *QUANTITIES]
    return {(row[0], row[1]): row[2:] for row in cells[2:]}


def test_the_command_measures_what_it_is_asked_for(tmp_path: Path, capsys) -> None:
    spec = importlib.util.spec_from_file_location("golden_errors", ROOT / "dev/golden_errors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = tmp_path / "golden.md"
    assert module.main(["--files", "attention_width", "--output", str(page)]) == 0
    assert f"wrote {page}" in capsys.readouterr().out
    found = rows(page.read_text())
    assert set(found) == {("attention_width", "float64"), ("attention_width", "float32")}
    for (_, dtype), cells in found.items():
        figures = [float(cell) for cell in cells if cell]
        assert len(figures) == 5  # One axis alone has no gradient that is zero.
        assert max(figures) < (1e-9 if dtype == "float64" else 1e-5)
    # In float32 rounding shows; nothing is compared with itself.
    assert min(float(cell) for cell in found["attention_width", "float32"] if cell) > 1e-9
    assert module.main(["--output", str(tmp_path / "no" / "golden.md")]) == 1


def test_the_page_has_all_files_within_the_tests_bounds() -> None:
    found = rows((ROOT / "docs/golden.md").read_text())
    assert set(found) == {(f, d) for f in (*LAYERS, NET) for d in ("float64", "float32")}
    for (file, dtype), cells in found.items():
        if (file, dtype) != (NET, "float32"):
            bound = 1e-9 if dtype == "float64" else 1e-5
            assert max(float(cell) for cell in cells if cell) < bound
