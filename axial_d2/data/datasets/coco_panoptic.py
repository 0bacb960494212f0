"""Datasets in COCO panoptic format: reading, metadata, registration.

The format (https://cocodataset.org/#format-data, "Panoptic Segmentation"): one json with
``images``, ``annotations`` (one per image, each with ``segments_info``) and ``categories``, and one
RGB png per image whose pixels hold segment ids, id = R + 256 G + 65536 B, 0 = void.
"""

import colorsys
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from .own import PathLike, full_path, read_json, register_own, whole_number

logger = logging.getLogger(__name__)

#: Semantic label of void pixels; the class ids must therefore stay below it.
IGNORE_LABEL = 255
#: Panoptic id = class * LABEL_DIVISOR + instance number, as in Detectron2's own panoptic datasets.
LABEL_DIVISOR = 1000


def read_panoptic_json(path: PathLike) -> dict[str, Any]:
    """Reads a json and makes sure that it is a COCO panoptic one.

    Args:
        path: the json file.

    Returns:
        The parsed json, with lists under ``images``, ``annotations`` and ``categories``.

    Raises:
        ValueError: the file is missing, is not json, or is not in COCO panoptic format (as when it
            is the json of COCO's instances, captions or keypoints).
    """
    path = full_path(path)
    content = read_json(path, "panoptic json")
    problem = _form_problem(content)
    if problem:
        raise ValueError(f"{path} is not a COCO panoptic json: {problem}")
    return content


def _form_problem(content: Any) -> str | None:
    """What keeps `content` from being COCO panoptic, in words; None where nothing does."""
    if not isinstance(content, dict):
        return f"expected a mapping at its top, came a {type(content).__name__}"
    for key in ("images", "annotations", "categories"):
        if key not in content:
            return f"the key '{key}' is missing; it has {sorted(content)}"
        if not isinstance(content[key], list):
            return f"expected a list under '{key}', came a {type(content[key]).__name__}"
        for index, item in enumerate(content[key]):
            if not isinstance(item, dict):
                return f"expected mappings in '{key}', came {item!r} at position {index}"
    for index, annotation in enumerate(content["annotations"]):
        if not isinstance(annotation.get("segments_info"), list):
            other = [k for k in ("segmentation", "keypoints", "caption") if k in annotation]
            hint = f": '{other[0]}' is of COCO's instances or captions json" if other else ""
            return f"annotations[{index}] lacks 'segments_info', has {sorted(annotation)}{hint}"
    return _category_problem(content["categories"])


