"""Your own dataset as a COCO instance json, with masks of classes where there are some."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.structures import BoxMode

from .class_list import ClassList, ListedClass, read_class_list
from .coco_panoptic import generated_color, missing_file_hint
from .mask_folders import MASKS, files_by_stem, missing_masks
from .own import PathLike, full_path, read_json, register_own, whole_number

logger = logging.getLogger(__name__)

#: The class of what no instance covers where there are no masks of classes.
BACKGROUND = "background"
#: COCO's boxes are [left, top, width, height].
BOX = BoxMode.XYWH_ABS


def read_instances_json(path: PathLike) -> dict[str, Any]:
    """Reads a json and makes sure that it is a COCO instance one.

    Args:
        path: the json file.

    Returns:
        The parsed json, with lists of mappings under ``images``, ``annotations`` and
        ``categories``, of which images and categories have their fields.

    Raises:
        ValueError: the file is missing, is not json, or is not in COCO's instance format.
    """
    path = full_path(path)
    content = read_json(path, "instances json")
    problem = _form_problem(content)
    if problem:
        raise ValueError(f"{path} is not a COCO instances json: {problem}")
    return content


def _form_problem(content: Any) -> str | None:
    if not isinstance(content, dict):
        return f"expected a mapping at its top, came a {type(content).__name__}"
    fields = {
        "images": {"id": int | str, "file_name": str, "height": int, "width": int},
        "annotations": {"image_id": int | str, "category_id": int, "segmentation": list | dict},
        "categories": {"id": int, "name": str},
    }
    for key, wanted in fields.items():
        if not isinstance(content.get(key), list):
            came = type(content[key]).__name__ if key in content else f"the keys {sorted(content)}"
            return f"expected a list under '{key}', came {came}"
        for index, item in enumerate(content[key]):
            if not isinstance(item, dict):
                return f"expected mappings in '{key}', came {item!r} at position {index}"
            for field, kind in wanted.items():
                if not isinstance(item.get(field), kind) or isinstance(item.get(field), bool):
                    hint = "; it is a panoptic json" if "segments_info" in item else ""
                    return f"{key}[{index}]: {field}: came {item.get(field)!r}{hint}"
    for field in ("id", "name"):
        values = [category[field] for category in content["categories"]]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            return f"two categories have the {field} {twice!r}"
    return None


def _listed(content: Mapping[str, Any]) -> ClassList:
    """The json's categories as things in the order of their ids, and the background."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    things = [
        ListedClass(category["name"], True, category["id"], tuple(generated_color(index)))
        for index, category in enumerate(categories)
    ]
    values = [each.value for each in things]
    free = 0 if 0 not in values else max(values) + 1
    return ClassList((*things, ListedClass(BACKGROUND, False, free, (0, 0, 0))), ())


def _check_categories(json: str, content: Mapping[str, Any], listed: ClassList, path: str) -> None:
    things = [each.name for each in listed.classes if each.isthing]
    names = [category["name"] for category in content["categories"]]
    unknown = [name for name in names if name not in things]
    if unknown:
        raise ValueError(
            f"{json}: expected categories that {path} has as things ({', '.join(things)}), came "
            f"{unknown[0]!r}"
        )


