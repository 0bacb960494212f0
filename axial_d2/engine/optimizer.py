"""Optimiser and learning-rate schedule from a config."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab import build_lr_scheduler as build_deeplab_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn
from torch.optim import Optimizer

from axial_d2.engine.errors import SetupError
from axial_d2.engine.lookahead import with_lookahead
from axial_d2.layers import LogitNorm, RelativePositionTable
from axial_d2.layers.local_attention import FactoredWindowTable, WindowTable

# Modules whose parameters decay by SOLVER.WEIGHT_DECAY_NORM. BatchNorm's base class covers
# SyncBatchNorm and Detectron2's naive one.
_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    LogitNorm,
)
# Modules whose parameters decay by SOLVER.WEIGHT_DECAY_TABLE.
_TABLES = (RelativePositionTable, WindowTable, FactoredWindowTable)
_SCHEDULERS = ("WarmupPolyLR", "WarmupCosineLR", "WarmupMultiStepLR")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Builds SOLVER.OPTIMIZER, with SOLVER.LOOKAHEAD around it and SOLVER.CLIP_GRADIENTS before it.

    Args:
        cfg: of SOLVER: OPTIMIZER (ADAM, ADAMW, RADAM or SGD), BASE_LR, WEIGHT_DECAY,
            WEIGHT_DECAY_NORM, WEIGHT_DECAY_TABLE, BIAS_LR_FACTOR, MOMENTUM and NESTEROV (SGD),
            LOOKAHEAD, CLIP_GRADIENTS; MODEL.DEVICE.
        model: the parameters that require a gradient are taken.

    Returns:
        The optimiser.

    Raises:
        SetupError: an unknown optimiser.
    """
    solver = cfg.SOLVER
    # On the CPU the plain one takes three times as long. On a GPU a fused one would unscale the
    # gradients of mixed precision itself, after they have been clipped.
    fused = cfg.MODEL.DEVICE == "cpu"
    builders: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
        "ADAM": (torch.optim.Adam, {"fused": fused}),
        "ADAMW": (torch.optim.AdamW, {"fused": fused}),
        # Decoupled, as in its authors' code: ADAM adds the decay to the gradient, ADAMW does not.
        "RADAM": (torch.optim.RAdam, {"decoupled_weight_decay": True}),
        "SGD": (torch.optim.SGD, {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}),
    }
    name = solver.OPTIMIZER.upper()
    if name not in builders:
        raise SetupError(
            f"SOLVER.OPTIMIZER: expected one of {', '.join(builders)}, got {solver.OPTIMIZER}"
        )
    kind, options = builders[name]
    groups = parameter_groups(
        model,
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_table=solver.WEIGHT_DECAY_TABLE,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
    )
    if solver.LOOKAHEAD.ENABLED:
        kind = with_lookahead(kind, steps=solver.LOOKAHEAD.STEPS, alpha=solver.LOOKAHEAD.ALPHA)
    return _with_clipping(cfg, kind)(groups, lr=solver.BASE_LR, **options)


def _with_clipping(cfg: CfgNode, kind: type[Optimizer]) -> type[Optimizer]:
    """Adds SOLVER.CLIP_GRADIENTS; outermost, since Detectron2's cannot be derived from again."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != "full_model":
        return maybe_add_gradient_clipping(cfg, kind)

    class WithFullModelClipping(kind):  # type: ignore[misc, valid-type]
        def step(self, closure: Any = None) -> Any:
            parameters = [p for group in self.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)
            return super().step(closure)

    return WithFullModelClipping


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    weight_decay_norm: float | None,
    weight_decay_table: float | None = None,
    bias_lr_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """Sorts parameters by learning rate and weight decay.

    Detectron2's own function makes a group per parameter in 0.5 and merges them later on, so that
    their checkpoints do not resume on each other; and it does not know our norm on the logits.

    Args:
        model: parameters that require no gradient are left out, shared ones taken once.
        lr: of all parameters but biases.
        weight_decay: of all parameters but those of norms and position tables.
        weight_decay_norm: of the parameters of norms; None: as all others.
        weight_decay_table: of the relative position tables; None: as all others.
        bias_lr_factor: factor on the learning rate of parameters named "bias".

    Returns:
        Groups with "params", "lr" and "weight_decay", in the order of their first parameter.
    """
    if weight_decay_norm is None:
        weight_decay_norm = weight_decay
    if weight_decay_table is None:
        weight_decay_table = weight_decay
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        decay = weight_decay
        if isinstance(module, _NORMS):
            decay = weight_decay_norm
        elif isinstance(module, _TABLES):
            decay = weight_decay_table
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            rate = lr * (bias_lr_factor if name == "bias" else 1.0)
            groups[rate, decay].append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> Any:
    """Builds SOLVER.LR_SCHEDULER_NAME.

    Args:
        cfg: of SOLVER: LR_SCHEDULER_NAME (WarmupPolyLR, WarmupCosineLR, WarmupMultiStepLR),
            MAX_ITER, WARMUP_*, POLY_LR_*, STEPS, GAMMA.
        optimizer: whose learning rates it moves.

    Returns:
        A torch scheduler, stepped once per iteration.

    Raises:
        SetupError: an unknown schedule.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in _SCHEDULERS:
        raise SetupError(
            f"SOLVER.LR_SCHEDULER_NAME: expected one of {', '.join(_SCHEDULERS)}, got {name}"
        )
    return build_deeplab_scheduler(cfg, optimizer)


def with_own_settings(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's saved state without its weight decay, momentum and the like.

    torch's own loading would bring these back, whatever the config says now.

    Args:
        optimizer: built from the config.
        state: from a checkpoint.

    Returns:
        The state with the optimiser's settings, for its `load_state_dict`. The learning rate is
        left to `follow_new_schedule`.

    Raises:
        ValueError: the state is of SGD and not of the Adam family, or the other way round.
    """
    kinds = {True: "ADAM, ADAMW or RADAM", False: "SGD"}
    wanted = "betas" in optimizer.param_groups[0]
    came = all("betas" in group for group in state["param_groups"])
    if wanted != came:
        raise ValueError(f"SOLVER.OPTIMIZER was {kinds[came]} and is {kinds[wanted]}")
    groups = [
        {**saved, **{k: v for k, v in own.items() if k not in ("params", "lr")}}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=False)
    ]
    # Of another number of groups: loading refuses that.
    return {**state, "param_groups": groups + state["param_groups"][len(groups) :]}


# How far a schedule has come; all else that torch saves of one are settings.
_PROGRESS = ("last_epoch", "_step_count", "_last_lr")


def follow_new_schedule(scheduler: Any, restore: Callable[[], None]) -> None:
    """Loads a checkpoint without letting it bring the old schedule back.

    Schedules keep the base learning rate in their state, the polynomial one also `max_iters`: after
    resuming with a larger MAX_ITER it would take a fractional power of a negative number. And the
    optimiser brings the learning rate of the old schedule back, which is 0 at the end of a finished
    training: the next iteration would be lost.

    Args:
        scheduler: built from the config; moved by `restore`.
        restore: loads the checkpoint into optimiser and scheduler.
    """
    own = {k: v for k, v in vars(scheduler).items() if k not in _PROGRESS}
    restore()
    vars(scheduler).update(own)
    if scheduler.last_epoch > getattr(scheduler, "max_iters", scheduler.last_epoch):
        return  # More was done than is wanted now: there is no next iteration.
    rates = scheduler.get_lr()
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = list(rates)
