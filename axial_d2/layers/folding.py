"""Norms with running statistics as a part of the convolution before them, for evaluation.

Exact but for rounding. It happens by itself in a forward pass without gradients, is kept until a
tensor that it was made of changes, and touches neither parameters nor buffers: a state dict, a
training step or a gradient never meets it.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from axial_d2.layers.pointwise import is_pointwise, pointwise
from axial_d2.ops.reference import at_least_single, is_recorded

# Batch norms that do nothing else: torch's, and Detectron2's by their names.
_FORWARDS = (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward)
_NAMES = ("BatchNorm2d", "NaiveSyncBatchNorm")

_suspended: list[bool] = []


class Affine(NamedTuple):
    """What a norm does with running statistics: `x * scale + shift`, (C,) each."""

    scale: Tensor
    shift: Tensor


class Folding:
    """What was made of some tensors, kept until one of them is another or has changed.

    A change is what torch counts as one (its version counter), other memory, or another first or
    last number: fused optimisers and collectives write past the counter, but to whole tensors. What
    writes a few numbers in the middle through `.data` or numpy goes unseen, unless a forward pass
    in training comes between: use `torch.no_grad` to change weights.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets what was made."""
        self._kept: _Made | None = None

    def of(self, sources: Sequence[Any], make: Callable[[], Any]) -> Any:
        """What `make` gives, from the last call where no source has changed since.

        Args:
            sources: every tensor and number that `make` reads.
            make: makes it.

        Returns:
            The result of `make`.
        """
        kept = self._kept  # Read once: other threads write and clear it.
        if kept is not None and kept.state.is_still(sources):
            return kept.result
        if not _may_be_kept(sources):
            return make()
        state = _State.of(sources)  # First: another thread may write while this is made.
        kept = self._kept = _Made(state, make())
        return kept.result

    def __deepcopy__(self, memo: dict) -> "Folding":
        return Folding()

    def __reduce__(self) -> tuple:
        return Folding, ()


class _State(NamedTuple):
    """What something is made of, and how that was then.

    Attributes:
        sources: tensors and numbers.
        tensors: those of the sources that hold real numbers; others count steps.
        handles: of each, so that the allocator gives their memory to no other tensor. On a device
            they hold it after the module has moved, until the next forward pass or `clear`.
        marks: of each, see `_marks`.
        ends: of each its first and last number as bits; empty where they can't be read.
        bits: what stood there.
    """

    sources: Sequence[Any]
    tensors: list[Tensor]
    handles: list[Tensor]
    marks: tuple[list, list]
    ends: list[np.ndarray]
    bits: list[bytes]

    @classmethod
    def of(cls, sources: Sequence[Any]) -> "_State":
        tensors = [s for s in sources if isinstance(s, Tensor) and s.is_floating_point()]
        ends = [_ends(t) for t in tensors]
        handles = [t.detach() for t in tensors]
        return cls(sources, tensors, handles, _marks(tensors), ends, _bits(ends))

    def is_still(self, sources: Sequence[Any]) -> bool:
        """Whether these are the same, unchanged."""
        same = len(sources) == len(self.sources) and all(map(operator.is_, sources, self.sources))
        # The ends last: `share_memory` gives a tensor other memory and the old one back.
        return same and _marks(self.tensors) == self.marks and _bits(self.ends) == self.bits


class _Made(NamedTuple):
    state: _State
    result: Any


_version_of = operator.attrgetter("_version")


# For hundreds of tensors at each forward pass: no loops in Python.
def _marks(tensors: Sequence[Tensor]) -> tuple[list, list]:
    return list(map(_version_of, tensors)), list(map(Tensor.data_ptr, tensors))


def _bits(ends: Sequence[np.ndarray]) -> list[bytes]:
    return list(map(np.ndarray.tobytes, ends))


def _may_be_kept(sources: Sequence[Any]) -> bool:
    # Tensors of inference mode count no changes; what a tracer makes may be its own kind.
    return not is_recorded() and not any(
        isinstance(s, Tensor) and s.is_inference() for s in sources
    )


_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NO_ENDS = np.empty(0)


def _ends(tensor: Tensor) -> np.ndarray:
    """The first and last number in a tensor's memory, a view; empty where they can't be read."""
    size, count = tensor.element_size(), tensor.numel()
    if tensor.device.type != "cpu" or count == 0 or size not in _WORDS:
        return _NO_ENDS
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        return _NO_ENDS
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    if not (tensor.is_contiguous() or channels_last):
        return _NO_ENDS
    line = tensor.detach().as_strided((count,), (1,)).view(_WORDS[size])
    return line[:: max(1, count - 1)].numpy()


@contextmanager
def unfolded() -> Iterator[None]:
    """Inside of it every norm is computed by itself, to compare with."""
    _suspended.append(True)
    try:
        yield
    finally:
        _suspended.pop()


def may_fold(*modules: nn.Module) -> bool:
    """Whether it would go unnoticed that these modules are not called one by one.

    Not within `unfolded`, where a gradient may be asked for, where the graph is recorded for
    another runtime or compiled (the compiler does it itself), where a hook waits for a module's
    own result, or where a module's weight or call is not its class's own.
    """
    if (
        _suspended
        or torch.is_grad_enabled()
        or torch.jit.is_tracing()
        or torch.compiler.is_compiling()
    ):
        return False
    hooks = torch.nn.modules.module
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        return False
    return not any(
        has_hooks(m) or "forward" in vars(m) or "parametrizations" in m._modules for m in modules
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody waits for a module's own call."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def running_affine(norm: nn.Module) -> Affine | None:
    """Scale and shift of a norm that would use its running statistics; None where it would not.

    Args:
        norm: a batch norm of torch, or one frozen (Detectron2's or torchvision's, which are known
            by their name); any other gives None.

    Returns:
        In at least single precision.
    """
    # By its own call: one that inherits may do more than normalise.
    batch_norm = isinstance(norm, nn.modules.batchnorm._BatchNorm) and (
        type(norm).forward in _FORWARDS or type(norm).__name__ in _NAMES
    )
    frozen = type(norm).__name__ == "FrozenBatchNorm2d"
    if not frozen and not (batch_norm and not norm.training and norm.running_mean is not None):
        return None
    mean, variance = at_least_single(norm.running_mean), at_least_single(norm.running_var)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    return Affine(scale, shift if norm.bias is None else shift + norm.bias)


def sources_of(*modules: nn.Module) -> list[Any]:
    """What a fold reads of modules that hold no others: parameters, buffers and a norm's eps."""
    found: list[Any] = []
    for module in modules:
        found += module._parameters.values()
        found += module._buffers.values()
        found.append(vars(module).get("eps"))
    return found


