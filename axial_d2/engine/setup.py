"""From the command line to a frozen config."""

import argparse
import logging
import os
import tempfile
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from axial_d2.config import add_axial_config
from axial_d2.engine.config_errors import merge_file, merge_options
from axial_d2.engine.errors import SetupError
from axial_d2.engine.memory import keep_freed_memory

_EXAMPLES = """\
examples:
  Train on this machine, on the GPU if there is one:
    %(prog)s --config-file configs/quickstart/synthetic.yaml
  On 4 GPUs, or with 4 processes on the CPU where there is no GPU; the batch is shared among them:
    %(prog)s --config-file FILE --num-gpus 4
    torchrun --nproc_per_node 4 %(prog)s --config-file FILE
  Change keys of the config:
    %(prog)s --config-file FILE SOLVER.BASE_LR 0.0005 OUTPUT_DIR output/try2
  Go on where an interrupted training stopped:
    %(prog)s --config-file FILE --resume
  Evaluate only:
    %(prog)s --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth
  On two machines:
    (first)  %(prog)s --config-file FILE --num-gpus 8 --num-machines 2 --machine-rank 0 \\
               --dist-url tcp://FIRST:29500
    (second) the same with --machine-rank 1
"""


def argument_parser(description: str | None = None) -> argparse.ArgumentParser:
    """The arguments of Detectron2's own training script, with their meaning on a CPU.

    Args:
        description: shown on top of --help.

    Returns:
        A parser for config_file, resume, eval_only, num_gpus, num_machines, machine_rank, dist_url
        and opts.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="config file (YAML)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in OUTPUT_DIR; without one, start anew",
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on DATASETS.TEST"
    )
    parser.add_argument(
        "--num-gpus",
        type=_positive,
        default=1,
        metavar="N",
        help="processes on this machine: one per GPU, or N on the CPU where no GPU is found",
    )
    parser.add_argument("--num-machines", type=_positive, default=1, metavar="N")
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="I", help="this machine, counted from 0"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where the processes meet, such as tcp://HOST:PORT; auto: a free port of this machine",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys to change; must come last",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def read_config(config_file: str, options: list[str] | None = None) -> CfgNode:
    """Reads a config, and leaves datasets and device alone.

    Args:
        config_file: a YAML file.
        options: `KEY VALUE ...` from the command line, merged last.

    Returns:
        The config, not frozen.

    Raises:
        SetupError: any mistake in the file or the options.
    """
    if not config_file:
        raise SetupError("--config-file FILE is required")
    cfg = get_cfg()
    add_axial_config(cfg)
    merge_file(cfg, config_file)
    merge_options(cfg, list(options or []))
    return cfg


def load_config(
    config_file: str, options: list[str] | None = None, *, need_pictures: bool = True
) -> CfgNode:
    """Reads a config, registers its datasets and chooses the device.

    Args:
        config_file: a YAML file.
        options: `KEY VALUE ...` from the command line, merged last.
        need_pictures: False where the datasets of DATASETS.CUSTOM are wanted for their classes
            alone.

    Returns:
        The frozen config. MODEL.DEVICE "cuda" has become "cpu" where torch finds no GPU.

    Raises:
        SetupError: any mistake in the file, the options or DATASETS.CUSTOM, a dataset that is not
            registered, or a GPU asked for on the command line where there is none.
    """
    from axial_d2.data import check_names, register_custom

    options = list(options or [])
    cfg = read_config(config_file, options)
    _choose_device(cfg, asked_for="MODEL.DEVICE" in options[::2])
    try:
        register_custom(cfg, need_pictures=need_pictures)
        check_names(cfg)
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error
    cfg.freeze()
    return cfg


def load_datasets(config_file: str | None, options: list[str] | None = None) -> CfgNode:
    """Reads a config of which the datasets alone are wanted, and registers these.

    Args:
        config_file: a YAML file; None: the defaults, and the datasets that are known anyway.
        options: `KEY VALUE ...` from the command line, merged last.

    Returns:
        The frozen config.

    Raises:
        SetupError: any mistake in the file, the options or DATASETS.CUSTOM.
    """
    from axial_d2.data import register_custom

    cfg = get_cfg()
    add_axial_config(cfg)
    if config_file:
        merge_file(cfg, config_file)
    merge_options(cfg, list(options or []))
    try:
        register_custom(cfg)
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error
    cfg.freeze()
    return cfg


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """Reads the config, starts the log and seeds the random generators.

    Args:
        args: as `argument_parser` gives them.

    Returns:
        The frozen config, written to OUTPUT_DIR/config.yaml as well.

    Raises:
        SetupError: as in `load_config`; or OUTPUT_DIR cannot be written.
    """
    cfg = load_config(args.config_file, args.opts)
    check_writable(cfg.OUTPUT_DIR)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="axial_d2")
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if cfg.MODEL.DEVICE == "cpu" and not torch.cuda.is_available():
        logging.getLogger(__name__).info(
            "No GPU found: running on the CPU, %d threads per process", torch.get_num_threads()
        )
    return cfg


def _choose_device(cfg: CfgNode, *, asked_for: bool) -> None:
    device = cfg.MODEL.DEVICE
    if not device.startswith("cuda") or torch.cuda.is_available():
        return
    if asked_for:
        raise SetupError(
            f"MODEL.DEVICE: {device} was asked for on the command line, but torch "
            f"{torch.__version__} finds no GPU here; leave the key out to run on the CPU"
        )
    cfg.MODEL.DEVICE = "cpu"


def check_writable(directory: str, key: str = "OUTPUT_DIR") -> None:
    """Makes sure of a directory to write to, and makes it where it is missing.

    Tries it: permission bits say nothing of full disks, read-only mounts and the superuser.

    Args:
        directory: the directory.
        key: what names it, for the error.

    Raises:
        SetupError: it cannot be written.
    """
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        place = Path(directory).resolve()
        raise SetupError(f"{key}: cannot write to {place}: {error.strerror}") from error
