"""What a look at everything in a dataset has shown."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .findings import Tally


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
        pictures: how many were looked at.
        tally: its findings.
        balance: per class; None for class folders and datasets that cannot be loaded.
        void: mean share of pixels without a class, 0 to 1; nan without any picture.
        small: how many instances are smaller than some numbers of pixels; crowds aside.
        folders: pictures by class folder; None for other datasets.
        stopped: whether the look was broken off before the last picture.
    """

    name: str
    source: str
    pictures: int
    tally: Tally
    balance: list[ClassBalance] | None = None
    void: float = float("nan")
    small: Mapping[int, int] | None = None
    folders: Mapping[str, int] | None = None
    stopped: bool = False

    @property
    def fit(self) -> bool:
        """Whether a training can start with it, as far as it was looked at."""
        return not self.tally.kinds(warnings=False)

    @property
    def instances(self) -> int:
        """How many segments of things there are, crowds aside."""
        return sum(each.segments for each in self.balance or () if each.isthing)

    def as_dict(self) -> dict[str, Any]:
        """For a json; what is not known is None."""
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
            "stopped_before_the_end": self.stopped,
            "training_can_start": self.fit and not self.stopped,
            "findings": self.tally.as_dict(),
            "classes": balance,
            "instances_smaller_than": None if self.small is None else dict(self.small),
            "mean_void_share": None if self.void != self.void else self.void,
            "pictures_by_class_folder": None if self.folders is None else dict(self.folders),
        }
