"""ADE20K panoptic (the scene parsing benchmark's 150 classes), in COCO's format.

Below $DETECTRON2_DATASETS, as `tools/prepare_dataset.py ade20k` and other projects make it:

    ADEChallengeData2016/images/{training,validation}/*.jpg
    ADEChallengeData2016/ade20k_panoptic_{train,val}.json
    ADEChallengeData2016/ade20k_panoptic_{train,val}/*.png
"""

import os

from .coco_panoptic import (
    IGNORE_LABEL,
    LABEL_DIVISOR,
    load_coco_panoptic_json,
    panoptic_metadata,
    read_panoptic_json,
)
from .own import datasets_root, register_known

#: The name of each split's folder of pictures.
SPLITS = {"train": "training", "val": "validation"}
FOLDER = "ADEChallengeData2016"


def register_ade20k(root: str | None = None) -> None:
    """Registers ``ade20k_panoptic_train`` and ``_val``, without looking for their files.

    Args:
        root: the folder that holds ``ADEChallengeData2016``; None: $DETECTRON2_DATASETS.
    """
    base = os.path.join(root or datasets_root(), FOLDER)
    for split, folder in SPLITS.items():
        _register(
            f"ade20k_panoptic_{split}",
            os.path.join(base, "images", folder),
            os.path.join(base, f"ade20k_panoptic_{split}"),
        )


def _register(name: str, images: str, panoptic: str) -> None:
    json = f"{panoptic}.json"
    register_known(
        name,
        load=lambda: load_coco_panoptic_json(images, panoptic, json),
        classes=lambda: panoptic_metadata(read_panoptic_json(json)["categories"]),
        image_root=images,
        panoptic_root=panoptic,
        panoptic_json=json,
        evaluator_type="coco_panoptic_seg",
        ignore_label=IGNORE_LABEL,
        label_divisor=LABEL_DIVISOR,
    )
