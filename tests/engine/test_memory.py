"""Whether freed memory really stays with the process."""

import platform
import resource
import subprocess
import sys

import pytest

from axial_d2.engine.memory import keep_freed_memory

_SCRIPT = """
import resource, sys, torch
from axial_d2.engine.memory import keep_freed_memory
assert keep_freed_memory()
unit = int(sys.argv[1])
def work():
    # The first is large enough for a mapping of its own, or to be cut from the end of the heap.
    a = torch.ones(2 * unit); b = torch.ones(unit); del a; c = torch.ones(2 * unit); del b, c
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize("unit", [1 << 20, 9 << 20])  # 4 MB; 36 MB, beyond glibc's last threshold
def test_pages_do_not_come_anew(unit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(unit)], capture_output=True, text=True, check=True
    )
    # With units of 4 MB a round touches 20 MB, the 50 rounds 250,000 pages of 4 KB. Without the
    # settings it was 8,000 to 250,000, as the heap happened to lie; with them one round's at most.
    pages_of_a_round = 20 * unit // resource.getpagesize()
    assert int(done.stdout) <= 2 * pages_of_a_round


def test_asking_twice_does_no_harm() -> None:
    assert keep_freed_memory() == keep_freed_memory()
