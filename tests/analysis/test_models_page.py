"""docs/models.md: within the bounds of the paper's figures, and what its command writes."""

import functools
import importlib.util
import re
from pathlib import Path

import pytest

from axial_d2.analysis import Analysis, Part, analyze
from axial_d2.engine import read_config

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("models_page", ROOT / "dev/models_page.py")
models_page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models_page)
ROWS = models_page.ROWS

# (parameters, multiply-adds as the paper counts, done), to the last one.
PINNED = {
    "imagenet-classification/axial_resnet50_s.yaml": (12480232, 2842942464, 2637170688),
    "imagenet-classification/axial_resnet50_s_stand_alone.yaml": (12531240, 3422274560, 3058774528),
    "imagenet-classification/ps_attention_resnet50.yaml": (18112176, 3670013952, 3615532032),
    "imagenet-classification/resnet50.yaml": (25557032, 4089184256, 4089184256),
    "cityscapes-panoptic/axial_deeplab_s.yaml": (12375430, 220189503888, 209290103184),
    "coco-panoptic/axial_deeplab_s.yaml": (12404728, 112542933904, 106493983632),
    "cityscapes-panoptic/axial_deeplab_xl.yaml": (173721286, 2519031172464, 2423742967152),
}
DATASETS = ("coco", "cityscapes")


@functools.cache
def counted(row: object) -> Analysis:
    return models_page.counted(row, memory=False)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.config)
def test_within_the_bounds_of_the_paper(row: object) -> None:
    total = counted(row).total
    if row.parameters is not None:
        assert abs(models_page.off(total.parameters / 1e6, row.parameters)) < row.parameters_within
    if row.multiply_adds is not None:
        assert abs(models_page.off(total.paper / 1e9, row.multiply_adds)) < row.multiply_adds_within
    assert total.done <= total.paper


@pytest.mark.parametrize("config", PINNED)
def test_counts_are_as_they_were(config: str) -> None:
    row = next(row for row in ROWS if row.config == config)
    assert tuple(counted(row).total) == PINNED[config]


def test_what_the_page_says_of_other_ways_to_count() -> None:
    def total(config: str, size: tuple[int, int], *options: str) -> Part:
        cfg = read_config(str(ROOT / "configs" / config), list(options))
        return analyze(cfg, size, memory=False).total

    pooled = ("MODEL.AXIAL_RESNET.STRIDE", "avg_pool")
    stand_alone = "imagenet-classification/axial_resnet50_s_stand_alone.yaml"
    assert total(stand_alone, (224, 224), *pooled).done == 3393824768
    spans = [f"cityscapes-panoptic/ablations/table7_span{n}.yaml" for n in (5, 65)]
    short, long = (total(config, (1025, 2049), *pooled) for config in spans)
    assert round((long.paper - short.paper) / 1e9, 1) == 73.1
    assert round((long.done - short.done) / 1e9, 1) == 65.5
    large = "cityscapes-panoptic/axial_deeplab_l.yaml"
    assert round(total(large, (1024, 2048)).paper / 1e9, 1) == 687.6
    on_coco, on_cityscapes = (PINNED[f"{name}-panoptic/axial_deeplab_s.yaml"] for name in DATASETS)
    assert on_coco[0] - on_cityscapes[0] == 114 * (256 + 1)
    assert round((on_coco[1] - 114 * 256 * 257 * 257) / 1e9, 1) == 110.6


def test_the_page_has_the_memory_that_is_counted() -> None:
    """Of two rows; all of them take minutes."""
    written = models_page.PAGE.read_text().splitlines()
    for config in ("resnet50.yaml", "axial_resnet26_s.yaml"):
        row = next(row for row in ROWS if row.config == f"imagenet-classification/{config}")
        assert models_page.line(row, models_page.counted(row, memory=True)) in written


def test_the_page_is_what_its_command_writes() -> None:
    """But for the last column, the memory."""
    written = models_page.PAGE.read_text()
    assert written.startswith(models_page.HEAD)
    lines = [line for line in written.splitlines() if line.startswith("| [")]
    assert len(lines) == len(ROWS)
    for row, line in zip(ROWS, lines, strict=True):
        without = re.sub(r"\d* \|$", "", line)
        assert without == re.sub(r" ?\|$", "", models_page.line(row, counted(row))).rstrip() + " "
        assert re.search(r"\| \d+ \|$", line)
