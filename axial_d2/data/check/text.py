"""The report of a check in words, as a table and as a chart."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from .examination import ClassBalance, DatasetReport

_BAR = 24
_MOST_CLASSES = 200


def report_text(report: DatasetReport) -> str:
    """What was found in one dataset, in words.

    Args:
        report: of the dataset.

    Returns:
        Errors, warnings and the class balance.
    """
    lines = [f"{report.name} ({report.source}): {report.pictures} pictures"]
    for title, warnings in (("ERRORS", False), ("warnings", True)):
        kinds = report.tally.kinds(warnings=warnings)
        if kinds:
            lines += [f" {title}", *report.tally.lines(kinds)]
    if not report.tally.counts:
        lines.append(" no fault found")
    if report.balance is not None:
        lines += ["", balance_table(report.balance)]
    if report.void == report.void:
        lines.append(f"void, on average: {report.void:.1%} of a picture")
    return "\n".join(lines)


def balance_table(balance: Sequence[ClassBalance]) -> str:
    """The classes of a dataset, with a bar for their share of the pixels.

    Args:
        balance: of its classes.
    """
    largest = max((each.share for each in balance), default=0) or 1
    rows = [
        (
            each.name,
            "thing" if each.isthing else "stuff",
            each.pictures,
            each.segments,
            each.crowds,
            f"{each.share:.2%}",
            "-" if each.median_area != each.median_area else f"{each.median_area:.0f}",
            "█" * max(each.share > 0, round(_BAR * each.share / largest)),
        )
        for each in balance[:_MOST_CLASSES]
    ]
    headers = ("class", "type", "pictures", "segments", "crowds", "pixels", "median area", "")
    align = ("left", "left", *["right"] * 5, "left")
    return tabulate(
        rows, headers, tablefmt="simple", colalign=align if rows else None, disable_numparse=True
    )


def verdict(reports: Sequence[DatasetReport]) -> str:
    """Whether a training can start, in a line.

    Args:
        reports: of all datasets that were looked at.
    """
    unfit = [report for report in reports if not report.fit]
    if unfit:
        parts = [f"{_kinds(report, 'error')} in '{report.name}'" for report in unfit]
        return f"Training cannot start: {', '.join(parts)}."
    parts = [f"{_kinds(report, 'warning')} in '{report.name}'" for report in reports]
    parts = [part for part in parts if not part.startswith("0 ")]
    told = f" ({', '.join(parts)})" if parts else ""
    return f"Training can start{told}."


def _kinds(report: DatasetReport, what: str) -> str:
    """1 kind of error, 2 kinds of warnings."""
    number = len(report.tally.kinds(warnings=what == "warning"))
    many = "s" * (number != 1)
    return f"{number} kind{many} of {what}{many}"


def save_chart(reports: Sequence[DatasetReport], path: str) -> None:
    """Draws the class balance: share of the pixels and number of segments, a bar a class.

    Args:
        reports: of the datasets; those without classes are left out.
        path: of the picture (.png, .pdf, .svg).

    Raises:
        ValueError: no dataset has classes to draw, or the extension is none of a picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [report for report in reports if report.balance]
    if not drawn:
        raise ValueError("no dataset has segments to draw a chart of")
    names = list(dict.fromkeys(each.name for report in drawn for each in report.balance or ()))
    figure = Figure(figsize=(11, 1.6 + 0.22 * len(names) * max(1, len(drawn)) ** 0.5))
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    # The axes are linear up to the last number, and logarithmic from there.
    columns: list[tuple[str, Any, float]] = [
        ("share of the pixels, %", lambda each: 100 * each.share, 0.1),
        ("segments, crowds aside", lambda each: each.segments, 1),
    ]
    height = 0.8 / len(drawn)
    for panel, (title, value, least) in zip(panels, columns, strict=True):
        for number, report in enumerate(drawn):
            values = {each.name: value(each) for each in report.balance or ()}
            places = [place + number * height for place in range(len(names))]
            bars = [values.get(name, 0) for name in names]
            panel.barh(places, bars, height, label=report.name, align="edge")
        panel.set_xscale("symlog", linthresh=least)
        panel.set_xlim(left=0)
        panel.set_title(title)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks([place + 0.4 for place in range(len(names))], names, fontsize=8)
    panels[0].set_ylim(len(names), 0)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper center", ncols=len(drawn))
    figure.savefig(path, dpi=120)
