"""The class balance of datasets as a chart."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..files import whole_file
from .report import DatasetReport

#: Extensions of charts.
CHARTS = (".png", ".pdf", ".svg")
# In inches: a row is this high, less where so many make the chart higher than matplotlib can draw.
_ROW, _HIGHEST = 0.22, 80
_FONT = 8  # points


def save_chart(reports: Sequence[DatasetReport], path: str) -> None:
    """Draws the class balance, a bar a class and dataset.

    Of segmentation the share of the pixels and the number of segments; where all datasets are class
    folders, the number of pictures.

    Args:
        reports: of the datasets; those without classes are left out.
        path: of the chart (.png, .pdf, .svg); a file that is there is replaced.

    Raises:
        ValueError: no dataset has classes to draw, or the extension is none of a chart.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    extension = os.path.splitext(path)[1].lower()
    if extension not in CHARTS:
        raise ValueError(f"{path}: expected a chart with the extension {', '.join(CHARTS)}")
    columns = _columns(reports)
    values = [values for _, _, column in columns for values in column.values()]
    names = list(dict.fromkeys(name for each in values for name in each))
    datasets = list(columns[0][2])
    row = min(_ROW * len(datasets) ** 0.5, _HIGHEST / max(1, len(names)))
    figure = Figure(figsize=(11, 1.6 + row * len(names)))
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, (title, least, column) in zip(panels, columns, strict=True):
        _draw(panel, names, column)
        panel.set_title(title)
        # Linear up to the last number, and logarithmic from there.
        panel.set_xscale("symlog", linthresh=least)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        panel.grid(axis="x", alpha=0.3)
    font = min(_FONT, 72 * 0.8 * row)
    panels[0].set_yticks([i + 0.4 for i in range(len(names))], map(_plain, names), fontsize=font)
    panels[0].set_ylim(len(names), -0.2)
    with warnings.catch_warnings():
        # Letters that matplotlib's font does not have are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.4 / figure.get_figheight()))
        bars = list(panels[0].containers)
        figure.legend(bars, map(_plain, datasets), loc="upper center", ncols=len(datasets))
        with whole_file(path) as part:
            figure.savefig(part, dpi=120, format=extension[1:])


# Title, where the scale stops to be linear, and by dataset the value of each class.
_Column = tuple[str, float, dict[str, Mapping[str, float]]]


def _columns(reports: Sequence[DatasetReport]) -> list[_Column]:
    drawn = {report.name: report.balance for report in reports if report.balance}
    if drawn:
        shares = {n: {each.name: 100 * each.share for each in b} for n, b in drawn.items()}
        segments = {n: {each.name: each.segments for each in b} for n, b in drawn.items()}
        return [("share of the pixels, %", 0.1, shares), ("segments, crowds aside", 1, segments)]
    folders = {report.name: report.folders for report in reports if report.folders}
    if not folders:
        raise ValueError("no dataset has segments to draw a chart of")
    return [("pictures", 1, folders)]


def _draw(panel: Any, names: Sequence[str], column: Mapping[str, Mapping[str, float]]) -> None:
    height = 0.8 / len(column)
    for number, values in enumerate(column.values()):
        places = [place + number * height for place in range(len(names))]
        panel.barh(places, [values.get(name, 0) for name in names], height, align="edge")


def _plain(text: str) -> str:
    """Without what matplotlib takes for the begin of a formula."""
    return text.replace("$", r"\$")
