"""The ways in which a good dataset is damaged, and what must come of each.

A damage is a function that changes a fresh copy of a small good dataset (see `user_runs`). What is
expected of training, evaluation and prediction on it is either that they work, or one error whose
text has certain words: the file, and the cause.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

#: In place of an error's words: all ends in a result.
WORKS = ()


class Damage(NamedTuple):
    """One way.

    Attributes:
        name: what is done, in words.
        do: changes the dataset in the folder it is given.
        words: that the error's text must have with DATASETS.CHECK True; `WORKS`.
        unchecked: the same with DATASETS.CHECK False; None: the same words.
        form: of the dataset, one of `user_runs.FORMS`.
        alters: what a run that works may read otherwise than from the good dataset: "picture",
            "truth", both, or neither.
        options: `KEY VALUE ...` of the command line; "{}" in them stands for the folder that the
            dataset's lies in.
    """

    name: str
    do: Callable[[Path], Any]
    words: tuple[str, ...]
    unchecked: tuple[str, ...] | None = None
    form: str = "panoptic"
    alters: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def expected(self, *, check: bool) -> tuple[str, ...]:
        """The words that the error must have, `WORKS` where there must be none."""
        return self.words if check or self.unchecked is None else self.unchecked


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A damage to the bytes of a file."""

    def do(root: Path) -> None:
        path = root / name
        path.write_bytes(change(path.read_bytes()))

    return do


def edit(change: Callable[[dict], Any], name: str = "panoptic.json") -> Callable[[Path], None]:
    """A damage to what a json says."""

    def do(root: Path) -> None:
        content = json.loads((root / name).read_text())
        change(content)
        (root / name).write_text(json.dumps(content))

    return do


def segment(content: dict, index: int = 0) -> dict:
    """A segment of the second picture (its file is 001.png)."""
    return content["annotations"][1]["segments_info"][index]


def catalogue() -> list[Damage]:
    """Every damage, by kind."""
    import damaged_files
    import damaged_forms
    import damaged_json
    import damaged_pictures
    import damaged_truth

    found = [
        damage
        for module in (damaged_pictures, damaged_truth, damaged_json, damaged_files, damaged_forms)
        for damage in module.DAMAGES
    ]
    names = [damage.name for damage in found]
    assert len(set(names)) == len(names), "two damages have one name"
    return found
