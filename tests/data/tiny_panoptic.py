"""A tiny dataset in COCO panoptic format for the tests of axial_d2.data."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

# Things do not come first, ids are neither sorted nor dense.
CATEGORIES = [
    {"id": 7, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 3, "name": "car", "isthing": 1, "color": [0, 0, 142]},
    {"id": 11, "name": "sky", "isthing": 0},
    {"id": 5, "name": "person", "isthing": 1},
]
# Category of each segment; ids that need one, two and three colour channels.
SEGMENTS = {1: 7, 300: 3, 70000: 11, 9: 5}
HEIGHT, WIDTH = 24, 33


def ids_to_rgb(ids):
    """(H, W) ids -> (H, W, 3) uint8, written out independently of the package."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)


def truth(index, height=HEIGHT, width=WIDTH):
    """(H, W) ids: sky above road, a car and a person before them, void at the left edge."""
    ids = np.full((height, width), 70000)
    ids[height // 2 :] = 1
    ids[8 + index : 16 + index, 5:17] = 300
    ids[6:20, 20 + index : 24 + index] = 9
    ids[:, :2] = 0
    return ids


def annotation(ids, image_id, file_name, crowd=()):
    segments = []
    for segment, category in SEGMENTS.items():
        rows, columns = np.nonzero(ids == segment)
        if len(rows):
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            segments.append(
                {
                    "id": segment,
                    "category_id": category,
                    "iscrowd": int(segment in crowd),
                    "area": len(rows),
                    "bbox": [int(value) for value in box],
                }
            )
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments}


def write_dataset(root, extensions=(".jpg", ".png", ".jpeg"), crowd=(9,)):
    """Writes one picture per extension under `root`; gives the arguments of the registration."""
    root = Path(root)
    content = {"images": [], "annotations": [], "categories": CATEGORIES}
    for folder in ("images", "panoptic"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, extension in enumerate(extensions):
        ids = truth(index)
        picture = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / "images" / f"{index:03}{extension}")
        Image.fromarray(ids_to_rgb(ids)).save(root / "panoptic" / f"{index:03}.png")
        content["images"].append(
            {
                "id": 10 + index,
                "file_name": f"{index:03}{extension}",
                "height": HEIGHT,
                "width": WIDTH,
            }
        )
        content["annotations"].append(
            annotation(ids, 10 + index, f"{index:03}.png", crowd if index == 0 else ())
        )
    write_json(root, content)
    return {
        "images": str(root / "images"),
        "panoptic": str(root / "panoptic"),
        "json": str(root / "panoptic.json"),
    }


def read_json(root):
    return json.loads((Path(root) / "panoptic.json").read_text())


def write_json(root, content):
    (Path(root) / "panoptic.json").write_text(json.dumps(content))
