"""COCO, Mapillary Vistas, ADE20K and ImageNet in miniature, as their archives unpack."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

HEIGHT, WIDTH = 48, 64


def picture(ids, seed):
    """Noise around a grey for each id, so that there is something to learn."""
    noise = np.random.default_rng(seed).integers(0, 40, (*ids.shape, 3))
    return (noise + (ids % 7 * 30)[..., None]).astype(np.uint8)


def rgb(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)


def regions(number):
    """(H, W): 1 above 2, two things 3 and 4, void 0 at the right edge."""
    ids = np.full((HEIGHT, WIDTH), 1)
    ids[20:] = 2
    ids[10:30, 4 + number : 24 + number] = 3
    ids[24:44, 34:56] = 4
    ids[:, 62:] = 0
    return ids


def segment(ids, key, category, crowd=0):
    y, x = np.nonzero(ids == key)
    box = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
    return {
        "id": key,
        "category_id": category,
        "area": len(y),
        "bbox": [int(v) for v in box],
        "iscrowd": crowd,
    }


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def write_coco(root, *, count=2, zipped=False):
    """Panoptic and instance jsons of two splits, with COCO's own 133 categories."""
    base = Path(root) / "coco"
    sky, grass = (
        c["id"] for c in COCO_CATEGORIES if c["name"] in ("sky-other-merged", "grass-merged")
    )
    kinds = {1: sky, 2: grass, 3: 1, 4: 3}  # a person and a car
    for split in ("train2017", "val2017"):
        images, panoptic, instances = [], [], []
        for number in range(count):
            ids, stem = regions(number), f"{number + 1:012}"
            size = {"height": HEIGHT, "width": WIDTH}
            images.append({"id": number + 1, "file_name": f"{stem}.jpg", **size})
            found = [segment(ids, key, category) for key, category in kinds.items()]
            panoptic.append(
                {"image_id": number + 1, "file_name": f"{stem}.png", "segments_info": found}
            )
            for info in found[2:]:
                left, top, width, height = info["bbox"]
                right, bottom = left + width, top + height
                outline = [left, top, right, top, right, bottom, left, bottom]
                instances.append(
                    {
                        **info,
                        "id": len(instances) + 1,
                        "image_id": number + 1,
                        "segmentation": [outline],
                    }
                )
            save(base / split / f"{stem}.jpg", picture(ids, number))
            save(base / f"panoptic_{split}/{stem}.png", rgb(ids))
        things = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
        folder = base / "annotations"
        folder.mkdir(exist_ok=True)
        for kind, annotations, categories in (
            ("panoptic", panoptic, COCO_CATEGORIES),
            ("instances", instances, things),
        ):
            content = {"images": images, "annotations": annotations, "categories": categories}
            (folder / f"{kind}_{split}.json").write_text(json.dumps(content))
        if zipped:
            import shutil

            name = f"panoptic_{split}"
            shutil.make_archive(str(folder / name), "zip", base, name)
            shutil.rmtree(base / name)
    return base


# Name, readable, instances, evaluate.
VISTAS = [
    ("nature--sky", "Sky", False, True),
    ("construction--flat--road", "Road", False, True),
    ("human--person", "Person", True, True),
    ("object--vehicle--car", "Car", True, True),
    ("void--unlabeled", "Unlabeled", False, False),
]


def write_vistas(root, *, count=2):
    """config.json and the panoptic jsons of Mapillary Vistas 1.2, of five of its 66 labels."""
    base = Path(root) / "mapillary_vistas"
    labels = [
        {"name": n, "readable": r, "instances": i, "evaluate": e, "color": [9 * k, 8, 7]}
        for k, (n, r, i, e) in enumerate(VISTAS)
    ]
    for split in ("training", "validation"):
        content = {
            "images": [],
            "annotations": [],
            "categories": [
                {
                    "id": k,
                    "name": r,
                    "supercategory": n,
                    "isthing": int(i),
                    "color": [9 * (k - 1), 8, 7],
                }
                for k, (n, r, i, _) in enumerate(VISTAS, start=1)
            ],
        }
        for number in range(count):
            ids, stem = regions(number), f"{'ab'[number]}_{split[:2]}-X0"
            ids[:, 62:] = 5  # what is void has a segment here
            save(base / split / f"images/{stem}.jpg", picture(ids, number))
            save(base / split / f"panoptic/{stem}.png", rgb(ids))
            size = {"height": HEIGHT, "width": WIDTH}
            content["images"].append({"id": stem, "file_name": f"{stem}.jpg", **size})
            content["annotations"].append(
                {
                    "image_id": stem,
                    "file_name": f"{stem}.png",
                    "segments_info": [segment(ids, k, k) for k in range(1, 6)],
                }
            )
        (base / split / "panoptic/panoptic_2018.json").write_text(json.dumps(content))
    (base / "config.json").write_text(json.dumps({"labels": labels, "version": "1.2"}))
    return base


def write_ade20k(root, *, count=2):
    """Masks of classes and instances, and objectInfo150.txt, as the scene parsing archives."""
    base = Path(root) / "ADEChallengeData2016"
    for folder in ("training", "validation"):
        for number in range(count):
            ids, stem = regions(number), f"ADE_{folder[:3]}_{number + 1:08}"
            # wall, floor, bed (8, a thing), person (13, a thing); one more bed without an instance.
            semantic = np.array([0, 1, 4, 8, 13])[ids]
            semantic[0:6, 40:50] = 8
            instances = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
            instances[ids == 3] = [1, 1, 0]  # the instance track's first class is bed
            instances[ids == 4] = [4, 2, 0]  # its fourth is person
            save(base / f"images/{folder}/{stem}.jpg", picture(ids, number))
            save(base / f"annotations/{folder}/{stem}.png", semantic)
            save(base / f"annotations_instance/{folder}/{stem}.png", instances)
    lines = ["Idx\tRatio\tTrain\tVal\tName"]
    lines += [f"{k}\t0.1\t10\t1\tclass {k}, also {k}" for k in range(1, 151)]
    (base / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    return base


def write_imagenet(root, *, classes=("n01440764", "n01443537"), count=4):
    """Loose validation pictures, and the devkit that says their classes."""
    import scipy.io

    base = Path(root) / "imagenet"
    for index in range(count):
        path = base / f"val/ILSVRC2012_val_{index + 1:08}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(regions(0), index)).save(path, format="jpeg")
    synsets = np.empty((len(classes), 1), dtype=[(n, object) for n in _SYNSET])
    for index, wnid in enumerate(classes):
        values = (index + 1, wnid, f"word {index}", "gloss", 0, [], 0, 732)
        synsets[index, 0] = values
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    truth = "\n".join(str(index % len(classes) + 1) for index in range(count)) + "\n"
    top = "ILSVRC2012_devkit_t12/data"
    with tarfile.open(base / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        for name, content in (
            (f"{top}/meta.mat", meta.getvalue()),
            (f"{top}/ILSVRC2012_validation_ground_truth.txt", truth.encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return base


_SYNSET = (
    "ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height",
    "num_train_images",
)  # fmt: skip
