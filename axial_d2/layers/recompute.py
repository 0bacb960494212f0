"""Activation checkpointing that leaves running statistics alone the second time."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, x: Tensor) -> Tensor:
    """Runs a module without keeping its activations; the backward pass computes them again.

    Buffers (running means and variances, counters) move in the first run alone, so that a training
    step with checkpointing leaves the same state as one without.

    Args:
        module: what to run.
        x: its input.

    Returns:
        `module(x)`.
    """
    if not (module.training and torch.is_grad_enabled()):
        return module(x)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _OnCopiesOfBuffers(module)

    return checkpoint(module, x, use_reentrant=False, context_fn=contexts)


class _OnCopiesOfBuffers:
    """Gives every submodule copies of its buffers, and the originals back at the end.

    May be entered again and again: once for each backward pass through the same graph.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._originals = [(m, dict(m._buffers)) for m in self._module.modules() if m._buffers]
        for submodule, buffers in self._originals:
            for name, buffer in buffers.items():
                submodule._buffers[name] = None if buffer is None else buffer.clone()

    def __exit__(self, *raised: object) -> None:
        for submodule, buffers in self._originals:
            submodule._buffers.update(buffers)
