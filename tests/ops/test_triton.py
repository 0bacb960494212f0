"""The Triton kernels: on a GPU where there is one, else through Triton's interpreter."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from triton_cases import EVERYTHING

from axial_d2 import ops
from axial_d2.ops import triton as kernels_backend

HERE = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def run(*arguments: str, interpreted: bool) -> str:
    environment = {**os.environ, "TRITON_INTERPRET": str(int(interpreted))}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def errors_of(names: Sequence[str]) -> dict[str, dict[str, tuple[float, float]]]:
    command = ("tests/ops/triton_cases.py", *names)
    return json.loads(run(*command, interpreted=not torch.cuda.is_available()))


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[str, tuple[float, float]]]:
    names = list(EVERYTHING)
    # The interpreter uses one core; on a GPU the second process would build the same kernels again.
    shares = [names] if torch.cuda.is_available() else [names[::2], names[1::2]]
    with ThreadPoolExecutor(len(shares)) as pool:
        return {k: v for found in pool.map(errors_of, shares) for k, v in found.items()}


@pytest.mark.parametrize("case", EVERYTHING)
def test_errors_are_those_of_the_reference(
    case: str, errors: dict[str, dict[str, tuple[float, float]]]
) -> None:
    assert len(errors[case]) > 1
    too_large = {name: pair for name, pair in errors[case].items() if not pair[0] <= pair[1]}
    assert not too_large, "name: (error, bound)"


def test_every_kernel_compiles_for_a_gpu_that_is_not_here() -> None:
    if importlib.util.find_spec("triton.backends.nvidia") is None:
        pytest.skip("this triton has no compiler for NVIDIA's GPUs")
    options = ("--dtype", "bf16", "--channels", "16")
    lines = run("dev/compile_kernels.py", *options, interpreted=False).splitlines()
    names = {line.split("|")[1].strip() for line in lines if line.startswith("|")}
    assert {"attention", "queries_backward", "keys_backward", "rows_backward", "moments"} <= names


@pytest.mark.parametrize(
    ("device", "dtype", "channels", "reason"),
    [
        ("cpu", torch.float32, 16, "run on CUDA, the tensors are on cpu"),
        ("cuda", torch.float64, 16, "no form for torch.float64"),
        ("cuda", torch.float32, 200, "200 channels, more than 128"),
    ],
)
def test_it_says_why_it_cannot_run(
    device: str,
    dtype: torch.dtype,
    channels: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert reason in kernels_backend.why_not(dtype, torch.device(device), channels)


def test_asked_for_by_name_it_is_refused_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    inputs = [torch.zeros(1, 1, 3, d) for d in (2, 2, 4)]
    tables = [torch.zeros(5, d) for d in (2, 2, 4)]
    with pytest.raises(ValueError, match="'triton' can't run here: its kernels run on CUDA"):
        ops.axial_attention(*inputs, *tables, backend="triton")


@pytest.mark.parametrize("length", [1, 7, 16, 33, 513])
@pytest.mark.parametrize("channels", [1, 32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_are_chosen_from_sizes(length: int, channels: int, dtype: torch.dtype) -> None:
    from axial_d2.ops.triton.sizes import block_size

    size = block_size(length, channels, dtype)
    assert size in (16, 32)
    assert size == 16 or (length > 16 and channels <= 64)
