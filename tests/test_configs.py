"""Every shipped config builds, trains a step and predicts."""

from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from axial_d2.config import add_axial_config
from axial_d2.data.synthetic import CATEGORIES
from axial_d2.panoptic import PanopticTargets

CONFIGS = Path(__file__).parents[1] / "configs"
LEAVES = sorted(p for p in CONFIGS.rglob("*.yaml") if not p.name.startswith("Base"))
# A dataset whose classes are known without any file stands in for each config's own.
DATASET = "synthetic_panoptic_train"


def scene() -> dict:
    panoptic = torch.ones(65, 97, dtype=torch.int32)
    panoptic[20:50, 30:60] = 2
    things = [i for i, c in enumerate(CATEGORIES) if c["isthing"]]
    infos = [
        {"id": 1, "category_id": 0, "iscrowd": 0},
        {"id": 2, "category_id": things[0], "iscrowd": 0},
    ]
    make = PanopticTargets(ignore_label=255, thing_ids=things, sigma=5)
    image = torch.randint(0, 256, (3, 65, 97), dtype=torch.uint8)
    return {"image": image, "height": 65, "width": 97} | make(panoptic.numpy(), infos)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_builds_trains_and_predicts(leaf: Path) -> None:
    cfg = get_cfg()
    add_axial_config(cfg)
    cfg.merge_from_file(str(leaf))
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.CUSTOM = []
    cfg.DATASETS.TRAIN = (DATASET,)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(CATEGORIES)
    model = build_model(cfg)
    losses = model([scene(), scene()])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    with torch.no_grad():
        (result,) = model.eval()([{k: scene()[k] for k in ("image", "height", "width")}])
    assert result["panoptic_seg"][0].shape == (65, 97)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_leaves_are_short(leaf: Path) -> None:
    lines = [line for line in leaf.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) <= 15
    assert "_BASE_" in yaml.safe_load(leaf.read_text())