def load_coco_instances(
    name: str, images: PathLike, json: PathLike, semantic: PathLike | None, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Reads a COCO instance json into Detectron2's dataset dicts.

    Args:
        name: of the dataset.
        images: folder that the json's file names are relative to.
        json: the json.
        semantic: folder of the masks of classes, named as the pictures; None: there are none.
        names: of the classes, by contiguous id.

    Returns:
        Per picture of the json ``file_name``, ``image_id``, ``height``, ``width``,
        ``dataset_name``, ``annotations`` (``segmentation``, ``category_id`` contiguous,
        ``iscrowd``, and ``bbox`` where the json has it), and ``sem_seg_file_name`` with masks of
        classes.

    Raises:
        ValueError: not a COCO instance json, an annotation of no picture or category, no picture at
            all, or masks that are missing.
    """
    json, root = full_path(json), full_path(images)
    content = read_instances_json(json)
    if not content["images"]:
        raise ValueError(f"{json}: expected at least one picture, came none")
    contiguous = {c["id"]: list(names).index(c["name"]) for c in content["categories"]}
    records: dict[Any, dict[str, Any]] = {}
    for image in content["images"]:
        if image["id"] in records:
            raise ValueError(f"{json}: two pictures have the id {image['id']!r}")
        records[image["id"]] = {
            "file_name": os.path.join(root, image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "dataset_name": name,
            "annotations": [],
        }
    for annotation in content["annotations"]:
        for key, known in (("image_id", records), ("category_id", contiguous)):
            if annotation[key] not in known:
                raise ValueError(
                    f"{json}: the annotation {annotation.get('id')!r} has the {key} "
                    f"{annotation[key]!r}, which is none of the json's"
                )
        try:
            crowd = whole_number({"iscrowd": 0, **annotation}, "iscrowd")
        except ValueError as error:
            raise ValueError(f"{json}: the annotation {annotation.get('id')!r}: {error}") from error
        records[annotation["image_id"]]["annotations"].append(
            {
                "segmentation": annotation["segmentation"],
                "category_id": contiguous[annotation["category_id"]],
                "iscrowd": crowd,
                **({"bbox": annotation["bbox"], "bbox_mode": BOX} if "bbox" in annotation else {}),
            }
        )
    if semantic is not None:
        _add_masks(name, records.values(), root, full_path(semantic))
    first = next(iter(records.values()))["file_name"]
    if not os.path.isfile(first):
        raise ValueError(f"{json}: {missing_file_hint(first)}")
    return list(records.values())


def _add_masks(name: str, records: Any, root: str, semantic: str) -> None:
    masks = files_by_stem(semantic, MASKS)
    missing = []
    for record in records:
        stem = os.path.splitext(os.path.relpath(record["file_name"], root))[0]
        if stem in masks:
            record["sem_seg_file_name"] = masks[stem]
        else:
            missing.append((record["file_name"], os.path.join(semantic, f"{stem}.png")))
    if missing:
        raise ValueError(missing_masks(name, missing, masks))


def register_coco_instances(
    name: str,
    images: PathLike,
    json: PathLike,
    semantic: PathLike | None = None,
    classes: PathLike | None = None,
) -> None:
    """Registers a COCO instance json, with masks of classes or without, with Detectron2's catalogs.

    With masks the classes are those of the class list, among whose things the json's categories are
    found by name. Instances lie above the masks; pixels of a thing class that none covers are a
    crowd. Without masks the classes are the json's categories, by id, and "background" for all
    that no instance covers.

    Args:
        name: the name for ``cfg.DATASETS.TRAIN`` and ``TEST``.
        images: folder of the pictures.
        json: the instance json.
        semantic: folder of the masks of classes, named as the pictures.
        classes: yaml file of the classes (see `axial_d2.data.read_class_list`); needed with
            `semantic`, and with it alone.

    Raises:
        ValueError: the json or the class list is not right, the two do not agree, or `name` is the
            name of a dataset that was registered elsewhere.
    """
    if (semantic is None) != (classes is None):
        given, other = ("classes", "semantic") if semantic is None else ("semantic", "classes")
        raise ValueError(f"expected {other} beside {given}, came none")
    images, json = full_path(images), full_path(json)
    semantic = None if semantic is None else full_path(semantic)
    classes = None if classes is None else full_path(classes)

    def listed() -> ClassList:
        content = read_instances_json(json)
        if classes is None:
            return _listed(content)
        found = read_class_list(classes)
        _check_categories(json, content, found, classes)
        return found

    register_own(
        name,
        "coco_instances",
        (images, json, semantic or "", classes or ""),
        files=(json,) if classes is None else (json, classes),
        load=lambda: load_coco_instances(
            name, images, json, semantic, [each.name for each in listed().classes]
        ),
        metadata=lambda: {
            **listed().metadata(),
            "image_root": images,
            "instances_json": json,
            **({} if semantic is None else {"sem_seg_root": semantic}),
            "segment_truth": "instances" if semantic is None else "panoptic",
        },
    )
