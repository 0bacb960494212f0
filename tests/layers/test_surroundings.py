"""Attention layers inside what training puts around them, with every backend of the CPU."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from axial_d2 import ops
from axial_d2.layers import AxialAttention2d, LocalAttention2d, LogitNorm
from axial_d2.layers.recompute import recomputed

BACKENDS = ("compiled", "kept", "blocked", "reference")
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_span = pytest.mark.parametrize("span", [0, 5])


def attention(backend: str, span: int = 0, **options) -> AxialAttention2d:
    torch.manual_seed(4)
    return AxialAttention2d(
        in_channels=8, out_channels=16, num_heads=2, span=span, backend=backend, **options
    )


def picture() -> Tensor:
    return torch.randn(2, 8, 9, 7, generator=torch.Generator().manual_seed(1))


def step(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The result, the gradients of input and parameters, and the buffers after a training step."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (y.float() * torch.cos(y.detach().float())).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]


def assert_same(got: list[Tensor], wanted: list[Tensor], **tolerance: float) -> None:
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize(("backend", "span"), [("compiled", 0), *((b, 5) for b in BACKENDS)])
def test_torch_compile_takes_it_whole(backend: str, span: int) -> None:
    def steps(layer: nn.Module, x: Tensor) -> tuple[nn.Module, list[Tensor], list[Tensor]]:
        """The layer compiled, a step of its own and one of that."""
        twin = copy.deepcopy(layer)
        torch._dynamo.reset()
        whole = torch.compile(twin, backend="aot_eager", fullgraph=True)
        return whole, step(layer, x), step(whole, x)

    layer = attention(backend, span).height
    _, exact, got = steps(copy.deepcopy(layer).double(), picture().double())
    assert_same(got, exact, rtol=1e-11, atol=1e-11)
    x = picture()
    whole, *rounded = steps(layer, x)
    for true, eager, ours in zip(exact, *rounded, strict=True):
        # A graph has no branch that looks at numbers, and so rounds otherwise.
        errors = [(t.double() - true.double()).norm() for t in (eager, ours)]
        assert errors[1] <= 2 * errors[0] + 1e-6 * true.numel() ** 0.5
    layer.eval()
    whole.eval()
    with torch.no_grad():
        torch.testing.assert_close(whole(x), layer(x), rtol=1e-4, atol=1e-5)


def local_attention(position_sensitive: bool, window: int = 3) -> LocalAttention2d:
    torch.manual_seed(4)
    channels = {"in_channels": 8, "out_channels": 16, "num_heads": 2}
    return LocalAttention2d(**channels, window=window, position_sensitive=position_sensitive)


every_kind = pytest.mark.parametrize("position_sensitive", [True, False])


@every_kind
@pytest.mark.parametrize(
    ("size", "window"), [((17, 19), 3), ((9, 7), 31), ((5, 1), 3), ((4, 5), 1)]
)
def test_torch_compile_takes_local_attention_whole(
    position_sensitive: bool, size: tuple[int, int], window: int
) -> None:
    local = local_attention(position_sensitive, window).double()
    torch._dynamo.reset()
    whole = torch.compile(copy.deepcopy(local), backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(1)).double()
    assert_same(step(whole, x), step(local, x), rtol=1e-11, atol=1e-11)
    local.eval()
    whole.eval()
    with torch.no_grad():
        torch.testing.assert_close(whole(x), local(x), rtol=1e-11, atol=1e-11)


@every_kind
def test_compiled_local_attention_under_autocast_and_of_other_sizes(
    position_sensitive: bool,
) -> None:
    local = local_attention(position_sensitive)
    torch._dynamo.reset()
    whole = torch.compile(copy.deepcopy(local), backend="aot_eager", fullgraph=True)
    for height in (6, 8):
        x = picture()[:, :, :height]
        with torch.autocast("cpu", torch.bfloat16):
            got, wanted = step(whole, x), step(local, x)
        assert_same(got, wanted, rtol=1e-4, atol=1e-4)


@every_kind
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning")
def test_local_attention_is_traced_and_exported(position_sensitive: bool) -> None:
    local = local_attention(position_sensitive).double().eval()
    x, other = picture().double(), picture().double().flip(1)
    for made in (
        torch.jit.trace(local, x),
        torch.export.export(local, (x,)).module(),
        torch.export.export(local, (x,), strict=True).module(),
    ):
        torch.testing.assert_close(made(other), local(other), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", [AxialAttention2d, partial(LocalAttention2d, window=3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_torch_func(kind: Callable[..., nn.Module], stride: int) -> None:
    # The plain reference alone: the others have no second derivative.
    layer = kind(in_channels=8, out_channels=16, num_heads=2, stride=stride, backend="reference")
    layer.double().eval()
    x = picture().double().to(memory_format=torch.channels_last).requires_grad_()
    direction = torch.cos(x.detach())

    def loss(x: Tensor) -> Tensor:
        return layer(x).square().sum()

    def loss_of_one(x: Tensor) -> Tensor:
        return loss(x[None])

    (wanted,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (along,) = torch.autograd.grad((wanted * direction).sum(), x)
    x, wanted = x.detach(), wanted.detach()
    torch.testing.assert_close(torch.func.grad(loss)(x), wanted)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss_of_one))(x), wanted)
    _, slope = torch.func.jvp(loss, (x,), (direction,))
    torch.testing.assert_close(slope, (wanted * direction).sum())
    _, curvature = torch.func.jvp(torch.func.grad(loss), (x,), (direction,))
    torch.testing.assert_close(curvature, along)


@every_backend
@every_span
def test_autocast(backend: str, span: int) -> None:
    x = picture()
    exact = step(attention("reference", span).double(), x.double())

    def rough(name: str) -> list[Tensor]:
        layer = attention(name, span)
        with ops.record_backends() as ran, torch.autocast("cpu", torch.bfloat16):
            results = step(layer, x)
        assert set(ran) == {name}
        assert all(t.grad.dtype == torch.float32 for t in layer.parameters())
        return results

    for true, eager, ours in zip(exact, rough("reference"), rough(backend), strict=True):
        errors = [(t.double() - true.double()).norm() for t in (eager, ours)]
        # What should be 0 is rounding alone: gradients of a shift that a norm takes out again.
        rounding = 1e-2 * true.numel() ** 0.5
        assert errors[1] <= 2 * errors[0] + rounding


@every_backend
@every_span
def test_activation_checkpointing(backend: str, span: int) -> None:
    x = picture()
    wanted = step(attention(backend, span), x)
    layer = attention(backend, span)

    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return recomputed(self.layer, x)

    assert_same(step(Recomputed(), x), wanted, rtol=1e-6, atol=1e-6)


def distributed(backend: str, rank: int | None) -> list[Tensor]:
    """Two steps of a layer, of a process's picture, or of both pictures without a rank."""
    layer = attention(
        backend,
        norm=partial(nn.GroupNorm, 1),
        logit_norm=partial(LogitNorm, kind="SyncBN"),
    ).double()
    both = picture().double()
    # A parameter without a gradient would stop the second step.
    parallel = layer if rank is None else DistributedDataParallel(layer)
    for _ in range(2):
        layer.zero_grad()
        y = parallel(both if rank is None else both[rank : rank + 1])
        (y * torch.cos(y.detach())).sum().backward()
    return [*(p.grad for p in layer.parameters()), *(b.double() for b in layer.buffers())]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {}
    for backend in BACKENDS:
        try:
            results[backend] = distributed(backend, rank)
        except ValueError as error:  # No compiler: both processes say so before they meet.
            results[backend] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@every_backend
def test_two_processes_are_one_with_both_pictures(
    backend: str, of_two_processes: list[dict]
) -> None:
    wanted = distributed(backend, None)
    parameters = len(list(attention(backend).parameters()))
    for results in of_two_processes:
        got = results[backend]
        # DistributedDataParallel averages over the processes.
        assert_same([g * 2 for g in got[:parameters]], wanted[:parameters], rtol=1e-8, atol=1e-9)
        assert_same(got[parameters:], wanted[parameters:], rtol=1e-8, atol=1e-9)
