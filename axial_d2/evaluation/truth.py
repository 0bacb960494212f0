"""The panoptic truth of a data set, read once per picture for all who compare with it."""

import dataclasses
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image, UnidentifiedImageError

from axial_d2.panoptic.encoding import rgb_to_id

# Evaluators go over a batch one after the other; batches at test time are of one or a few pictures.
_KEPT = 4


@dataclasses.dataclass(frozen=True)
class TruthPicture:
    """The truth of one picture.

    Attributes:
        file_name: the panoptic PNG.
        index: (H, W) integers; 0 is void, k is `segments[k - 1]`.
        segments: dicts with `id`, `category_id` (contiguous) and `iscrowd`, those with pixels.
    """

    file_name: str
    index: np.ndarray
    segments: list[dict[str, Any]]

    def check_size(self, size: tuple[int, ...], what: str) -> None:
        """Raises a ValueError unless a prediction of shape `size` is as large as the truth."""
        if tuple(size) != self.index.shape:
            raise ValueError(
                f"{what} must have the truth's size (height, width) = {self.index.shape}, that of "
                f"{self.file_name}; got {tuple(size)}"
            )


class PanopticTruth:
    """Reads the panoptic PNGs of a registered data set, keeping the last few.

    Attributes:
        class_names: by contiguous id.
        thing_ids: contiguous ids of the thing classes, ascending.
        dataset_ids: the data set's own category id by contiguous id.

    Raises:
        ValueError: the data set is not registered, or has no panoptic truth that gives every class
            an id of its own.
    """

    def __init__(self, dataset_name: str):
        if dataset_name not in DatasetCatalog.list():
            raise ValueError(
                f"data set {dataset_name!r} is not registered; is it listed in DATASETS.CUSTOM?"
            )
        self.metadata = MetadataCatalog.get(dataset_name)
        try:
            things = self.metadata.thing_dataset_id_to_contiguous_id
            stuff = self.metadata.stuff_dataset_id_to_contiguous_id
            self.class_names: list[str] = list(self.metadata.stuff_classes)
            _ = self.metadata.panoptic_json, self.metadata.panoptic_root
        except AttributeError as error:
            raise ValueError(f"data set {dataset_name!r} is not panoptic: {error}") from None
        self.thing_ids: list[int] = sorted(things.values())
        self.dataset_ids: dict[int, int] = {v: k for m in (things, stuff) for k, v in m.items()}
        if sorted([*things.values(), *stuff.values()]) != list(range(len(self.class_names))):
            shared = sorted(set(things.values()) & set(stuff.values()))
            raise ValueError(
                f"data set {dataset_name!r} must number its classes, things and stuff together, "
                f"0..{len(self.class_names) - 1}; got {len(things)} things and {len(stuff)} stuff "
                f"classes, {len(shared)} ids used by both"
            )
        self._dataset_name = dataset_name
        self._records: dict[Hashable, Mapping[str, Any]] | None = None
        self._kept: OrderedDict[Hashable, TruthPicture] = OrderedDict()

    def picture(self, image_id: Hashable) -> TruthPicture:
        """The truth of the picture with this `image_id`.

        Raises:
            ValueError: no such picture, or its PNG holds a segment that segments_info lacks.
            OSError: the PNG is missing or unreadable; the message names it.
        """
        if image_id not in self._kept:
            self._kept[image_id] = self._read(image_id)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[image_id]

    def _read(self, image_id: Hashable) -> TruthPicture:
        if self._records is None:
            records = DatasetCatalog.get(self._dataset_name)
            self._records = {record["image_id"]: record for record in records}
        if image_id not in self._records:
            raise ValueError(f"data set {self._dataset_name!r} has no image_id {image_id!r}")
        record = self._records[image_id]
        file_name = record["pan_seg_file_name"]
        try:
            with Image.open(file_name) as image:
                ids = rgb_to_id(np.asarray(image.convert("RGB")))
        except FileNotFoundError:
            raise FileNotFoundError(f"panoptic truth {file_name} does not exist") from None
        except (UnidentifiedImageError, OSError) as error:
            raise OSError(f"panoptic truth {file_name} cannot be read: {error}") from error
        present, index = _compact(ids)
        known = {segment["id"]: segment for segment in record["segments_info"]}
        unknown = [int(k) for k in present if k != 0 and k not in known]
        if unknown:
            raise ValueError(
                f"panoptic truth {file_name} holds segment ids that its segments_info lacks: "
                f"{unknown[:5]}"
            )
        if present[0] != 0:  # no void: the first segment is to have index 1 all the same
            index += 1
        segments = [dict(known[k]) for k in present.tolist() if k != 0]
        return TruthPicture(file_name=file_name, index=index, segments=segments)


def _compact(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `np.unique(ids, return_inverse=True)`, by runs: there are far fewer of them than pixels.

    Args:
        ids: (H, W).

    Returns:
        Distinct ids, ascending, (S,); and the place of each pixel's among them, (H, W).
    """
    flat = ids.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    lengths = np.diff(starts, append=flat.size)
    present, inverse = np.unique(flat[starts], return_inverse=True)
    return present, np.repeat(inverse, lengths).reshape(ids.shape)  # (H*W,) -> (H, W)
