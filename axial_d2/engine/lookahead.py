"""Lookahead, over any of torch's optimisers."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def with_lookahead(kind: type[Optimizer], *, steps: int, alpha: float) -> type[Optimizer]:
    """Derives the optimiser that looks ahead with `kind` (Zhang et al. 2019, arXiv 1907.08610).

    The model's parameters are the fast weights: `kind` moves them as ever. After every `steps` of
    its steps the slow weights, a copy that nobody else sees, go the fraction `alpha` of the way to
    them, and the fast ones go on from there. The moments of `kind` are kept at that, as in the
    authors' code by default.

    A class derived from the optimiser's own, as Detectron2 adds its clipping, so that schedules,
    loss scaling and checkpoints see the optimiser they know.

    Args:
        kind: class of the optimiser inside.
        steps: steps of `kind` per step of the slow weights, 1 or more; the authors' code has 5.
        alpha: in (0, 1], the share of the way; the authors' code has 0.8. 1 leaves `kind` as it is.

    Returns:
        The class, with the constructor of `kind`. Its state has "lookahead" besides what that of
        `kind` has. `steps` and `alpha` are not part of it: those of the config hold.

    Raises:
        ValueError: steps or alpha out of range.
    """
    if steps < 1:
        raise ValueError(f"steps: expected 1 or more, got {steps}")
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"alpha: expected more than 0 and at most 1, got {alpha}")
    name = f"{kind.__name__}WithLookahead"
    return type(name, (_Lookahead, kind), {"_period": steps, "_alpha": alpha})


class _Lookahead(Optimizer):
    """What is added to the optimiser that stands behind it in the order of bases."""

    _period: int
    _alpha: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Not in self.state: Adam takes a parameter with any state for one it has seen before.
        self._slow: dict[Tensor, Tensor] = {}
        self._steps_done = 0

    def step(self, closure: Any = None) -> Any:
        """One step of the fast weights, and where a period ends one of the slow weights.

        Args:
            closure: as torch has it.

        Returns:
            The closure's loss, if there is a closure.
        """
        # Only now: the weights of a checkpoint are loaded after the optimiser was built.
        for parameter in self._parameters():
            if parameter not in self._slow:
                self._slow[parameter] = parameter.detach().clone()
        loss = super().step(closure)
        self._steps_done += 1
        if self._steps_done % self._period == 0:
            self._step_slow()
        return loss

    @torch.no_grad()
    def _step_slow(self) -> None:
        fast = self._parameters()
        slow = [self._slow[parameter] for parameter in fast]
        torch._foreach_lerp_(slow, fast, self._alpha)
        torch._foreach_copy_(fast, slow)

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimiser inside, the slow weights in its order, the steps done."""
        state = super().state_dict()
        slow = [self._slow[p] for p in self._parameters() if p in self._slow]
        state["lookahead"] = {"slow": slow, "steps_done": self._steps_done}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; that of an optimiser without Lookahead begins a period.

        Args:
            state_dict: of this class, or of the optimiser inside.
        """
        super().load_state_dict(state_dict)
        own = state_dict.get("lookahead", {"slow": [], "steps_done": 0})
        self._steps_done = own["steps_done"]
        # An empty list where no step was done: `step` then takes the weights as they are.
        self._slow = {
            parameter: torch.empty_like(parameter).copy_(slow)
            for parameter, slow in zip(self._parameters(), own["slow"], strict=False)
        }
