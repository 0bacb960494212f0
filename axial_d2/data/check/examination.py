"""A look at everything in some datasets: faults, class balance, pictures that occur twice."""

import array
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from ..classes import SegmentClasses, segment_classes
from ..datasets.image_folder import EXTENSIONS, classes_of, is_image_folder, is_picture, pictures_of
from ..parallel import in_threads
from ..pictures import UNREADABLE
from .before_training import category_findings
from .findings import Finding, Tally
from .folders import class_findings, folder_findings
from .pictures import Facts, Record, decode_picture, examine, missing_files
from .records import read_records

#: Instances of fewer pixels are told as tiny: a 4x4 square, one cell of the network's output.
TINY = 16
_MOSTLY_VOID = 0.5


class ClassBalance(NamedTuple):
    """What one class has in a dataset.

    Attributes:
        name: of the class.
        isthing: whether it has instances.
        pictures: in how many it occurs.
        segments: how many there are, crowds aside.
        crowds: how many of those.
        share: of all pixels that have a class, 0 to 1.
        median_area: of its segments, crowds aside, in pixels; nan without any.
    """

    name: str
    isthing: bool
    pictures: int
    segments: int
    crowds: int
    share: float
    median_area: float


class DatasetReport(NamedTuple):
    """What was found in one dataset.

    Attributes:
        name: of the dataset.
        source: its json or folder.
        pictures: how many it has.
        tally: its findings.
        balance: per class; None for class folders and datasets that cannot be loaded.
        void: mean share of pixels without a class, 0 to 1; nan without any picture.
    """

    name: str
    source: str
    pictures: int
    tally: Tally
    balance: list[ClassBalance] | None
    void: float

    @property
    def fit(self) -> bool:
        """Whether a training can start with it."""
        return not self.tally.kinds(warnings=False)

    def as_dict(self) -> dict[str, Any]:
        """For a json."""
        balance = None
        if self.balance is not None:
            balance = [
                {k: None if v != v else v for k, v in each._asdict().items()}
                for each in self.balance
            ]
        return {
            "name": self.name,
            "source": self.source,
            "pictures": self.pictures,
            "training_can_start": self.fit,
            "findings": self.tally.as_dict(),
            "classes": balance,
            "mean_void_share": None if self.void != self.void else self.void,
        }


def examine_datasets(
    names: Sequence[str], *, workers: int, tiny: int = TINY
) -> Iterator[DatasetReport]:
    """Goes through everything in some datasets, under a progress bar.

    Args:
        names: registered datasets of segmentation or of class folders, those to train on first.
        workers: threads.
        tiny: instances of fewer pixels are told.

    Yields:
        A report of each. Its memory grows by some bytes a segment and by about a hundred a picture.
    """
    seen: dict[bytes, tuple[str, str]] = {}  # by digest: dataset and picture
    named = _files_named(names)
    first: dict[bool, str] = {}
    for name in names:
        folders = is_image_folder(name)
        expected = first.setdefault(folders, name)
        if folders:
            yield _examine_folders(name, expected, workers)
        else:
            yield _Examination(name, tiny, seen, named).report(expected, workers)


def _files_named(names: Iterable[str]) -> set[str]:
    """The files that any of the datasets names: two may share a folder."""
    named = set()
    for name in names:
        if is_image_folder(name):
            continue
        try:
            for record in read_records(name, []):
                named |= {record.image_file, str(record.png_file)}
        except (ValueError, AssertionError, OSError):
            continue
    return {os.path.normpath(path) for path in named}


