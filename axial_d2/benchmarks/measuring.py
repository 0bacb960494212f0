"""Time and memory of two functions, taking turns in one process."""

import contextlib
import ctypes
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from axial_d2.benchmarks.contests import Contest


def measure(contest: Contest, repeats: int) -> dict[str, Any]:
    """Times both, after one run of each that also compares their results.

    Args:
        contest: the two.
        repeats: runs of each.

    Returns:
        Per name "ours" and "baseline" the seconds, their median, min and max; "faster", the ratio
        of the medians; "same_result"; and where the contest knows of its work the multiply-adds and
        "time_per_multiply_add", ours over the baseline's.

    Raises:
        ValueError: the results differ.
    """
    results = contest.ours(), contest.baseline()
    if contest.agree is not None and not contest.agree(*results):
        raise ValueError("ours and the baseline do not give the same result")
    del results
    record: dict[str, Any] = {"same_result": True if contest.agree is not None else None}
    for name, seconds in measure_times(contest, repeats).items():
        median, low, high = statistics.median(seconds), min(seconds), max(seconds)
        record[name] = {"seconds": seconds, "median": median, "min": low, "max": high}
    record["faster"] = record["baseline"]["median"] / record["ours"]["median"]
    if contest.work is not None:
        record["multiply_adds"] = list(contest.work)
        record["time_per_multiply_add"] = 1 / record["faster"] * contest.work[1] / contest.work[0]
    return record


def measure_times(contest: Contest, repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, ours and the baseline taking turns."""
    times: dict[str, list[float]] = {"ours": [], "baseline": []}
    for n in range(repeats):
        # Who goes first changes, so that neither always runs on what the other left behind.
        for name in ("ours", "baseline") if n % 2 else ("baseline", "ours"):
            run = getattr(contest, name)
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def measure_memory(command: Sequence[str], who: str) -> int:
    """Bytes by which one run raises resident memory, in a process of its own.

    Args:
        command: of a program that, given --only-memory-of WHO, prints `peak_of_one_run`.
        who: "ours" or "baseline".

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run([*command, "--only-memory-of", who], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the memory measurement of {who} failed:\n{done.stderr.strip()}")
    return int(done.stdout.split()[-1])


def peak_of_one_run(
    make: Callable[[tuple[int, int]], Contest], size: tuple[int, int], who: str
) -> int:
    """Peak of resident memory during one run above what stood before it, in bytes.

    Args:
        make: the contest for a size.
        size: that is measured, after a run on a small one.
        who: "ours" or "baseline".
    """
    getattr(make((65, 129)), who)()
    run = getattr(make(size), who)
    _release_freed_heap()
    before = _resident("VmRSS") if _reset_peak() else 0
    run()
    return _resident("VmHWM") - before


def _release_freed_heap() -> None:
    """What the allocator keeps of earlier work would hide a part of the rise."""
    with contextlib.suppress(OSError, AttributeError):  # glibc has it, others don't
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM = VmRSS
    except OSError:
        return False
    return True


def _resident(field: str) -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.split(field + ":")[1].split()[0]) * 1024


def machine_speed() -> dict[str, str]:
    """What torch reaches here, to hold the figures against: the best of a few runs each.

    Returns:
        "gemm", multiply-adds a second of a large product in single precision, and "copy", bytes
        read and written a second by a copy larger than any cache.
    """
    a, b = torch.rand(2, 1024, 1024)
    source = torch.rand(1 << 26)  # 256 MB
    target = torch.empty_like(source)

    def best(run: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    gemm = 1024**3 / best(lambda: a @ b)
    copy = 2 * source.nbytes / best(lambda: target.copy_(source))
    return {"gemm": f"{gemm / 1e9:.0f} GMAC/s", "copy": f"{copy / 1e9:.1f} GB/s"}


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    import detectron2

    from axial_d2.ops import compiled

    return {
        "threads": torch.get_num_threads(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "compiled_attention": compiled.why_not(torch.float32, torch.device("cpu")) or "yes",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "detectron2": detectron2.__version__,
    }
