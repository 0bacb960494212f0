#!/usr/bin/env python
"""Writes docs/bad_input.md: every way in which the tests damage a dataset, and what came of it.

python dev/bad_input_page.py
"""

import logging
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/fuzz")]
import axial_d2  # noqa: E402, F401  (first: it makes Detectron2 ready)

# isort: split
from damages import Damage, catalogue  # noqa: E402
from user_runs import FORMS, fresh_copy, run, write_good  # noqa: E402

PAGE = ROOT / "docs" / "bad_input.md"
_LONGEST = 150

_HEAD = """\
# Bad input

What comes of a damaged dataset: training, evaluation and prediction of a tiny model on it, with the
check before training (`DATASETS.CHECK True`). Either they work, or one error in words ends them
before anything is written. Made by `python dev/bad_input_page.py`; `tests/fuzz` runs the same, and
without the check as well, where the error comes when the file is met. The form is that of
[your own data](your_dataset.md): panoptic files where nothing else is said.

| damage | outcome | what is said |
|---|---|---|
"""


def rows() -> list[tuple[Damage, str, str]]:
    """Each damage, how its run ended, and what was said."""
    found = []
    with tempfile.TemporaryDirectory(prefix="axial_d2_bad_") as folder:
        good = Path(folder, "good")
        for form in FORMS:
            write_good(good / form, form)
        for number, damage in enumerate(catalogue()):
            if os.geteuid() == 0 and "may not be" in damage.name:
                continue  # the superuser may read and write everything
            place = Path(folder, f"damage_{number}")
            place.mkdir()
            root = fresh_copy(good / damage.form, place)
            damage.do(root)
            options = [text.replace("{}", str(place)) for text in damage.options]
            output = options[1] if options else None
            outcome = run(root, damage.form, options, output)
            found.append((damage, outcome.kind, shorten(outcome.message, str(place))))
    return found


def shorten(message: str, place: str) -> str:
    """The line that tells the fault, without the temporary folder."""
    lines = [line.strip() for line in message.replace(place + "/", "").splitlines() if line.strip()]
    # Below the head and the kind stands the example.
    detail = next((line for line in lines[1:] if re.match(r"- |.*: \d+ times?$", line)), "")
    after = lines[lines.index(detail) + 1] if detail and not detail.startswith("- ") else detail
    text = (f"{detail} {after}" if after != detail else detail) or (lines[0] if lines else "")
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    text = text.replace("|", "\\|").removeprefix("- ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def main() -> int:
    """Writes the page; returns the exit code."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    table = rows()
    lines = [
        f"| {damage.name} | {kind} | {said.replace('`', '')} |".replace("\n", " ")
        for damage, kind, said in table
    ]
    text = _HEAD + "\n".join(lines) + "\n"
    PAGE.write_text(text.encode("utf-8", "backslashreplace").decode(), encoding="utf-8")
    print(f"{len(lines)} damages -> {PAGE}")
    return int(any(kind == "traceback" for _, kind, _ in table))


if __name__ == "__main__":
    sys.exit(main())
