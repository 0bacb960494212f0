"""The peak of live tensors, by hand; and the meta device against a real run."""

import torch
from torch import nn

from axial_d2.analysis import PeakMemory
from axial_d2.layers import AxialAttention2d


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


def test_nothing_computed_counts_as_much_as_everything() -> None:
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
        return memory.peak

    assert peak("meta") == peak("cpu") > 21 * 34 * 32 * 4
