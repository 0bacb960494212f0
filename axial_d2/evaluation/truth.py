"""The truth of a data set as segments, read once per picture for all who compare with it."""

import dataclasses
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from axial_d2.data.classes import record_key, segment_classes
from axial_d2.data.datasets import load_dataset
from axial_d2.data.segments import annotation_mask, read_segments, truth_file
from axial_d2.panoptic.encoding import compact_ids

#: What can be judged: PQ, AP, mIoU.
TASKS = ("panoptic_seg", "segm", "sem_seg")
_TASKS_OF_TRUTH = {"panoptic": TASKS, "semantic": ("sem_seg",), "instances": ("segm",)}
# Evaluators go over a batch one after the other; batches at test time are of one or a few pictures.
_KEPT = 4


@dataclasses.dataclass(frozen=True)
class TruthPicture:
    """The truth of one picture.

    Attributes:
        file_name: the file that the truth stands in: a panoptic PNG, a mask, or the picture itself.
        index: (H, W) integers; 0 is void, k is `segments[k - 1]`.
        segments: dicts with `id`, `category_id` (contiguous), `iscrowd` and `isthing`, those with
            pixels.
        without_pixels: segments of the json that have none, which PQ counts as not found.
        annotations: where the truth is annotations alone, these; they may overlap.
    """

    file_name: str
    index: np.ndarray
    segments: list[dict[str, Any]]
    without_pixels: Sequence[Mapping[str, Any]] = ()
    annotations: Sequence[Mapping[str, Any]] | None = None

    def instances(self) -> Iterator[tuple[int, bool, np.ndarray]]:
        """Per instance its class (contiguous id), whether it is a crowd, and its (H, W) bool mask.

        Of annotations alone as they are, with what others cover, as COCO evaluates them.
        """
        if self.annotations is not None:
            for each in self.annotations:
                mask = annotation_mask(each, self.index.shape, self.file_name)
                yield each["category_id"], bool(each.get("iscrowd", 0)), mask
            return
        for number, segment in enumerate(self.segments, start=1):
            if segment["isthing"]:
                crowd = bool(segment.get("iscrowd", 0))
                yield segment["category_id"], crowd, self.index == number

    def check_size(self, size: tuple[int, ...], what: str) -> None:
        """Raises a ValueError unless a prediction of shape `size` is as large as the truth."""
        if tuple(size) != self.index.shape:
            raise ValueError(
                f"{what} must have the truth's size (height, width) = {self.index.shape}, that of "
                f"{self.file_name}; got {tuple(size)}"
            )


class PanopticTruth:
    """Reads the truth of a registered data set as segments, keeping the last few pictures.

    Attributes:
        classes: of the data set.
        class_names: by contiguous id.
        thing_ids: contiguous ids of the thing classes, ascending.
        dataset_ids: the data set's own category id by contiguous id.
        tasks: what it can judge: some of `TASKS`.
        is_cityscapes: whether it is one of Detectron2's Cityscapes data sets.

    Raises:
        ValueError: the data set is not registered, or has no classes that are numbered together.
    """

    def __init__(self, dataset_name: str):
        self.classes = segment_classes(dataset_name)
        self.metadata = MetadataCatalog.get(dataset_name)
        self.class_names: list[str] = list(self.classes.names)
        self.thing_ids: list[int] = list(self.classes.thing_ids)
        self.dataset_ids: dict[int, int] = dict(enumerate(self.classes.dataset_ids))
        self.tasks: tuple[str, ...] = _TASKS_OF_TRUTH[self.classes.truth]
        kind = str(self.metadata.get("evaluator_type"))
        self.is_cityscapes = kind.startswith("cityscapes_")
        self._dataset_name = dataset_name
        self._records: dict[Hashable, Mapping[str, Any]] | None = None
        self._kept: OrderedDict[Hashable, TruthPicture] = OrderedDict()

    def picture(self, key: Hashable) -> TruthPicture:
        """The truth of one picture.

        Args:
            key: its `record_key`: its image_id or, where the data set has none, its file_name.

        Raises:
            ValueError: no such picture, a file that is missing or unreadable, or a panoptic PNG
                with a segment that segments_info lacks; the message names the file.
        """
        if key not in self._kept:
            self._kept[key] = self._read(key)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def records(self) -> Mapping[Hashable, Mapping[str, Any]]:
        """The data set's dicts by `record_key`, read when they are first asked for."""
        if self._records is None:
            records = load_dataset(self._dataset_name)
            self._records = {record_key(record): record for record in records}
        return self._records

    def _read(self, key: Hashable) -> TruthPicture:
        if key not in self.records():
            raise ValueError(f"data set {self._dataset_name!r} has no image_id {key!r}")
        record = self.records()[key]
        file_name = truth_file(record)
        truth = read_segments(record, self.classes)
        present, index = compact_ids(truth.ids())
        known = {segment["id"]: segment for segment in truth.segments_info}
        unknown = [int(k) for k in present if k != 0 and k not in known]
        if unknown:
            raise ValueError(
                f"panoptic truth {file_name} holds segment ids that its segments_info lacks: "
                f"{unknown[:5]}"
            )
        if present[0] != 0:  # no void: the first segment is to have index 1 all the same
            index += 1
        segments = [dict(known[k]) for k in present.tolist() if k != 0]
        absent = [segment for key, segment in known.items() if key not in present]
        alone = self.classes.truth == "instances"
        return TruthPicture(
            file_name=file_name,
            index=index,
            segments=segments,
            without_pixels=absent,
            annotations=record["annotations"] if alone else None,
        )
