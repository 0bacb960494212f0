"""Small panoptic data sets, and predictions for them: perfect ones and bad ones."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.structures import BitMasks, Instances
from PIL import Image

from axial_d2.config import add_axial_config
from axial_d2.data import register_coco_panoptic
from axial_d2.engine import evaluate_saved
from axial_d2.evaluation import build_evaluator

# Things neither come first nor together; ids of the data set are not contiguous ones.
CATEGORIES = [
    {"id": 7, "name": "road", "isthing": 0},
    {"id": 24, "name": "person", "isthing": 1},
    {"id": 11, "name": "house", "isthing": 0},
    {"id": 26, "name": "car", "isthing": 1},
    {"id": 40, "name": "nowhere", "isthing": 1},
]
SIZES = [(37, 50), (41, 23), (64, 48), (30, 30)]
_numbers = itertools.count()


@dataclasses.dataclass
class Data:
    """A registered data set: its name, its files and, per picture, ids and segments."""

    name: str
    root: Path
    ids: list[np.ndarray]
    annotations: list[dict]
    categories: list[dict]

    @property
    def json(self) -> Path:
        return self.root / "panoptic.json"

    def inputs(self) -> list[dict]:
        return [{**record, "image": None} for record in DatasetCatalog.get(self.name)]

    def contiguous(self, dataset_id: int) -> int:
        return [c["id"] for c in self.categories].index(dataset_id)

    def is_thing(self, dataset_id: int) -> bool:
        return bool(self.categories[self.contiguous(dataset_id)]["isthing"])


def blocks(rng: np.random.Generator, size: tuple[int, int], choices: np.ndarray) -> np.ndarray:
    """A map of random blocks about 7 pixels wide, each with one of `choices`."""
    coarse = rng.choice(choices, size=(size[0] // 7 + 1, size[1] // 7 + 1))
    return coarse.repeat(7, axis=0).repeat(7, axis=1)[: size[0], : size[1]]


def write(root: Path, ids: list[np.ndarray], annotations: list[dict], categories) -> Data:
    """Writes and registers; segments get the area they have, those without pixels are left out."""
    (root / "panoptic").mkdir(parents=True)
    (root / "images").mkdir()
    images = []
    for number, (each, annotation) in enumerate(zip(ids, annotations, strict=True)):
        rgb = np.stack([each % 256, each // 256 % 256, each // 65536], axis=-1)
        Image.fromarray(rgb.astype(np.uint8)).save(root / "panoptic" / f"{number}.png")
        Image.new("RGB", each.shape[::-1]).save(root / "images" / f"{number}.jpg")
        for segment in annotation["segments_info"]:
            segment["area"] = int((each == segment["id"]).sum())
        annotation["segments_info"] = [s for s in annotation["segments_info"] if s["area"]]
        annotation.update(image_id=100 + number, file_name=f"{number}.png")
        images.append(
            {
                "id": 100 + number,
                "file_name": f"{number}.jpg",
                "height": each.shape[0],
                "width": each.shape[1],
            }
        )
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "panoptic.json").write_text(json.dumps(content))
    name = f"tests_evaluation_{next(_numbers)}"
    register_coco_panoptic(name, root / "images", root / "panoptic", root / "panoptic.json")
    return Data(name, root, ids, annotations, categories)


def random_data(root: Path, categories=CATEGORIES, used=(0, 1, 2, 3), sizes=SIZES) -> Data:
    """Random blocks of the categories at the positions `used`: void, several instances, crowds."""
    rng = np.random.default_rng(3)
    ids, annotations = [], []
    for size in sizes:
        segments = []
        for index in used:
            for instance in range(4 if categories[index]["isthing"] else 1):
                segments.append(
                    {
                        "id": 1 + 70000 * index + 300 * instance,
                        "category_id": categories[index]["id"],
                        "iscrowd": int(categories[index]["isthing"] and instance == 3),
                    }
                )
        ids.append(blocks(rng, size, np.array([0, *(s["id"] for s in segments)])))
        annotations.append({"segments_info": segments})
    return write(root, ids, annotations, categories)


def perfect(data: Data) -> list[dict]:
    """Outputs that are the truth; crowds, which nothing can match, stay unpredicted as things."""
    outputs = []
    for ids, annotation in zip(data.ids, data.annotations, strict=True):
        outputs.append(output(data, ids, annotation["segments_info"]))
    return outputs


def output(data: Data, ids: np.ndarray, segments: list[dict], scores=None) -> dict:
    """What the model gives, for a map of ids with segments in the data set's categories."""
    sem_seg = torch.zeros(len(data.categories), *ids.shape)
    infos, masks, classes = [], [], []
    segment_map = np.zeros(ids.shape, dtype=np.int64)
    for segment in segments:
        mask = ids == segment["id"]
        category = data.contiguous(segment["category_id"])
        thing = data.is_thing(segment["category_id"])
        sem_seg[category, torch.from_numpy(mask)] = 5.0
        if segment.get("iscrowd"):
            continue
        segment_map[mask] = segment["id"]
        infos.append({"id": segment["id"], "category_id": category, "isthing": thing})
        if thing:
            masks.append(torch.from_numpy(mask))
            classes.append(category)
    instances = Instances(ids.shape)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    instances.scores = torch.ones(len(classes)) if scores is None else scores[: len(classes)]
    instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *ids.shape).bool()
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    return {
        "sem_seg": sem_seg,
        "panoptic_seg": (torch.from_numpy(segment_map), infos),
        "instances": instances,
    }


