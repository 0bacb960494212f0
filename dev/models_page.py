#!/usr/bin/env python
"""Writes docs/models.md: the size of every model of the paper, ours beside the paper's."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import axial_d2  # noqa: E402, F401, I001
from axial_d2.analysis import Analysis, analyze  # noqa: E402
from axial_d2.engine import read_config  # noqa: E402

PAGE = ROOT / "docs/models.md"


class Row(NamedTuple):
    """A row of the paper's tables: our config, the picture's size, the paper's figures."""

    title: str
    config: str
    size: tuple[int, int]
    parameters: float | None = None  # millions
    multiply_adds: float | None = None  # thousand millions
    # How far ours may be from them, in percent.
    parameters_within: float = 2.0
    multiply_adds_within: float = 4.0


IMAGENET, CITYSCAPES, COCO = (224, 224), (1025, 2049), (1025, 1025)
_I, _C, _A = "imagenet-classification/", "cityscapes-panoptic/", "cityscapes-panoptic/ablations/"
SECTIONS = {
    "ImageNet, 224 x 224 (table 1)": [
        Row("ResNet-50", _I + "resnet50.yaml", IMAGENET, 25.6, 4.1),
        Row("Attention, 7 x 7", _I + "attention_resnet50.yaml", IMAGENET, 18.0, 3.5),
        Row("PS-Attention, 7 x 7", _I + "ps_attention_resnet50.yaml", IMAGENET, 18.0, 3.7),
        Row("Axial-ResNet-50-S", _I + "axial_resnet50_s.yaml", IMAGENET, 12.4, 2.8),
        Row("the same, stand-alone", _I + "axial_resnet50_s_stand_alone.yaml", IMAGENET, 12.5, 3.3),
        Row("Axial-ResNet-50-M", _I + "axial_resnet50_m.yaml", IMAGENET),
        Row("Axial-ResNet-50-L", _I + "axial_resnet50_l.yaml", IMAGENET),
        Row("Axial-ResNet-50-XL", _I + "axial_resnet50_xl.yaml", IMAGENET),
        Row("Axial-ResNet-26-S", _I + "axial_resnet26_s.yaml", IMAGENET),
    ],
    "Cityscapes, 1025 x 2049, span 65": [
        Row("Axial-DeepLab-S", _C + "axial_deeplab_s.yaml", CITYSCAPES, 12.1, 220.8, 3.0),
        Row("Axial-DeepLab-M", _C + "axial_deeplab_m.yaml", CITYSCAPES, 25.9, 419.6),
        Row("Axial-DeepLab-L", _C + "axial_deeplab_l.yaml", CITYSCAPES, 44.9, 687.4),
        Row("Axial-DeepLab-XL", _C + "axial_deeplab_xl.yaml", CITYSCAPES, 173.0, 2446.8),
    ],
    "COCO, 1025 x 1025, span 65": [
        Row("Axial-DeepLab-S", "coco-panoptic/axial_deeplab_s.yaml", COCO, 12.1, 110.4, 3.0),
        Row("Axial-DeepLab-M", "coco-panoptic/axial_deeplab_m.yaml", COCO, 25.9, 209.9),
        Row("Axial-DeepLab-L", "coco-panoptic/axial_deeplab_l.yaml", COCO, 44.9, 343.9),
    ],
    "Cityscapes, 1025 x 2049, Axial-DeepLab-L by span (table 7)": [
        Row(f"span {span}", f"{_A}table7_span{span}.yaml", CITYSCAPES, 44.9, multiply_adds)
        for span, multiply_adds in ((5, 617.4), (9, 622.1), (17, 631.5), (33, 650.2), (65, 687.4))
    ],
}
ROWS = [row for rows in SECTIONS.values() for row in rows]

HEAD = """# Models and their sizes

Written by `python dev/models_page.py`; for any config `python tools/analyze_model.py` counts alike.
Parameters in millions, multiply-adds in thousand millions (one multiply-add is 1), the paper's
(Axial-DeepLab, ECCV 2020) in the columns beside ours, with the difference.

- **as the paper counts**: both attention layers of a strided block at full size, before the stride,
  and the full span at every position, also at the border. So counted, ours are within 4 % of every
  figure of the paper.
- **done**: what is needed: the stride between the two layers, and the keys that exist.
- **memory**: tensors alive at once in one evaluation pass of one picture in float32, without
  parameters and picture, in MiB; with the attention that is chosen where there is no compiler,
  which works at larger maps in blocks.

What remains between ours and the paper's:

- Position tables have 509 rows in every layer, whatever the size, as in the official
  implementation: 960,992 of S's parameters, which has the fewest, against 243,552 with the 129 rows
  that a span of 65 needs. The paper does not tell what its own have.
- It gives one count of parameters for Cityscapes' 19 classes and COCO's 133. The 114 more take
  114 x (256 + 1) = 29,298: all of the difference between our two S. Its multiply-adds do not seem
  to know of them either: COCO's are half of Cityscapes'. The 114 take 114 x 256 x 257 x 257 = 1.93;
  without them S comes to 110.6, +0.2 %.
- The rest grows with the width, from S's -0.3 % to XL's +3.0 %. One pixel less may be a part of it:
  `--size 1024 2048` gives S, M, L and XL 217.0, 416.9, 687.6, 2479.2 (-1.7, -0.6, 0.0, +1.3 %). We
  know of no term for what is left then.
- The stand-alone network's +3.7 % is +2.8 %, 3.39, with the keys that exist alone, at full size:
  what `STRIDE avg_pool` needs. The spans speak for the full count: from 5 to 65 the paper's L gains
  70.0, ours 73.1, or 65.5 with the keys that exist alone.
- It rounds: 3.3 is anything from 3.25 to 3.35.

Accuracies are not here: none has been measured on these datasets yet.
"""


def counted(row: Row, *, memory: bool) -> Analysis:
    """What a row's config costs."""
    cfg = read_config(str(ROOT / "configs" / row.config))
    return analyze(cfg, row.size, memory=memory)


def off(ours: float, paper: float | None) -> float | None:
    """The difference to the paper in percent."""
    return None if paper is None else 100 * (ours / paper - 1)


def line(row: Row, analysis: Analysis) -> str:
    """A row of the page."""

    def beside(ours: float, paper: float | None, digits: int) -> str:
        if paper is None:
            return f"{ours:.{digits}f} | "
        return f"{ours:.{digits}f} | {paper} ({off(ours, paper):+.1f} %)"

    digits = 2 if analysis.total.paper < 1e11 else 1
    memory = analysis.peak_activation_bytes
    return " | ".join(
        [
            f"| [{row.title}](../configs/{row.config})",
            beside(analysis.total.parameters / 1e6, row.parameters, 2),
            beside(analysis.total.paper / 1e9, row.multiply_adds, digits),
            f"{analysis.total.done / 1e9:.{digits}f}",
            f"{'' if memory is None else round(memory / 2**20)} |",
        ]
    )


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE")
    args = parser.parse_args()
    lines = [HEAD]
    for title, rows in SECTIONS.items():
        lines += [
            f"## {title}\n",
            "| model | parameters, M | paper "
            "| as the paper counts, G | paper | done, G | memory, MiB |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            lines.append(line(row, counted(row, memory=True)))
            print(lines[-1], flush=True)
        lines.append("")
    args.output.write_text("\n".join(lines))
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
