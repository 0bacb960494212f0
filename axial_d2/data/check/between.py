"""What no picture shows by itself: files that occur twice, and files that nothing names."""

import os
from collections.abc import Iterable, Iterator, Mapping

from detectron2.data import MetadataCatalog

from ..datasets.image_folder import EXTENSIONS, is_picture
from ..datasets.mask_folders import MASKS
from .findings import Finding, Tally
from .pictures import Record, mask_files
from .records import read_records

# By the metadata's key of a folder: what may be in it, and what a file is that nothing names.
_ROOTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "image_root": (EXTENSIONS, "file that no json names"),
    "panoptic_root": ((".png",), "file that no json names"),
    "sem_seg_root": (MASKS, "mask without a picture"),
    "instance_root": (MASKS, "mask without a picture"),
}
# A dataset without any of these has what is in its folders.
_JSONS = ("panoptic_json", "instances_json", "json_file")


class Duplicates:
    """The files of pictures by their content, over all datasets that are looked at."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[str, str]] = {}  # by digest: dataset and file

    def add(self, name: str, file: str, digest: bytes) -> Iterator[Finding]:
        """Remembers a picture; gives a finding where the same was there before.

        Args:
            name: of the dataset.
            file: of the picture.
            digest: of the file's content.
        """
        if digest not in self._seen:
            self._seen[digest] = (name, file)
            return
        other_name, other = self._seen[digest]
        if other_name != name:
            yield "picture that another dataset has too", f"{file}: {other} of '{other_name}'"
        elif other != file:
            yield "picture that occurs twice", f"{file}: the same as {other}"
        else:
            yield "picture that occurs twice", f"{file}: the dataset names it again"


class StrayFiles:
    """Finds the files in the folders of datasets that none of them names."""

    def __init__(self, names: Iterable[str]):
        """
        Args:
            names: of all datasets that are looked at; two may share a folder.
        """
        self._roots = {name: _roots(name) for name in names}
        self._told: set[str] = set()

    def find(self, name: str, records: Iterable[Record]) -> Iterator[Finding]:
        """Goes through the folders of one dataset.

        Args:
            name: of the dataset.
            records: all of it.
        """
        roots = self._roots[name]
        if not roots:
            return
        named = _files(records)
        for other in self._sharing(name):
            try:
                named |= _files(read_records(other, Tally()))
            except ValueError:  # its own report will tell
                return
        for key, root in roots.items():
            extensions, kind = _ROOTS[key]
            for folder, below, files in os.walk(root):
                below.sort()  # os.walk goes on in the order that this list has by then
                for file in sorted(files):
                    path = os.path.join(folder, file)
                    if path in named or path in self._told or not is_picture(file, extensions):
                        continue
                    self._told.add(path)
                    yield kind, path

    def _sharing(self, name: str) -> Iterator[str]:
        """Other datasets with a folder that is one of this dataset's, or lies in or above one."""
        mine = self._roots[name].values()
        for other, roots in self._roots.items():
            if other != name and any(_nested(a, b) for a in mine for b in roots.values()):
                yield other


def _roots(name: str) -> dict[str, str]:
    """The folders of a dataset that hold nothing but what it names, by the metadata's key."""
    metadata = MetadataCatalog.get(name)
    keys = ["sem_seg_root", "instance_root"]
    if any(metadata.get(key) for key in _JSONS):
        keys.append("image_root")
    if metadata.get("panoptic_json"):
        keys = ["image_root", "panoptic_root"]
    found = {key: metadata.get(key) for key in keys}
    return {key: os.path.abspath(root) for key, root in found.items() if root}


def _nested(one: str, other: str) -> bool:
    return f"{one}{os.sep}".startswith(f"{other}{os.sep}") or f"{other}{os.sep}".startswith(
        f"{one}{os.sep}"
    )


def _files(records: Iterable[Record]) -> set[str]:
    """The absolute paths of all files that records name."""
    named: set[str] = set()
    for record in records:
        named.add(record.image_file)
        if record.png_file is not None:
            named.add(record.png_file)
        named.update(mask_files(record))
    return {os.path.abspath(path) for path in named}
