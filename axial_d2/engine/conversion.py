"""Other projects' checkpoints as files for MODEL.WEIGHTS, with the config that they need."""

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import Tensor

from axial_d2.checkpoint.csrhddlam_net import Network, convert_network, table_lengths
from axial_d2.checkpoint.reading import read_state
from axial_d2.config import add_axial_config
from axial_d2.engine.checkpointer import FACTS
from axial_d2.engine.errors import SetupError
from axial_d2.engine.loading_report import network_facts

# ImageNet's, as the original normalises its pictures: RGB, 0 to 255.
_PIXEL_MEAN, _PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
# A picture's side is so many times the first layer's.
_STEM_STRIDE = 4


class Conversion(NamedTuple):
    """What was written, and what it holds."""

    weights: Path
    config: Path
    tensors: int
    parameters: int
    table_rows: list[int]
    keys: dict[str, object]


def convert_csrhddlam(source: str, target: str, *, overwrite: bool = False) -> Conversion:
    """Converts a classifier of csrhddlam/axial-deeplab: axial26s, axial50s, axial50m, axial50l.

    Before anything is written, the classifier is built from the config and takes the weights, each
    of them and no other.

    Args:
        source: the original's checkpoint, see `checkpoint.reading.read_state`.
        target: what to write, NAME.pth; NAME.yaml is written beside it.
        overwrite: replace files that are there.

    Returns:
        Paths, counts and the config keys of the backbone.

    Raises:
        SetupError: source is not such a checkpoint, or target cannot be written.
    """
    weights, config = _check_paths(source, target, overwrite=overwrite)
    try:
        state, network = convert_network(read_state(source))
    except ValueError as error:
        message = str(error)
        raise SetupError(message if source in message else f"{source}: {message}") from error
    content = classifier_config(network, weights)
    cfg = get_cfg()
    add_axial_config(cfg)
    cfg.merge_from_other_cfg(CfgNode(content))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    model.load_state_dict(state)
    _write(weights, config, state, content, network_facts(cfg))
    backbone = {f"MODEL.AXIAL_RESNET.{k}": v for k, v in content["MODEL"]["AXIAL_RESNET"].items()}
    parameters = sum(p.numel() for p in model.parameters())
    rows = list(table_lengths(network))
    return Conversion(weights, config, len(state), parameters, rows, backbone)


def classifier_config(network: Network, weights: Path) -> dict[str, Any]:
    """The config of the classifier that computes what the original does.

    Args:
        network: which of them it is.
        weights: file for MODEL.WEIGHTS.

    Returns:
        Nested, as a YAML file has it.
    """
    size = network.kernel_size * _STEM_STRIDE
    content: dict[str, Any] = {
        "MODEL": {
            "META_ARCHITECTURE": "AxialClassifier",
            "WEIGHTS": str(weights.resolve()),
            "PIXEL_MEAN": _PIXEL_MEAN,
            "PIXEL_STD": _PIXEL_STD,
            "BACKBONE": {"NAME": "build_axial_resnet_backbone", "FREEZE_AT": 0},
            "AXIAL_RESNET": {
                "DEPTH": network.depth,
                "WIDTH_MULTIPLIER": network.width_multiplier,
                "STEM": "conv7",
                "ATTENTION": "axial",
                "NUM_HEADS": 8,
                "SPAN": 0,
                "MAX_DISTANCE": network.max_distance,
                "STRIDE": "avg_pool",
                "OUTPUT_STRIDE": 32,
                "NORM": "BN",
                "OUT_FEATURES": ["res5"],
            },
            "AXIAL_CLASSIFIER": {"NUM_CLASSES": network.num_classes},
        },
        # The original's tests: the shorter side to 256, then the middle 224 x 224 of it.
        "INPUT": {
            "FORMAT": "RGB",
            "CROP_SIZE": [size, size],
            "MIN_SIZE_TEST": round(size / 0.875),
        },
        "VERSION": 2,
    }
    if network.num_classes == 1000:
        content["DATASETS"] = {"TRAIN": ["imagenet_train"], "TEST": ["imagenet_val"]}
    return content


def _check_paths(source: str, target: str, *, overwrite: bool) -> tuple[Path, Path]:
    weights = Path(target)
    if weights.suffix != ".pth":
        raise SetupError(f"OUT: expected a name that ends in .pth, got {target!r}")
    config = weights.with_suffix(".yaml")
    if not weights.parent.is_dir():
        raise SetupError(f"OUT: no such folder: {weights.parent}")
    for path in (weights, config):
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise SetupError(f"OUT: expected another file than IN, but {path} would be written")
        if path.is_dir():
            raise SetupError(f"OUT: {path} is a folder")
        if path.exists() and not overwrite:
            raise SetupError(f"OUT: {path} is there already; --overwrite replaces it")
    return weights, config


def _write(
    weights: Path,
    config: Path,
    state: dict[str, Tensor],
    content: dict[str, Any],
    facts: dict[str, object],
) -> None:
    """Both files or, where one cannot be written, none."""
    checkpoint = {
        "model": state,
        "__author__": "csrhddlam/axial-deeplab, converted by axial_d2",
        FACTS: facts,
    }
    head = "# Of the classifier that MODEL.WEIGHTS holds; written by tools/convert_checkpoint.py.\n"
    try:
        with tempfile.TemporaryDirectory(dir=weights.parent) as folder:
            torch.save(checkpoint, Path(folder, "weights"))
            Path(folder, "config").write_text(head + yaml.safe_dump(content, sort_keys=False))
            os.replace(Path(folder, "weights"), weights)
            os.replace(Path(folder, "config"), config)
    except OSError as error:
        raise SetupError(f"OUT: cannot write to {weights.parent}: {error.strerror}") from error
