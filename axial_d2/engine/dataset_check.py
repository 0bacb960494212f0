"""Datasets gone through and reported, for `tools/check_dataset.py`."""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from axial_d2.data.files import whole_file
from axial_d2.engine.checks import names_to_check
from axial_d2.engine.errors import SetupError
from axial_d2.engine.setup import load_datasets

if TYPE_CHECKING:
    from axial_d2.data.check import DatasetReport

_BAR = "█"


def check_and_report(
    names: Sequence[str],
    *,
    config_file: str | None,
    workers: int,
    tiny: int,
    examples: int,
    chart_file: str | None = None,
    json_file: str | None = None,
) -> "list[DatasetReport]":
    """Goes through datasets, prints a report of each as soon as it is known, and writes files.

    Args:
        names: of datasets; none: the config's DATASETS.TRAIN and TEST.
        config_file: a config that names or registers datasets.
        workers, tiny, examples: as for `axial_d2.data.check.examine_datasets`.
        chart_file: where to draw the class balance.
        json_file: where to write the whole report.

    Returns:
        The `DatasetReport` of each; the last is `stopped` after Ctrl-C.

    Raises:
        SetupError: a mistake in the names, the config or the paths to write to.
    """
    from axial_d2.data.check import CHARTS, examine_datasets, report_text

    _check_target("--chart", chart_file, CHARTS)
    _check_target("--json", json_file, ())
    chosen = names_to_check(load_datasets(config_file), names)
    bar = _BAR if _can_show(_BAR) else "#"
    reports = []
    for report in examine_datasets(chosen, workers=workers, tiny=tiny, examples=examples):
        reports.append(report)
        print(f"{report_text(report, bar=bar)}\n", flush=True)
    try:
        if json_file:
            _write(json_file, json.dumps([each.as_dict() for each in reports], indent=2))
            print(f"report: {json_file}")
        if chart_file:
            _draw(reports, chart_file)
    except OSError as error:
        raise SetupError(f"cannot write {error.filename}: {error.strerror}") from error
    return reports


def _draw(reports: "Sequence[DatasetReport]", path: str) -> None:
    """Where no dataset could be read there is nothing to draw, which is no mistake in the call."""
    from axial_d2.data.check import save_chart

    try:
        save_chart(reports, path)
    except ValueError as error:
        print(f"no chart: {error}")
    else:
        print(f"chart:  {path}")


def _check_target(option: str, path: str | None, extensions: Sequence[str]) -> None:
    """Refuses a file that cannot be written before all the work is done."""
    if path is None:
        return
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise SetupError(f"{option}: the folder {folder} does not exist")
    if os.path.isdir(path) or not path:
        raise SetupError(f"{option}: expected a file, got the folder {path or folder}")
    if not os.access(folder, os.W_OK):
        raise SetupError(f"{option}: the folder {folder} cannot be written to")
    if extensions and os.path.splitext(path)[1].lower() not in extensions:
        raise SetupError(f"{option}: expected a file ending in {', '.join(extensions)}, got {path}")


def _write(path: str, text: str) -> None:
    with whole_file(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeError:
        return False
    return True
