"""The report of a check in words and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from .report import ClassBalance, DatasetReport

_BAR = 24  # characters
_MOST_FOLDERS = 60  # more rows than that nobody reads; other classes are at most 255


def report_text(report: DatasetReport, *, bar: str = "█") -> str:
    """What was found in one dataset, in words.

    Args:
        report: of the dataset.
        bar: what bars are drawn with, one character.

    Returns:
        Errors, warnings and the class balance.
    """
    so_far = " so far" if report.stopped else ""
    lines = [f"{report.name} ({report.source}): {report.pictures} pictures{so_far}"]
    for title, warnings in (("ERRORS", False), ("warnings", True)):
        kinds = report.tally.kinds(warnings=warnings)
        if kinds:
            lines += [f" {title}", *report.tally.lines(kinds)]
    if not report.tally.counts:
        lines.append(f" no fault found{so_far}")
    if report.balance is not None:
        lines += ["", balance_table(report.balance, bar=bar)]
    if report.folders is not None:
        lines += ["", folder_table(report.folders, bar=bar)]
    if report.small is not None and report.instances:
        sizes = ", ".join(f"{count} below {size}" for size, count in report.small.items())
        lines.append(f"instances: {report.instances}; pixels: {sizes}")
    if report.void == report.void:
        lines.append(f"void, on average: {report.void:.1%} of a picture")
    return "\n".join(lines)


def balance_table(balance: Sequence[ClassBalance], *, bar: str = "█") -> str:
    """The classes of a dataset, with a bar for their share of the pixels.

    Args:
        balance: of its classes.
        bar: what bars are drawn with, one character.
    """
    largest = max((each.share for each in balance), default=0)
    rows = [
        (
            each.name,
            "thing" if each.isthing else "stuff",
            each.pictures,
            each.segments,
            each.crowds,
            f"{each.share:.2%}",
            "-" if each.median_area != each.median_area else f"{each.median_area:.0f}",
            _bar(each.share, largest, bar),
        )
        for each in balance
    ]
    headers = ("class", "type", "pictures", "segments", "crowds", "pixels", "median area", "")
    return _table(rows, headers, ("left", "left", *["right"] * 5, "left"))


def folder_table(folders: Mapping[str, int], *, bar: str = "█") -> str:
    """The class folders of a dataset, with a bar for their number of pictures.

    Args:
        folders: pictures of each.
        bar: what bars are drawn with, one character.

    Returns:
        The fewest and the most, and a table: all classes, or of many those with fewest and most.
    """
    ordered = sorted(folders.items(), key=lambda item: item[1])
    shown = list(folders.items())
    title = f"pictures of a class: {ordered[0][1]} to {ordered[-1][1]}" if ordered else ""
    if len(ordered) > _MOST_FOLDERS:
        half = _MOST_FOLDERS // 2
        shown = [*ordered[:half], *ordered[-half:]]
        title += f"; the {half} of {len(ordered)} classes with the fewest, and with the most:"
    largest = ordered[-1][1] if ordered else 0
    rows = [(name, count, _bar(count, largest, bar)) for name, count in shown]
    table = _table(rows, ("class", "pictures", ""), ("left", "right", "left"))
    return f"{title}\n{table}"


def _bar(value: float, largest: float, bar: str) -> str:
    """Of at least one character where there is something at all."""
    return bar * max(1, round(_BAR * value / largest)) if value else ""


def _table(rows: Sequence[Any], headers: Sequence[str], align: Sequence[str]) -> str:
    return tabulate(
        rows, headers, tablefmt="simple", colalign=align if rows else None, disable_numparse=True
    )


def verdict(reports: Sequence[DatasetReport]) -> str:
    """Whether a training can start, in a line.

    Args:
        reports: of all datasets that were looked at.
    """
    unfit = [report for report in reports if not report.fit]
    stopped = "Stopped before the end. " if any(report.stopped for report in reports) else ""
    if unfit:
        parts = [f"{_kinds(report, 'error')} in '{report.name}'" for report in unfit]
        return f"{stopped}Training cannot start: {', '.join(parts)}."
    if stopped:
        return f"{stopped}No error so far."
    parts = [f"{_kinds(report, 'warning')} in '{report.name}'" for report in reports]
    parts = [part for part in parts if not part.startswith("0 ")]
    told = f" ({', '.join(parts)})" if parts else ""
    return f"Training can start{told}."


def _kinds(report: DatasetReport, what: str) -> str:
    """1 kind of error, 2 kinds of warnings."""
    number = len(report.tally.kinds(warnings=what == "warning"))
    many = "s" * (number != 1)
    return f"{number} kind{many} of {what}{many}"
