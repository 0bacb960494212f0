"""What compat does for the engine: process groups and DDP on the CPU."""

import subprocess
import sys
from pathlib import Path

import torch

from axial_d2 import compat

ROOT = Path(__file__).parents[1]

TWO_PROCESSES = """
import sys
import torch, torch.distributed as dist
import axial_d2
from axial_d2 import compat
from detectron2.engine import defaults
from detectron2.utils import comm

rank = int(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
try:
    compat.local_process_group(3)
except ValueError as error:
    assert "number of processes, 2; got 3" in str(error), error
for per_machine in (1, 2, 2):
    compat.forget_process_groups()  # as if on other machines
    compat.local_process_group(per_machine)
    compat.local_process_group(per_machine)
    print(comm.get_rank(), comm.get_local_rank(), comm.get_local_size())
compat.ddp_on_cpu()
model = torch.nn.Linear(1, 1, bias=False)
model = defaults.create_ddp_model(model, broadcast_buffers=False)
model(torch.full((1, 1), float(rank))).sum().backward()
print(model.module.weight.grad.item())
# Left open, its threads may still run when the interpreter ends: "terminate called", now and then.
del model
compat.forget_process_groups()
assert comm._LOCAL_PROCESS_GROUP is None
dist.destroy_process_group()
"""


def test_two_processes_on_the_cpu(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + TWO_PROCESSES)
    address = (tmp_path / "meet").as_uri()
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", script, str(rank), address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    done = [process.communicate(timeout=120) for process in processes]
    for process, (_, errors) in zip(processes, done, strict=True):
        assert process.returncode == 0, errors
    # Rank, local rank, processes on the machine: one on each, both on one, twice. The gradients are
    # 0 and 1, averaged.
    assert done[0][0].splitlines() == ["0 0 1", "0 0 2", "0 0 2", "0.5"]
    assert done[1][0].splitlines() == ["1 0 1", "1 1 2", "1 1 2", "0.5"]


def test_ddp_on_cpu_is_put_in_once(monkeypatch):
    from detectron2.engine import defaults

    monkeypatch.setattr(defaults, "create_ddp_model", defaults.create_ddp_model)
    compat.ddp_on_cpu()
    once = defaults.create_ddp_model
    compat.ddp_on_cpu()
    assert defaults.create_ddp_model is once
    model = torch.nn.Linear(1, 1)
    assert defaults.create_ddp_model(model) is model  # one process: as it was
