"""The classes of a registered segmentation dataset, whatever its truth.

Detectron2 has metadata of three shapes: panoptic datasets number things and stuff together,
semantic ones know `stuff_classes` alone, instance ones `thing_classes` alone. Here each becomes one
list of contiguous classes, so that one model, one mapper and one set of evaluators serve them all.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from .datasets.coco_instances import BACKGROUND
from .datasets.coco_panoptic import (
    IGNORE_LABEL,
    LABEL_DIVISOR,
    generated_color,
    panoptic_metadata,
)
from .datasets.own import LAZY_CLASSES

Truth = Literal["panoptic", "semantic", "instances"]

_SEMANTIC_TYPES = ("sem_seg", "cityscapes_sem_seg")
_INSTANCE_TYPES = ("coco", "cityscapes_instance")
_CITYSCAPES = {category["name"]: category for category in CITYSCAPES_CATEGORIES}


@dataclasses.dataclass(frozen=True)
class SegmentClasses:
    """The classes of a dataset, by contiguous id.

    Attributes:
        names: of the classes.
        colors: [red, green, blue], 0 to 255.
        thing_ids: contiguous ids of the things, ascending.
        dataset_ids: the ids that the dataset's files have for the classes.
        truth: "panoptic", "semantic" (no instances are told apart) or "instances" (what no instance
            covers is the last class, "background").
        ignore_label: of pixels without truth.
        label_divisor: panoptic id = class * label_divisor + instance.
        values: contiguous id by value in the semantic masks; None: the values are contiguous ids.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    thing_ids: tuple[int, ...]
    dataset_ids: tuple[int, ...]
    truth: Truth = "panoptic"
    ignore_label: int = IGNORE_LABEL
    label_divisor: int = LABEL_DIVISOR
    values: Mapping[int, int] | None = None

    def metadata(self) -> dict[str, Any]:
        """The fields that Detectron2's panoptic datasets have in their metadata."""
        categories = [
            {"id": dataset_id, "name": name, "isthing": index in self.thing_ids, "color": color}
            for index, (dataset_id, name, color) in enumerate(
                zip(self.dataset_ids, self.names, self.colors, strict=True)
            )
        ]
        return {
            **panoptic_metadata(categories),
            "ignore_label": self.ignore_label,
            "label_divisor": self.label_divisor,
        }


def record_key(record: Mapping[str, Any]) -> Hashable:
    """What a dataset dict is known by: its image_id, or where there is none its file_name."""
    return record["image_id"] if "image_id" in record else record["file_name"]


def is_segmentation(name: str) -> bool:
    """Whether a registered dataset has classes of pixels or instances, as `segment_classes` needs.

    Args:
        name: of the dataset.
    """
    try:
        segment_classes(name)
    except ValueError:
        return name in LAZY_CLASSES
    return True


def segment_classes(name: str) -> SegmentClasses:
    """The classes of a registered dataset.

    Args:
        name: a panoptic dataset, a semantic one (``evaluator_type`` "sem_seg" or
            "cityscapes_sem_seg"), or one of instances ("coco" or "cityscapes_instance").

    Returns:
        Its classes; those of a semantic dataset of Detectron2 are all stuff.

    Raises:
        ValueError: no such dataset, one of another kind, or its metadata or the files that they are
            read from are not right.
    """
    if name not in DatasetCatalog.list():
        raise ValueError(
            f"the dataset {name!r} is not registered; is it listed in DATASETS.CUSTOM?"
        )
    metadata = MetadataCatalog.get(name)
    if name in LAZY_CLASSES and not hasattr(metadata, "stuff_classes"):
        LAZY_CLASSES[name]()
    kind = metadata.get("evaluator_type")
    ids = "thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"
    if kind in _SEMANTIC_TYPES:
        return _semantic(name, metadata)
    if kind in _INSTANCE_TYPES:
        return _instances(name, metadata)
    if all(hasattr(metadata, key) for key in (*ids, "stuff_classes")):
        return _panoptic(name, metadata)
    raise ValueError(
        f"the dataset {name!r} is neither panoptic nor one of semantic or instance segmentation: "
        f"expected {', '.join(ids)} and stuff_classes in its metadata, or an evaluator_type among "
        f"{', '.join((*_SEMANTIC_TYPES, *_INSTANCE_TYPES))}; came the evaluator_type {kind!r}"
    )


