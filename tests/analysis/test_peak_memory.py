"""The peak of live tensors: by hand, by torch's own profiler; the meta device and a real run."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from axial_d2.analysis import PeakMemory
from axial_d2.layers import AxialAttention2d, LocalAttention2d


def test_by_hand() -> None:
    x = torch.zeros(1000)
    with PeakMemory([x]) as memory:
        y = x + 1  # 4000
        z = y * 2  # 8000
        del y  # 4000
        z.view(10, 100)  # No memory of its own.
        w = torch.cat([z, z])  # 12000
        x.mul_(2)  # Known from before.
        del z, w
        torch.ones(500)  # 2000
    assert memory.peak == 12000


def test_what_a_first_run_keeps() -> None:
    with PeakMemory() as memory:
        kept, gone = torch.ones(100), torch.ones(50)
        memory.restart()
        del gone  # It was not counted, and is not taken off.
        kept.view(10, 10)
        torch.ones(30)
    assert memory.peak == 120


def test_nothing_computed_counts_as_much_as_everything(no_compiler: None) -> None:
    def peak(device: str) -> int:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            AxialAttention2d(in_channels=32, out_channels=32, stride=2, num_heads=4, span=5),
            nn.ReLU(),
        )
        net = net.eval().to(device)
        x = torch.zeros(1, 3, 21, 34, device=device)
        with torch.no_grad(), PeakMemory([*net.parameters(), *net.buffers(), x]) as memory:
            net(x)
            memory.restart()
            net(x)
        return memory.peak

    assert peak("meta") == peak("cpu") > 21 * 34 * 32 * 4


def profiled(net: nn.Module, x: torch.Tensor) -> int:
    """The largest sum of what the allocator gave out and had not got back."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        net(x)
    now, peak = 0, 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64), nn.ReLU()),
        AxialAttention2d(in_channels=32, out_channels=32, stride=2, num_heads=4, span=5),
        AxialAttention2d(in_channels=32, out_channels=32, num_heads=4, backend="blocked"),
        AxialAttention2d(in_channels=32, out_channels=32, num_heads=4, backend="reference"),
        LocalAttention2d(in_channels=32, out_channels=32, num_heads=4, window=5),
    ],
    ids=["convolution", "kept", "blocked", "reference", "local"],
)
def test_as_the_profiler_of_the_allocator_sees_it(net: nn.Module, no_compiler: None) -> None:
    """To the byte, but for workspaces, which a convolution may have on some processors."""
    net, x = net.eval(), torch.zeros(1, 32, 21, 34)
    with torch.no_grad():
        net(x)  # What is made once and kept.
        seen = profiled(net, x)
        with PeakMemory([*net.parameters(), *net.buffers(), x]) as memory:
            net(x)
            memory.restart()
            net(x)
    assert memory.peak <= seen <= 1.02 * memory.peak
