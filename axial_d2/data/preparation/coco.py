"""COCO: unpacks the panoptic pngs, and derives masks of classes from them.

Expected below the root, as downloaded (https://cocodataset.org/#download):

    coco/{train,val}2017/*.jpg
    coco/annotations/panoptic_{train,val}2017.json
    coco/panoptic_{train,val}2017/*.png  or  coco/annotations/panoptic_{train,val}2017.zip
"""

import os
import zipfile
from typing import Any

import numpy as np

from axial_d2.panoptic.encoding import compact_ids, rgb_to_id

from ..datasets.coco_panoptic import IGNORE_LABEL, read_panoptic_json
from ..files import whole_file
from ..pictures import size_text
from .work import Outcome, read_pixels, run, write_png

_SPLITS = ("train2017", "val2017")


def prepare(root: str, *, workers: int) -> list[Outcome]:
    """Makes ``panoptic_*2017``, ``panoptic_semseg_*2017`` and ``panoptic_stuff_*2017``.

    The second are masks of all 133 classes (contiguous ids in the order of the json's categories),
    the third those of Detectron2's Panoptic FPN: 0 things, 1 to 53 stuff. 255 is void in both.
    Detectron2's ``coco_2017_*_panoptic`` need the first alone.

    Args:
        root: the folder that holds ``coco``.
        workers: threads.

    Returns:
        What became of each step.

    Raises:
        ValueError: the downloaded files are not there.
    """
    base = os.path.join(root, "coco")
    jsons = {s: os.path.join(base, "annotations", f"panoptic_{s}.json") for s in _SPLITS}
    found = {split: path for split, path in jsons.items() if os.path.isfile(path)}
    if not found:
        raise ValueError(
            f"expected {' or '.join(jsons.values())}, came neither; "
            "panoptic_annotations_trainval2017.zip has them: https://cocodataset.org/#download"
        )
    outcomes = []
    for split, path in found.items():
        content = read_panoptic_json(path)
        folder = os.path.join(base, f"panoptic_{split}")
        archive = os.path.join(base, "annotations", f"panoptic_{split}.zip")
        if os.path.isfile(archive):
            outcomes.append(_unpack(archive, folder, content, split, workers))
        outcomes.append(_masks(base, split, content, workers))
    return outcomes


def _unpack(
    archive: str, folder: str, content: dict[str, Any], split: str, workers: int
) -> Outcome:
    """Takes the json's pngs out of the archive, one by one, so that it can be broken off."""
    names = [annotation["file_name"] for annotation in content["annotations"]]
    try:
        with zipfile.ZipFile(archive) as opened:
            inside = {os.path.basename(info.filename): info for info in opened.infolist()}

            def take(name: str) -> tuple[None, int, int]:
                path = os.path.join(folder, name)
                if name not in inside:
                    raise ValueError(f"{archive}: expected {name} in it, came none")
                if os.path.isfile(path) and os.path.getsize(path) == inside[name].file_size:
                    return None, 0, 1
                os.makedirs(folder, exist_ok=True)
                with whole_file(path) as part, open(part, "wb") as file:
                    file.write(opened.read(inside[name]))  # which looks at the checksum
                return None, 1, 0

            return run(f"{split}: unpacking", names, take, workers=workers)[0]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is not a zip: {error}") from error


def _masks(base: str, split: str, content: dict[str, Any], workers: int) -> Outcome:
    categories = content["categories"]
    stuff = [category["id"] for category in categories if not category["isthing"]]
    tables = {
        f"panoptic_semseg_{split}": {c["id"]: index for index, c in enumerate(categories)},
        f"panoptic_stuff_{split}": {
            c["id"]: 0 if c["isthing"] else stuff.index(c["id"]) + 1 for c in categories
        },
    }
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}

    def convert(annotation: dict[str, Any]) -> tuple[None, int, int]:
        path = os.path.join(base, f"panoptic_{split}", annotation["file_name"])
        pixels = read_pixels(path)
        expected = sizes.get(annotation["image_id"])
        if pixels.ndim != 3 or pixels.shape[:2] != expected:
            raise ValueError(
                f"{path}: expected colours of the json's size (height, width) = {expected}, came "
                f"{size_text(pixels)} (width x height)"
            )
        present, index = compact_ids(rgb_to_id(pixels))
        classes = {s["id"]: s["category_id"] for s in annotation["segments_info"]}
        unknown = [key for key in present.tolist() if key and key not in classes]
        if unknown:
            raise ValueError(f"{path}: holds the id {unknown[0]}, which the json lacks")
        written = 0
        for folder, table in tables.items():
            values = [table[classes[k]] if k else IGNORE_LABEL for k in present.tolist()]
            mask = np.array(values, dtype=np.uint8)[index]  # (H, W)
            name = os.path.splitext(annotation["file_name"])[0] + ".png"
            written += write_png(os.path.join(base, folder, name), mask)
        return None, written, len(tables) - written

    title = f"{split}: masks of classes"
    return run(title, content["annotations"], convert, workers=workers)[0]
