"""What one process of a training does from the arguments on."""

import argparse
from typing import Any

from axial_d2.engine.checks import check_before_evaluation
from axial_d2.engine.setup import setup_cfg
from axial_d2.engine.trainer import Trainer


def train_or_evaluate(args: argparse.Namespace) -> dict[str, Any] | None:
    """Trains and evaluates, or with --eval-only evaluates.

    Args:
        args: as `argument_parser` gives them.

    Returns:
        Results of the evaluation in the main process.

    Raises:
        SetupError: a mistake in arguments, config, files or data.
    """
    cfg = setup_cfg(args)
    if args.eval_only:
        check_before_evaluation(cfg, resume=args.resume)
        return Trainer.evaluate(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()
