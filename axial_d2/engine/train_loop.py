"""One iteration, and what surrounds it."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, defaults
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from axial_d2 import compat


class AccumulatingTrainer(SimpleTrainer):
    """An iteration of several batches, in any precision, on GPU or CPU.

    Each batch's loss is divided by their number before its backward pass, so that the gradients add
    up to their mean; several processes average theirs once, in the last batch's backward pass. What
    is logged is the mean of each loss, and the time that all batches were waited for.

    With one batch it does what Detectron2's SimpleTrainer and AMPTrainer do. Theirs is used there,
    except on a CPU in mixed precision: AMPTrainer refuses to run without CUDA.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int = 1,
        autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext,
        grad_scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Starts the loader's workers.

        Args:
            model: gives a dict of losses for a batch; as `over_processes` returns it.
            data_loader: endless batches.
            optimizer: steps once per iteration.
            steps: batches per iteration, 1 or more.
            autocast: makes the context of a forward pass.
            grad_scaler: scales the loss, and lets the step out where a gradient is not finite;
                None: no scaling.
        """
        super().__init__(model, data_loader, optimizer)
        self.steps = steps
        self.autocast = autocast
        self.grad_scaler = grad_scaler or torch.amp.GradScaler("cpu", enabled=False)

    def run_step(self) -> None:
        """One iteration: `steps` batches, then one step of the optimiser."""
        assert self.model.training, "the model was changed to eval mode"
        self.optimizer.zero_grad()
        means: dict[str, torch.Tensor] = {}
        data_time = 0.0
        for number in range(1, self.steps + 1):
            start = time.perf_counter()
            data = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            for name, loss in self._backward(data, last=number == self.steps).items():
                means[name] = means.get(name, 0.0) + loss.detach() / self.steps
        self._write_metrics(means, data_time)  # raises where a loss is not finite
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _backward(self, data: Any, *, last: bool) -> dict[str, torch.Tensor]:
        """Adds a batch's share to the gradients; returns its losses."""
        alone = isinstance(self.model, DistributedDataParallel) and not last
        with self.model.no_sync() if alone else contextlib.nullcontext():
            with self.autocast():
                losses = self.model(data)
                if isinstance(losses, torch.Tensor):
                    losses = {"total_loss": losses}
                total = sum(losses.values()) / self.steps
            self.grad_scaler.scale(total).backward()
        return losses

    def state_dict(self) -> dict[str, Any]:
        """As AMPTrainer's; the scaler's part is empty where nothing is scaled."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of this class, of AMPTrainer or of SimpleTrainer."""
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def inner_trainer(
    cfg: CfgNode, model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer
) -> SimpleTrainer:
    """Chooses what runs an iteration, and starts the loader's workers.

    Args:
        cfg: SOLVER.AMP.ENABLED, SOLVER.ACCUMULATION_STEPS and MODEL.DEVICE are read.
        model: from `over_processes`.
        loader: endless batches.
        optimizer: the optimiser.

    Returns:
        Detectron2's trainer for one batch per iteration without mixed precision or on CUDA, ours
        for several batches and for mixed precision on a CPU.
    """
    steps, amp = cfg.SOLVER.ACCUMULATION_STEPS, cfg.SOLVER.AMP.ENABLED
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    # A terminal sends Ctrl-C to the workers too. They are to outlive it: the iteration that it
    # interrupts is finished first.
    with _interrupts_ignored():
        if steps == 1 and not (amp and on_cpu):
            trainer = (AMPTrainer if amp else SimpleTrainer)(model, loader, optimizer)
        else:
            precision = _mixed_precision(on_cpu) if amp else {}
            trainer = AccumulatingTrainer(model, loader, optimizer, steps=steps, **precision)
        _ = trainer._data_loader_iter  # Upstream's main starts the workers at the first look.
    return trainer


def _mixed_precision(on_cpu: bool) -> dict[str, Any]:
    if on_cpu:
        # bfloat16 has float32's range of exponents, so the loss needs no scaling.
        return {"autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16)}
    return {
        "autocast": lambda: torch.autocast("cuda", dtype=torch.float16),
        "grad_scaler": torch.amp.GradScaler("cuda"),
    }


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
