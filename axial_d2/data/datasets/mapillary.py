"""Mapillary Vistas v1.2, panoptic: classes and truth as its own files tell them.

Below $DETECTRON2_DATASETS, as downloaded (https://www.mapillary.com/dataset/vistas):

    mapillary_vistas/config.json
    mapillary_vistas/{training,validation}/images/*.jpg
    mapillary_vistas/{training,validation}/panoptic/{panoptic_2018.json,*.png}
"""

import os
from collections.abc import Mapping
from typing import Any

from .coco_panoptic import (
    IGNORE_LABEL,
    LABEL_DIVISOR,
    dicts_of_panoptic,
    panoptic_metadata,
    read_panoptic_json,
)
from .own import datasets_root, read_json, register_known

_SPLITS = {
    "mapillary_vistas_panoptic_train": "training",
    "mapillary_vistas_panoptic_val": "validation",
}
#: Of its own, since the json may list what is not evaluated (see `read_vistas`).
EVALUATOR_TYPE = "mapillary_vistas_panoptic_seg"


def read_vistas(config: str, json: str) -> dict[str, Any]:
    """Reads the panoptic json, and what config.json says of its categories.

    Args:
        config: the release's config.json, whose ``labels`` have ``name`` (as
            "construction--barrier--curb"), ``readable``, ``instances``, ``evaluate`` and ``color``.
        json: panoptic_2018.json; a category's ``supercategory`` is the name of its label.

    Returns:
        The json's content. Categories that are not evaluated are left out, and their segments are
        under ``void_segments`` of their annotations: they are no truth.

    Raises:
        ValueError: a file is missing or of another form, or the two disagree about a category.
    """
    content = read_panoptic_json(json)
    labels = _labels(config)
    kept, problems = [], []
    for category in content["categories"]:
        label = labels.get(category.get("supercategory")) or labels.get(category["name"])
        if label is None:
            problems.append(f"'{category['name']}': expected a label of that name, came none")
        elif label["evaluate"]:
            if bool(category["isthing"]) != bool(label["instances"]):
                problems.append(
                    f"'{category['name']}': isthing is {category['isthing']} in the json, "
                    f"instances is {label['instances']} in config.json"
                )
            kept.append({"color": label["color"], **category})
    evaluated = [label["name"] for label in labels.values() if label["evaluate"]]
    missing = len(set(evaluated)) - len(kept)
    if not problems and missing:
        problems.append(
            f"config.json has {len(set(evaluated))} labels that are evaluated, the json "
            f"{len(kept)} of them"
        )
    if problems:
        listed = "\n  ".join(problems)
        raise ValueError(f"{json} and {config} disagree:\n  {listed}")
    return {**content, "categories": kept, "annotations": _without(content, kept)}


def _labels(path: str) -> dict[str, dict[str, Any]]:
    """The labels of config.json by name and by readable name."""
    content = read_json(path, "label list")
    labels = content.get("labels") if isinstance(content, dict) else None
    wanted = ("name", "readable", "instances", "evaluate", "color")
    if not isinstance(labels, list) or not all(
        isinstance(label, dict) and all(key in label for key in wanted) for label in labels
    ):
        raise ValueError(
            f"{path} is not the config.json of Mapillary Vistas: expected a list 'labels' with "
            f"{', '.join(wanted)}"
        )
    return {label[key]: label for key in ("readable", "name") for label in labels}


def _without(content: Mapping[str, Any], kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The annotations with segments of other categories set aside."""
    ids = {category["id"] for category in kept}
    listed = {category["id"] for category in content["categories"]}
    annotations = []
    for annotation in content["annotations"]:
        parts: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for segment in annotation["segments_info"]:
            category = segment.get("category_id")
            # One that the json does not list at all is an error, which loading tells.
            parts[category in ids or category not in listed].append(segment)
        annotations.append(
            {**annotation, "segments_info": parts[True], "void_segments": parts[False]}
        )
    return annotations


def load_vistas(root: str, split: str) -> list[dict[str, Any]]:
    """Reads one split into Detectron2's dataset dicts.

    Args:
        root: the folder mapillary_vistas.
        split: "training" or "validation".

    Returns:
        As `load_coco_panoptic_json`; ``void_segments`` lists the ids of segments that are no truth.

    Raises:
        ValueError: as `read_vistas` and `load_coco_panoptic_json`.
    """
    folder = os.path.join(root, split)
    json = _json(root, split)
    content = read_vistas(os.path.join(root, "config.json"), json)
    dicts = dicts_of_panoptic(
        os.path.join(folder, "images"), os.path.join(folder, "panoptic"), json, content
    )
    void = {a["image_id"]: [s["id"] for s in a["void_segments"]] for a in content["annotations"]}
    return [{**record, "void_segments": void[record["image_id"]]} for record in dicts]


def _json(root: str, split: str) -> str:
    return os.path.join(root, split, "panoptic", "panoptic_2018.json")


def register_mapillary_vistas(root: str | None = None) -> None:
    """Registers ``mapillary_vistas_panoptic_train`` and ``_val``, without looking for their files.

    Args:
        root: the folder that holds ``mapillary_vistas``; None: $DETECTRON2_DATASETS.
    """
    base = os.path.join(root or datasets_root(), "mapillary_vistas")
    for name, split in _SPLITS.items():
        _register(name, base, split)


def _register(name: str, base: str, split: str) -> None:
    config, json = os.path.join(base, "config.json"), _json(base, split)

    def classes() -> dict[str, Any]:
        found = panoptic_metadata(read_vistas(config, json)["categories"])
        return {**found, "evaluator_type": EVALUATOR_TYPE}

    register_known(
        name,
        load=lambda: load_vistas(base, split),
        classes=classes,
        image_root=os.path.join(base, split, "images"),
        panoptic_root=os.path.join(base, split, "panoptic"),
        panoptic_json=json,
        evaluator_type=EVALUATOR_TYPE,
        ignore_label=IGNORE_LABEL,
        label_divisor=LABEL_DIVISOR,
    )
