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
    _add_classification(cfg)
    _add_evaluation(cfg)
    _add_test_augmentation(cfg)
    _add_solver(cfg)


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
    # Which implementation of `axial_d2.ops.axial_attention`; "auto" takes the fastest that can run:
    # "compiled" on a CPU with a C++ compiler, "triton" on CUDA, else "kept" or "blocked".
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


def _add_classification(cfg: CfgNode) -> None:
    """Keys of `AxialClassifier` and of datasets of class folders, such as ImageNet.

    SOLVER counts iterations, recipes count epochs: iterations = epochs * pictures / IMS_PER_BATCH.
    The paper's 130 epochs of ImageNet's 1,281,167 pictures at a batch of 1024 are a MAX_ITER of
    162,648, its 10 epochs of warm-up a WARMUP_ITERS of 12,511.
    """
    node = cfg.MODEL.AXIAL_CLASSIFIER = CfgNode()
    # ImageNet's. It must be the number of class folders.
    node.NUM_CLASSES = 1000
    # Share of the target spread evenly over all classes; the paper has none.
    node.LABEL_SMOOTHING = 0.0
    # Datasets of class folders to register from the config: a list of mappings with the keys name
    # and root; the classes are the sorted names of the folders in root.
    cfg.DATASETS.IMAGE_FOLDERS = []
    # A classifier reads INPUT.CROP_SIZE otherwise: in training the size that a random window is
    # resized to, in tests what is cut out of the middle, the shorter side being MIN_SIZE_TEST.
    # The window that is cut out of a training picture and resized to CROP_SIZE: its share of the
    # picture's area and its width by its height, as (low, high). The usual values for ImageNet.
    node = cfg.INPUT.RESIZED_CROP = CfgNode()
    node.AREA = (0.08, 1.0)
    node.ASPECT = (3 / 4, 4 / 3)


def _add_evaluation(cfg: CfgNode) -> None:
    # Keep what is predicted in an evaluation, below OUTPUT_DIR/inference, in the formats of COCO's
    # and Cityscapes' servers: some MB a hundred pictures.
    cfg.TEST.SAVE_PREDICTIONS = False


def _add_test_augmentation(cfg: CfgNode) -> None:
    # With Detectron2's TEST.AUG.ENABLED: the sizes at which a picture is looked at, as factors on
    # the one that the network gets without (after INPUT.MIN_SIZE_TEST); with TEST.AUG.FLIP mirrored
    # as well. The paper's for COCO; for Cityscapes and Mapillary it goes on to 2.0 by 0.25.
    # Detectron2's TEST.AUG.MIN_SIZES and MAX_SIZE are not used: lengths of its boxes' augmentation.
    cfg.TEST.AUG.SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)


def _add_solver(cfg: CfgNode) -> None:
    node = cfg.SOLVER
    # Detectron2's SOLVER.OPTIMIZER is ADAM, ADAMW, RADAM (decoupled weight decay) or SGD. Its
    # SOLVER.CLIP_GRADIENTS.CLIP_TYPE is value or norm, for each parameter by itself, or full_model,
    # which clips the norm of all gradients together.
    #
    # Weight decay of the relative position tables; None: as all other parameters. 0.0 with a
    # WEIGHT_DECAY_NORM of 0.0 leaves only the weights of convolutions and linear layers to decay.
    node.WEIGHT_DECAY_TABLE = None
    # Batches of IMS_PER_BATCH per iteration; their mean gradient makes one step, as a batch of
    # IMS_PER_BATCH * ACCUMULATION_STEPS would, in the memory of one. What looks at a whole batch
    # sees IMS_PER_BATCH pictures still: batch norm, and losses that pick or count pixels over it.
    node.ACCUMULATION_STEPS = 1
    # Lookahead around the optimiser: after every STEPS iterations the slow weights go ALPHA of the
    # way to the fast ones, which go on from there (arXiv 1907.08610; its authors' code has 5 and
    # 0.8, TensorFlow Addons 6 and 0.5). The fast ones are evaluated and saved: at multiples of
    # STEPS the two are the same.
    node.LOOKAHEAD = CfgNode()
    node.LOOKAHEAD.ENABLED = False
    node.LOOKAHEAD.STEPS = 5
    node.LOOKAHEAD.ALPHA = 0.5
    # Exponential moving average of weights and running statistics: what is then evaluated and is
    # the "model" of the checkpoints. After n iterations the decay is min(DECAY, (1+n)/(10+n)), so
    # that a short training's average does not consist of its first weights.
    node.EMA = CfgNode()
    node.EMA.ENABLED = False
    node.EMA.DECAY = 0.9999
