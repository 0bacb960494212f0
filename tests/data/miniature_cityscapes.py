"""Cityscapes in miniature: polygons like the download's, its pngs drawn by cityscapesscripts."""

import json
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from PIL import Image

HEIGHT, WIDTH = 64, 128
PICTURES = {
    "train": ("aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313"),
    "val": ("lindau_000000_000019", "munster_000002_000019"),
}


def box(label, left, top, right, bottom, **more):
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "polygon": points, **more}


def polygons(number):
    """Void, stuff, things one before the other, a group, a class that is not evaluated, a deleted
    object, and the ego vehicle."""
    shift = 3 * number
    return {
        "imgHeight": HEIGHT,
        "imgWidth": WIDTH,
        "objects": [
            box("sky", 0, 0, WIDTH - 1, 20),
            box("building", 0, 21, WIDTH - 1, 35),
            box("road", 0, 36, WIDTH - 5, HEIGHT - 1),
            box("car", 10 + shift, 30, 40 + shift, 50),
            box("car", 30 + shift, 34, 60 + shift, 56),
            box("cargroup", 70 + shift, 30, 90 + shift, 40),
            box("person", 92 + shift, 26, 99 + shift, 48),
            box("trailer", 104, 30, 112, 38),
            box("person", 2, 26, 8, 40, deleted=1),
            box("ego vehicle", 0, 60, WIDTH - 1, HEIGHT - 1),
        ],
    }


def write_download(root):
    """The tree as the archives unpack: pictures, polygons, labelIds and instanceIds."""
    base = Path(root) / "cityscapes"
    for split, names in PICTURES.items():
        for number, name in enumerate(names):
            city = name.split("_")[0]
            picture = base / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
            truth = base / "gtFine" / split / city / f"{name}_gtFine"
            for folder in (picture.parent, truth.parent):
                folder.mkdir(parents=True, exist_ok=True)
            path = Path(f"{truth}_polygons.json")
            path.write_text(json.dumps(polygons(number)))
            annotation = Annotation()
            annotation.fromJsonFile(str(path))
            createLabelImage(annotation, "ids").save(f"{truth}_labelIds.png")
            # The download's are of 16 bits; json2instanceImg's own writing fails on Pillow 13.
            instances = np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16)
            Image.fromarray(instances).save(f"{truth}_instanceIds.png")
            colors = np.asarray(createLabelImage(annotation, "color").convert("RGB")).astype(int)
            noise = np.random.default_rng(number).integers(-20, 20, colors.shape)
            Image.fromarray((colors + noise).clip(0, 255).astype(np.uint8)).save(picture)
    return base
