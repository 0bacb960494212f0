"""Processes for training: one, several on this machine, several machines, or torchrun's.

Detectron2's launcher wants GPUs and NCCL (upstream's main alone knows gloo), and nothing sets up
its groups under torchrun; hence one of our own. Spawned processes unpickle functions of this
module, and so import axial_d2, with its bridges, before anything of Detectron2.
"""

import gc
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from axial_d2 import compat
from axial_d2.engine.errors import SetupError

# What torchrun sets for every process it starts.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def under_torchrun() -> bool:
    """Whether torchrun (or `python -m torch.distributed.run`) started this process."""
    return all(name in os.environ for name in _TORCHRUN)


def launch(
    main: Callable[..., Any],
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple[Any, ...] = (),
) -> None:
    """Calls `main(*args)` in every process of the training.

    Under torchrun this process is one of its processes, and the other arguments are not used.
    Otherwise one process is this one, and more are spawned: `main` must then be a function of an
    importable module.

    Args:
        main: what to call.
        num_gpus: processes on this machine: one per GPU, or on the CPU (gloo) where there is none.
        num_machines: machines that take part.
        machine_rank: this machine, from 0.
        dist_url: where they meet; "auto" takes a free port of this machine.
        args: arguments of `main`.

    Raises:
        SetupError: more processes than GPUs, or "auto" with several machines.
    """
    if under_torchrun():
        _join_torchrun(num_gpus)
        _run(main, args)
        return
    _check(num_gpus, num_machines, machine_rank, dist_url)
    if num_gpus * num_machines == 1:
        main(*args)
        return
    url = f"tcp://127.0.0.1:{_free_port()}" if dist_url == "auto" else dist_url
    try:
        mp.spawn(
            _spawned,
            nprocs=num_gpus,
            args=(main, num_gpus, num_machines, machine_rank, url, args),
        )
    except mp.ProcessExitedException as error:
        # The process has said why (see _run); a traceback of the launcher adds nothing.
        sys.exit(error.exit_code or 1)


def _check(num_gpus: int, num_machines: int, machine_rank: int, dist_url: str) -> None:
    found = torch.cuda.device_count()
    if found and num_gpus > found:
        raise SetupError(f"--num-gpus: expected at most {found}, the GPUs found, got {num_gpus}")
    if not 0 <= machine_rank < num_machines:
        raise SetupError(
            f"--machine-rank: expected 0 to {num_machines - 1} (--num-machines {num_machines}), "
            f"got {machine_rank}"
        )
    if num_machines > 1 and dist_url == "auto":
        raise SetupError("--dist-url: several machines need tcp://HOST:PORT of the first, got auto")


def _spawned(
    local_rank: int,
    main: Callable[..., Any],
    num_gpus: int,
    num_machines: int,
    machine_rank: int,
    url: str,
    args: tuple[Any, ...],
) -> None:
    _join(
        local_rank,
        num_gpus,
        init_method=url,
        world_size=num_gpus * num_machines,
        rank=machine_rank * num_gpus + local_rank,
    )
    _run(main, args)


def _run(main: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Calls `main` in one of several processes; ends this one at a user's mistake or lost loss."""
    try:
        main(*args)
    except (SetupError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: the other processes may be waiting for this one in a collective call, and
        # leaving the group in order would wait for them. The launcher ends them.
        os._exit(1)
    _leave()


def _leave() -> None:
    """Leaves the process group, and ends its threads while Python still runs.

    gloo's threads let go of Python's objects after the last collective call has returned. A group
    outlives its end where something still holds it: Detectron2, or a DistributedDataParallel that
    lies in a cycle. A thread that then meets the interpreter's own end aborts the process, now and
    then ("terminate called without an active exception", SIGABRT; pytorch issue 190489).
    """
    compat.forget_process_groups()
    gc.collect()
    dist.destroy_process_group()


def _join_torchrun(num_gpus: int) -> None:
    local_rank, local_size = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if num_gpus not in (1, local_size):
        raise SetupError(
            f"--num-gpus: torchrun started {local_size} processes here, got {num_gpus}; leave the "
            "argument out under torchrun"
        )
    found = torch.cuda.device_count()
    if found and local_size > found:
        raise SetupError(
            f"torchrun --nproc_per_node: expected at most {found}, the GPUs found, got {local_size}"
        )
    _join(local_rank, local_size, init_method="env://")


def _join(local_rank: int, per_machine: int, **rendezvous: Any) -> None:
    """Joins the process group and makes Detectron2's group of the processes of one machine."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        # Each process would otherwise start a thread per core, and they would fight for them.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // per_machine))
    dist.init_process_group("nccl" if on_gpu else "gloo", **rendezvous)
    compat.local_process_group(per_machine)
    comm.synchronize()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