def disturbed(data: Data) -> list[dict]:
    """Outputs with a tenth of the truth painted over, in blocks, by other segments or by void."""
    rng = np.random.default_rng(8)
    outputs = []
    for ids, annotation in zip(data.ids, data.annotations, strict=True):
        segments = [dict(s) for s in annotation["segments_info"]]
        others = np.array([0, *(s["id"] for s in segments)])
        spoilt = blocks(rng, ids.shape, np.arange(10)) == 0
        ids = np.where(spoilt, blocks(rng, ids.shape, others), ids)
        # Shifted by a pixel, so that borders are wrong as well.
        ids = np.roll(ids, 1, axis=1)
        for segment in segments:
            if rng.random() < 0.2:  # another class
                segment["category_id"] = data.categories[rng.integers(4)]["id"]
            segment["iscrowd"] = 0
        segments = [s for s in segments if (ids == s["id"]).any()]
        scores = torch.from_numpy(rng.random(len(segments)))
        outputs.append(output(data, ids, segments, scores))
    return outputs


def config():
    cfg = get_cfg()
    add_axial_config(cfg)
    return cfg


def evaluate(data, outputs, output_dir=None, tasks=None):
    evaluator = build_evaluator(config(), data.name, output_dir and str(output_dir), tasks)
    evaluator.reset()
    for given, out in zip(data.inputs(), outputs, strict=True):
        evaluator.process([given], [out])
    return evaluator.evaluate()


def assert_all_100(results):
    for task, scores in results.items():
        for name, score in scores.items():
            assert math.isnan(score) or score == pytest.approx(100), (task, name, score)


def save(data, outputs, output_dir):
    """Evaluates and keeps the predictions; returns the results and their folder."""
    cfg = config()
    cfg.TEST.SAVE_PREDICTIONS = True
    evaluators = build_evaluator(cfg, data.name, str(output_dir))
    evaluators.reset()
    for given, out in zip(data.inputs(), outputs, strict=True):
        evaluators.process([given], [out])
    return evaluators.evaluate(), Path(output_dir, "predictions")


def score(data, folder, output):
    return evaluate_saved(config(), data.name, str(folder), str(output))


def assert_same(a, b):
    assert set(a) == set(b)
    for task, scores in a.items():
        assert b[task] == pytest.approx(scores, nan_ok=True), task
