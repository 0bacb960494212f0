"""PQ, AP and mIoU of perfect predictions, and against independent computations."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import evaluatePanoptic
from detectron2.data import DatasetCatalog, MetadataCatalog
from evaluation_data import CATEGORIES, assert_all_100, disturbed, evaluate, perfect
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from axial_d2.data import register_coco_panoptic
from axial_d2.evaluation import (
    PanopticQualityEvaluator,
    PanopticTruth,
)

SAMPLE = Path(__file__).parents[2] / "../shared/data/coco_panoptic_sample"


# ---- perfect predictions ------------------------------------------------------------------------


def test_truth_scores_100(make_data, tmp_path):
    data = make_data()
    results = evaluate(data, perfect(data), tmp_path / "out")
    assert list(results) == ["panoptic_seg", "segm", "sem_seg"]
    assert_all_100(results)
    assert results["panoptic_seg"]["PQ"] == results["panoptic_seg"]["PQ_st"] == 100
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["sem_seg"]["mIoU"] == 100
    # The class that occurs nowhere has no score and counts nowhere.
    for task, key in (("panoptic_seg", "PQ"), ("segm", "AP"), ("sem_seg", "IoU")):
        assert math.isnan(results[task][f"{key}-nowhere"])
        assert results[task][f"{key}-person"] == pytest.approx(100)
    assert "AP-road" not in results["segm"]


def test_maps_encoded_as_detectron2_does_score_the_same(make_data):
    data = make_data()
    bad = disturbed(data)
    encoded = []
    for out in bad:
        segment_map, infos = out["panoptic_seg"]
        coded = torch.full_like(segment_map, -1)
        for number, info in enumerate(infos, start=1):
            coded[segment_map == info["id"]] = info["category_id"] * 1000 + number
        encoded.append({"panoptic_seg": (coded, None)})
    tasks = ["panoptic_seg"]
    expected = evaluate(data, bad, tasks=tasks)["panoptic_seg"]
    got = evaluate(data, encoded, tasks=tasks)["panoptic_seg"]
    assert got == pytest.approx(expected, nan_ok=True)


def test_outputs_are_left_as_they_were(make_data):
    data = make_data()
    out = perfect(data)[0]
    segment_map, infos = out["panoptic_seg"]
    before, infos_before = segment_map.clone(), [dict(info) for info in infos]
    coded = {"panoptic_seg": (torch.where(segment_map > 0, 0, -1), None)}
    coded_before = coded["panoptic_seg"][0].clone()
    evaluator = PanopticQualityEvaluator(PanopticTruth(data.name))
    evaluator.process(data.inputs()[:1], [out])
    evaluator.process(data.inputs()[:1], [coded])
    assert torch.equal(segment_map, before) and infos == infos_before
    assert torch.equal(coded["panoptic_seg"][0], coded_before)


# ---- independent computations -------------------------------------------------------------------


def test_pq_equals_cityscapesscripts(make_data, tmp_path):
    data = make_data()
    outputs = disturbed(data)
    results = evaluate(data, outputs, tasks=["panoptic_seg"])["panoptic_seg"]

    folder = tmp_path / "predicted"
    folder.mkdir()
    annotations = []
    for annotation, out in zip(data.annotations, outputs, strict=True):
        ids, infos = out["panoptic_seg"]
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(folder / annotation["file_name"])
        segments = [
            {"id": i["id"], "category_id": data.categories[i["category_id"]]["id"]} for i in infos
        ]
        annotations.append({**annotation, "segments_info": segments})
    predicted = tmp_path / "predicted.json"
    predicted.write_text(json.dumps({"annotations": annotations}))
    official = evaluatePanoptic(
        data.json, data.root / "panoptic", predicted, folder, tmp_path / "official.json"
    )
    assert 5 < results["PQ"] < 80  # neither trivial nor hopeless
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for key in ("PQ", "SQ", "RQ"):
            expected = 100 * official[group][key.lower()]
            assert results[key + suffix] == pytest.approx(expected, abs=1e-9)
    for category in CATEGORIES[:4]:
        expected = 100 * official["per_class"][category["id"]]["pq"]
        assert results[f"PQ-{category['name']}"] == pytest.approx(expected, abs=1e-9)


def test_ap_equals_pycocotools_on_files(make_data, tmp_path):
    data = make_data()
    outputs = disturbed(data)
    results = evaluate(data, outputs, tasks=["segm"])["segm"]

    truth, found = [], []
    for ids, annotation, out in zip(data.ids, data.annotations, outputs, strict=True):
        for segment in annotation["segments_info"]:
            if data.is_thing(segment["category_id"]):
                truth.append(
                    {
                        "id": len(truth) + 1,
                        "image_id": annotation["image_id"],
                        "category_id": segment["category_id"],
                        "iscrowd": segment["iscrowd"],
                        "area": segment["area"],
                        "bbox": [0, 0, 1, 1],
                        "segmentation": encode(ids == segment["id"]),
                    }
                )
        instances = out["instances"]
        for number in range(len(instances)):
            found.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": data.categories[int(instances.pred_classes[number])]["id"],
                    "score": float(instances.scores[number]),
                    "segmentation": encode(instances.pred_masks[number].numpy()),
                }
            )
    content = json.loads(data.json.read_text())
    things = [c for c in data.categories if c["isthing"]]
    file = tmp_path / "instances.json"
    file.write_text(
        json.dumps({"images": content["images"], "categories": things, "annotations": truth})
    )
    coco = COCO(str(file))
    official = COCOeval(coco, coco.loadRes(found), "segm")
    official.evaluate()
    official.accumulate()
    official.summarize()
    assert 5 < results["AP"] < 80
    for name, expected in zip(
        ["AP", "AP50", "AP75", "APs", "APm", "APl"], official.stats, strict=False
    ):
        expected = 100 * expected if expected >= 0 else float("nan")
        assert results[name] == pytest.approx(expected, abs=1e-9, nan_ok=True), name
    for k, category in enumerate(things):
        precision = official.eval["precision"][:, :, k, 0, -1]
        expected = 100 * precision[precision > -1].mean() if (precision > -1).any() else np.nan
        assert results[f"AP-{category['name']}"] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def encode(mask):
    code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def test_miou_equals_a_loop(make_data):
    data = make_data()
    outputs = disturbed(data)
    results = evaluate(data, outputs, tasks=["sem_seg"])["sem_seg"]

    classes = len(data.categories)
    both, in_truth, in_prediction = np.zeros((3, classes))
    for ids, annotation, out in zip(data.ids, data.annotations, outputs, strict=True):
        predicted = out["sem_seg"].argmax(0).numpy()
        known = ids != 0
        for k, category in enumerate(data.categories):
            # Crowds count as their class.
            members = [
                s["id"] for s in annotation["segments_info"] if s["category_id"] == category["id"]
            ]
            true = np.isin(ids, members)
            both[k] += (true & (predicted == k)).sum()
            in_truth[k] += true.sum()
            in_prediction[k] += ((predicted == k) & known).sum()
    occurs = in_truth > 0
    assert occurs.sum() == 4
    iou = both[occurs] / (in_truth + in_prediction - both)[occurs]
    assert 20 < results["mIoU"] < 90
    assert results["mIoU"] == pytest.approx(100 * iou.mean())
    assert results["fwIoU"] == pytest.approx(100 * (iou * in_truth[occurs]).sum() / in_truth.sum())
    assert results["mACC"] == pytest.approx(100 * (both[occurs] / in_truth[occurs]).mean())
    assert results["pACC"] == pytest.approx(100 * both.sum() / in_truth.sum())
    assert results["IoU-car"] == pytest.approx(100 * iou[3])


def test_miou_counts_a_class_only_predicted_in_no_mean(make_data):
    data = make_data(used=(0, 1), sizes=[(20, 20)])
    outputs = perfect(data)
    truth_has_road = outputs[0]["sem_seg"][0] > 0
    # Everything that was road is now "nowhere", which the truth lacks.
    outputs[0]["sem_seg"][4, truth_has_road] = 9
    scores = evaluate(data, outputs, tasks=["sem_seg"])["sem_seg"]
    assert scores["IoU-road"] == 0
    assert math.isnan(scores["IoU-nowhere"])
    assert scores["mIoU"] == pytest.approx(50)  # of road 0 and person 100


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the COCO sample is not beside the checkout")
def test_coco_sample(tmp_path):
    """COCO's own two pictures: 133 classes; instances as COCO's converter makes them."""
    name = "tests_evaluation_coco_sample"
    register_coco_panoptic(name, SAMPLE / "images", SAMPLE / "panoptic", SAMPLE / "panoptic.json")
    truth = PanopticTruth(name)
    converted = COCO(str(SAMPLE / "detections_from_panoptic.json"))
    records = DatasetCatalog.get(name)
    for record in records:
        expected = [
            (a["category_id"], a["iscrowd"], a["area"], a["segmentation"]["counts"])
            for a in converted.imgToAnns[record["image_id"]]
            if a["category_id"] in truth.metadata.thing_dataset_id_to_contiguous_id
        ]
        got = [
            (truth.dataset_ids[category], int(crowd), int(mask.sum()), encode(mask)["counts"])
            for category, crowd, mask in truth.picture(record["image_id"]).instances()
        ]
        assert len(expected) > 5
        assert sorted(got) == sorted(expected)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
