"""The exponential moving average of the weights."""

from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class AverageWeights(HookBase):
    """Moves a copy of the model a little towards the model after every iteration.

    The copy is a model of its own, on the same device: it is evaluated and saved, and the training
    does not notice. Floating-point buffers are averaged as the parameters are: running statistics
    taken over as they stand would be those of weights that the copy does not have. Counters are
    taken over.

    After n iterations the decay is min(decay, (1 + n) / (10 + n)), TensorFlow's rule for its own
    average; the first iteration's weights are taken over.

    Every process moves its own copy, by the same arithmetic on the same weights. Running statistics
    are each process's own, as the model's are; see `share_buffers`.

    Attributes:
        model: the averaged model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copies the model.

        Args:
            model: the model that is trained, not wrapped for several processes.
            decay: in [0, 1), the largest decay.

        Raises:
            ValueError: decay out of range.
        """
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay: expected 0 or more and less than 1, got {decay}")
        self._trained = model
        self._decay = decay
        # The counter stays on the CPU, so that reading it waits for no GPU.
        self._averaged = AveragedModel(model, multi_avg_fn=self._move, use_buffers=True)
        self._averaged.requires_grad_(False)
        self.model: nn.Module = self._averaged.module

    @property
    def updates(self) -> int:
        """Iterations in the average."""
        return int(self._averaged.n_averaged)

    def after_step(self) -> None:
        """Takes the weights of this iteration in."""
        self._averaged.update_parameters(self._trained)

    @torch.no_grad()
    def _move(self, averaged: list[Tensor], current: list[Tensor], _: Any) -> None:
        if averaged[0].is_floating_point():
            decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:
            torch._foreach_copy_(averaged, current)

    def start_from_average(self) -> None:
        """Gives the trained model what was loaded into the averaged one."""
        self._trained.load_state_dict(self.model.state_dict())

    def share_buffers(self) -> None:
        """Gives the averaged models of all processes the first one's buffers, which are saved."""
        if comm.get_world_size() == 1:
            return
        for buffer in self.model.buffers():
            dist.broadcast(buffer, 0)

    def state_dict(self) -> dict[str, Any]:
        """What the averaged model, saved as the checkpoint's "model", does not say."""
        return {"updates": self.updates, "training_weights": self._trained.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; the averaged model is loaded by the checkpointer."""
        self._trained.load_state_dict(state["training_weights"])
        self._averaged.n_averaged.fill_(state["updates"])


def take_training_weights(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Makes a checkpoint of a training with an average one of a training without.

    Args:
        state: the trainer's part of a checkpoint.
        model: into which its training weights are loaded, if it has any; not wrapped.

    Returns:
        The state without the average's part.
    """
    hooks = dict(state.get("hooks", {}))
    own = hooks.pop(AverageWeights.__qualname__, None)
    if own is None:
        return state
    model.load_state_dict(own["training_weights"])
    return {**state, "hooks": hooks}
