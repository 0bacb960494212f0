"""The peak of activation memory: counted, the same on every machine, not measured."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Counts, within the block, the bytes of all tensors that are alive at once.

    What an operation uses for itself and gives back before it ends (a convolution's workspace) is
    not seen, nor is what the allocator keeps. On torch's meta device nothing is computed.

    Attributes:
        peak: the most so far, in bytes, of what was made in the block and not yet freed.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        """Starts from nothing.

        Args:
            known: tensors from before that operations may hand on: parameters, buffers, inputs.
        """
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._counted: set[int] = set()
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def restart(self) -> None:
        """Starts from nothing again: what is alive, such as what a first run keeps, is known."""
        self.peak = self._alive = 0
        self._counted.clear()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        # The meta device alone makes a batch's statistics in evaluation too.
        evaluates = operation is torch.ops.aten.native_batch_norm.default and not args[5]
        for value in tree_leaves(result[0] if evaluates and args[0].is_meta else result):
            if isinstance(value, torch.Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._counted.add(key)
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        if key in self._counted:
            self._counted.discard(key)
            self._alive -= size
