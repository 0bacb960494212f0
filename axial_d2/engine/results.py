"""The numbers of an evaluation, as a file and as a short table."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from tabulate import tabulate

from axial_d2.data.files import whole_file
from axial_d2.engine.checkpointer import last_checkpoint

RESULTS_FILE = "results.json"
PER_CLASS_FILE = "results_per_class.csv"
# What is shown of each group of results: the numbers that papers compare.
_SHOWN = (
    ("panoptic_seg", ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")),
    ("segm", ("AP", "AP50")),
    ("sem_seg", ("mIoU", "pACC")),
)
_SHOWN_OF_CLASSIFIERS = (("classification", ("top1", "top5")),)


def write_results(results: dict[str, Any], output_dir: str) -> Path:
    """Writes the results of an evaluation to results.json, those of classes to a csv as well.

    The csv has a line per class and, with several datasets, per dataset: PQ, SQ, RQ, AP, IoU ... as
    far as they were measured, in percent; empty where there is no value.

    Args:
        results: nested dict of numbers; those that are not finite become null, since JSON has none.
        output_dir: made where it is missing.

    Returns:
        The json file.

    Raises:
        OSError: they cannot be written; an earlier evaluation's json is untouched.
    """
    path, table = Path(output_dir, RESULTS_FILE), Path(output_dir, PER_CLASS_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns, rows = per_class(results)
    if rows:
        with whole_file(table) as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)
    else:
        table.unlink(missing_ok=True)  # an earlier evaluation's
    with whole_file(path) as part:
        Path(part).write_text(json.dumps(_plain(results), indent=2) + "\n")
    return path


def per_class(results: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """The results of classes as a table.

    Args:
        results: of an evaluation; of one dataset, or by dataset name.

    Returns:
        The columns' names ("dataset" where there are several, "class", then the scores), and the
        rows; None where a score has no value.
    """
    by_dataset = _by_dataset(results)
    metrics: dict[str, None] = {}
    rows: dict[tuple[str, str], dict[str, float | None]] = {}
    for dataset, groups in by_dataset.items():
        for group in groups.values():
            for key, value in group.items():
                # "PQ-road", and no score has a "-" in its own name.
                metric, dash, name = key.partition("-")
                if dash:
                    metrics[metric] = None
                    finite = value if math.isfinite(value) else None
                    rows.setdefault((dataset, name), {})[metric] = finite
    several = set(by_dataset) != {""}
    columns = [*(["dataset"] if several else []), "class", *metrics]
    return columns, [
        [*([dataset] if several else []), name, *(values.get(metric) for metric in metrics)]
        for (dataset, name), values in rows.items()
    ]


def _by_dataset(results: dict[str, Any]) -> dict[str, Any]:
    """The groups of results by dataset; under "" those of one alone."""
    # Of one dataset a group holds numbers, whatever evaluator it comes from.
    one = any(group in results for group, _ in (*_SHOWN, *_SHOWN_OF_CLASSIFIERS)) or not all(
        isinstance(value, dict) for group in results.values() for value in group.values()
    )
    return {"": results} if one else results


def read_results(output_dir: str) -> dict[str, Any] | None:
    """Reads what `write_results` wrote.

    Args:
        output_dir: OUTPUT_DIR of a training.

    Returns:
        The results, or None where there are none.
    """
    path = Path(output_dir, RESULTS_FILE)
    return json.loads(path.read_text()) if path.is_file() else None


def results_table(results: dict[str, Any]) -> str:
    """A line per dataset with PQ, AP and mIoU, or with top-1 and top-5 accuracy.

    Args:
        results: of an evaluation, in percent; of one dataset, or by dataset name.

    Returns:
        The table as text; "-" for what was not measured or has no value.
    """
    by_dataset = _by_dataset(results)
    one = set(by_dataset) == {""}
    measured = {group for values in by_dataset.values() for group in values}
    parts = [p for p in (_SHOWN, _SHOWN_OF_CLASSIFIERS) if measured & {group for group, _ in p}]
    names = [(group, name) for part in parts for group, shown in part for name in shown]
    rows = [
        [dataset, *(_cell(values.get(group, {}).get(name)) for group, name in names)]
        for dataset, values in by_dataset.items()
    ]
    headers = ["", *(name for _, name in names)]
    if one:
        rows, headers = [row[1:] for row in rows], headers[1:]
    return tabulate(rows, headers, tablefmt="simple", stralign="right", disable_numparse=True)


def summary(output_dir: str) -> str:
    """What a training or evaluation has left behind, for the end of a command.

    Args:
        output_dir: its OUTPUT_DIR.

    Returns:
        The table, where there are results, and the files to look at.
    """
    results = read_results(output_dir)
    lines = [results_table(results), ""] if results else []
    files = {
        title: Path(output_dir, name)
        for title, name in (
            ("results", RESULTS_FILE),
            ("classes", PER_CLASS_FILE),
            ("log", "log.txt"),
            ("config", "config.yaml"),
        )
    }
    lines += [f"{title + ':':<12}{path}" for title, path in files.items() if path.is_file()]
    checkpoint = last_checkpoint(output_dir)
    if checkpoint:
        lines.append(f"{'checkpoint:':<12}{checkpoint}")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.1f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None
