"""How a feature map lies in memory: in one of torch's two layouts, on the way back as well.

Convolutions and norms are several times slower on a map or a gradient of other strides. And a batch
norm's backward pass is wrong (torch 2.14, on the CPU) where a dimension of size 1, such as N of a
single picture, has another stride than it would, and the gradient lies in the other layout.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def layout_of(x: Tensor) -> torch.memory_format:
    """The layout of a map (N, C, H, W), also of one that rows or columns were taken from."""
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format


def same_layout_backward(x: Tensor) -> Tensor:
    """Gives x (N, C, H, W), whose gradient will be handed on in x's layout."""
    # torch.compile refuses a function with a `jvp`.
    compiling = torch.compiler.is_compiling()
    return (_SameLayoutBackward if compiling else _SameLayoutWithTangents).apply(x)


def feature_map(places: Tensor, layout: torch.memory_format) -> Tensor:
    """Views places as a map, or copies them to lie in a layout.

    Args:
        places: (N, H, W, C), whatever strides.
        layout: of the result.

    Returns:
        (N, C, H, W).
    """
    last = layout is torch.channels_last
    map_ = places if last else places.permute(0, 3, 1, 2)
    # Dimensions of size 1 may have any stride, and torch tells layouts by strides; a view of one
    # line has the right ones.
    map_ = map_.reshape(-1).view(map_.shape)
    return map_.permute(0, 3, 1, 2) if last else map_


def subsampled(x: Tensor, *, rows: int = 1, columns: int = 1) -> Tensor:
    """Takes every so many rows and columns of a map.

    A copy: convolutions would make it, not always in x's layout, and their gradients would keep the
    whole map.

    Args:
        x: (N, C, H, W).
        rows: every how many, from the first.
        columns: the same.

    Returns:
        (N, C, ceil(H / rows), ceil(W / columns)) in x's layout, x itself where both are 1.
    """
    if rows == columns == 1:
        return x
    layout = layout_of(x)
    if layout is torch.contiguous_format:
        part = x[:, :, ::rows, ::columns]
    else:  # The gradient of a slice lies in the order of its dimensions.
        part = x.permute(0, 2, 3, 1)[:, ::rows, ::columns].permute(0, 3, 1, 2)
    # Not `contiguous`, which leaves the strides of dimensions of size 1, and views as they are.
    return part.clone(memory_format=layout)


class _SameLayoutBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.layout = layout_of(inputs[0])

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return feature_map(gradient.permute(0, 2, 3, 1), ctx.layout)


class _SameLayoutWithTangents(_SameLayoutBackward):
    @staticmethod
    def jvp(ctx: FunctionCtx, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)
