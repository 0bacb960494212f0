"""Whole networks of csrhddlam/axial-deeplab: which one a state is of, and ours of the same.

Its networks are axial26s, axial50s, axial50m and axial50l, which differ in blocks per layer and in
widths. All have a stem of one 7x7 convolution, 8 heads, an average pool for a stride, a stride of
32, and tables as long as the input of each layer demands.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from axial_d2.checkpoint.csrhddlam import NUM_HEADS, convert_state
from axial_d2.layers.position_table import fit_table

BLOCKS = {26: (1, 2, 4, 1), 50: (3, 4, 6, 3)}
_ATTENTIONS = ("hight_block", "width_block")
# Not there in every file: torch counts the batches of a norm since 0.4.1, and an index follows from
# the table's length.
_COUNTER, _INDEX = "num_batches_tracked", "flatten_index"


@dataclass(frozen=True)
class Network:
    """What tells the networks of that project apart.

    Attributes:
        depth: 26 or 50.
        mid_channels: inside the blocks of the first layer; it doubles with each further layer.
        kernel_size: height and width of the first layer's input, 56 for pictures of 224 pixels.
        num_classes: outputs of the classifier.
    """

    depth: int
    mid_channels: int
    kernel_size: int
    num_classes: int

    @property
    def width_multiplier(self) -> float:
        """Of the paper's widths: S 0.5, M 0.75, L 1."""
        return self.mid_channels / 128

    @property
    def max_distance(self) -> int:
        """The largest distance that a table of it holds."""
        return self.kernel_size - 1


def recognise(state: Mapping[str, Tensor]) -> Network:
    """Tells which network a state is of, from the names and shapes that most of it agrees on.

    Args:
        state: by the original's names.

    Returns:
        The network; whether the state is all of it is `check`'s to find.

    Raises:
        ValueError: a state without a single axial block of that project.
    """
    widths: Counter[int] = Counter()
    lengths: Counter[int] = Counter()
    for name, value in state.items():
        found = re.match(r"layer([1-4])\.(\d+)\.(.+)", name)
        if not found:
            continue
        layer, block, rest = int(found[1]) - 1, int(found[2]), found[3]
        if rest == "conv_down.weight" and value.dim():
            widths[value.shape[0] >> layer] += 1
        at_full_size = layer == 0 or (layer, block) == (1, 0)
        if rest.endswith(".relative") and value.dim() == 2 and at_full_size:
            lengths[value.shape[1]] += 1
    if not widths or not lengths:
        raise ValueError(
            "expected a network of csrhddlam/axial-deeplab, axial26s to axial50l, whose names are "
            f"such as layer1.0.conv_down.weight; got {len(state)} tensors named "
            f"{', '.join(list(state)[:3])}, ..."
        )
    fc = state.get("fc.weight")
    candidates = [
        Network(
            depth=depth,
            mid_channels=widths.most_common(1)[0][0],
            kernel_size=(lengths.most_common(1)[0][0] + 1) // 2,
            num_classes=fc.shape[0] if fc is not None and fc.dim() == 2 else 1000,
        )
        for depth in BLOCKS
    ]
    return min(candidates, key=lambda network: len(expected_shapes(network).keys() ^ state.keys()))


def expected_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all that the original network saves.

    Args:
        network: from `recognise`.

    Returns:
        Shapes by name, counters and indices included.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for field in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{field}"] = (channels,)
        shapes[f"{name}.{_COUNTER}"] = ()

    width = network.mid_channels // 2
    shapes["conv1.weight"] = (width, 3, 7, 7)
    norm("bn1", width)
    for name, in_width, mid, kernel_size, projected in _blocks(network):
        shapes[f"{name}.conv_down.weight"] = (mid, in_width, 1, 1)
        norm(f"{name}.bn1", mid)
        for attention in _ATTENTIONS:
            _attention_shapes(shapes, f"{name}.{attention}", mid, kernel_size, norm)
        shapes[f"{name}.conv_up.weight"] = (2 * mid, mid, 1, 1)
        norm(f"{name}.bn2", 2 * mid)
        if projected:
            shapes[f"{name}.downsample.0.weight"] = (2 * mid, in_width, 1, 1)
            norm(f"{name}.downsample.1", 2 * mid)
        width = 2 * mid
    shapes["fc.weight"] = (network.num_classes, width)
    shapes["fc.bias"] = (network.num_classes,)
    return shapes


