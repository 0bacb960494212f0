"""One iteration, and what surrounds it."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, defaults
from detectron2.utils import comm
from torch import nn

from axial_d2 import compat


class CpuAutocastTrainer(SimpleTrainer):
    """Mixed precision on a CPU: the forward pass in bfloat16 autocast.

    Detectron2's AMPTrainer refuses to run without CUDA. bfloat16 has float32's range of exponents,
    so the loss needs no scaling.
    """

    def run_step(self) -> None:
        """One iteration, as SimpleTrainer does it."""
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = self.model(data)
            total = sum(losses.values())
        self.optimizer.zero_grad()
        total.backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()


def inner_trainer(
    cfg: CfgNode, model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer
) -> SimpleTrainer:
    """Chooses what runs an iteration, and starts the loader's workers.

    Args:
        cfg: SOLVER.AMP.ENABLED and MODEL.DEVICE are read.
        model: from `over_processes`.
        loader: endless batches.
        optimizer: the optimiser.

    Returns:
        Detectron2's trainer without mixed precision or on CUDA, ours with it on a CPU.
    """
    kind = SimpleTrainer
    if cfg.SOLVER.AMP.ENABLED:
        kind = CpuAutocastTrainer if cfg.MODEL.DEVICE == "cpu" else AMPTrainer
    # A terminal sends Ctrl-C to the workers too. They are to outlive it: the iteration that it
    # interrupts is finished first.
    with _interrupts_ignored():
        trainer = kind(model, loader, optimizer)
        _ = trainer._data_loader_iter  # Upstream's main starts the workers at the first look.
    return trainer


def over_processes(model: nn.Module) -> nn.Module:
    """Wraps the model so that gradients are averaged over the processes.

    Args:
        model: on its device.

    Returns:
        The model itself where one process trains.
    """
    compat.ddp_on_cpu()
    # As Detectron2 has it: batch norm's statistics are each process's own.
    options: dict[str, Any] = {"broadcast_buffers": False}
    if next(model.parameters()).device.type == "cpu":
        # All gradients at once, in place: gloo works on the cores that the backward pass needs, so
        # that nothing is won by beginning earlier (3 % of the quickstart's step).
        options |= {"bucket_cap_mb": 1 << 20, "gradient_as_bucket_view": True}
    return defaults.create_ddp_model(model, **options)


class FinishStepOnInterrupt(HookBase):
    """Holds Ctrl-C back until the iteration is whole, so that a checkpoint can be made of it.

    To stand behind the learning-rate hook, and before those that evaluate and save: these may be
    interrupted at once. A second Ctrl-C is never held back.

    Attributes:
        step_done: False while an iteration is under way.
    """

    def __init__(self) -> None:
        self.step_done = True
        self._asked = False
        self._previous: Any = None

    def before_step(self) -> None:
        """Takes the signal over."""
        self.step_done = False
        if _can_handle_signals():
            self._previous = signal.signal(signal.SIGINT, self._hold)

    def after_step(self) -> None:
        """Gives the signal back, and raises the KeyboardInterrupt that was held."""
        self.step_done = True
        self._give_back()
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt

    def after_train(self) -> None:
        """Gives the signal back where the iteration failed."""
        self._give_back()

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self._give_back()

    def _give_back(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


def _can_handle_signals() -> bool:
    # Several processes: one that stopped between two iterations would leave the others waiting in
    # the next one for ever.
    return comm.get_world_size() == 1 and threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if not _can_handle_signals():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
