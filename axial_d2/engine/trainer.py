"""The training loop: Detectron2's DefaultTrainer where it serves, and its gaps closed."""

import contextlib
import logging
import os
import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from torch import nn

from axial_d2.engine.average import AverageWeights, take_training_weights
from axial_d2.engine.checkpointer import Checkpointer, last_checkpoint
from axial_d2.engine.checks import check_before_training
from axial_d2.engine.errors import ClearErrors, ClearEvaluatorErrors, SetupError
from axial_d2.engine.loaders import build_test_loader, build_train_loader
from axial_d2.engine.loading_report import network_facts
from axial_d2.engine.optimizer import (
    build_lr_scheduler,
    build_optimizer,
    follow_new_schedule,
    with_own_settings,
)
from axial_d2.engine.results import RESULTS_FILE, write_results
from axial_d2.engine.train_loop import FinishStepOnInterrupt, inner_trainer, over_processes

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains, checkpoints, resumes and evaluates, on one process or several, GPU or CPU.

    Beyond Detectron2's: optimiser state in the checkpoint on every version, a resumed training may
    be made longer, several CPU processes, mixed precision on the CPU, data checked before the first
    iteration, the evaluation's numbers in OUTPUT_DIR/results.json, a checkpoint on Ctrl-C, several
    batches per iteration, an average of the weights.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Builds model, optimiser, loader and hooks.

        Not through DefaultTrainer's own constructor: that one takes its wrappers for several
        processes and for mixed precision from its module, and they want a GPU in every version.

        Args:
            cfg: the whole config, its datasets registered.

        Raises:
            SetupError: what `check_before_training` finds.
        """
        TrainerBase.__init__(self)
        check_before_training(cfg)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        self._trainer = inner_trainer(cfg, over_processes(model), loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        # After the processes have been given the first one's weights.
        ema = cfg.SOLVER.EMA
        self._average = AverageWeights(model, ema.DECAY) if ema.ENABLED else None
        self.checkpointer = Checkpointer(
            self.evaluated_model,
            cfg.OUTPUT_DIR,
            facts=network_facts(cfg),
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._interrupt = FinishStepOnInterrupt()
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Builds MODEL.META_ARCHITECTURE on MODEL.DEVICE.

        Args:
            cfg: the whole config, its datasets registered.

        Returns:
            The model.

        Raises:
            SetupError: a value that a part of the model refuses, or an unknown name of a part.
        """
        try:
            model = super().build_model(cfg)
        except (ValueError, KeyError) as error:
            # A KeyError is the config's only where it comes from a registry.
            if isinstance(error, KeyError) and "registry" not in str(error):
                raise
            raise SetupError(f"the model cannot be built: {error.args[0]}") from error
        # Norms and 1x1 convolutions are about a tenth faster on the CPU with channels last.
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.DEVICE == "cpu" else model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Endless batches of DATASETS.TRAIN, see `loaders.build_train_loader`."""
        return build_train_loader(cfg, _mapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Every picture of a dataset once, see `loaders.build_test_loader`."""
        return build_test_loader(cfg, dataset_name, _mapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """By the type of dataset, see `axial_d2.evaluation`; its files go below OUTPUT_DIR."""
        from axial_d2.evaluation import build_evaluator

        output_dir = os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:
            output_dir = os.path.join(output_dir, dataset_name)
        try:
            evaluators = build_evaluator(cfg, dataset_name, output_dir)
        except (ValueError, OSError) as error:
            raise SetupError(str(error)) from error
        return ClearEvaluatorErrors(evaluators)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See `optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """See `optimizer.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @property
    def evaluated_model(self) -> nn.Module:
        """What is evaluated and saved: the average with SOLVER.EMA, else the model trained."""
        return self._average.model if self._average else self.model

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks, the average, and Ctrl-C waiting for the end of the iteration."""
        found = super().build_hooks()
        place = next(i for i, hook in enumerate(found) if isinstance(hook, hooks.LRScheduler)) + 1
        for i, hook in enumerate(found):
            if isinstance(hook, hooks.EvalHook):
                found[i] = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate)
        return [*found[:place], self._average, self._interrupt, *found[place:]]

    def _evaluate(self) -> dict[str, Any]:
        if not self._interrupt.step_done:
            return {}  # The last iteration failed; Detectron2 would evaluate all the same.
        if self._average:
            self._average.share_buffers()
        self._last_eval_results = self.test(self.cfg, self.evaluated_model)
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        """Progress with ETA in the log, metrics.json, and TensorBoard where it is installed."""
        directory = self.cfg.OUTPUT_DIR
        os.makedirs(directory, exist_ok=True)  # Detectron2 0.5 does not.
        writers = [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(os.path.join(directory, "metrics.json")),
        ]
        with contextlib.suppress(ImportError):
            writers.append(TensorboardXWriter(directory))
        return writers

    def train(self) -> dict[str, Any] | None:
        """Trains to SOLVER.MAX_ITER, then evaluates.

        Returns:
            The results of the evaluation in the main process, {} without DATASETS.TEST; None in
            the other processes.

        Raises:
            FloatingPointError: the loss is no longer finite.
            KeyboardInterrupt: Ctrl-C, after a checkpoint where a single process trains.
        """
        if comm.is_main_process():
            # That of an earlier training would be taken for this one's if this one fails.
            Path(self.cfg.OUTPUT_DIR, RESULTS_FILE).unlink(missing_ok=True)
        try:
            super().train()
        except KeyboardInterrupt:
            if comm.get_world_size() == 1 and self._interrupt.step_done:
                self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
            raise
        return self._last_eval_results if comm.is_main_process() else None

    def run_step(self) -> None:
        """One iteration."""
        try:
            super().run_step()
        except FloatingPointError as error:
            rate = self.optimizer.param_groups[0]["lr"]
            raise FloatingPointError(
                f"{error}\nThe learning rate was {rate:.3g}. What usually helps: a smaller "
                "SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, or SOLVER.CLIP_GRADIENTS.ENABLED "
                "True"
            ) from error

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Evaluates DATASETS.TEST and writes the numbers to OUTPUT_DIR/results.json.

        Args:
            cfg: the whole config.
            model: the model.
            evaluators: one per dataset; None: `build_evaluator`'s.

        Returns:
            The evaluators' results; by dataset name where DATASETS.TEST has several.
        """
        results = super().test(cfg, model, evaluators)
        if results and comm.is_main_process():
            write_results(results, cfg.OUTPUT_DIR)
        return results

    @classmethod
    def evaluate(cls, cfg: CfgNode, *, resume: bool = False) -> dict[str, Any]:
        """Evaluates without training.

        Args:
            cfg: the whole config, its datasets registered.
            resume: take the last checkpoint of OUTPUT_DIR, if there is one, not MODEL.WEIGHTS.

        Returns:
            As `test`.
        """
        model = cls.build_model(cfg)
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, facts=network_facts(cfg))
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        return cls.test(cfg, model)

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks and, on every version of Detectron2, the optimiser."""
        state = super().state_dict()
        state.setdefault("_trainer", self._trainer.state_dict())
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave, or an older file of Detectron2 0.5 or 0.6 without it.

        Args:
            state: from a checkpoint.

        Raises:
            SetupError: the optimiser's part is of other parameter groups, or of SGD and not of the
                Adam family, or the other way round.
        """
        if self._average is None:
            state = take_training_weights(state, self.checkpointer.model)
        TrainerBase.load_state_dict(self, state)
        inner = state.get("_trainer")
        if inner is None:
            logger.warning("The checkpoint has no optimiser state: the optimiser starts anew")
            return
        scaler = getattr(self._trainer, "grad_scaler", None)
        if scaler is not None and not inner.get("grad_scaler"):
            # Saved without mixed precision, or on a CPU, where there is nothing to scale.
            inner = {**inner, "grad_scaler": scaler.state_dict()}
        try:
            own = with_own_settings(self.optimizer, inner["optimizer"])
            self._trainer.load_state_dict({**inner, "optimizer": own})
        except ValueError as error:
            raise SetupError(
                f"the optimiser's state does not fit ({error}): resume with the model, "
                "SOLVER.OPTIMIZER, SOLVER.WEIGHT_DECAY_NORM and SOLVER.WEIGHT_DECAY_TABLE that it "
                "was saved with, or start anew from its weights by MODEL.WEIGHTS"
            ) from error

    def resume_or_load(self, resume: bool = True) -> None:
        """Takes up the last checkpoint of OUTPUT_DIR, or loads MODEL.WEIGHTS.

        Args:
            resume: whether to look for a checkpoint. Model, average, optimiser and iteration go on
                from it; length, learning rate, decay and the like are the config's.
        """
        found = last_checkpoint(self.cfg.OUTPUT_DIR)
        if resume and not found:
            logger.info("No checkpoint in %s to resume: starting anew", self.cfg.OUTPUT_DIR)
        elif found and not resume:
            logger.warning(
                "OUTPUT_DIR has the checkpoint %s of an earlier training. This one starts anew and "
                "will write over it; --resume would go on from it",
                found,
            )
        base = super()
        follow_new_schedule(self.scheduler, lambda: base.resume_or_load(resume))
        if self._average and not self._average.updates:
            self._average.start_from_average()
        if self.start_iter >= self.max_iter:
            logger.info(
                "The checkpoint has done %d iterations, SOLVER.MAX_ITER is %d: evaluation only",
                self.start_iter,
                self.max_iter,
            )


def _mapper(cfg: CfgNode, *, is_train: bool) -> Any:
    from axial_d2.data import build_mapper

    try:
        return ClearErrors(build_mapper(cfg, is_train))
    except ValueError as error:
        raise SetupError(f"INPUT: {error}") from error
