"""Each form of your own data is trained on, evaluated, predicted and drawn."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultPredictor
from tiny_training import arguments, write_config

from axial_d2.data import read_segments, segment_classes
from axial_d2.data.pictures import read_picture
from axial_d2.engine import PicturePredictor, SetupError, draw_dataset, load_config
from axial_d2.engine import train_or_evaluate as run
from axial_d2.evaluation import build_evaluator

sys.path.append(str(Path(__file__).parents[1] / "data"))
from own_forms import write_coco_instances, write_mask_folders  # noqa: E402

EVERYTHING = {"panoptic_seg", "segm", "sem_seg"}
#: How it is written, its number of classes, and what is measured.
FORMS = {
    "masks": (write_mask_folders, {}, 4, EVERYTHING),
    "semantic": (write_mask_folders, {"with_instances": False}, 4, {"sem_seg"}),
    "coco": (write_coco_instances, {}, 4, EVERYTHING),
    "instances": (write_coco_instances, {"with_semantic": False}, 3, {"segm"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_train_evaluate_predict_draw(form, tmp_path):
    write, settings, classes, measured = FORMS[form]
    name = f"own_form_{form}"
    entry = write(tmp_path / "data", **settings)
    config = write_config(tmp_path / "c.yaml", entry, name, tmp_path / "out")
    options = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(classes), "SOLVER.MAX_ITER", "2"]
    assert set(run(arguments(config, *options))) == measured
    options += ["MODEL.WEIGHTS", str(tmp_path / "out/model_final.pth")]
    assert set(run(arguments(config, *options, eval_only=True))) == measured
    cfg = load_config(str(config), options)
    record = DatasetCatalog.get(name)[0]
    picture = read_picture(record["file_name"], "BGR")
    assert DefaultPredictor(cfg)(picture)["sem_seg"].shape == (classes, *picture.shape[:2])
    ((_, drawn),) = draw_dataset(PicturePredictor(cfg), name, str(tmp_path / "drawn"), limit=1)
    assert drawn[0].stat().st_size > 1000
    with pytest.raises(SetupError, match=f"NUM_CLASSES: expected {classes}, .*got 9"):
        run(arguments(config, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "9"))


@pytest.mark.parametrize("form", FORMS)
def test_the_truth_scores_100(form, tmp_path):
    write, settings, classes, measured = FORMS[form]
    name = f"own_form_{form}_scored"
    entry = write(tmp_path / "data", **settings)
    config = write_config(tmp_path / "c.yaml", entry, name, tmp_path / "out")
    evaluators = build_evaluator(load_config(str(config)), name)
    evaluators.reset()
    for record in DatasetCatalog.get(name):
        evaluators.process([record], [perfect(record, segment_classes(name))])
    results = evaluators.evaluate()
    assert set(results) == measured
    for task, key in (("panoptic_seg", "PQ"), ("segm", "AP"), ("sem_seg", "mIoU")):
        if task in measured:
            assert results[task][key] == pytest.approx(100), task


def perfect(record, classes):
    """The truth as a model would give it; crowds stay unpredicted as things."""
    from detectron2.structures import Instances

    truth = read_segments(record, classes)
    ids = truth.ids()
    labels = np.full(ids.shape, -1)
    for info in truth.segments_info:
        labels[ids == info["id"]] = info["category_id"]
    kept = [info for info in truth.segments_info if not info["iscrowd"]]
    things = [info for info in kept if info["isthing"]]
    instances = Instances(ids.shape)
    masks = [ids == info["id"] for info in things]
    if "sem_seg_file_name" not in record:  # what overlaps is judged whole
        from axial_d2.data.segments import annotation_mask

        alone = [a for a in record["annotations"] if not a["iscrowd"]]
        masks = [annotation_mask(a, ids.shape, "") for a in alone]
        things = alone
    stacked = np.stack(masks) if masks else np.zeros((0, *ids.shape), bool)
    instances.pred_masks = torch.from_numpy(stacked)
    instances.pred_classes = torch.tensor([info["category_id"] for info in things])
    instances.scores = torch.ones(len(masks))
    segment_map = np.where(np.isin(ids, [info["id"] for info in kept]), ids, 0)
    return {
        "panoptic_seg": (torch.from_numpy(segment_map), kept),
        "instances": instances,
        "sem_seg": torch.from_numpy(labels),
    }


def test_datasets_of_two_forms_train_together(tmp_path):
    """What one cannot teach, the other may: centres come from the instances alone."""
    masks = write_mask_folders(tmp_path / "masks")
    semantic = write_mask_folders(tmp_path / "semantic", with_instances=False)
    config = write_config(tmp_path / "c.yaml", masks, "own_mixed_masks", tmp_path / "out")
    custom = [{"name": "own_mixed_masks", **masks}, {"name": "own_mixed_semantic", **semantic}]
    options = ["DATASETS.CUSTOM", str(custom), "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "3"]
    options += ["DATASETS.TRAIN", "('own_mixed_masks', 'own_mixed_semantic')"]
    run(arguments(config, *options, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"))
    assert (tmp_path / "out/model_final.pth").exists()
