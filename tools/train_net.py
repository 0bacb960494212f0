#!/usr/bin/env python
"""Trains and evaluates an Axial-DeepLab; takes Detectron2's arguments, runs on GPU or CPU."""

import os
import sys
from pathlib import Path

# First: it makes Detectron2 ready for the libraries installed here. The checkout works uninstalled.
sys.path.insert(0, str(Path(__file__).parents[1]))
import axial_d2  # noqa: F401, I001
from axial_d2.engine import (
    SetupError,
    argument_parser,
    launch,
    load_config,
    summary,
    train_or_evaluate,
)


def main() -> int:
    """Runs the command line; returns the exit code."""
    args = argument_parser(__doc__).parse_args()
    try:
        # Once before any process is started, so that a mistake is told once.
        cfg = load_config(args.config_file, args.opts)
        launch(
            train_or_evaluate,
            args.num_gpus,
            args.num_machines,
            args.machine_rank,
            args.dist_url,
            args=(args,),
        )
    except (SetupError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    if int(os.environ.get("RANK", args.machine_rank)) == 0:
        print(summary(cfg.OUTPUT_DIR))
    return 0


if __name__ == "__main__":
    sys.exit(main())
