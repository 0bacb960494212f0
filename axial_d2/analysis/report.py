"""Parameters, multiply-adds and activation memory of a configured network, by part."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.projects.panoptic_deeplab.panoptic_seg import build_ins_embed_branch
from torch import Tensor, nn

from axial_d2 import ops
from axial_d2.analysis.memory import PeakMemory
from axial_d2.analysis.multiply_adds import MultiplyAdds, count_multiply_adds
from axial_d2.layers import LocalAttention2d

_PANOPTIC = ("AxialDeepLab", "PanopticDeepLab")
# By the beginning of a layer's name; the first that fits. A backbone's stages stand for themselves.
_PARTS = (
    ("sem_seg_head.decoder.", "semantic decoder"),
    ("sem_seg_head.", "semantic head"),
    ("ins_embed_head.decoder.", "instance decoder"),
    ("ins_embed_head.", "instance head"),
    ("fc.", "classifier"),
)


class Part(NamedTuple):
    """A part of a network.

    Attributes:
        parameters: trained and frozen ones.
        paper: multiply-adds as Axial-DeepLab counts, see `MultiplyAdds`.
        done: multiply-adds that are needed.
    """

    parameters: int
    paper: int
    done: int


class Analysis(NamedTuple):
    """What a network costs for one picture.

    Attributes:
        parts: by name, in the order of the forward pass.
        total: their sum.
        peak_activation_bytes: the most memory of tensors alive at once in one evaluation pass in
            single precision, without parameters, buffers, the picture and the working memory (up to
            32 MB, `ops/blocks.py`) that stays with a thread; None: not asked for.
        backends: which implementations of attention that is of; those of local attention begin
            with "local ".
    """

    parts: dict[str, Part]
    total: Part
    peak_activation_bytes: int | None
    backends: tuple[str, ...]


class _Maps(nn.Module):
    """Backbone and branches, up to the maps: what is left out is their resizing and merging."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.backbone = build_backbone(cfg)
        shapes = self.backbone.output_shape()
        self.sem_seg_head = build_sem_seg_head(cfg, shapes)
        self.ins_embed_head = build_ins_embed_branch(cfg, shapes)

    def forward(self, pictures: Tensor) -> Any:
        features = self.backbone(pictures)
        return self.sem_seg_head.layers(features), self.ins_embed_head.layers(features)


def analyze(cfg: CfgNode, size: tuple[int, int], *, memory: bool = True) -> Analysis:
    """Counts what the configured network costs for one picture. Nothing is computed.

    No dataset is needed: the network is built without what its classes are called.

    Args:
        cfg: MODEL is read.
        size: height and width of the picture that the network gets, in pixels.
        memory: count the activations' memory too, which for a large picture takes a minute.

    Returns:
        The counts, by part. What prepares pictures, and the resizing and merging of maps, are no
        part of them.

    Raises:
        ValueError: a meta-architecture that is none of AxialDeepLab, PanopticDeepLab and
            AxialClassifier, a value that a part refuses, a size below 1, or a layer that is not
            known.
    """
    if min(size) < 1:
        raise ValueError(f"size: expected a height and a width of 1 or more, got {size}")
    with torch.device("meta"), torch.no_grad():
        network = build_network(cfg).eval()
        forward = getattr(network, "logits", network)
        picture = torch.empty(1, 3, *size)
        # The counts are of sizes; of all implementations this one takes the fewest operations.
        with ops.use_backend("reference"):
            counts = count_multiply_adds(network, lambda: forward(picture))
        peak, backends = None, []
        if memory:
            known = [*network.parameters(), *network.buffers(), picture]
            with ops.record_backends() as backends, PeakMemory(known) as memory_of:
                forward(picture)
                memory_of.restart()  # Folded norms stay as parameters do.
                forward(picture)
            peak = memory_of.peak
    parts = _by_part(network, counts)
    total = Part(*(sum(values) for values in zip(*parts.values(), strict=True)))
    backends += _local_backends(network) if memory else []
    return Analysis(parts, total, peak, tuple(dict.fromkeys(backends)))


def _local_backends(network: nn.Module) -> list[str]:
    """What the layers ask for, by its own name: local attention is never recorded."""
    asked = (m.backend for m in network.modules() if isinstance(m, LocalAttention2d))
    return ["local " + ("blocked" if name == "auto" else name) for name in asked]


def build_network(cfg: CfgNode) -> nn.Module:
    """The configured network without what prepares pictures and makes instances of maps.

    Args:
        cfg: MODEL is read.

    Returns:
        A module with a `backbone`: a classifier, or one from (N, 3, H, W) pictures to the maps of
        both branches.

    Raises:
        ValueError: a meta-architecture that is none of AxialDeepLab, PanopticDeepLab and
            AxialClassifier.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name in _PANOPTIC:
        return _Maps(cfg)
    if name == "AxialClassifier":
        return META_ARCH_REGISTRY.get(name)(cfg)
    raise ValueError(
        f"MODEL.META_ARCHITECTURE: expected one of {', '.join(_PANOPTIC)}, AxialClassifier; "
        f"got {name}"
    )


def _by_part(network: nn.Module, counts: dict[str, MultiplyAdds]) -> dict[str, Part]:
    parts: dict[str, Part] = {}

    def add(name: str, *values: int) -> None:
        key = _part_of(name)
        parts[key] = Part(*(a + b for a, b in zip(parts.get(key, (0, 0, 0)), values, strict=True)))

    for name, parameter in _parameters(network):
        add(name, parameter.numel(), 0, 0)
    for name, count in counts.items():
        add(name + ".", 0, *count)
    return parts


def _parameters(network: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters, and those of frozen norms, which are buffers."""
    yield from network.named_parameters()
    for name, module in network.named_modules():
        for own in ("weight", "bias"):
            value = module._buffers.get(own)
            if value is not None:
                yield f"{name}.{own}", value


def _part_of(name: str) -> str:
    if name.startswith("backbone."):
        return name.split(".")[1]
    return next(part for prefix, part in _PARTS if name.startswith(prefix))
