"""Local 2-D self-attention as a layer: what axial attention is compared with."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from axial_d2 import ops
from axial_d2.layers.axial_attention import STRIDE_MODES, NormFactory
from axial_d2.layers.layout import feature_map, layout_of, same_layout_backward, subsampled
from axial_d2.layers.logit_norm import LogitNorm
from axial_d2.ops.reference import at_least_single


class WindowTable(nn.Module):
    """One learned vector per place of an m x m window, shared by the heads of a layer."""

    def __init__(self, *, depth: int, window: int, std: float) -> None:
        """Draws the vectors from a normal distribution.

        Args:
            depth: D, the length of each vector.
            window: m, odd.
            std: standard deviation of the initial values.

        Raises:
            ValueError: an even window or a depth below 1.
        """
        super().__init__()
        ops.check_window(window)
        if depth < 1:
            raise ValueError(f"depth: expected at least 1, got {depth}")
        self.weight = nn.Parameter(torch.empty(window, window, depth))
        nn.init.normal_(self.weight, std=std)

    def forward(self) -> Tensor:
        """Returns the table, (m, m, D), at key - query + m // 2, rows before columns."""
        return self.weight

    def extra_repr(self) -> str:
        return f"window={self.weight.shape[0]}, depth={self.weight.shape[2]}"


