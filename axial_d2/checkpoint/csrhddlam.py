"""Names and layouts of the public PyTorch implementation, csrhddlam/axial-deeplab.

What differs from ours, layer by layer:

- queries, keys and values are packed head by head, [q | k | v] in each head; ours are all queries,
  all keys, all values;
- one table `relative` holds the rows [query | key | value], the query's and the value's looked up
  by query - key; ours are three tables, all by key - query;
- the output norm interleaves content (even) and position (odd); ours are two norms;
- the logit norm has a shift, which the softmax cancels; ours has none.
"""

import re

import torch
from torch import Tensor

NUM_HEADS = 8

_BLOCK_NAMES = {
    "conv_down": "reduce",
    "bn1": "reduce_norm",
    "hight_block": "attention.height",
    "width_block": "attention.width",
    "conv_up": "expand",
    "bn2": "expand_norm",
    "downsample": "shortcut",
}
_NET_NAMES = {"conv1": "stem.layers.0", "bn1": "stem.layers.1"}
_ATTENTION_PARTS = ("qkv_transform", "bn_qkv", "bn_similarity", "bn_output", "relative")


def convert_attention(name: str, value: Tensor) -> dict[str, Tensor]:
    """Turns one entry of an AxialAttention's state into entries of `layers.AxialAttention1d`.

    The map is linear, so gradients convert with it too.

    Args:
        name: the entry's name within the layer, as "bn_qkv.weight".
        value: its value.

    Returns:
        Our names and values; empty for the logit norm's shift.

    Raises:
        ValueError: the layer has no such entry.
    """
    part, _, field = name.partition(".")
    if part not in _ATTENTION_PARTS:
        raise ValueError(f"unknown entry {name!r} of an axial attention layer")
    if part == "relative":
        return _split_table(value)
    if part == "bn_similarity":
        if field == "bias":
            return {}
        per_term = value.view(3, NUM_HEADS) if value.dim() else value
        return {f"logit_norm.{field}": per_term}
    if part == "bn_output":
        if not value.dim():
            return {f"content_norm.{field}": value, f"position_norm.{field}": value}
        return {f"content_norm.{field}": value[0::2], f"position_norm.{field}": value[1::2]}
    target = {"qkv_transform": "qkv", "bn_qkv": "qkv_norm"}[part]
    if not value.dim():
        return {f"{target}.{field}": value}
    value = _unpack_heads(value)
    return {f"{target}.{field}": value[..., None] if part == "qkv_transform" else value}


def convert_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turns the state of an attention layer, a block or a whole net into ours.

    Args:
        state: by the original's names; gradients by these names convert as well.

    Returns:
        By the names of `layers.AxialAttention1d`, `layers.AxialBottleneck` or the backbone; a net's
        classifier keeps its name, "fc".

    Raises:
        ValueError: an attention layer has an entry it should not have.
    """
    is_net = any(name.startswith("layer") for name in state)
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        stage = re.match(r"layer(\d)\.(\d+)\.", name)
        prefix, rest = "", name
        if stage:
            prefix, rest = f"res{int(stage[1]) + 1}.{stage[2]}.", name[stage.end() :]
        names = _NET_NAMES if is_net and not stage else _BLOCK_NAMES
        first, _, tail = rest.partition(".")
        if first in ("hight_block", "width_block"):
            for key, entry in convert_attention(tail, value).items():
                converted[f"{prefix}{names[first]}.{key}"] = entry
        elif first in _ATTENTION_PARTS:
            converted |= convert_attention(rest, value)
        else:
            converted[f"{prefix}{names.get(first, first)}.{tail}"] = value
    return converted


def _unpack_heads(value: Tensor) -> Tensor:
    """(G * [q | k | v], ...) to [q of all heads | k of all heads | v of all heads]."""
    per_head = value.unflatten(0, (NUM_HEADS, -1))  # (G, 4 * Dq, ...)
    quarter = per_head.shape[1] // 4
    parts = per_head.split([quarter, quarter, 2 * quarter], dim=1)
    return torch.cat([p.flatten(0, 1) for p in parts])


def _split_table(relative: Tensor) -> dict[str, Tensor]:
    """(4 * Dq, 2 * K - 1) to three tables (2 * K - 1, D)."""
    quarter = relative.shape[0] // 4
    query, key, value = relative.t().split([quarter, quarter, 2 * quarter], dim=1)
    return {
        "query_table.weight": query.flip(0),
        "key_table.weight": key,
        "value_table.weight": value.flip(0),
    }
