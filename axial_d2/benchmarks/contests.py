"""What is measured against what: ours and a named baseline, as two functions without arguments."""

import argparse
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from axial_d2.panoptic.encoding import id_to_rgb

CLASSES, THINGS = 19, range(11, 19)  # as in Cityscapes
TARGETS: dict[str, Any] = {
    "ignore_label": 255,
    "thing_ids": set(THINGS),
    "sigma": 10,
    "small_instance_area": 4096,
    "small_instance_weight": 3,
}


class Contest(NamedTuple):
    """What is measured.

    Attributes:
        ours: what this project does.
        baseline: what it is compared with.
        agree: whether the two results are the same; None where they are of different networks.
        work: multiply-adds of ours and of the baseline, where figures are to be per one of them.
    """

    ours: Callable[[], Any]
    baseline: Callable[[], Any]
    agree: Callable[[Any, Any], bool] | None = None
    work: tuple[int, int] | None = None


def merging(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """Merging of random maps: blocks of classes, centres of one pixel, noisy offsets."""
    from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation

    from axial_d2.panoptic import panoptic_segmentation

    height, width = size
    generator = torch.Generator().manual_seed(options.seed)
    grid = (1, 1, -(-height // 64), -(-width // 64))
    blocks = torch.randint(0, CLASSES, grid, generator=generator).float()
    semantic = torch.nn.functional.interpolate(blocks, size=size, mode="nearest")[0, 0].long()
    heatmap = torch.zeros(height * width)
    # On a grid wider than the non-maximum suppression, so that every centre stays.
    step = 8
    places = torch.cartesian_prod(torch.arange(0, height, step), torch.arange(0, width, step))
    chosen = places[torch.randperm(len(places), generator=generator)[: options.instances]]
    heatmap[chosen[:, 0] * width + chosen[:, 1]] = torch.linspace(0.2, 1, len(chosen))
    heatmap = heatmap.view(size)
    offset = torch.randn(2, height, width, generator=generator) * 10
    settings: dict[str, Any] = {
        "thing_ids": set(THINGS),
        "label_divisor": 1000,
        "stuff_area": 2048,
        "void_label": -1,
        "threshold": 0.1,
        "nms_kernel": 7,
        "top_k": None,
    }
    return Contest(
        lambda: panoptic_segmentation(semantic, heatmap, offset, **settings).panoptic,
        # A copy: the baseline overwrites its heat-map.
        lambda: get_panoptic_segmentation(
            semantic[None], heatmap[None].clone(), offset, **settings
        )[0][0],
        torch.equal,
    )


def random_scene(
    size: tuple[int, int], segments: int, seed: int
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Discs over a background, every second one a thing.

    Args:
        size: height and width in pixels.
        segments: how many, the background included.
        seed: of the random numbers.

    Returns:
        (H, W) int32 ids, and segments_info.
    """
    height, width = size
    rng = np.random.default_rng(seed)
    panoptic: np.ndarray = np.full(size, 1, dtype=np.int32)
    y, x = np.mgrid[:height, :width]
    infos = [{"id": 1, "category_id": 0, "iscrowd": 0}]
    for n in range(2, segments + 1):
        radius = rng.uniform(0.02, 0.2) * height
        inside = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width)) < radius
        panoptic[inside] = n * 1000
        label = int(rng.choice(THINGS)) if n % 2 else n % THINGS.start
        infos.append({"id": n * 1000, "category_id": label, "iscrowd": int(n % 17 == 0)})
    return panoptic, infos


def targets(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """Targets of a random scene: discs over a background, every second one a thing."""
    from detectron2.projects.panoptic_deeplab.target_generator import (
        PanopticDeepLabTargetGenerator,
    )

    from axial_d2.panoptic import PanopticTargets

    panoptic, infos = random_scene(size, options.segments, options.seed)
    ours = PanopticTargets(**TARGETS)
    baseline = PanopticDeepLabTargetGenerator(**TARGETS)

    def agree(a: dict[str, Any], b: dict[str, Any]) -> bool:
        return a.keys() == b.keys() and all(
            torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
        )

    return Contest(lambda: ours(panoptic, infos), lambda: baseline(panoptic, infos), agree)


def loading(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """One training sample, from files to tensors: reading, augmentations, targets."""
    from detectron2.projects.panoptic_deeplab.dataset_mapper import PanopticDeeplabDatasetMapper
    from detectron2.projects.panoptic_deeplab.target_generator import (
        PanopticDeepLabTargetGenerator,
    )

    from axial_d2.data import AxialDeepLabDatasetMapper
    from axial_d2.data.mapper import build_augmentations

    cfg = _config(options.config)
    panoptic, infos = random_scene(size, options.segments, options.seed)
    folder = Path(tempfile.mkdtemp())
    # Noise on even colours: as long to decompress as a photograph, or longer.
    noise = np.random.default_rng(options.seed).integers(0, 64, (*size, 3))
    picture = (id_to_rgb(panoptic) // 2 + noise).astype(np.uint8)
    record = {"image_id": 0, "height": size[0], "width": size[1], "segments_info": infos}
    for key, pixels in (("file_name", picture), ("pan_seg_file_name", id_to_rgb(panoptic))):
        record[key] = str(folder / f"{key}.png")
        Image.fromarray(pixels).save(record[key])
    ours = AxialDeepLabDatasetMapper(cfg, is_train=True)
    baseline = PanopticDeeplabDatasetMapper(
        augmentations=build_augmentations(cfg, is_train=True),
        image_format="RGB",
        panoptic_target_generator=PanopticDeepLabTargetGenerator(**TARGETS),
    )

    def load(mapper: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
        return mapper(dict(record))

    # The files go with what reads them.
    weakref.finalize(load, shutil.rmtree, folder, ignore_errors=True)
    return Contest(lambda: load(ours), lambda: load(baseline))


def attention(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """One attention layer on a feature map: in training forward and backward, or in evaluation.

    In evaluation the baseline's norms are not folded.
    """
    from axial_d2 import ops
    from axial_d2.layers import AxialAttention1d, unfolded

    torch.manual_seed(options.seed)
    channels = options.channels
    layer = AxialAttention1d(
        in_channels=channels,
        out_channels=channels,
        axis=options.axis,
        num_heads=options.heads,
        span=options.span,
    )
    layer.train(options.mode == "train")
    x = torch.randn(options.batch, channels, *size).to(memory_format=torch.channels_last)
    wave = torch.randn(options.batch, channels, *size)

    def step(backend: str) -> tuple[Tensor, ...]:
        with ops.use_backend(backend):
            if options.mode == "eval":
                with torch.no_grad():
                    return (layer(x),)
            x.requires_grad_()
            y = layer(x)
            return y.detach(), *torch.autograd.grad((y * wave).sum(), [x, layer.qkv.weight])

    def baseline() -> tuple[Tensor, ...]:
        with unfolded():
            return step(options.baseline)

    def agree(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
        # Single precision, sums in another order.
        pairs = zip(a, b, strict=True)
        return all((one - other).abs().max() < 1e-4 * other.abs().max() for one, other in pairs)

    return Contest(lambda: step(options.backend), baseline, agree)


def backbone(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """A classifier's backbone on random pictures, by default Axial-ResNet-50-S and ResNet-50."""
    x = torch.randn(options.batch, 3, *size)
    ours, baseline = (
        _network(path, options.seed).backbone for path in (options.config, options.baseline_config)
    )
    return Contest(_run_of(ours, x, options.mode), _run_of(baseline, x, options.mode))


def model(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """A segmentation model up to its maps, by default Axial-DeepLab-S and Panoptic-DeepLab R50."""
    x = torch.randn(options.batch, 3, *size)
    ours, baseline = (
        _network(path, options.seed) for path in (options.config, options.baseline_config)
    )
    return Contest(_run_of(ours, x), _run_of(baseline, x))


def growth(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """A model at the given size against itself at a quarter of it, per multiply-add really done."""
    from axial_d2.analysis import analyze

    cfg, network = _config(options.config), _network(options.config, options.seed)
    sizes = (size, tuple((s - 1) // 4 + 1 for s in size))
    work = tuple(analyze(cfg, s, memory=False).total.done for s in sizes)
    runs = [_run_of(network, torch.randn(1, 3, *s)) for s in sizes]
    return Contest(*runs, work=work)


def train(size: tuple[int, int], options: argparse.Namespace) -> Contest:
    """A training step of a whole model: losses, backward pass, SGD; random scenes of that size."""
    from detectron2.modeling import build_model
    from detectron2.structures import Instances

    from axial_d2.panoptic import PanopticTargets

    make_targets = PanopticTargets(**TARGETS)
    batch = []
    for number in range(options.batch):
        scene = random_scene(size, 20, options.seed + number)
        picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        batch.append({"image": picture, "instances": Instances(size), **make_targets(*scene)})
    runs = []
    for path in (options.config, options.baseline_config):
        torch.manual_seed(options.seed)
        cfg = _config(path)
        network = build_model(cfg).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
        runs.append(lambda n=network, o=optimizer: _training_step(n, o, batch))
    return Contest(*runs)


def _training_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, batch: list[dict[str, Any]]
) -> None:
    optimizer.zero_grad()
    sum(network(batch).values()).backward()
    optimizer.step()


def _config(path: str) -> Any:
    from axial_d2.engine import load_config

    cfg = load_config(path, ["MODEL.DEVICE", "cpu"])
    cfg.defrost()
    # One process; the synchronised norm has no form for a CPU.
    for name in ("AXIAL_RESNET", "RESNETS", "SEM_SEG_HEAD", "INS_EMBED_HEAD"):
        node = cfg.MODEL[name]
        node.NORM = node.NORM.replace("SyncBN", "BN")
    return cfg


def _network(path: str, seed: int) -> nn.Module:
    from axial_d2.analysis import build_network

    torch.manual_seed(seed)
    return build_network(_config(path))


def _run_of(network: nn.Module, x: Tensor, mode: str = "eval") -> Callable[[], None]:
    """A forward pass in evaluation, or one in training with its backward pass."""
    network.train(mode == "train")

    def run() -> None:
        if mode == "eval":
            with torch.no_grad():
                network(x)
            return
        network.zero_grad()
        sum(y.sum() for y in network(x).values()).backward()

    return run


CONTESTS = {
    "attention": attention,
    "backbone": backbone,
    "model": model,
    "growth": growth,
    "merging": merging,
    "targets": targets,
    "loading": loading,
    "train": train,
}