class FactoredWindowTable(nn.Module):
    """A window's vectors whose first half depends on the row alone, the second on the column.

    Stand-alone self-attention has its positions like this (Ramachandran et al., NeurIPS 2019,
    section 3.1): m vectors of half the depth for the row offsets, m for the column offsets.
    """

    def __init__(self, *, depth: int, window: int, std: float) -> None:
        """Draws the vectors from a normal distribution.

        Args:
            depth: D, the length of each vector, even.
            window: m, odd.
            std: standard deviation of the initial values.

        Raises:
            ValueError: an even window, or a depth that is odd or below 2.
        """
        super().__init__()
        ops.check_window(window)
        if depth < 2 or depth % 2:
            raise ValueError(f"depth: expected an even number of 2 or more, got {depth}")
        self.rows = nn.Parameter(torch.empty(window, depth // 2))
        self.columns = nn.Parameter(torch.empty(window, depth // 2))
        for half in (self.rows, self.columns):
            nn.init.normal_(half, std=std)

    def forward(self) -> Tensor:
        """Returns the table, (m, m, D), at key - query + m // 2, rows before columns."""
        window = self.rows.shape[0]
        rows = self.rows[:, None].expand(-1, window, -1)  # (m, m, D / 2)
        columns = self.columns[None].expand(window, -1, -1)  # (m, m, D / 2)
        return torch.cat([rows, columns], dim=2)

    def extra_repr(self) -> str:
        return f"window={self.rows.shape[0]}, depth={2 * self.rows.shape[1]}"


class LocalAttention2d(nn.Module):
    """Self-attention of each place to the m x m window around it, with an optional stride.

    Two kinds, the rows `Attention` and `PS-Attention` of Axial-DeepLab's tables (ECCV 2020):

    - plain: stand-alone self-attention (Ramachandran et al., NeurIPS 2019), softmax(q.k + q.r) v,
      with its `r` of a row and a column half. Content alone comes out.
    - position-sensitive: a vector per place of the window for queries, keys and values, as axial
      attention has it (equation 3).

    Queries, keys and values all have `out_channels`. Both kinds have the batch norms of axial
    attention, as far as they have what these are for: over queries, keys and values; over each
    logit term; over each output term. So what the tables compare are positions, not norms. (The
    paper says "BN" of its own `Attention` row; the original has none.) There is no 1/sqrt(d).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        window: int = 7,
        position_sensitive: bool = True,
        stride: int = 1,
        stride_mode: str = "subsample",
        num_heads: int = 8,
        norm: NormFactory = nn.BatchNorm2d,
        logit_norm: Callable[..., LogitNorm] = LogitNorm,
        backend: str = "auto",
    ) -> None:
        """Builds the layer.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output, the queries, the keys and the values.
            window: m, odd: rows and columns that a query sees, centred on it and cut off at the
                border of the map.
            position_sensitive: which of the two kinds.
            stride: both axes shrink to ceil(size / stride), after the attention.
            stride_mode: "subsample" takes every s-th row and column; "avg_pool", the paper's for
                these rows, averages s x s windows, the last one of an odd size over what is left.
            num_heads: G.
            norm: makes the norm of that many channels, applied to (N, C, H, W).
            logit_norm: makes the norm on the logits of that many heads and, as `num_terms`, terms,
                like `LogitNorm`.
            backend: which implementation of `ops.local_attention`.

        Raises:
            ValueError: an even window, an unknown backend or stride mode, a stride below 1, or
                channels that the heads can't share: each needs an even number of them.
        """
        super().__init__()
        if num_heads < 1 or out_channels < 1 or out_channels % (2 * num_heads):
            raise ValueError(
                f"out_channels: expected a multiple of twice the {num_heads} heads, "
                f"got {out_channels}"
            )
        if stride_mode not in STRIDE_MODES:
            raise ValueError(
                f"stride_mode: expected one of {', '.join(STRIDE_MODES)}, got {stride_mode!r}"
            )
        if stride < 1:
            raise ValueError(f"stride: expected at least 1, got {stride}")
        ops.check_local_backend_name(backend)
        self.window = ops.check_window(window)
        self.position_sensitive = position_sensitive
        self.stride = stride
        self.stride_mode = stride_mode
        self.num_heads = num_heads
        self.backend = backend
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.query_depth = self.value_depth = out_channels // num_heads

        # Channels: all queries, all keys, all values; head after head in each.
        self.qkv = nn.Conv2d(in_channels, 3 * out_channels, kernel_size=1, bias=False)
        self.qkv_norm = norm(3 * out_channels)
        self.logit_norm = logit_norm(num_heads, num_terms=3 if position_sensitive else 2)
        self.content_norm = norm(out_channels)
        # As in axial attention: variance 1 / channels per head.
        shape = {"depth": self.value_depth, "window": window, "std": self.value_depth**-0.5}
        if position_sensitive:
            self.position_norm = norm(out_channels)
            self.query_table: nn.Module = WindowTable(**shape)
            self.key_table = WindowTable(**shape)
            self.value_table = WindowTable(**shape)
        else:
            self.query_table = FactoredWindowTable(**shape)
        self.pool = (
            nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
            if stride > 1 and stride_mode == "avg_pool"
            else nn.Identity()
        )
        nn.init.normal_(self.qkv.weight, std=in_channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Attends to the windows.

        Args:
            x: (N, in_channels, H, W), any H and W.

        Returns:
            (N, out_channels, ceil(H / stride), ceil(W / stride)).
        """
        q, k, v = self._heads(same_layout_backward(self.qkv_norm(self.qkv(x))))
        key_table = self.key_table() if self.position_sensitive else None
        value_table = self.value_table() if self.position_sensitive else None
        query_table = self.query_table()
        content, position = ops.local_attention(
            *(q, k, v, query_table, key_table, value_table),
            logit_scale=self._scale(q, k, query_table, key_table),
            backend=self.backend,
        )
        y = self.content_norm(_feature_map(content, x))
        if position is not None:  # Else a ReLU may change y in place, which a view forbids.
            position = self.position_norm(_feature_map(position, x))
            y = same_layout_backward(y) + same_layout_backward(position)
        step = self.stride if self.stride_mode == "subsample" else 1
        return self.pool(subsampled(y, rows=step, columns=step))

    def _scale(self, q: Tensor, k: Tensor, query_table: Tensor, key_table: Tensor | None) -> Tensor:
        """The scales (T, G) of the logit norm, from this batch where it uses that."""
        if not self.logit_norm.uses_batch:
            return self.logit_norm.running_scale()
        # Sums over millions of logits: not in half precision. (They are taken without autocast.)
        q, k, query_table, key_table = (
            None if t is None else at_least_single(t) for t in (q, k, query_table, key_table)
        )
        moments = ops.local_logit_moments(q, k, query_table, key_table, backend=self.backend)
        return self.logit_norm.scale_of(*moments)

    def _heads(self, qkv: Tensor) -> list[Tensor]:
        """Cuts (N, 3 * out_channels, H, W) into q, k and v, each (N, G, H, W, D)."""
        places = qkv.permute(0, 2, 3, 1)  # (N, H, W, 3 * out_channels)
        return [
            part.unflatten(3, (self.num_heads, -1)).permute(0, 3, 1, 2, 4)  # (N, G, H, W, D)
            for part in places.chunk(3, dim=3)
        ]

    def extra_repr(self) -> str:
        kind = "position-sensitive" if self.position_sensitive else "plain"
        return (
            f"{kind}, window={self.window}, heads={self.num_heads}, stride={self.stride}, "
            f"stride_mode={self.stride_mode}"
        )


def _feature_map(heads: Tensor, x: Tensor) -> Tensor:
    """Puts (N, G, H, W, D) back into (N, G * D, H, W), in x's layout."""
    places = heads.permute(0, 2, 3, 1, 4).flatten(3)  # (N, H, W, G * D)
    return feature_map(places, layout_of(x))
