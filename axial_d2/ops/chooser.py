"""Which implementation of axial attention runs, and why."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from axial_d2.ops import blocked, compiled, kept, reference, triton


@dataclass(frozen=True)
class AttentionSizes:
    """What a backend needs to know to say whether it can run.

    Attributes:
        strips: B.
        heads: G.
        length: L.
        depth: Dq, channels of a query.
        value_depth: Dv, channels of a value.
        tables: 1 where the heads share the position tables, else G.
        span: odd number of keys around a query, None for the whole strip.
        dtype: of the queries.
        device: of the queries.
    """

    strips: int
    heads: int
    length: int
    depth: int
    value_depth: int
    tables: int
    span: int | None
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Backend:
    """One implementation of `axial_attention` and `logit_moments`.

    Attributes:
        name: what `backend=` and the config's `MODEL.AXIAL_RESNET.BACKEND` call it.
        axial_attention: same arguments and results as `reference.axial_attention`.
        logit_moments: same arguments and results as `reference.logit_moments`.
        why_not: the reason it can't run on these inputs, or None where it can.
        normalized_axial_attention: both in one, where that is faster than one after the other; same
            arguments and results as `ops.normalized_axial_attention`.
        summed_axial_attention: content and position added up, where that is faster than adding
            them; same arguments and result as `ops.summed_axial_attention`, without a gradient.
        takes_pictures: whether strips may be in two dimensions, (N, S, G, L, D), with any strides.
    """

    name: str
    axial_attention: Callable[..., tuple[Tensor, Tensor]]
    logit_moments: Callable[..., tuple[Tensor, Tensor, int]]
    why_not: Callable[[AttentionSizes], str | None]
    normalized_axial_attention: Callable[..., tuple[Tensor, Tensor]] | None = None
    summed_axial_attention: Callable[..., Tensor] | None = None
    takes_pictures: bool = False


def _exporting() -> str | None:
    """Writing into memory that is shared is nothing that `torch.export` takes."""
    return "an exported program can't hold it" if torch.compiler.is_exporting() else None


# Fastest first: "auto" takes the first that can run. The reference can always run.
BACKENDS: dict[str, Backend] = {
    "compiled": Backend(
        name="compiled",
        axial_attention=compiled.axial_attention,
        logit_moments=compiled.logit_moments,
        why_not=lambda sizes: compiled.why_not(sizes.dtype, sizes.device),
        summed_axial_attention=compiled.summed_axial_attention,
        takes_pictures=True,
    ),
    "triton": Backend(
        name="triton",
        axial_attention=triton.axial_attention,
        logit_moments=triton.logit_moments,
        why_not=lambda sizes: triton.why_not(
            sizes.dtype, sizes.device, max(sizes.depth, sizes.value_depth)
        ),
        normalized_axial_attention=triton.normalized_axial_attention,
        takes_pictures=True,
    ),
    "kept": Backend(
        name="kept",
        axial_attention=kept.axial_attention,
        logit_moments=kept.logit_moments,
        why_not=lambda sizes: (
            _exporting()
            or kept.why_not(
                strips=sizes.strips * sizes.heads,
                length=sizes.length,
                channels=2 * sizes.depth + sizes.value_depth,
                tables=sizes.tables,
            )
        ),
        normalized_axial_attention=kept.normalized_axial_attention,
        # Without gradients nothing asks for the maps again.
        summed_axial_attention=blocked.summed_axial_attention,
    ),
    "blocked": Backend(
        name="blocked",
        axial_attention=blocked.axial_attention,
        logit_moments=blocked.logit_moments,
        summed_axial_attention=blocked.summed_axial_attention,
        why_not=lambda sizes: _exporting(),
    ),
    "reference": Backend(
        name="reference",
        axial_attention=reference.axial_attention,
        logit_moments=reference.logit_moments,
        why_not=lambda sizes: None,
    ),
}

_forced: list[str] = []
_recorders: list[list[str]] = []


def choose_backend(name: str, sizes: AttentionSizes) -> Backend:
    """Finds the implementation to run.

    Args:
        name: a key of `BACKENDS`, or "auto" for the first that can run.
        sizes: the inputs.

    Returns:
        The backend.

    Raises:
        ValueError: the name is unknown, or the named backend can't run on these inputs; the message
            gives its reason.
    """
    if _forced:
        name = _forced[-1]
    if name == "auto":
        return next(b for b in BACKENDS.values() if b.why_not(sizes) is None)
    check_backend_name(name)
    reason = BACKENDS[name].why_not(sizes)
    if reason is not None:
        raise ValueError(f"backend {name!r} can't run here: {reason}; 'auto' takes one that can")
    return BACKENDS[name]


def check_backend_name(name: str) -> None:
    """Raises ValueError unless `name` is "auto" or a known backend."""
    if name != "auto" and name not in BACKENDS:
        known = ", ".join(["auto", *BACKENDS])
        raise ValueError(f"backend: expected one of {known}, got {name!r}")


def record(name: str) -> None:
    """Tells every open `record_backends` that a backend ran."""
    for names in _recorders:
        names.append(name)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs every axial attention inside the block on one backend, whatever the layers ask for."""
    check_backend_name(name)
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


@contextmanager
def record_backends() -> Iterator[list[str]]:
    """Gives a list to which the name of each backend that runs in the block is appended."""
    names: list[str] = []
    _recorders.append(names)
    try:
        yield names
    finally:
        # By identity: two open recorders may hold equal lists.
        _recorders[:] = [r for r in _recorders if r is not names]
