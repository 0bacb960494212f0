"""Activation checkpointing that leaves running statistics alone the second time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

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
        return nullcontext(), _on_copies_of_buffers(module)

    return checkpoint(module, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _on_copies_of_buffers(module: nn.Module) -> Iterator[None]:
    """Gives every submodule copies of its buffers, and the originals back at the end."""
    originals = [(m, dict(m._buffers)) for m in module.modules() if m._buffers]
    for submodule, buffers in originals:
        for name, buffer in buffers.items():
            submodule._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for submodule, buffers in originals:
            submodule._buffers.update(buffers)
