"""The synchronised kinds of the logit norm, over two processes on the CPU."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

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
    ("kind", "strips"), [("SyncBN", [2, 4]), ("naiveSyncBN", [3, 3]), ("BN", [2, 4])]
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
    for rank, (got, state, gradient) in enumerate(results):
        torch.testing.assert_close(got, scale.detach())
        torch.testing.assert_close(gradient, gradients[rank])
        torch.testing.assert_close(state["running_mean"], whole.running_mean)
        count = sum(strips) * 25
        biased = 0.9 + (whole.running_var - 0.9) * (count - 1) / count
        expected = biased if kind == "naiveSyncBN" else whole.running_var
        torch.testing.assert_close(state["running_var"], expected)
