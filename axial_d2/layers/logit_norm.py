"""Batch norm on the logits, as a scale per head and term."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from axial_d2 import ops
from axial_d2.ops.reference import at_least_single, no_autocast

KINDS = ("BN", "SyncBN", "naiveSyncBN", "FrozenBN")


class LogitNorm(nn.Module):
    """Normalises q.k, q.rq and k.rk, each by itself, before they are summed and soft-maxed.

    Only the scales `weight / sqrt(variance + eps)` reach the attention. The shift of an ordinary
    batch norm is the same for all keys of a head, so the softmax cancels it: there is none.

    What is kept and learned: `weight` (3, G), `running_mean` (3, G), `running_var` (3, G); terms in
    the order q.k, q.rq, k.rk. Attention without the last has two rows of each.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_heads: int,
        *,
        num_terms: int = 3,
        kind: str = "BN",
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        """Starts from scales of one and the statistics of a standard normal.

        Args:
            num_heads: G.
            num_terms: 3, or 2 where the attention has no k.rk.
            kind: "BN"; "SyncBN", statistics over all processes; "naiveSyncBN", the same with every
                process weighing alike and the biased variance kept, as Detectron2's does;
                "FrozenBN", running statistics always, nothing learned.
            eps: added to the variance.
            momentum: share of the new statistics in the running ones.

        Raises:
            ValueError: an unknown kind, no head, or another number of terms.
        """
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if num_heads < 1:
            raise ValueError(f"num_heads: expected at least 1, got {num_heads}")
        if num_terms not in (2, 3):
            raise ValueError(f"num_terms: expected 2 or 3, got {num_terms}")
        self.kind = kind
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_terms, num_heads))
        self.register_buffer("running_mean", torch.zeros(num_terms, num_heads))
        self.register_buffer("running_var", torch.ones(num_terms, num_heads))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))
        if kind == "FrozenBN":
            self.freeze()

    def freeze(self) -> None:
        """From now on uses the running statistics in training too, and learns nothing."""
        self.kind = "FrozenBN"
        self.weight.requires_grad_(False)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        query_table: Tensor,
        key_table: Tensor,
        *,
        span: int | None,
        backend: str = "auto",
    ) -> Tensor:
        """The scales to hand to `ops.axial_attention`.

        Where the attention follows, `ops.normalized_axial_attention` with `scale_of` does it with
        less work.

        Args:
            q: (B, G, L, D) queries.
            k: (B, G, L, D) keys.
            query_table: (R, D).
            key_table: (R, D).
            span: odd number of keys a query sees, None for all.
            backend: which implementation computes the moments.

        Returns:
            (3, G) scales. In training of a kind that is not frozen they come from this batch, and
            the running statistics move.
        """
        if not self.uses_batch:
            return self.running_scale()
        # Sums over millions of logits: not in half precision, whatever autocast says.
        with no_autocast(q):
            inputs = (at_least_single(t) for t in (q, k, query_table, key_table))
            return self.scale_of(*ops.logit_moments(*inputs, span=span, backend=backend))

    @property
    def uses_batch(self) -> bool:
        """Whether the scales come from the batch: in training of a kind that is not frozen."""
        return self.training and self.kind != "FrozenBN"

    def running_scale(self) -> Tensor:
        """The scales (3, G) from the running statistics."""
        return self.weight * (self.running_var + self.eps).rsqrt()

    def scale_of(self, mean: Tensor, variance: Tensor, count: int) -> Tensor:
        """The scales of a batch, whose statistics join the running ones.

        Args:
            mean: (3, G), from `ops.logit_moments` like the others.
            variance: (3, G).
            count: logits per head.

        Returns:
            (3, G) scales, for `ops.axial_attention`.
        """
        mean, variance, kept = self._over_processes(mean, variance, count)
        self._track(mean.detach(), kept.detach())
        return self.weight * (variance + self.eps).rsqrt()

    def _over_processes(
        self, mean: Tensor, variance: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns mean and variance to normalise by, and the variance to keep."""
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if self.kind == "BN" or not together:
            return mean, variance, variance * (count / max(count - 1, 1))
        # Processes may hold pictures of different sizes; the naive kind counts each process once.
        # In float64: the variance is a small difference where the mean is large.
        dtype, mean, variance = mean.dtype, mean.double(), variance.double()
        share = mean.new_tensor(float(count) if self.kind == "SyncBN" else 1.0)
        sums = torch.cat(
            [
                (mean * share).flatten(),
                ((variance + mean.square()) * share).flatten(),
                share[None],
            ]
        )
        sums = all_reduce(sums)
        total = sums[-1].detach()
        mean, square = (s.view_as(mean) for s in (sums[:-1] / total).chunk(2))
        variance = (square - mean.square()).clamp_min(0)
        unbiased = variance * (total / (total - 1).clamp_min(1))
        kept = variance if self.kind == "naiveSyncBN" else unbiased
        return mean.to(dtype), variance.to(dtype), kept.to(dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)

    def extra_repr(self) -> str:
        return f"heads={self.weight.shape[1]}, kind={self.kind}, eps={self.eps}"
