"""Multiply-adds of a network, layer by layer, from the sizes that its layers meet.

Formulas, not a trace of what ran: the backends of axial attention compute the same products in
different ways, some of them more often than once. One multiply-add is 1. Counted are convolutions,
linear layers and the products of attention; norms, activations, pooling, resizing and the softmax
are not, as is usual.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor, nn

from axial_d2 import ops
from axial_d2.layers import AxialAttention1d, AxialAttention2d, LocalAttention2d
from axial_d2.ops.reference import pairs_in_band

# Layers whose parameters scale and shift: not counted.
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class MultiplyAdds(NamedTuple):
    """Two counts of the same layers.

    Attributes:
        paper: as Axial-DeepLab counts: both attention layers of a strided block at full size, and
            the full span at every position, at the border too.
        done: what is needed: after the height pass's stride the width pass sees fewer rows, and
            queries at the border see the keys that exist.
    """

    paper: int
    done: int

    def __add__(self, other: tuple[int, ...]) -> "MultiplyAdds":
        return MultiplyAdds(self.paper + other[0], self.done + other[1])


def count_multiply_adds(network: nn.Module, run: Callable[[], object]) -> dict[str, MultiplyAdds]:
    """Counts while the network runs.

    Args:
        network: what runs.
        run: runs it, once or more; on any device, torch's meta device too.

    Returns:
        By name of each layer that was met, in the order of the network's modules.

    Raises:
        ValueError: the network has a layer with parameters of a kind that is not known here, or a
            known one that was not met: its weights may have been used by other hands.
    """
    known = [(name, module, _formula(name, module)) for name, module in _layers(network)]
    counted: dict[str, MultiplyAdds] = {}

    def hook_of(name: str, formula: Callable[..., MultiplyAdds]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            counts = formula(module, inputs[0], output)
            counted[name] = counted.get(name, MultiplyAdds(0, 0)) + counts

        return hook

    handles = [
        module.register_forward_hook(hook_of(name, formula))
        for name, module, formula in known
        if formula is not None
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    missed = [name for name, _, formula in known if formula is not None and name not in counted]
    if missed:
        raise ValueError(f"{', '.join(missed)}: not called, so that their work is not counted")
    return {name: counted[name] for name, _, _ in known if name in counted}


def _layers(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules by name, except what is inside an attention: its formula has that as well."""
    yield prefix, network
    if not isinstance(network, _ATTENTIONS):
        for name, child in network.named_children():
            yield from _layers(child, f"{prefix}.{name}" if prefix else name)


def _formula(name: str, module: nn.Module) -> Callable[..., MultiplyAdds] | None:
    for kind, formula in _FORMULAS.items():
        if isinstance(module, kind):
            return formula
    own = [parameter for parameter, _ in module.named_parameters(recurse=False)]
    if own and not isinstance(module, _NORMS):
        raise ValueError(
            f"{name}: no formula for the multiply-adds of a {type(module).__name__} (parameters "
            f"{', '.join(own)})"
        )
    return None


def _convolution(module: nn.Conv2d, x: Tensor, y: Tensor) -> MultiplyAdds:
    each = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
    return MultiplyAdds(y.numel() * each, y.numel() * each)


def _linear(module: nn.Linear, x: Tensor, y: Tensor) -> MultiplyAdds:
    return MultiplyAdds(y.numel() * module.in_features, y.numel() * module.in_features)


def axial_pass(layer: AxialAttention1d, size: tuple[int, int, int]) -> MultiplyAdds:
    """One axial attention layer, its 1x1 convolution included.

    Args:
        layer: its channels, heads, axis and span.
        size: N, H and W of its input.

    Returns:
        With the full span at every position, and with the keys that exist.
    """
    pictures, height, width = size
    length, strips = (height, width) if layer.axis == "height" else (width, height)
    span = ops.check_span(layer.span, length)
    # q.k, q.rq, k.rk; and the weights with v and with rv.
    each = layer.num_heads * (3 * layer.query_depth + 2 * layer.value_depth)
    convolution = pictures * height * width * layer.qkv.in_channels * layer.qkv.out_channels
    pairs = MultiplyAdds(length * min(span or length, length), pairs_in_band(length, span))
    lines = pictures * strips * each
    return MultiplyAdds(convolution + lines * pairs.paper, convolution + lines * pairs.done)


def _axial(module: AxialAttention2d, x: Tensor, y: Tensor) -> MultiplyAdds:
    pictures, _, height, width = x.shape
    whole = (pictures, height, width)
    # What the width pass meets: pooling comes after it, subsampling before it.
    left = height if module.stride_mode == "avg_pool" else -(-height // module.stride)
    first, second = axial_pass(module.height, whole), axial_pass(module.width, whole)
    done = axial_pass(module.width, (pictures, left, width)).done
    return MultiplyAdds(first.paper + second.paper, first.done + done)


def _one_axial(module: AxialAttention1d, x: Tensor, y: Tensor) -> MultiplyAdds:
    return axial_pass(module, (x.shape[0], *x.shape[2:]))


def _local(module: LocalAttention2d, x: Tensor, y: Tensor) -> MultiplyAdds:
    pictures, _, height, width = x.shape
    # q.k, q.r and the weights with v; if position-sensitive also k.rk, and the weights with rv.
    queries, values = (3, 2) if module.position_sensitive else (2, 1)
    each = module.num_heads * (queries * module.query_depth + values * module.value_depth)
    convolution = pictures * height * width * module.qkv.in_channels * module.qkv.out_channels
    pairs = pairs_in_band(height, module.window) * pairs_in_band(width, module.window)
    whole = height * width * module.window**2
    return MultiplyAdds(
        convolution + pictures * whole * each, convolution + pictures * pairs * each
    )


_ATTENTIONS = (AxialAttention1d, AxialAttention2d, LocalAttention2d)
_FORMULAS: dict[type[nn.Module], Callable[..., MultiplyAdds]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    AxialAttention2d: _axial,
    AxialAttention1d: _one_axial,
    LocalAttention2d: _local,
}
