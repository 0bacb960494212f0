"""Cityscapes: the label and panoptic files that the download lacks.

Expected below the root, as downloaded (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip of
https://www.cityscapes-dataset.com):

    cityscapes/leftImg8bit/{train,val,test}/CITY/CITY_NNNNNN_NNNNNN_leftImg8bit.png
    cityscapes/gtFine/{train,val,test}/CITY/CITY_NNNNNN_NNNNNN_gtFine_{polygons.json,labelIds.png,instanceIds.png}
"""  # noqa: E501

import glob
import os
from typing import Any

import numpy as np

from axial_d2.panoptic.encoding import id_to_rgb

from .work import Outcome, read_pixels, run, segments_of, write_json, write_png

_POLYGONS = "_polygons.json"
_INSTANCES = "_instanceIds.png"
# The test pictures' truth is not public; their files hold nothing.
_SPLITS = ("train", "val")


def prepare(root: str, *, workers: int) -> list[Outcome]:
    """Makes ``*_labelTrainIds.png`` beside each truth, and ``gtFine/cityscapes_panoptic_*``.

    The former are drawn by cityscapesscripts, the latter are what its createPanopticImgs writes
    (without --use-train-id), as Detectron2's datasets want them.

    Args:
        root: the folder that holds ``cityscapes``.
        workers: threads.

    Returns:
        What became of each step.

    Raises:
        ValueError: the downloaded files are not there.
    """
    fine = os.path.join(root, "cityscapes", "gtFine")
    found = {split: _truth_files(fine, split) for split in _SPLITS}
    if not any(found.values()):
        raise ValueError(
            f"expected Cityscapes' files {fine}/{{{','.join(_SPLITS)}}}/CITY/*{_POLYGONS}, came "
            "none; gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip are to be had at "
            "https://www.cityscapes-dataset.com/downloads after registration"
        )
    outcomes = []
    for split, files in found.items():
        if files:
            outcomes.append(run(f"{split}: labelTrainIds", files, _label, workers=workers)[0])
            outcomes.append(_panoptic(fine, split, files, workers))
    return outcomes


def _truth_files(fine: str, split: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(fine), split, "*", f"*{_POLYGONS}")))


def _label(polygons: str) -> tuple[None, int, int]:
    """The classes of one picture, drawn as cityscapesscripts draws them."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    annotation = Annotation()
    try:
        annotation.fromJsonFile(polygons)
        pixels = np.asarray(createLabelImage(annotation, "trainIds"))
    except (SystemExit, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{polygons} is no polygons file of Cityscapes: {error!r}") from error
    written = write_png(polygons.replace(_POLYGONS, "_labelTrainIds.png"), pixels)
    return None, written, not written


def _panoptic(fine: str, split: str, files: list[str], workers: int) -> Outcome:
    folder = os.path.join(fine, f"cityscapes_panoptic_{split}")

    def convert(polygons: str) -> tuple[tuple[dict, dict], int, int]:
        image, annotation, pixels = panoptic_of(polygons.replace(_POLYGONS, _INSTANCES))
        written = write_png(os.path.join(folder, annotation["file_name"]), pixels)
        return (image, annotation), written, not written

    outcome, results = run(f"{split}: panoptic", files, convert, workers=workers)
    if outcome.failed:
        return outcome  # A json without some of the pictures would pass for the whole.
    content = {
        "images": [image for image, _ in results],
        "annotations": [annotation for _, annotation in results],
        "categories": categories(),
    }
    written = write_json(f"{folder}.json", content)
    return outcome._replace(made=outcome.made + written, kept=outcome.kept + (not written))


def categories() -> list[dict[str, Any]]:
    """Cityscapes' classes as a COCO panoptic json lists them."""
    from cityscapesscripts.helpers.labels import labels

    return [
        {
            "id": label.id,
            "name": label.name,
            "color": list(label.color),
            "supercategory": label.category,
            "isthing": int(label.hasInstances),
        }
        for label in labels
        if not label.ignoreInEval
    ]


def panoptic_of(instance_file: str) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """The panoptic truth of one picture.

    Args:
        instance_file: its ``*_gtFine_instanceIds.png``: class, or class * 1000 + number.

    Returns:
        Its entries in ``images`` and ``annotations``, and the (H, W, 3) uint8 pixels of its png.

    Raises:
        ValueError: the file is not there, cannot be read, or holds what is no class.
    """
    from cityscapesscripts.helpers.labels import id2label

    ids = read_pixels(instance_file).astype(np.int64)
    name = os.path.basename(instance_file).removesuffix(_INSTANCES)
    segments = []
    for segment in segments_of(ids):
        value = segment["id"]
        label = id2label.get(value if value < 1000 else value // 1000)
        if label is None:
            raise ValueError(f"{instance_file}: expected Cityscapes' ids, came {value}")
        if label.ignoreInEval:
            ids[ids == value] = 0
            continue
        crowd = int(label.hasInstances and value < 1000)
        segments.append({**segment, "category_id": label.id, "iscrowd": crowd})
    pixels = id_to_rgb(ids)
    image = {
        "id": name.removesuffix("_gtFine"),
        "width": ids.shape[1],
        "height": ids.shape[0],
        "file_name": f"{name}_leftImg8bit.png",
    }
    annotation = {
        "image_id": image["id"],
        "file_name": f"{name}_panoptic.png",
        "segments_info": segments,
    }
    return image, annotation, pixels