def _blocks(network: Network) -> Iterator[tuple[str, int, int, int, bool]]:
    """Per block its name, channels of its input, inside it, its input's side, and whether the
    shortcut is a convolution."""
    in_width, kernel_size = network.mid_channels // 2, network.kernel_size
    for layer, blocks in enumerate(BLOCKS[network.depth]):
        mid = network.mid_channels << layer
        for block in range(blocks):
            yield f"layer{layer + 1}.{block}", in_width, mid, kernel_size, block == 0
            in_width = 2 * mid
            if layer and not block:  # Its stride is behind it.
                kernel_size //= 2


def _attention_shapes(
    shapes: dict[str, tuple[int, ...]],
    name: str,
    channels: int,
    kernel_size: int,
    norm: Callable[[str, int], None],
) -> None:
    shapes[f"{name}.relative"] = (2 * channels // NUM_HEADS, 2 * kernel_size - 1)
    shapes[f"{name}.{_INDEX}"] = (kernel_size**2,)
    shapes[f"{name}.qkv_transform.weight"] = (2 * channels, channels, 1)
    norm(f"{name}.bn_qkv", 2 * channels)
    norm(f"{name}.bn_similarity", 3 * NUM_HEADS)
    norm(f"{name}.bn_output", 2 * channels)


def check(state: Mapping[str, Tensor], network: Network) -> None:
    """Refuses a state that is not exactly one of the network.

    Args:
        state: by the original's names.
        network: from `recognise`.

    Raises:
        ValueError: lists every name that is missing or unknown and every tensor of another shape,
            every index that looks its table up otherwise, and every weight that is not of finite
            floating-point numbers (such as those of a training that diverged).
    """
    expected = expected_shapes(network)
    optional = (_COUNTER, _INDEX)
    missing = [k for k in expected if k not in state and not k.endswith(optional)]
    unknown = [k for k in state if k not in expected]
    shared = [k for k in state if k in expected]
    shapes = [
        f"{k} expected {expected[k]}, got {tuple(state[k].shape)}"
        for k in shared
        if tuple(state[k].shape) != expected[k]
    ]
    weights = [k for k in shared if not k.endswith(optional)]
    # Sparse, quantised and empty (meta) tensors are no plain weights either.
    plain = {
        k
        for k in weights
        if state[k].is_floating_point()
        and state[k].layout == torch.strided
        and not state[k].is_meta
    }
    whole = [k for k in weights if k not in plain]
    indices = [
        k
        for k in shared
        if k.endswith(_INDEX)
        and state[k].numel() == expected[k][0]
        and not torch.equal(state[k].flatten().long(), _index(expected[k][0]))
    ]
    infinite = [k for k in weights if k in plain and not state[k].isfinite().all()]
    faults = [
        f"{len(names)} {what}: {', '.join(names)}"
        for what, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", shapes),
            ("not of floating-point numbers", whole),
            ("that look tables up otherwise than the original", indices),
            ("with numbers that are not finite", infinite),
        )
        if names
    ]
    if faults:
        raise ValueError(
            f"not a whole axial{network.depth} with {network.mid_channels} channels in its first "
            "layer's blocks, the nearest of csrhddlam/axial-deeplab's networks:\n  "
            + "\n  ".join(faults)
        )
    if network.mid_channels % (2 * NUM_HEADS):
        raise ValueError(
            f"expected channels in the first layer's blocks that are a multiple of "
            f"{2 * NUM_HEADS}, got {network.mid_channels}, which the original cannot run either"
        )


def _index(pairs: int) -> Tensor:
    """The table row of each (key, query), as the original numbers them."""
    side = round(pairs**0.5)
    places = torch.arange(side)
    return (places[:, None] - places + side - 1).flatten()


def convert_network(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Network]:
    """Turns the state of a whole network into one of our classifier.

    Tables come out in one length, the longest, by repeating end rows: the network computes the
    same, at the original's input size and beyond it.

    Args:
        state: by the original's names.

    Returns:
        By the names of `AxialClassifier`, and which network it is.

    Raises:
        ValueError: not a whole network of that project, see `check`.
    """
    network = recognise(state)
    check(state, network)
    rows = 2 * network.max_distance + 1
    kept = {k: v for k, v in state.items() if not k.endswith(_INDEX)}
    for name in expected_shapes(network):
        if name.endswith(_COUNTER):
            kept.setdefault(name, torch.tensor(0))
    converted = {}
    for name, value in convert_state(kept).items():
        prefix = "" if name.startswith("fc.") else "backbone."
        value = fit_table(value, rows) if name.endswith("_table.weight") else value
        converted[prefix + name] = value.contiguous().clone()
    return converted, network


def table_lengths(network: Network) -> Iterable[int]:
    """The lengths that the original's tables have, each once, longest first.

    Args:
        network: from `recognise`.

    Returns:
        Rows.
    """
    return sorted({2 * block[3] - 1 for block in _blocks(network)}, reverse=True)
