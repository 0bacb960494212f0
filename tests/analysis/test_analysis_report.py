"""Whole networks: against Detectron2's build of them, and what torch counts of a real run."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch.utils.flop_counter import FlopCounterMode

from axial_d2 import ops
from axial_d2.analysis import Analysis, PeakMemory, analyze
from axial_d2.engine import read_config

# Heads of several channels: torch's count leaves out products over one.
TINY = (
    *("MODEL.AXIAL_RESNET.WIDTH_MULTIPLIER", "0.125"),
    *("MODEL.AXIAL_RESNET.NUM_HEADS", "2"),
    *("MODEL.AXIAL_RESNET.SPAN", "0"),
)
# Config, options, height and width. No map on the way has one row or column only.
NETWORKS = {
    "conv decoder": ("quickstart/synthetic.yaml", (), (65, 97)),
    "Detectron2's heads": ("quickstart/synthetic_detectron2_heads.yaml", (), (64, 96)),
    "Detectron2's network": ("quickstart/synthetic_detectron2_r50.yaml", (), (64, 96)),
    "axial decoder, ASPP": (
        "cityscapes-panoptic/axial_deeplab_s_axial_decoder.yaml",
        ("MODEL.AXIAL_DEEPLAB.ASPP", "True", *TINY),
        (65, 97),
    ),
    "classifier, axial stem": (
        "imagenet-classification/axial_resnet50_s_stand_alone.yaml",
        ("MODEL.AXIAL_RESNET.STEM_SPAN", "0", *TINY),
        (66, 97),
    ),
    "frozen": (
        "cityscapes-panoptic/axial_deeplab_s.yaml",
        ("MODEL.AXIAL_RESNET.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", "2", *TINY),
        (65, 97),
    ),
}


def config_of(case: str) -> tuple[CfgNode, tuple[int, int]]:
    path, options, size = NETWORKS[case]
    known = ("DATASETS.TRAIN", "('cityscapes_fine_panoptic_train',)")
    norms = [f"MODEL.{part}.NORM" for part in ("SEM_SEG_HEAD", "INS_EMBED_HEAD")]
    options = (*known, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19", "MODEL.DEVICE", "cpu", *options)
    options += tuple(word for norm in norms for word in (norm, "BN"))
    if "NORM" not in "".join(options[:-4]):
        options += ("MODEL.AXIAL_RESNET.NORM", "BN")
    return read_config(f"configs/{path}", list(options)), size


def forward_of(model: torch.nn.Module, x: torch.Tensor) -> object:
    """The maps or the logits, by the parts' own functions."""
    if hasattr(model, "logits"):
        return model.logits(x)
    features = model.backbone(x)
    return model.sem_seg_head.layers(features), model.ins_embed_head.layers(features)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, torch.Tensor, Analysis]:
    cfg, size = config_of(request.param)
    model = build_model(cfg).eval()
    return model, torch.zeros(1, 3, *size), analyze(cfg, size)


def test_work_is_what_a_real_run_multiplies(network: tuple) -> None:
    model, x, analysis = network
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), ops.use_backend("reference"), counter:
        forward_of(model, x)
    assert analysis.total.done == counter.get_total_flops() // 2
    assert analysis.total.paper >= analysis.total.done


def test_parameters_are_those_of_the_model(network: tuple) -> None:
    """Scales and shifts of frozen norms are parameters too, though torch calls them buffers."""
    model, _, analysis = network
    state = model.state_dict()
    moving = ("running_mean", "running_var", "num_batches_tracked")
    assert analysis.total.parameters == sum(
        value.numel() for name, value in state.items() if not name.endswith(moving)
    )


def test_memory_is_that_of_a_real_run(network: tuple, no_compiler: None) -> None:
    model, x, analysis = network
    known = [*model.parameters(), *model.buffers(), x]
    with torch.no_grad(), ops.record_backends() as backends, PeakMemory(known) as memory:
        forward_of(model, x)
        memory.restart()
        forward_of(model, x)
    assert analysis.peak_activation_bytes == memory.peak > 0
    assert set(analysis.backends) == set(backends)


def test_local_attention_says_what_runs() -> None:
    options = ["MODEL.AXIAL_RESNET.WIDTH_MULTIPLIER", "0.25"]
    cfg = read_config("configs/imagenet-classification/ps_attention_resnet50.yaml", options)
    assert analyze(cfg, (32, 48)).backends == ("local blocked",)
    cfg.MODEL.AXIAL_RESNET.BACKEND = "reference"
    assert analyze(cfg, (32, 48)).backends == ("local reference",)
    assert analyze(cfg, (32, 48), memory=False).backends == ()


@pytest.mark.parametrize("size", [(0, 5), (5, -1)])
def test_a_size_must_be_positive(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected a height and a width of 1 or more"):
        analyze(config_of("conv decoder")[0], size)
