"""Speed and memory of the parts against named baselines; `tools/benchmark.py` prints them."""

from axial_d2.benchmarks.contests import CONTESTS, Contest
from axial_d2.benchmarks.measuring import (
    environment,
    machine_speed,
    measure,
    measure_memory,
    peak_of_one_run,
)

__all__ = [
    "CONTESTS",
    "Contest",
    "environment",
    "machine_speed",
    "measure",
    "measure_memory",
    "peak_of_one_run",
]
