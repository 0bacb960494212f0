"""Small configs and inputs that the tests of the models share."""

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from axial_d2.config import add_axial_config
from axial_d2.panoptic import PanopticTargets

DATASET = "modeling_test_panoptic"
THINGS = (1, 3)
CLASSES = 5


def register() -> None:
    """Registers a dataset without pictures, whose things are classes 1 and 3 of 5."""
    if DATASET in DatasetCatalog.list():
        return
    DatasetCatalog.register(DATASET, list)
    names = [f"class {i}" for i in range(CLASSES)]
    MetadataCatalog.get(DATASET).set(
        thing_classes=names,
        stuff_classes=names,
        thing_dataset_id_to_contiguous_id={10 * c: c for c in THINGS},
        stuff_dataset_id_to_contiguous_id={10 * c: c for c in range(CLASSES) if c not in THINGS},
        label_divisor=1000,
        ignore_label=255,
    )


def small_config(*options: object) -> CfgNode:
    """A tiny Axial-DeepLab on the CPU, with further keys and values."""
    register()
    cfg = get_cfg()
    add_axial_config(cfg)
    cfg.DATASETS.TRAIN = (DATASET,)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "AxialDeepLab"
    cfg.MODEL.BACKBONE.NAME = "build_axial_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    node = cfg.MODEL.AXIAL_RESNET
    node.DEPTH, node.WIDTH_MULTIPLIER, node.MAX_DISTANCE = 26, 0.125, 20
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME, head.NUM_CLASSES, head.NORM = "AxialDeepLabSemSegHead", CLASSES, "BN"
    head.IN_FEATURES, head.PROJECT_CHANNELS = ["res2", "res3", "res5"], [8, 8]
    head.ASPP_CHANNELS = head.CONVS_DIM = head.HEAD_CHANNELS = 16
    head = cfg.MODEL.INS_EMBED_HEAD
    head.NAME, head.NORM, head.PROJECT_CHANNELS = "AxialDeepLabInsEmbedHead", "BN", [8, 8]
    head.ASPP_CHANNELS = head.CONVS_DIM = head.HEAD_CHANNELS = 16
    cfg.MODEL.PANOPTIC_DEEPLAB.STUFF_AREA = 1
    cfg.merge_from_list(list(options))
    return cfg


def scene(height: int, width: int, *, things: bool = True, stuff: bool = True) -> dict:
    """One training input: two touching things on two kinds of stuff, or less."""
    panoptic = torch.zeros(height, width, dtype=torch.int32)
    infos = []
    if stuff:
        panoptic[: height // 2] = 7
        panoptic[height // 2 :] = 8
        infos += [
            {"id": 7, "category_id": 0, "iscrowd": 0},
            {"id": 8, "category_id": 4, "iscrowd": 0},
        ]
    if things:
        rows = slice(height // 4, 3 * height // 4)
        panoptic[rows, width // 4 : width // 2] = 21
        panoptic[rows, width // 2 : 3 * width // 4] = 22
        infos += [
            {"id": 21, "category_id": 1, "iscrowd": 0},
            {"id": 22, "category_id": 1, "iscrowd": 0},
        ]
    make = PanopticTargets(ignore_label=255, thing_ids=THINGS, sigma=4)
    generator = torch.Generator().manual_seed(height)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": image, "height": height, "width": width} | make(panoptic.numpy(), infos)