def convolve(convolution: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(convolution(x))`, in one where that may be.

    Args:
        convolution: any.
        norm: what follows it.
        x: (N, C, H, W).

    Returns:
        The result of both; without gradients it may be changed in place.
    """
    result = convolve_folded(convolution, norm, x) if is_plain(convolution) else None
    return norm(convolution(x)) if result is None else result


def is_plain(convolution: nn.Module) -> bool:
    """Whether a call does what `nn.Conv2d`'s does, and no more."""
    return type(convolution).forward is nn.Conv2d.forward


def convolve_folded(convolution: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor | None:
    """As `convolve`, but None where the two may not be one."""
    # Kept with the convolution: sequences and blocks may be cut and put together anew.
    folding = getattr(convolution, "_folding", None)
    if norm.training or not may_fold(convolution, norm):
        if folding is not None:
            folding.clear()
        return None
    if folding is None:
        folding = convolution._folding = Folding()
    folded = folding.of(sources_of(convolution, norm), lambda: _folded(convolution, norm))
    if folded is None:
        return None
    if is_pointwise(convolution):
        return pointwise(x, *folded)
    return convolution._conv_forward(x, *folded)


def _folded(convolution: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    affine = running_affine(norm)
    if affine is None:
        return None
    weight = convolution.weight * affine.scale[:, None, None, None]
    bias = affine.shift
    if convolution.bias is not None:
        bias = bias + convolution.bias * affine.scale
    dtype = convolution.weight.dtype
    return weight.to(dtype), bias.to(dtype)


class FoldingSequential(nn.Sequential):
    """A sequence in which each convolution may take in the norm after it, see `convolve`."""

    def forward(self, x: Tensor) -> Tensor:
        """Runs the modules one after the other."""
        parts = iter(self)
        for module in parts:
            following = next(parts, None) if isinstance(module, nn.Conv2d) else None
            x = module(x) if following is None else convolve(module, following, x)
        return x
