"""A small dataset in each form that DATASETS.CUSTOM takes; its segments worked out by hand."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

HEIGHT, WIDTH = 24, 34
# Values are neither dense nor in order; the class list's order is the contiguous one.
CLASSES = {
    "classes": [
        {"name": "sky", "type": "stuff", "value": 23, "color": [70, 130, 180]},
        {"name": "car", "type": "thing", "value": 26, "color": [0, 0, 142]},
        {"name": "road", "type": "stuff", "value": 7, "color": [128, 64, 128]},
        {"name": "person", "type": "thing", "value": 24, "color": [220, 20, 60]},
    ],
    "void": [0, 255],
}
SKY, CAR, ROAD, PERSON = 23, 26, 7, 24


def semantic():
    """(H, W) values: sky above road, cars left and right, a person, void at the right edge."""
    mask = np.full((HEIGHT, WIDTH), SKY, dtype=np.uint8)
    mask[12:] = ROAD
    mask[8:16, 2:14] = CAR
    mask[6:20, 18:22] = PERSON
    mask[:, 32:] = 0
    return mask


def instances():
    """(H, W) numbers: two cars side by side, the person has the first one's number, 4 columns of
    car without a number; a stray number on the sky."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[8:16, 2:6] = 1
    mask[8:16, 6:10] = 2
    mask[6:20, 18:22] = 1
    mask[0, 0] = 5
    return mask


#: (category in the class list's order, iscrowd): pixels. Of mask folders.
SEGMENTS = {
    (0, 0): HEIGHT * 32 // 2 - 4 * 12 - 6 * 4,
    (2, 0): HEIGHT * 32 // 2 - 4 * 12 - 8 * 4,
    (1, 1): 8 * 4,
    (1, 0): 8 * 4,
    (3, 0): 14 * 4,
}


def picture(index):
    values = np.random.default_rng(index).integers(0, 60, (HEIGHT, WIDTH, 3))
    table = np.zeros((256, 3), dtype=int)
    for entry in CLASSES["classes"]:
        table[entry["value"]] = entry["color"]
    return (table[semantic()] + values).clip(0, 255).astype(np.uint8)


def write_classes(root, content=None):
    path = Path(root) / "classes.yaml"
    path.write_text(yaml.safe_dump(CLASSES if content is None else content))
    return str(path)


def write_mask_folders(root, *, count=3, with_instances=True):
    """Pictures in two folders; returns the keys of an entry, `name` aside."""
    root = Path(root)
    names = [f"{'a' if index % 2 else 'b'}/p{index}" for index in range(count)]
    for index, name in enumerate(names):
        for folder, array, extension in (
            ("images", picture(index), ".jpg" if index % 2 else ".png"),
            ("semantic", semantic(), ".png"),
            *([("instances", instances(), ".png")] if with_instances else []),
        ):
            path = root / folder / f"{name}{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    folders = ("images", "semantic", *(["instances"] if with_instances else []))
    return {**{key: str(root / key) for key in folders}, "classes": write_classes(root)}


def square(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def write_coco_instances(root, *, count=3, with_semantic=True):
    """Two cars, of which the smaller stands before the larger, and a crowd of persons."""
    root = Path(root)
    (root / "images").mkdir(parents=True)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 9, "name": "person"}, {"id": 4, "name": "car"}],
    }
    for index in range(count):
        Image.fromarray(picture(index)).save(root / f"images/p{index}.png")
        content["images"].append(
            {"id": 50 + index, "file_name": f"p{index}.png", "height": HEIGHT, "width": WIDTH}
        )
        for category, crowd, box in (
            (4, 0, (4, 10, 8, 14)),
            (4, 0, (2, 8, 14, 16)),
            (9, 1, (18, 6, 22, 20)),
        ):
            left, top, right, bottom = box
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": 50 + index,
                    "category_id": category,
                    "iscrowd": crowd,
                    "segmentation": [square(*box)],
                    "area": (right - left) * (bottom - top),
                    "bbox": [left, top, right - left, bottom - top],
                }
            )
    (root / "instances.json").write_text(json.dumps(content))
    entry = {"images": str(root / "images"), "instances_json": str(root / "instances.json")}
    if with_semantic:
        (root / "semantic").mkdir()
        for index in range(count):
            Image.fromarray(semantic()).save(root / f"semantic/p{index}.png")
        entry |= {"semantic": str(root / "semantic"), "classes": write_classes(root)}
    return entry