class _Examination:
    """Goes through one dataset of segmentation."""

    def __init__(self, name: str, tiny: int, seen: dict[bytes, tuple[str, str]], named: set[str]):
        self._name, self._tiny, self._seen, self._named = name, tiny, seen, named
        self._metadata = MetadataCatalog.get(name)
        self._tally = Tally()
        self._void = 0.0
        self._judged = 0  # pictures whose truth could be read

    def report(self, expected: str, workers: int) -> DatasetReport:
        """Examines it; its classes are compared with those of the dataset `expected`."""
        findings: list[Finding] = []
        try:
            records = read_records(self._name, findings)
            classes = segment_classes(self._name)
        except (ValueError, AssertionError, OSError) as error:  # Detectron2's loaders assert
            self._tally.add([("the dataset cannot be loaded", str(error))])
            return self._finished(0, None)
        self._tally.add(findings)
        self._tally.add(category_findings(expected, self._name))
        count = len(classes.names)
        self._areas = [array.array("q") for _ in range(count)]
        self._pictures, self._crowds = np.zeros((2, count), dtype=np.int64)
        self._pixels = np.zeros(count, dtype=np.int64)

        def look(record: Record) -> tuple[list[Finding], Facts]:
            return missing_files(record), examine(record, classes, digest=True)

        with tqdm(total=len(records), desc=self._name, unit="picture", dynamic_ncols=True) as bar:
            for record, seen in in_threads(look, records, workers):
                if isinstance(seen, Exception):
                    self._tally.add([("picture that cannot be read", str(seen))])
                else:
                    self._add(record, *seen, classes)
                bar.update()
        self._tally.add(self._without_a_name())
        balance = self._balance(classes)
        self._tally.add(
            ("class without a segment", f"'{each.name}'")
            for each in balance
            if not each.pictures and "category that is never used" not in self._tally.counts
        )
        return self._finished(len(records), balance)

    def _add(
        self, record: Record, missing: list[Finding], facts: Facts, classes: SegmentClasses
    ) -> None:
        """Counts what one picture has."""
        self._tally.add(missing)
        self._tally.add(facts.findings)
        file = record.image_file
        if facts.digest is not None:
            other = self._seen.setdefault(facts.digest, (self._name, file))
            if other != (self._name, file):
                self._tally.add(
                    [("picture that occurs twice", f"{file}: also {other[1]} of '{other[0]}'")]
                )
        if not facts.pixels:
            return
        self._judged += 1
        share = facts.void / facts.pixels
        self._void += share
        things = [s for s in facts.segments if s[0] in classes.thing_ids]
        if not facts.segments:
            self._tally.add([("picture without any segment", file)])
        elif not things and classes.thing_ids:
            self._tally.add([("picture without any thing", file)])
        if share > _MOSTLY_VOID:
            self._tally.add([("picture that is mostly void", f"{file}: {share:.0%}")])
        for category, area, crowd in facts.segments:
            self._pixels[category] += area
            if crowd:
                self._crowds[category] += 1
                continue
            self._areas[category].append(area)
            if area < self._tiny and category in classes.thing_ids:
                text = f"{file}: {classes.names[category]} of {area} pixels"
                self._tally.add([("tiny instance", text)])
        for category in {category for category, _, _ in facts.segments}:
            self._pictures[category] += 1

    def _without_a_name(self) -> Iterator[Finding]:
        """Files in the dataset's folders that no dataset names."""
        for key, extensions in (("image_root", EXTENSIONS), ("panoptic_root", (".png",))):
            root = self._metadata.get(key)
            if "panoptic_json" not in vars(self._metadata) or root is None:
                continue
            for folder, _, files in os.walk(root):
                for file in sorted(files):
                    path = os.path.normpath(os.path.join(folder, file))
                    if is_picture(file, extensions) and path not in self._named:
                        yield "file that no json names", path

    def _balance(self, classes: SegmentClasses) -> list[ClassBalance]:
        total = max(1, int(self._pixels.sum()))
        return [
            ClassBalance(
                name,
                index in classes.thing_ids,
                int(self._pictures[index]),
                len(self._areas[index]),
                int(self._crowds[index]),
                float(self._pixels[index] / total),
                float(np.median(self._areas[index])) if self._areas[index] else float("nan"),
            )
            for index, name in enumerate(classes.names)
        ]

    def _finished(self, pictures: int, balance: list[ClassBalance] | None) -> DatasetReport:
        keys = ("panoptic_json", "instances_json", "json_file", "image_root", "image_dir")
        source = next((s for s in map(self._metadata.get, keys) if s), "")
        void = self._void / self._judged if self._judged else float("nan")
        return DatasetReport(self._name, source, pictures, self._tally, balance, void)


def _examine_folders(name: str, expected: str, workers: int) -> DatasetReport:
    """One dataset of class folders, every picture of it."""
    tally = Tally(folder_findings(name, max_decoded=0))
    root = MetadataCatalog.get(name).get("image_root", "")
    count = 0
    if not tally.counts:
        if name != expected:
            tally.add(class_findings(expected, name))
        files = (path for folder in classes_of(name) for path in pictures_of(root, folder))
        with tqdm(desc=name, unit="picture", dynamic_ncols=True) as bar:
            for path, seen in in_threads(_try_to_decode, files, workers):
                count += 1
                if seen is not None:
                    tally.add([("picture that cannot be read", f"{path}: {seen}")])
                bar.update()
    return DatasetReport(name, root, count, tally, None, float("nan"))


def _try_to_decode(path: str) -> str | None:
    try:
        decode_picture(path)
    except UNREADABLE as error:
        return str(error)
    return None
