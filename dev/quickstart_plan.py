"""What dev/quickstart.sh has to know of a config before it starts.

    python dev/quickstart_plan.py CONFIG [KEY VALUE ...]

prints one a line: the output folder, the dataset to draw, processes to train in, threads of each,
and whether the embedded dataset is needed (True or False).
"""

import os
import sys
from pathlib import Path

# The checkout works uninstalled, and axial_d2 comes before anything of Detectron2.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
import torch
from detectron2.config import CfgNode

from axial_d2.engine import SetupError, load_config
from axial_d2.engine.checks import sync_bn_keys


def processes(cfg: CfgNode, cores: int) -> int:
    """How many processes train fastest.

    Two of one thread are faster on two cores than one of two threads: most operations of an axial
    network are too small to share. Batch norm wants two pictures or more in each. One remains for
    a ResNet (torch has no fast 3x3 convolution on one thread) and for SyncBN (GPUs only).
    """
    axial = cfg.MODEL.BACKBONE.NAME == "build_axial_resnet_backbone"
    if torch.cuda.is_available() or not axial or sync_bn_keys(cfg):
        return 1
    batch = cfg.SOLVER.IMS_PER_BATCH
    most = max(1, min(cores, batch // 2))
    return max(count for count in range(1, most + 1) if batch % count == 0)


def main() -> None:
    """Prints the plan."""
    try:
        cfg = load_config(sys.argv[1], sys.argv[2:])
    except SetupError as error:
        sys.exit(f"error: {error}")
    if not cfg.DATASETS.TEST:
        sys.exit("error: DATASETS.TEST: expected a dataset to evaluate and draw, got none")
    cores = len(os.sched_getaffinity(0))
    count = processes(cfg, cores)
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    print(cfg.OUTPUT_DIR)
    print(cfg.DATASETS.TEST[0])
    print(count)
    print(max(1, min(cores // count, 4)))
    print(any("synthetic_panoptic_" in name for name in names))


if __name__ == "__main__":
    main()
