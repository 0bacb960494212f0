"""Whole classification networks of csrhddlam/axial-deeplab, from its file to a model and a config.

Its file tells the sizes by the shapes of its tensors. What no shape tells is fixed there, and so
here: a 7x7 stem, average pooling for a stride, an output stride of 32.
"""

import pickle
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from axial_d2.checkpoint.csrhddlam import NUM_HEADS, convert_state
from axial_d2.layers.position_table import fit_table

AUTHOR = "csrhddlam/axial-deeplab"
DEPTHS = {(1, 2, 4, 1): 26, (3, 4, 6, 3): 50}
# Channels at a width of 1: the stem's, and inside the blocks of the four stages.
_STEM, _STAGES = 64, (128, 256, 512, 1024)
# Where its training puts the weights; another tool may have taken them out under other names.
_WEIGHTS = ("net", "state_dict", "model")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Architecture:
    """What the shapes of a file tell.

    Attributes:
        blocks: of each stage.
        width_multiplier: 0.5, 0.75 and 1 for its s, m and l.
        num_classes: of the linear layer.
    """

    blocks: tuple[int, ...]
    width_multiplier: float
    num_classes: int

    @property
    def depth(self) -> int:
        return DEPTHS[self.blocks]


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Reads the weights from a file of its training, or from a bare state dict.

    Nothing but tensors and plain containers is unpickled.

    Args:
        path: the file. Optimiser state and epoch are left aside, `module.` prefixes taken off.

    Returns:
        By its own names.

    Raises:
        ValueError: no such file, not a checkpoint, one that would run code when read, or one
            without weights.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: expected a checkpoint, got no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Its other complaints are of bytes that are no pickle.
        if not any(f"Unsupported {what}" in str(error) for what in ("global", "class")):
            raise ValueError(
                f"{path}: expected a checkpoint of PyTorch, got another file"
            ) from None
        raise ValueError(
            f"{path}: expected tensors alone, got Python objects that would run code when read. "
            "If you trust the file, write its weights anew: torch.save({'net': torch.load(PATH, "
            "weights_only=False)['net']}, NEW)"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected a checkpoint of PyTorch, got a file that it cannot read "
            f"({type(error).__name__})"
        ) from None
    return _weights(path, content)


def _weights(path: str | Path, content: Any) -> dict[str, Tensor]:
    """The state dict within what a file holds."""
    if isinstance(content, dict):
        name = next((n for n in _WEIGHTS if isinstance(content.get(n), dict)), None)
        state = content if name is None else content[name]
        if state and all(isinstance(v, Tensor) for v in state.values()):
            if all(str(k).startswith("module.") for k in state):
                return {k.removeprefix("module."): v for k, v in state.items()}
            return dict(state)
        found = f"a dict of {', '.join(map(repr, list(content)[:5])) or 'nothing'}"
    else:
        found = type(content).__name__
    raise ValueError(
        f"{path}: expected a dict of tensors, bare or under one of {', '.join(_WEIGHTS)}; "
        f"got {found}"
    )


def detect(state: dict[str, Tensor]) -> Architecture:
    """Tells the architecture by names and shapes.

    Args:
        state: by its own names.

    Returns:
        The architecture that most of the shapes speak for.

    Raises:
        ValueError: none that this importer knows.
    """
    if not any(name.endswith(".relative") for name in state):
        first = ", ".join(list(state)[:3])
        raise ValueError(
            "expected a network with axial attention, whose layers have a table 'relative'; got "
            f"{len(state)} tensors, none of that name ({first}, ...)"
        )
    found: dict[int, set[int]] = {1: set(), 2: set(), 3: set(), 4: set()}
    for name in state:
        place = re.match(r"layer([1-4])\.(\d+)\.", name)
        if place:
            found[int(place[1])].add(int(place[2]))
    blocks = tuple(len(found[stage]) for stage in (1, 2, 3, 4))
    if blocks not in DEPTHS:
        known = " or ".join(map(str, DEPTHS))
        raise ValueError(f"expected {known} blocks in the four stages, got {blocks}")
    widths = Counter(_widths(state))
    width = widths.most_common(1)[0][0] if widths else 0.0
    if not width or int(_STAGES[0] * width) % (2 * NUM_HEADS):
        raise ValueError(
            f"expected widths of a multiple of {2 * NUM_HEADS} channels in the first stage, got "
            f"{_STAGES[0] * width:g}"
        )
    classifier = state.get("fc.weight", state.get("fc.bias"))
    return Architecture(blocks, width, 0 if classifier is None else classifier.shape[0])


def _widths(state: dict[str, Tensor]) -> list[float]:
    """The width that each of several tensors speaks for."""
    places = [("conv1.weight", _STEM)]
    places += [(f"layer{i}.0.conv_down.weight", c) for i, c in enumerate(_STAGES, 1)]
    return [state[n].shape[0] / c for n, c in places if n in state and state[n].dim()]


def expected_shapes(net: Architecture) -> dict[str, Shape]:
    """Names and shapes of a file; None where any size will do (the tables' odd length)."""
    shapes: dict[str, Shape] = {}
    channels = int(_STEM * net.width_multiplier)
    shapes["conv1.weight"] = (channels, 3, 7, 7)
    shapes |= _norm("bn1", channels)
    for stage, blocks in enumerate(net.blocks):
        inside = int(_STAGES[stage] * net.width_multiplier)
        for block in range(blocks):
            prefix = f"layer{stage + 1}.{block}."
            shapes[f"{prefix}conv_down.weight"] = (inside, channels, 1, 1)
            shapes |= _norm(f"{prefix}bn1", inside)
            for axis in ("hight_block", "width_block"):
                shapes |= _attention(f"{prefix}{axis}", inside)
            shapes[f"{prefix}conv_up.weight"] = (2 * inside, inside, 1, 1)
            shapes |= _norm(f"{prefix}bn2", 2 * inside)
            if block == 0:
                shapes[f"{prefix}downsample.0.weight"] = (2 * inside, channels, 1, 1)
                shapes |= _norm(f"{prefix}downsample.1", 2 * inside)
            channels = 2 * inside
    shapes["fc.weight"] = (net.num_classes, channels)
    shapes["fc.bias"] = (net.num_classes,)
    return shapes


