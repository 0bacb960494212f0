"""Trains, evaluates and predicts on datasets below DETECTRON2_DATASETS; run as a process.

Detectron2 reads that variable when it is imported. Arguments: an output folder, then names as
TRAIN:TEST:CLASSES. Prints a line of json per name.
"""

import axial_d2  # noqa: F401  (first: it makes Detectron2 ready)

# isort: split
import json
import sys
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultPredictor
from tiny_training import arguments, write_config

from axial_d2.data.pictures import read_picture
from axial_d2.engine import load_config, train_or_evaluate


def main(output, names):
    for text in names:
        train, test, classes = text.split(":")
        folder = Path(output) / train
        folder.mkdir(parents=True)
        config = write_config(folder / "c.yaml", {}, train, folder)
        options = ["DATASETS.CUSTOM", "[]", "DATASETS.TRAIN", f"('{train}',)"]
        options += ["DATASETS.TEST", f"('{test}',)", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes]
        options += ["SOLVER.MAX_ITER", "2"]
        results = train_or_evaluate(arguments(config, *options))
        weights = ["MODEL.WEIGHTS", str(folder / "model_final.pth")]
        predictor = DefaultPredictor(load_config(str(config), options + weights))
        picture = read_picture(DatasetCatalog.get(test)[0]["file_name"], "BGR")
        found = predictor(picture)
        sizes = [tuple(found["sem_seg"].shape[-2:]), tuple(found["panoptic_seg"][0].shape)]
        assert sizes == [picture.shape[:2]] * 2 and found["sem_seg"].shape[0] == int(classes)
        print(json.dumps({"train": train, "results": results}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
