"""Every configuration key of the plugin, with its default and the reason for it."""

import torch
from detectron2.config import CfgNode
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config


def add_axial_config(cfg: CfgNode) -> None:
    """Adds the keys of Axial-DeepLab to a Detectron2 config, in place.

    Calls Detectron2's own `add_panoptic_deeplab_config`: the merging constants stay in
    `MODEL.PANOPTIC_DEEPLAB`, the branches in `MODEL.SEM_SEG_HEAD` and `MODEL.INS_EMBED_HEAD`.
    `MODEL.DEVICE` becomes "cpu" where torch finds no GPU.

    Args:
        cfg: the node that `detectron2.config.get_cfg()` gives.
    """
    add_panoptic_deeplab_config(cfg)
    # Detectron2's default is "cuda" whatever the machine.
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    _add_backbone(cfg)
    _add_heads(cfg)
    _add_data(cfg)


def _add_backbone(cfg: CfgNode) -> None:
    node = cfg.MODEL.AXIAL_RESNET = CfgNode()
    # Blocks per stage: 50 is 3, 4, 6, 3 and 26 is 1, 2, 4, 1.
    node.DEPTH = 50
    # All widths, the stem's included; the paper's S, M, L, XL are 0.5, 0.75, 1, 2.
    node.WIDTH_MULTIPLIER = 1.0
    # "conv3", three 3x3 convolutions (the paper's for segmentation), "conv7", one 7x7 (the paper's
    # for ImageNet), or "axial", three axial blocks (the paper's stand-alone network, with SPAN 15).
    node.STEM = "conv3"
    # What stands in place of a bottleneck's 3x3 convolution: "axial", or what the paper compares it
    # with: "local", stand-alone self-attention in a window, or "ps_local", with all three position
    # terms. The local ones have ResNet-50's widths at WIDTH_MULTIPLIER 1.
    node.ATTENTION = "axial"
    # Heads of every attention layer; the paper always uses 8.
    node.NUM_HEADS = 8
    # Keys a query sees, centred on it: odd, or 0 for the whole strip. The paper's panoptic models
    # use 65.
    node.SPAN = 0
    # The same for the blocks of STEM "axial", which work on whole pictures: the paper's 15.
    node.STEM_SPAN = 15
    # Rows and columns around a query that local attention sees: odd; the paper's 7.
    node.WINDOW = 7
    # Relative distances the position tables hold, each way: 2 * 254 + 1 = 509 rows, as the
    # official implementation has them. Further apart, the last row is used.
    node.MAX_DISTANCE = 254
    # "subsample" takes every s-th row after the height pass and every s-th column after the width
    # pass (official implementation); "avg_pool" pools after both (the public PyTorch one). After
    # local attention the paper pools.
    node.STRIDE = "subsample"
    # 16 takes the stride out of the last stage (segmentation), 32 keeps it (classification).
    node.OUTPUT_STRIDE = 16
    # Any name that Detectron2's `get_norm` knows: BN, SyncBN, naiveSyncBN, FrozenBN, GN. The norm
    # on the logits is always of the batch family: GN gives it plain BN.
    node.NORM = "BN"
    # Rate of the last block; earlier ones grow to it linearly from 0.
    node.DROP_PATH = 0.0
    # Recomputes each block in the backward pass instead of keeping its activations.
    node.CHECKPOINT = False
    # Which implementation of `axial_d2.ops.axial_attention`; "auto" takes the fastest that can run.
    # Local attention has "blocked", which "auto" takes, and "reference".
    node.BACKEND = "auto"
    node.OUT_FEATURES = ["res2", "res3", "res5"]


def _add_heads(cfg: CfgNode) -> None:
    node = cfg.MODEL.AXIAL_DEEPLAB = CfgNode()
    # "conv": one 5x5 depthwise-separable convolution per upsampling step; "axial": one axial block.
    node.DECODER = "conv"
    # False: one 1x1 convolution on the last feature, as the paper has it. True: Panoptic-DeepLab's
    # atrous spatial pyramid pooling, with the branch's ASPP_DILATIONS and ASPP_DROPOUT.
    node.ASPP = False


def _add_data(cfg: CfgNode) -> None:
    # Datasets in COCO panoptic format to register from the config: a list of mappings with the
    # keys name, images, panoptic, json.
    cfg.DATASETS.CUSTOM = []
    # Look through the pictures and the truth before training starts.
    cfg.DATASETS.CHECK = True
    # Range of the factor by which a training picture is scaled, on the size that MIN_SIZE_TRAIN and
    # MAX_SIZE_TRAIN give; on its own where MIN_SIZE_TRAIN is (0,).
    cfg.INPUT.SCALE_JITTER = (1.0, 1.0)
    # (height, width) of the training crop, padded where the scaled picture is smaller. (0, 0): as
    # Detectron2's INPUT.CROP says. A key of its own because Detectron2's heads take INPUT.CROP for
    # the size of a fixed pooling window and then refuse any size that the stride does not divide.
    cfg.INPUT.CROP_SIZE = (0, 0)
    # Crowd regions of things: "masked" teaches neither centre nor offsets there, as Detectron2;
    # "instance" teaches one of each, so that their pixels don't join the neighbouring instances.
    cfg.INPUT.CROWD = "masked"
    # Strength, 0 to 1, of the random change of brightness, contrast, saturation and hue.
    cfg.INPUT.COLOR_JITTER = 0.0