def _panoptic(name: str, metadata: Any) -> SegmentClasses:
    things = metadata.thing_dataset_id_to_contiguous_id
    stuff = metadata.stuff_dataset_id_to_contiguous_id
    names = metadata.stuff_classes
    if sorted([*things.values(), *stuff.values()]) != list(range(len(names))):
        shared = sorted(set(things.values()) & set(stuff.values()))
        raise ValueError(
            f"the dataset {name!r} must number its classes, things and stuff together, "
            f"0..{len(names) - 1}; got {len(things)} things and {len(stuff)} stuff "
            f"classes, {len(shared)} ids used by both"
        )
    truth = metadata.get("segment_truth", "panoptic")
    assert truth in get_args(Truth)
    dataset_ids = {index: key for ids in (things, stuff) for key, index in ids.items()}
    return SegmentClasses(
        names=tuple(names),
        colors=_colors(metadata.get("stuff_colors"), len(names)),
        thing_ids=tuple(sorted(things.values())),
        dataset_ids=tuple(dataset_ids[index] for index in range(len(names))),
        truth=truth,
        ignore_label=metadata.get("ignore_label", IGNORE_LABEL),
        label_divisor=metadata.get("label_divisor", LABEL_DIVISOR),
        values=metadata.get("semantic_values"),
    )


def _semantic(name: str, metadata: Any) -> SegmentClasses:
    """Detectron2's semantic datasets: the masks hold contiguous ids."""
    names = metadata.get("stuff_classes")
    if not names:
        raise ValueError(f"the dataset {name!r}: expected stuff_classes in its metadata, came none")
    ids = metadata.get("stuff_dataset_id_to_contiguous_id")
    return SegmentClasses(
        names=tuple(names),
        colors=_colors(metadata.get("stuff_colors") or _cityscapes_colors(names), len(names)),
        thing_ids=(),
        dataset_ids=_dataset_ids(ids, names, metadata.get("evaluator_type")),
        truth="semantic",
        ignore_label=metadata.get("ignore_label", IGNORE_LABEL),
    )


def _instances(name: str, metadata: Any) -> SegmentClasses:
    """Detectron2's instance datasets, and one more class for what no instance covers."""
    if not hasattr(metadata, "thing_classes"):
        DatasetCatalog.get(name)  # Detectron2 reads them from the json when it is first used.
    names = list(metadata.thing_classes)
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    dataset_ids = _dataset_ids(ids, names, metadata.get("evaluator_type"))
    free = 0 if 0 not in dataset_ids else max(dataset_ids) + 1
    things = _colors(metadata.get("thing_colors") or _cityscapes_colors(names), len(names))
    return SegmentClasses(
        names=(*names, BACKGROUND),
        colors=(*things, (0, 0, 0)),
        thing_ids=tuple(range(len(names))),
        dataset_ids=(*dataset_ids, free),
        truth="instances",
        ignore_label=metadata.get("ignore_label", IGNORE_LABEL),
    )


def _dataset_ids(
    contiguous: Mapping[int, int] | None, names: Sequence[str], kind: str | None
) -> tuple[int, ...]:
    """The dataset's id of each class; where the metadata tell none, the contiguous one."""
    if contiguous and sorted(contiguous.values()) == list(range(len(names))):
        return tuple(sorted(contiguous, key=contiguous.__getitem__))
    if kind in ("cityscapes_sem_seg", "cityscapes_instance"):
        return tuple(_CITYSCAPES[name]["id"] for name in names)
    return tuple(range(len(names)))


def _cityscapes_colors(names: Sequence[str]) -> list[Sequence[int]] | None:
    """Detectron2 has no colours in the metadata of Cityscapes' semantic and instance datasets."""
    if not set(names) <= set(_CITYSCAPES):
        return None
    return [_CITYSCAPES[name]["color"] for name in names]


def _colors(colors: Any, count: int) -> tuple[tuple[int, int, int], ...]:
    given = list(colors or [])
    if len(given) != count:
        given = [generated_color(index) for index in range(count)]
    return tuple((int(r), int(g), int(b)) for r, g, b in given)