def _category_problem(categories: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with the categories, in words; None where nothing is."""
    if not 0 < len(categories) <= IGNORE_LABEL:
        return f"expected 1 to {IGNORE_LABEL} categories, came {len(categories)}"
    seen: dict[str, set[Any]] = {"id": set(), "name": set()}
    for category in categories:
        missing = [key for key in ("id", "name", "isthing") if key not in category]
        if missing:
            return f"the category {dict(category)} lacks {', '.join(missing)}"
        if type(category["id"]) is not int or not isinstance(category["name"], str):
            return f"a category's id is a whole number, its name a text; came {dict(category)}"
        if category["isthing"] not in (0, 1):
            return f"a category's isthing is 0 or 1; came {dict(category)}"
        for key, values in seen.items():
            if category[key] in values:
                return f"two categories have the {key} {category[key]!r}"
            values.add(category[key])
        if not _is_color(category.get("color", [0, 0, 0])):
            return f"a category's color is [red, green, blue], each 0 to 255; came {dict(category)}"
    return None


def _is_color(color: Any) -> bool:
    return (
        isinstance(color, list | tuple)
        and len(color) == 3
        and all(type(value) is int and 0 <= value <= 255 for value in color)
    )


def generated_color(index: int) -> list[int]:
    """The colour of the category at `index`: hues a golden ratio apart never come near soon."""
    hue = (0.11 + index * 0.6180339887) % 1.0
    saturation = (0.85, 0.55, 0.7)[index % 3]
    value = (0.95, 0.75)[index // 3 % 2]
    return [round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value)]


def panoptic_metadata(categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Detectron2's metadata fields that follow from the categories of a COCO panoptic json.

    Contiguous ids are positions in `categories`, so things need not come first.

    Args:
        categories: mappings with ``id`` (int), ``name``, ``isthing`` (0 or 1) and, where wanted,
            ``color`` ([r, g, b], 0..255; generated where missing, always the same for a position).

    Returns:
        ``thing_classes`` and ``stuff_classes`` (both the names of all classes, by contiguous id, as
        in Detectron2's standard panoptic datasets), ``thing_colors`` and ``stuff_colors`` likewise,
        ``thing_dataset_id_to_contiguous_id`` (things only), ``stuff_dataset_id_to_contiguous_id``
        (stuff only), ``ignore_label``, ``label_divisor`` and ``evaluator_type``.

    Raises:
        ValueError: a category lacks a field, or ids or names repeat, or there are more than 255.
    """
    problem = _category_problem(categories)
    if problem:
        raise ValueError(f"the categories are not right: {problem}")
    names = [category["name"] for category in categories]
    colors = [
        [int(value) for value in category.get("color", generated_color(index))]
        for index, category in enumerate(categories)
    ]
    contiguous: dict[bool, dict[int, int]] = {True: {}, False: {}}
    for index, category in enumerate(categories):
        contiguous[bool(category["isthing"])][category["id"]] = index
    return {
        "thing_classes": names,
        "stuff_classes": list(names),
        "thing_colors": colors,
        "stuff_colors": [list(color) for color in colors],
        "thing_dataset_id_to_contiguous_id": contiguous[True],
        "stuff_dataset_id_to_contiguous_id": contiguous[False],
        "ignore_label": IGNORE_LABEL,
        "label_divisor": LABEL_DIVISOR,
        "evaluator_type": "coco_panoptic_seg",
    }


def missing_file_hint(path: PathLike) -> str:
    """Says that `path` is no file and, where one differs by its extension alone, which is there."""
    path = os.fspath(path)
    if "\\" in path and os.path.isfile(path.replace("\\", "/")):
        return f"expected the file {path}, which is not there: write / in the json, not \\"
    stem, _ = os.path.splitext(path)
    others = [
        stem + extension
        for extension in (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
        if stem + extension != path and os.path.isfile(stem + extension)
    ]
    if not others:
        return f"expected the file {path}, which is not there"
    return (
        f"expected the file {path}, which is not there, but {os.path.basename(others[0])} is: "
        "the json's file_name must carry the file's own extension"
    )


def load_coco_panoptic_json(images: PathLike, panoptic: PathLike, json: PathLike) -> list[dict]:
    """Reads a dataset in COCO panoptic format into Detectron2's dataset dicts.

    Args:
        images: folder that the ``file_name`` of the json's images are relative to.
        panoptic: folder that the ``file_name`` of the json's annotations (png) are relative to.
        json: the panoptic json.

    Returns:
        One dict per annotated image, in the order of the json's annotations: ``file_name``,
        ``image_id``, ``height``, ``width`` (pixels), ``pan_seg_file_name`` and ``segments_info``
        with ``id``, ``category_id`` (contiguous), ``iscrowd`` (0 or 1), ``isthing`` (bool), and
        ``area`` (pixels) and ``bbox`` ([x, y, width, height]) where the json has them.
        Images without an annotation are left out, which a log line says.

    Raises:
        ValueError: not COCO panoptic, an annotation of no image, an unknown category, no annotated
            image at all, or the first picture or png is not there. Only the first is looked for:
            `axial_d2.data.check_datasets` looks for all.
    """
    return dicts_of_panoptic(images, panoptic, json, read_panoptic_json(json))


def dicts_of_panoptic(
    images: PathLike, panoptic: PathLike, json: PathLike, content: Mapping[str, Any]
) -> list[dict]:
    """As `load_coco_panoptic_json`, from the content of a json.

    Args:
        images, panoptic: as there.
        json: the file, for messages.
        content: of it.
    """
    metadata = panoptic_metadata(content["categories"])
    by_id = {}
    for image in content["images"]:
        if not isinstance(image.get("id"), int | str):
            raise ValueError(
                f"{json}: {image.get('file_name')}: id: expected a number or a text, came "
                f"{image.get('id')!r}"
            )
        by_id[image["id"]] = image
    image_root, panoptic_root = full_path(images), full_path(panoptic)
    dicts: list[dict[str, Any]] = []
    seen = set()
    for annotation in content["annotations"]:
        key = annotation.get("image_id")
        image = by_id.get(key) if isinstance(key, int | str) else None
        if image is None:
            raise ValueError(
                f"{json}: the annotation {annotation.get('file_name')!r} has the image_id "
                f"{key!r}, expected the id of one of the json's images"
            )
        if key in seen:
            raise ValueError(
                f"{json}: the annotation {annotation.get('file_name')!r} is not the first of the "
                f"image {key!r}"
            )
        seen.add(key)
        try:
            dicts.append(
                {
                    "file_name": os.path.join(image_root, image["file_name"]),
                    "image_id": image["id"],
                    "height": whole_number(image, "height", text=True),
                    "width": whole_number(image, "width", text=True),
                    "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
                    "segments_info": _segments(annotation["segments_info"], metadata),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            cause = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{json}: image {image.get('id')!r}: {cause}") from error
    _say_what_is_left_out(content, json)
    if not dicts:
        raise ValueError(f"{json}: expected at least one annotated image, came none")
    for key in ("file_name", "pan_seg_file_name"):
        if not os.path.isfile(dicts[0][key]):
            raise ValueError(f"{json}: {missing_file_hint(dicts[0][key])}")
    return dicts


def _segments(segments: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any]) -> list[dict]:
    """The json's segments with contiguous category ids."""
    things = metadata["thing_dataset_id_to_contiguous_id"]
    stuff = metadata["stuff_dataset_id_to_contiguous_id"]
    result = []
    for segment in segments:
        category = whole_number(segment, "category_id")
        isthing = category in things
        if not isthing and category not in stuff:
            raise ValueError(
                f"segment {segment['id']} has the category_id {category!r}, which is not among "
                "the json's categories"
            )
        entry = {
            "id": whole_number(segment, "id"),
            "category_id": things[category] if isthing else stuff[category],
            "iscrowd": whole_number({"iscrowd": 0, **segment}, "iscrowd"),
            "isthing": isthing,
        }
        entry.update({key: segment[key] for key in ("area", "bbox") if key in segment})
        result.append(entry)
    return result


def _say_what_is_left_out(content: Mapping[str, Any], json: PathLike) -> None:
    annotated = {annotation.get("image_id") for annotation in content["annotations"]}
    lost = [i.get("file_name") for i in content["images"] if i.get("id") not in annotated]
    if lost:
        logger.warning(
            "%s: %d of %d images have no annotation and are left out, the first: %s",
            json, len(lost), len(content["images"]), lost[0],
        )  # fmt: skip


def register_coco_panoptic(name: str, images: PathLike, panoptic: PathLike, json: PathLike) -> None:
    """Registers a dataset in COCO panoptic format with Detectron2's catalogs.

    The json's categories are read at once, for the metadata; its images and annotations when the
    dataset is first used. Registering the same again does nothing; a dataset that was registered
    here under this name with other paths, or whose json has changed since, is replaced.

    Args:
        name: the name for ``cfg.DATASETS.TRAIN`` and ``TEST``.
        images: folder of the pictures (.jpg, .jpeg, .png).
        panoptic: folder of the panoptic png files.
        json: the panoptic json. ``~`` is expanded in all three, and relative paths are taken from
            the current directory.

    Raises:
        ValueError: the json is not a COCO panoptic one, or `name` is the name of a dataset that
            was registered elsewhere (Detectron2's own, the embedded one, the user's code).
    """
    images, panoptic, json = (full_path(path) for path in (images, panoptic, json))
    register_own(
        name,
        "coco_panoptic",
        (images, panoptic, json),
        files=(json,),
        load=lambda: load_coco_panoptic_json(images, panoptic, json),
        metadata=lambda: {
            "image_root": images,
            "panoptic_root": panoptic,
            "panoptic_json": json,
            **panoptic_metadata(read_panoptic_json(json)["categories"]),
        },
    )
