"""The synchronised kinds of the logit norm, over two processes on the CPU."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from axial_d2 import ops
from axial_d2.layers import LogitNorm


def draw(rank: int, strips: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(strips, 2, 5, 3, generator=generator).double() for _ in range(2)]


def tables() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(9, 3, generator=generator).double() for _ in range(2)]


def work(rank: int, kind: str, strips: list[int], folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(strips)
    )
    norm = LogitNorm(2, kind=kind).double()
    q, k = (t.requires_grad_() for t in draw(rank, strips[rank]))
    scale = norm(q, k, *tables(), span=None)
    scale.sum().backward()
    torch.save((scale.detach(), norm.state_dict(), q.grad), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "strips"), [("SyncBN", [2, 4]), ("naiveSyncBN", [2, 4]), ("BN", [2, 4])]
)
def test_two_processes_equal_one_with_both_batches(
    kind: str, strips: list[int], tmp_path: Path
) -> None:
    mp.spawn(work, (kind, strips, str(tmp_path)), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    whole = LogitNorm(2).double()
    batches = [draw(rank, count) for rank, count in enumerate(strips)]
    q, k = (torch.cat(parts).requires_grad_() for parts in zip(*batches, strict=True))
    scale = whole(q, k, *tables(), span=None)
    (scale.sum() * 2).backward()  # Each of the two processes adds up its own, equal, scales.
    gradients = q.grad.split(strips)

    if kind == "BN":
        assert not torch.allclose(results[0][0], results[1][0])
        return
    if kind == "naiveSyncBN":
        check_every_process_weighs_alike(batches, results)
        return
    for rank, (got, state, gradient) in enumerate(results):
        torch.testing.assert_close(got, scale.detach())
        torch.testing.assert_close(gradient, gradients[rank])
        torch.testing.assert_close(state["running_mean"], whole.running_mean)
        torch.testing.assert_close(state["running_var"], whole.running_var)


def check_every_process_weighs_alike(batches: list, results: list) -> None:
    """The plain mean of the processes' moments, and the biased variance kept."""
    moments = [ops.logit_moments(q, k, *tables())[:2] for q, k in batches]
    mean = sum(m for m, _ in moments) / 2
    variance = sum(v + m.square() for m, v in moments) / 2 - mean.square()
    for got, state, _ in results:
        torch.testing.assert_close(got, (variance + 1e-5).rsqrt())
        torch.testing.assert_close(state["running_mean"], 0.1 * mean)
        torch.testing.assert_close(state["running_var"], 0.9 + 0.1 * variance)
