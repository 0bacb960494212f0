"""Position-sensitive axial attention as layers: one axis, and both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from axial_d2 import ops
from axial_d2.layers.folding import Folding, is_plain, may_fold, running_affine, sources_of
from axial_d2.layers.layout import feature_map, layout_of, same_layout_backward, subsampled
from axial_d2.layers.logit_norm import LogitNorm
from axial_d2.layers.pointwise import pointwise
from axial_d2.layers.position_table import RelativePositionTable
from axial_d2.ops.reference import is_recorded, rows_in_use

NormFactory = Callable[[int], nn.Module]

AXES = ("height", "width")
STRIDE_MODES = ("subsample", "avg_pool")


class AxialAttention1d(nn.Module):
    """Self-attention along the rows or along the columns of a feature map.

    Equation 4 of Axial-DeepLab (ECCV 2020) with the batch norms of both public implementations:
    over queries, keys and values; over the three logit terms; over the two output terms, which are
    then summed. There is no 1/sqrt(d).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        axis: str,
        num_heads: int = 8,
        span: int | None = None,
        max_distance: int = 254,
        norm: NormFactory = nn.BatchNorm2d,
        logit_norm: NormFactory = LogitNorm,
        backend: str = "auto",
    ) -> None:
        """Builds one layer.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output and of the values; queries and keys have half.
            axis: "height", each column is a strip, or "width", each row is.
            num_heads: G.
            span: odd number of keys a query sees, 0 or None for the whole strip.
            max_distance: the largest relative distance with a table row of its own.
            norm: makes the norm of that many channels, applied to (N, C, H, W).
            logit_norm: makes the norm on the logits of that many heads, like `LogitNorm`.
            backend: which implementation of `ops.axial_attention`.

        Raises:
            ValueError: an unknown axis or backend, an even span, or channels that the heads can't
                share: each needs at least one channel of a query and two of a value.
        """
        super().__init__()
        if axis not in AXES:
            raise ValueError(f"axis: expected one of {', '.join(AXES)}, got {axis!r}")
        if num_heads < 1 or out_channels < 1 or out_channels % (2 * num_heads):
            raise ValueError(
                f"out_channels: expected a multiple of twice the {num_heads} heads, "
                f"got {out_channels}"
            )
        ops.check_backend_name(backend)
        self.axis = axis
        self.num_heads = num_heads
        self.span = ops.check_span(span)
        self.backend = backend
        self.out_channels = out_channels
        self.value_depth = out_channels // num_heads
        self.query_depth = self.value_depth // 2

        # Channels: all queries, all keys, all values; head after head in each.
        self.qkv = nn.Conv2d(in_channels, 2 * out_channels, kernel_size=1, bias=False)
        self.qkv_norm = norm(2 * out_channels)
        self.logit_norm = logit_norm(num_heads)
        self.content_norm = norm(out_channels)
        self.position_norm = norm(out_channels)
        # The public PyTorch implementation's start: variance 1 / channels per head.
        table = partial(
            RelativePositionTable, max_distance=max_distance, std=self.value_depth**-0.5
        )
        self.query_table = table(depth=self.query_depth)
        self.key_table = table(depth=self.query_depth)
        self.value_table = table(depth=self.value_depth)
        self._folding = Folding()
        nn.init.normal_(self.qkv.weight, std=in_channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Attends along the axis.

        Args:
            x: (N, in_channels, H, W), any H and W.

        Returns:
            (N, out_channels, H, W).
        """
        folded = self._folded()
        if folded is not None:
            return self._forward_folded(x, folded)
        q, k, v = self._strips(same_layout_backward(self.qkv_norm(self.qkv(x))))
        tables = (self.query_table(), self.key_table(), self.value_table())
        span = ops.check_span(self.span, q.shape[-2])
        norm, backend = self.logit_norm, self.backend
        if norm.uses_batch:
            content, position = ops.normalized_axial_attention(
                q, k, v, *tables, scale_of=norm.scale_of, span=span, backend=backend
            )
        else:
            content, position = ops.axial_attention(
                q, k, v, *tables, logit_scale=norm.running_scale(), span=span, backend=backend
            )
        content = self.content_norm(self._feature_map(content, x))
        position = self.position_norm(self._feature_map(position, x))
        # Not of the sum: a ReLU may change that in place, which a view forbids.
        return same_layout_backward(content) + same_layout_backward(position)

    def _folded(self) -> "_Folded | None":
        """All norms as part of what stands beside them, where that may be; see `folding`."""
        norms = (self.qkv_norm, self.content_norm, self.position_norm)
        tables = (self.query_table, self.key_table, self.value_table)
        parts = (self.qkv, *norms, self.logit_norm, *tables)
        frozen = not any(n.training for n in norms) and not self.logit_norm.uses_batch
        if not frozen or not is_plain(self.qkv) or not may_fold(*parts):
            self._folding.clear()
            return None
        return self._folding.of(sources_of(*parts), self._fold)

    def _fold(self) -> "_Folded | None":
        qkv = running_affine(self.qkv_norm)
        content = running_affine(self.content_norm)
        position = running_affine(self.position_norm)
        if qkv is None or content is None or position is None:
            return None
        dtype, half = self.qkv.weight.dtype, self.out_channels // 2
        logit_scale = self.logit_norm.running_scale()
        of_queries, of_keys = self.query_table(), self.key_table()
        factor = torch.ones_like(qkv.scale)
        # Half precision would lose small weights.
        on_queries = dtype != torch.float16 and _may_divide(logit_scale)
        if on_queries:
            content_scale, query_scale, key_scale = logit_scale[:, :, None]  # (G, 1)
            factor[:half] = content_scale.expand(-1, self.query_depth).flatten()
            of_queries = of_queries * (query_scale / content_scale)[..., None]  # (G, R, D)
            of_keys = of_keys * key_scale[..., None]
        factor[2 * half :] = content.scale
        by_head = (self.num_heads, 1, self.value_depth)
        of_values = self.value_table() * position.scale.view(by_head)  # (G, R, Dv)
        # The weights of a query add up to one, so what is added to every row is added to the sum.
        of_values += (content.shift + position.shift).view(by_head)
        return _Folded(
            (self.qkv.weight * (qkv.scale * factor)[:, None, None, None]).to(dtype),
            (qkv.shift * factor).to(dtype),
            (of_queries.to(dtype), of_keys.to(dtype), of_values.to(dtype)),
            None if on_queries else logit_scale,
        )

    def _forward_folded(self, x: Tensor, folded: "_Folded") -> Tensor:
        q, k, v = self._strips(pointwise(x, folded.weight, folded.bias))
        total = ops.summed_axial_attention(
            *(q, k, v, *folded.rows(q.shape[-2])),
            logit_scale=folded.logit_scale,
            span=self.span,
            backend=self.backend,
        )
        return self._feature_map(total, x)

    def _strips(self, qkv: Tensor) -> list[Tensor]:
        """Views (N, 2 * out_channels, H, W) as q, k and v, each (N, S, G, L, D)."""
        order = (0, 3, 2, 1) if self.axis == "height" else (0, 2, 3, 1)
        strips = qkv.permute(order)  # (N, S, L, 2 * out_channels)
        half = self.out_channels // 2
        return [
            part.unflatten(3, (self.num_heads, -1)).transpose(2, 3)  # (N, S, G, L, D)
            for part in strips.split([half, half, self.out_channels], dim=3)
        ]

    def _feature_map(self, strips: Tensor, x: Tensor) -> Tensor:
        """Puts (N, S, G, L, D) back into (N, G * D, H, W), in x's layout."""
        lines = strips.transpose(2, 3).flatten(3)  # (N, S, L, G * D)
        places = lines.transpose(1, 2) if self.axis == "height" else lines  # (N, H, W, G * D)
        return feature_map(places, layout_of(x))

    def extra_repr(self) -> str:
        return f"axis={self.axis}, heads={self.num_heads}, span={self.span or 'global'}"


@dataclass
class _Folded:
    """A layer for evaluation.

    Attributes:
        weight: (2 * out_channels, in_channels, 1, 1), of the projection.
        bias: (2 * out_channels,).
        tables: of queries and keys, (R, D) or (G, R, D), and of values, (G, R, Dv).
        logit_scale: (3, G), where it is not part of the others.
    """

    weight: Tensor
    bias: Tensor
    tables: tuple[Tensor, Tensor, Tensor]
    logit_scale: Tensor | None
    _kept: tuple[int, Sequence[Tensor]] = (0, ())

    def rows(self, length: int) -> Sequence[Tensor]:
        """The tables for strips of one length, 2 L - 1 rows; those of the last one are kept."""
        kept = self._kept  # Read once and written once: several threads may be here.
        if kept[0] != length:
            rows = rows_in_use(*self.tables, length=length)  # (1 or G, 2 L - 1, D)
            kept = self._kept = length, [t[0] if len(t) == 1 else t for t in rows]
        return kept[1]


def _may_divide(logit_scale: Tensor) -> bool:
    """Whether q can take in q.k's scale, and q.rq's be divided by it: neither is extreme."""
    if logit_scale.is_meta:
        return True  # As is usual; there are no numbers to spoil.
    if type(logit_scale) is not Tensor or is_recorded():
        return False  # They can't be looked at.
    content, query, _ = logit_scale.abs()
    # Under autocast the weights are in half precision as well.
    return bool((content > 0.03).all() and (query < 30 * content).all())


class AxialAttention2d(nn.Module):
    """Attention along the height, then along the width, with an optional stride.

    Nothing stands between the two passes (Axial-DeepLab, section 3.3); the activation comes after.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        stride_mode: str = "subsample",
        num_heads: int = 8,
        span: int | None = None,
        max_distance: int = 254,
        norm: NormFactory = nn.BatchNorm2d,
        logit_norm: NormFactory = LogitNorm,
        backend: str = "auto",
    ) -> None:
        """Builds both passes.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            stride: both axes shrink to ceil(size / stride).
            stride_mode: "subsample" takes every s-th row after the height pass and every s-th
                column after the width pass; "avg_pool" averages s x s windows after both, the last
                one of an odd size over what is left of it.
            num_heads: as for `AxialAttention1d`, like all that follow.
            span: see there.
            max_distance: see there.
            norm: see there.
            logit_norm: see there.
            backend: see there.

        Raises:
            ValueError: an unknown stride mode, a stride below 1, or as `AxialAttention1d`.
        """
        super().__init__()
        if stride_mode not in STRIDE_MODES:
            raise ValueError(
                f"stride_mode: expected one of {', '.join(STRIDE_MODES)}, got {stride_mode!r}"
            )
        if stride < 1:
            raise ValueError(f"stride: expected at least 1, got {stride}")
        self.stride = stride
        self.stride_mode = stride_mode
        one_pass = partial(
            AxialAttention1d,
            out_channels=out_channels,
            num_heads=num_heads,
            span=span,
            max_distance=max_distance,
            norm=norm,
            logit_norm=logit_norm,
            backend=backend,
        )
        self.height = one_pass(in_channels=in_channels, axis="height")
        self.width = one_pass(in_channels=out_channels, axis="width")
        self.pool = (
            nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
            if stride > 1 and stride_mode == "avg_pool"
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Attends along both axes.

        Args:
            x: (N, in_channels, H, W), any H and W.

        Returns:
            (N, out_channels, ceil(H / stride), ceil(W / stride)).
        """
        step = self.stride if self.stride_mode == "subsample" else 1
        x = subsampled(self.height(x), rows=step)
        x = subsampled(self.width(x), columns=step)
        return self.pool(x)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, stride_mode={self.stride_mode}"