def _norm(name: str, channels: int) -> dict[str, Shape]:
    return {f"{name}.{f}": () if f == "num_batches_tracked" else (channels,) for f in _NORM}


def _attention(name: str, channels: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        f"{name}.qkv_transform.weight": (2 * channels, channels, 1),
        f"{name}.relative": (2 * channels // NUM_HEADS, None),
    }
    for norm, size in (
        ("bn_qkv", 2 * channels),
        ("bn_similarity", 3 * NUM_HEADS),
        ("bn_output", 2 * channels),
    ):
        shapes |= _norm(f"{name}.{norm}", size)
    return shapes


def check_state(state: dict[str, Tensor], net: Architecture) -> None:
    """Compares names and shapes with those of the architecture.

    Args:
        state: by its own names. Its index buffers may be there or not; so may the counts of
            batches, which very old versions of PyTorch did not keep.
        net: from `detect`.

    Raises:
        ValueError: lists every name that is missing, unknown or of another shape.
    """
    expected = expected_shapes(net)
    problems = [
        f"missing: {name} {_shape(shape)}"
        for name, shape in expected.items()
        if name not in state and not name.endswith("num_batches_tracked")
    ]
    for name, value in state.items():
        got = tuple(value.shape)
        if name.endswith("_block.flatten_index"):
            continue
        if name not in expected:
            problems.append(f"unknown: {name} {_shape(got)}")
        elif not _fits(got, expected[name]):
            want = _shape(expected[name])
            problems.append(f"shape: {name}: expected {want}, got {_shape(got)}")
    if problems:
        raise ValueError(
            f"expected the tensors of an axial network of depth {net.depth} and width "
            f"{net.width_multiplier:g}; {len(problems)} differ:\n  " + "\n  ".join(problems)
        )


def _fits(got: tuple[int, ...], expected: Shape) -> bool:
    if len(got) != len(expected):
        return False
    return all(n % 2 == 1 if e is None else n == e for n, e in zip(got, expected, strict=True))


def _shape(shape: Shape) -> str:
    return "(" + ", ".join("odd" if n is None else str(n) for n in shape) + ")"


def convert_net(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Turns a network into the state of `AxialClassifier` and the config it needs.

    Its tables have a length per layer, that of the layer's input at 224 x 224. Here they all get
    that of the longest, by `layers.fit_table`: no distance looks up anything else.

    Args:
        state: by its own names, from `read_state`.

    Returns:
        State by our names, `backbone.*` and `fc.*`; and the config as nested dicts, complete but
        for MODEL.WEIGHTS.

    Raises:
        ValueError: the state is not one of such a network.
    """
    net = detect(state)
    check_state(state, net)
    rows = max(v.shape[1] for n, v in state.items() if n.endswith(".relative"))
    # The count of batches is 0 where the file has none; nothing here reads it.
    counts = {n: torch.tensor(0) for n in expected_shapes(net) if n.endswith("num_batches_tracked")}
    kept = {n: v for n, v in state.items() if not n.endswith(".flatten_index")}
    converted = {}
    for name, value in convert_state(counts | kept).items():
        if name.endswith("_table.weight"):
            value = fit_table(value, rows)
        # A tensor of its own: a view would put the whole of what it is cut from into the file.
        ours = name if name.startswith("fc.") else f"backbone.{name}"
        converted[ours] = value.clone(memory_format=torch.contiguous_format)
    return converted, config_of(net, max_distance=rows // 2)


def config_of(net: Architecture, *, max_distance: int) -> dict[str, Any]:
    """The config of a converted network, with the pictures as its training had them.

    Args:
        net: the architecture.
        max_distance: of the converted tables.

    Returns:
        Nested dicts, for a YAML file.
    """
    return {
        "MODEL": {
            "META_ARCHITECTURE": "AxialClassifier",
            # Of red, green, blue: torchvision's 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225.
            "PIXEL_MEAN": [123.675, 116.28, 103.53],
            "PIXEL_STD": [58.395, 57.12, 57.375],
            "BACKBONE": {"NAME": "build_axial_resnet_backbone", "FREEZE_AT": 0},
            "AXIAL_RESNET": {
                "DEPTH": net.depth,
                "WIDTH_MULTIPLIER": net.width_multiplier,
                "STEM": "conv7",
                "ATTENTION": "axial",
                "NUM_HEADS": NUM_HEADS,
                "SPAN": 0,
                "MAX_DISTANCE": max_distance,
                "STRIDE": "avg_pool",
                "OUTPUT_STRIDE": 32,
                "NORM": "BN",
                "OUT_FEATURES": ["res5"],
            },
            "AXIAL_CLASSIFIER": {"NUM_CLASSES": net.num_classes},
        },
        "DATASETS": {"TRAIN": ["imagenet_train"], "TEST": ["imagenet_val"]},
        "INPUT": {"FORMAT": "RGB", "CROP_SIZE": [224, 224], "MIN_SIZE_TEST": 256},
        "VERSION": 2,
    }
