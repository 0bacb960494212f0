"""The classes of the embedded dataset, known without any file."""

from __future__ import annotations

# The ids have gaps and things stand between stuff on purpose, as in COCO and Cityscapes: code that
# takes an id for an index, or expects things first, fails on this dataset at once.
_TABLE = (
    # id, name, isthing, colour (red, green, blue), supercategory
    (3, "road", 0, (128, 64, 128), "ground"),
    (4, "pavement", 0, (244, 35, 232), "ground"),
    (7, "person", 1, (220, 20, 60), "human"),
    (9, "building", 0, (70, 70, 70), "construction"),
    (12, "car", 1, (0, 0, 142), "vehicle"),
    (13, "bus", 1, (0, 90, 160), "vehicle"),
    (17, "vegetation", 0, (107, 142, 35), "nature"),
    (18, "terrain", 0, (152, 251, 152), "nature"),
    (21, "bicycle", 1, (160, 70, 10), "vehicle"),
    (26, "sky", 0, (70, 130, 180), "sky"),
    (30, "traffic sign", 1, (220, 220, 0), "object"),
)

CATEGORIES: list[dict] = [
    {"id": i, "name": name, "isthing": thing, "color": list(color), "supercategory": group}
    for i, name, thing, color, group in _TABLE
]

ID_OF: dict[str, int] = {category["name"]: category["id"] for category in CATEGORIES}
