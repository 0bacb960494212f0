"""The peak of activation memory, counted and not measured."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class _LiveTensors(TorchDispatchMode):
    """Follows the memory of every tensor that an operation makes, until nobody holds it."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self._known = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in known}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        # Before the operation, since a new storage may stand where an old one stood.
        for key in [k for k, (reference, _) in self._live.items() if reference.expired()]:
            del self._live[key]
        result = operation(*args, **(kwargs or {}))
        new = False
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference.cdata not in self._known and reference.cdata not in self._live:
                    self._live[reference.cdata] = (reference, storage.nbytes())
                    new = True
        if new:
            self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def peak_activation_bytes(run: Callable[[], Any], known: Iterable[torch.Tensor]) -> int:
    """The largest sum of the tensors that are there at once while `run` runs.

    What an operation uses for itself and gives back before it ends (a convolution's workspace) is
    not seen, nor is what the allocator keeps. On torch's meta device nothing is computed.

    Args:
        run: the work; what it returns counts as long as it lives.
        known: tensors that were there before and do not count: parameters, buffers, the input.

    Returns:
        Bytes.
    """
    with _LiveTensors(known) as live:
        run()
    return live.peak
