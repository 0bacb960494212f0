"""A look at everything in some datasets: faults, class balance, pictures that occur twice."""

import array
from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from ..classes import SegmentClasses, segment_classes
from ..datasets.image_folder import is_image_folder
from ..parallel import in_threads
from .before_training import category_findings
from .between import Duplicates, StrayFiles
from .findings import EXAMPLES, Finding, Tally
from .folders import examine_folders
from .pictures import Facts, Record, examine, missing_files
from .records import read_records
from .report import ClassBalance, DatasetReport

#: Instances of fewer pixels are told as tiny: a 4x4 square, one cell of the network's output.
TINY = 16
_MOSTLY_VOID = 0.5


def examine_datasets(
    names: Sequence[str], *, workers: int, tiny: int = TINY, examples: int = EXAMPLES
) -> Iterator[DatasetReport]:
    """Goes through everything in some datasets, under a progress bar.

    Broken off by Ctrl-C, it gives a report of what was found so far, and ends.

    Args:
        names: registered datasets of segmentation or of class folders, those to train on first.
        workers: threads.
        tiny: instances of fewer pixels are told.
        examples: how many of each kind of finding are told.

    Yields:
        A report of each. Beside what its json needs, memory grows by 8 bytes a segment and by about
        300 a picture.
    """
    names = list(dict.fromkeys(names))
    duplicates, strays = Duplicates(), StrayFiles(names)
    first: dict[bool, str] = {}
    for name in names:
        folders = is_image_folder(name)
        expected = first.setdefault(folders, name)
        tally = Tally(examples=examples)
        if folders:
            report = examine_folders(name, expected, workers, tally, duplicates)
        else:
            report = _Examination(name, tally, tiny, duplicates, strays).report(expected, workers)
        yield report
        if report.stopped:
            return


class _Examination:
    """Goes through one dataset of segmentation."""

    def __init__(
        self, name: str, tally: Tally, tiny: int, duplicates: Duplicates, strays: StrayFiles
    ):
        self._name, self._tally, self._tiny = name, tally, tiny
        self._duplicates, self._strays = duplicates, strays
        self._void = 0.0
        self._judged = 0  # pictures whose truth could be read

    def report(self, expected: str, workers: int) -> DatasetReport:
        """Examines it; its classes are compared with those of the dataset `expected`."""
        metadata = MetadataCatalog.get(self._name)
        keys = ("panoptic_json", "instances_json", "json_file", "image_root", "image_dir")
        source = next((s for s in map(metadata.get, keys) if s), "")
        try:
            records = read_records(self._name, self._tally)
            classes = segment_classes(self._name)
        except (ValueError, OSError) as error:
            self._tally.add_one("the dataset cannot be loaded", str(error))
            return DatasetReport(self._name, source, 0, self._tally)
        self._tally.add(category_findings(expected, self._name))
        self._start(classes)
        looked_at = self._look(records, workers)
        stopped = looked_at < len(records)
        balance = self._balance()
        if not stopped:
            self._tally.add(self._strays.find(self._name, records))
            if "category that is never used" not in self._tally.counts:
                unused = [each.name for each in balance if not each.pictures]
                self._tally.add(("class without a segment", f"'{name}'") for name in unused)
        void = self._void / self._judged if self._judged else float("nan")
        return DatasetReport(
            self._name, source, looked_at, self._tally, balance, void, self._small(), None, stopped
        )

    def _start(self, classes: SegmentClasses) -> None:
        count = len(classes.names)
        self._classes, self._things = classes, frozenset(classes.thing_ids)
        self._areas = [array.array("q") for _ in range(count)]
        self._pictures, self._crowds = np.zeros((2, count), dtype=np.int64)
        self._pixels = np.zeros(count, dtype=np.int64)

    def _look(self, records: Sequence[Record], workers: int) -> int:
        """Goes through the pictures; gives how many it has seen, fewer than all after Ctrl-C."""

        def look(record: Record) -> tuple[list[Finding], Facts]:
            missing = missing_files(record)
            # Where one of its files is missing, there is nothing to compare.
            return missing, Facts([]) if missing else examine(record, self._classes, digest=True)

        looked_at = 0
        with tqdm(total=len(records), desc=self._name, unit=" pictures", dynamic_ncols=True) as bar:
            try:
                for record, seen in in_threads(look, records, workers):
                    if isinstance(seen, Exception):
                        text = f"{record.image_file}: {seen}"
                        self._tally.add_one("picture that cannot be read", text)
                    else:
                        self._add(record, *seen)
                    looked_at += 1
                    bar.update()
            except KeyboardInterrupt:
                pass
        return looked_at

    def _add(self, record: Record, missing: list[Finding], facts: Facts) -> None:
        """Counts what one picture has."""
        self._tally.add(missing)
        self._tally.add(facts.findings)
        file = record.image_file
        if facts.digest is not None:
            self._tally.add(self._duplicates.add(self._name, file, facts.digest))
        if not facts.pixels:
            return
        self._judged += 1
        share = facts.void / facts.pixels
        self._void += share
        found = {category for category, _, _ in facts.segments}
        if not found:
            self._tally.add_one("picture without any segment", file)
        elif self._things and not found & self._things:
            self._tally.add_one("picture without any thing", file)
        if share > _MOSTLY_VOID:
            self._tally.add_one("picture that is mostly void", f"{file}: {share:.0%}")
        for category, area, crowd in facts.segments:
            self._pixels[category] += area
            if crowd:
                self._crowds[category] += 1
                continue
            self._areas[category].append(area)
            if area < self._tiny and category in self._things:
                text = f"{file}: {self._classes.names[category]} of {area} pixels"
                self._tally.add_one("tiny instance", text)
        self._pictures[list(found)] += 1

    def _small(self) -> dict[int, int]:
        """How many instances are below some sizes: one, four and sixteen times the tiny one."""
        areas = [np.asarray(self._areas[category]) for category in self._things]
        sizes = (self._tiny, 4 * self._tiny, 16 * self._tiny)
        return {size: sum(int((each < size).sum()) for each in areas) for size in sizes}

    def _balance(self) -> list[ClassBalance]:
        total = max(1, int(self._pixels.sum()))
        return [
            ClassBalance(
                name,
                index in self._things,
                int(self._pictures[index]),
                len(self._areas[index]),
                int(self._crowds[index]),
                float(self._pixels[index] / total),
                float(np.median(self._areas[index])) if self._areas[index] else float("nan"),
            )
            for index, name in enumerate(self._classes.names)
        ]
