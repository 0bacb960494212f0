"""ADE20K: panoptic truth from the masks of classes and of instances.

Expected below the root, as downloaded (http://sceneparsing.csail.mit.edu: ADEChallengeData2016.zip,
and annotations_instance.tar of the 2017 challenge, unpacked into the former's folder):

    ADEChallengeData2016/objectInfo150.txt
    ADEChallengeData2016/{images,annotations,annotations_instance}/{training,validation}/
"""

import os
from typing import Any

import numpy as np
from PIL import Image

from axial_d2.panoptic.encoding import id_to_rgb

from ..datasets.ade20k import FOLDER, SPLITS
from ..datasets.coco_panoptic import generated_color
from ..pictures import UNREADABLE, size_text
from .work import Outcome, read_pixels, run, segments_of, write_json, write_png

# The 100 classes of the challenge's instance track, in its order, as classes (from 1) of the 150
# (scene parsing challenge 2017, categoryMapping.txt of its development kit).
THINGS = (
    *(8, 9, 11, 13, 15, 16, 19, 20, 21, 23, 24, 25, 28, 31, 32, 33, 34, 36, 37, 38, 39, 40, 42, 43),
    *(44, 45, 46, 48, 50, 51, 54, 56, 57, 58, 59, 63, 65, 66, 67, 68, 70, 71, 72, 73, 74, 75, 76),
    *(77, 79, 81, 82, 83, 84, 86, 87, 88, 89, 90, 91, 93, 94, 96, 98, 99, 103, 104, 105, 108, 109),
    *(111, 112, 113, 116, 117, 119, 120, 121, 122, 124, 125, 126, 127, 128, 130, 131, 133, 134),
    *(135, 136, 137, 138, 139, 140, 143, 144, 145, 147, 148, 149, 150),
)
_CLASSES = 150


def prepare(root: str, *, workers: int) -> list[Outcome]:
    """Makes ``ade20k_panoptic_{train,val}`` with their jsons.

    As other projects make them: categories are numbered from 0; stuff is taken from the masks of
    classes, things from those of instances, which lie above; pixels of a thing class without an
    instance are void.

    Args:
        root: the folder that holds ``ADEChallengeData2016``.
        workers: threads.

    Returns:
        What became of each step.

    Raises:
        ValueError: the downloaded files are not there.
    """
    base = os.path.join(root, FOLDER)
    names = class_names(os.path.join(base, "objectInfo150.txt"))
    categories = [
        {
            "id": index,
            "name": name,
            "isthing": int(index + 1 in THINGS),
            "color": generated_color(index),
        }
        for index, name in enumerate(names)
    ]
    return [_split(base, split, folder, categories, workers) for split, folder in SPLITS.items()]


def class_names(path: str) -> list[str]:
    """The names of the 150 classes.

    Args:
        path: the release's objectInfo150.txt: tab-separated, with ``Idx`` and ``Name``.

    Raises:
        ValueError: it is not there or of another form.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.rstrip("\r\n").split("\t") for line in file if line.strip()]
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror}; ADEChallengeData2016.zip, which has it, is to "
            "be had at http://sceneparsing.csail.mit.edu"
        ) from error
    rows = lines[1:]
    header = [title.strip() for title in lines[0]] if lines else []
    if header[:1] != ["Idx"] or header[-1:] != ["Name"] or len(rows) != _CLASSES:
        raise ValueError(
            f"{path}: expected {_CLASSES} tab-separated lines below a head from Idx to Name, came "
            f"{len(rows)} below {header}"
        )
    return [row[-1].strip() for row in rows]


def _split(
    base: str, split: str, folder: str, categories: list[dict[str, Any]], workers: int
) -> Outcome:
    images = os.path.join(base, "images", folder)
    pictures = sorted(os.listdir(images)) if os.path.isdir(images) else []
    pictures = [name for name in pictures if name.lower().endswith(".jpg")]
    if not pictures:
        raise ValueError(f"expected the pictures of ADE20K in {images}, came none")
    target = os.path.join(base, f"ade20k_panoptic_{split}")

    def convert(name: str) -> tuple[tuple[dict, dict], int, int]:
        stem = os.path.splitext(name)[0]
        image = _image(os.path.join(images, name))
        masks = [
            os.path.join(base, kind, folder, f"{stem}.png")
            for kind in ("annotations", "annotations_instance")
        ]
        ids, segments = panoptic_of(*masks)
        if ids.shape != (image["height"], image["width"]):
            raise ValueError(
                f"{masks[0]}: expected {image['width']}x{image['height']}, the size of {name}, "
                f"came {size_text(ids)}"
            )
        written = write_png(os.path.join(target, f"{stem}.png"), id_to_rgb(ids))
        annotation = {
            "image_id": stem,
            "file_name": f"{stem}.png",
            "segments_info": segments,
        }
        return ({"id": stem, "file_name": name, **image}, annotation), written, not written

    outcome, results = run(f"{split}: panoptic", pictures, convert, workers=workers)
    if outcome.failed:
        return outcome  # A json without some of the pictures would pass for the whole.
    content = {
        "images": [image for image, _ in results],
        "annotations": [annotation for _, annotation in results],
        "categories": categories,
    }
    written = write_json(f"{target}.json", content)
    return outcome._replace(made=outcome.made + written, kept=outcome.kept + (not written))


def _image(path: str) -> dict[str, int]:
    """Size of a picture, from its head."""
    try:
        with Image.open(path) as image:
            return {"width": image.width, "height": image.height}
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def panoptic_of(semantic: str, instances: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The panoptic truth of one picture.

    Args:
        semantic: mask of classes: 1 to 150, 0 none.
        instances: mask of instances: red is the class, 1 to 100; green the instance's number, from
            1 on, over all classes; 0 none.

    Returns:
        (H, W) int64 segment ids, 0 void, and the json's segments.

    Raises:
        ValueError: a file that is missing or unreadable, of another size or with other values.
    """
    labels, colors = read_pixels(semantic).astype(np.int64), read_pixels(instances)
    if labels.ndim != 2 or labels.max(initial=0) > _CLASSES:
        raise ValueError(f"{semantic}: expected values 0 to {_CLASSES} in grey")
    if colors.ndim != 3 or colors.shape[:2] != labels.shape:
        raise ValueError(
            f"{instances}: expected colours of {size_text(labels)}, came the shape {colors.shape}"
        )
    things = np.isin(labels, THINGS)
    ids = np.where(things, 0, labels)  # stuff by its class
    category = {label: label - 1 for label in np.unique(ids).tolist() if label}
    numbers = colors[..., 1].astype(np.int64)
    for number in np.unique(numbers[numbers > 0]).tolist():
        where = numbers == number
        kinds = np.unique(colors[..., 0][where]).tolist()
        if len(kinds) != 1 or not 1 <= kinds[0] <= len(THINGS):
            raise ValueError(
                f"{instances}: expected one class, 1 to {len(THINGS)}, in the instance {number}, "
                f"came {kinds}"
            )
        ids[where] = 1000 + number
        category[1000 + number] = THINGS[kinds[0] - 1] - 1
    segments = [
        {**segment, "category_id": category[segment["id"]], "iscrowd": 0}
        for segment in segments_of(ids)
    ]
    return ids, segments
