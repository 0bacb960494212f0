"""The C++ operator: that it runs, on whatever strides, threads and lanes; and how it is built."""

import ctypes
import importlib.util
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from axial_d2 import ops
from axial_d2.layers import AxialAttention1d
from axial_d2.ops import compiled, cpp_build, cpp_call

HERE = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(
    compiled._why_not_built() is not None, reason=f"not built: {compiled._why_not_built()}"
)


def draw(*strips: int, length: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = [(*strips, 3, length, d) for d in (4, 4, 9)] + [(15, d) for d in (4, 4, 9)]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def results_and_gradients(inputs: list[Tensor], backend: str, **options) -> list[Tensor]:
    results = ops.axial_attention(*inputs, backend=backend, **options)
    waves = (r * torch.sin(torch.arange(r.numel(), dtype=r.dtype)).view_as(r) for r in results)
    return [*results, *torch.autograd.grad(sum(w.sum() for w in waves), inputs)]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("strips", [1, 7, 8, 9, 17, 33, 70])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("length", "span"), [(1, None), (3, 3), (10, 5), (21, None), (22, 41)])
def test_any_number_of_strips_and_threads(
    strips: int, threads: int, length: int, span: int | None
) -> None:
    inputs, before = draw(strips, length=length), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = results_and_gradients(inputs, "compiled", span=span)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(got, results_and_gradients(inputs, "reference", span=span), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@needs_compiler
@pytest.mark.parametrize("strips", [8, 300])  # Heads one by one, and strips by strips.
@pytest.mark.parametrize("depth", [1, 2, 5, 8])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("span", [None, 7])
def test_single_precision_with_tables_of_each_head(
    two_threads: None, strips: int, depth: int, scaled: bool, span: int | None
) -> None:
    generator = torch.Generator().manual_seed(3)
    widths = (depth, depth, 2 * depth + 1)
    shapes = [(strips, 3, 11, d) for d in widths] + [(3, 25, d) for d in widths]
    inputs = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    scale = torch.rand(3, 3, generator=generator) if scaled else None
    got = results_and_gradients(inputs, "compiled", logit_scale=scale, span=span)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    scale = scale.double() if scaled else None
    wanted = results_and_gradients(exact, "reference", logit_scale=scale, span=span)
    for one, other in zip(got, wanted, strict=True):
        error = (one.double() - other).abs().max()
        assert error <= 2e-6 * other.abs().max()


@needs_compiler
@pytest.mark.parametrize("compiler", ["clang++", "ziglang"])
def test_another_compiler(own_cache: Path, compiler: str) -> None:
    package = compiler == cpp_build.PACKAGE
    found = importlib.util.find_spec(compiler) if package else shutil.which(compiler)
    if found is None:
        pytest.skip(f"no {compiler}")
    command = f"{sys.executable} -m {compiler} c++" if package else compiler
    inputs = draw(33, length=10, dtype=torch.float32)
    wanted = results_and_gradients(inputs, "compiled")
    torch.save((inputs, wanted), own_cache.parent / "wanted.pt")
    code = (
        "import torch, sys; from tests.ops.test_compiled import results_and_gradients as run\n"
        "inputs, wanted = torch.load(sys.argv[1])\n"
        "inputs = [t.requires_grad_() for t in inputs]\n"
        "for one, other in zip(run(inputs, 'compiled'), wanted, strict=True):\n"
        "    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)\n"
    )
    environment = {**os.environ, "CXX": command}
    line = [sys.executable, "-c", code, str(own_cache.parent / "wanted.pt")]
    subprocess.run(line, check=True, cwd=HERE, env=environment, timeout=300)


@needs_compiler
def test_the_pool_that_is_named_does_the_work(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = draw(40, length=10)
    wanted = results_and_gradients(inputs, "compiled")
    if "OpenMP" in torch.__config__.parallel_info():
        assert cpp_call.parallel()
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    calls = []

    @ctypes.CFUNCTYPE(None, body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def one_after_the_other(run, argument, threads, flags) -> None:
        calls.append((threads, flags))
        for _ in range(threads):
            run(argument)

    address = ctypes.cast(one_after_the_other, ctypes.c_void_p).value
    for pool in (address, None):  # None: a torch without OpenMP.
        monkeypatch.setattr(cpp_call, "parallel", lambda pool=pool: pool)
        for one, other in zip(results_and_gradients(inputs, "compiled"), wanted, strict=True):
            assert torch.equal(one, other)
    assert calls == [(2, 0)] * 2  # Forward and backward.


@needs_compiler
@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir() or "OpenMP" not in torch.__config__.parallel_info(),
    reason="threads can't be listed, or torch has none of OpenMP's",
)
def test_no_other_threads_come_and_go() -> None:
    # Two tasks for four threads: GNU's pool ends those that it is not asked for.
    code = (
        "import os, torch; from axial_d2 import ops\n"
        "torch.set_num_threads(4)\n"
        "x = torch.randn(1000, 1000)\n"
        "t = [torch.randn(2, 2, 9, 4) for _ in range(3)]\n"
        "t += [torch.randn(17, 4) for _ in range(3)]\n"
        "def threads(): return sorted(os.listdir('/proc/self/task'))\n"
        "x.exp(); before = threads()\n"
        "for _ in range(3): ops.axial_attention(*t, backend='compiled'); x.exp()\n"
        "assert len(before) >= 4 and threads() == before, (before, threads())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE)


def test_a_compiler_of_pypis_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    (tmp_path / f"{cpp_build.PACKAGE}.py").touch()
    (tmp_path / "c++").touch(mode=0o755)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cpp_build.find_compiler() == [str(tmp_path / "c++")]
    monkeypatch.setenv("PATH", "")
    assert cpp_build.find_compiler() == [sys.executable, "-m", cpp_build.PACKAGE, "c++"]
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(cpp_build.NotBuilt, match="found: no-such-compiler$"):
        cpp_build.find_compiler()


@needs_compiler
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 0, 3, 1, 2), (1, 3, 2, 4, 0)])
def test_tensors_are_read_and_written_where_they_lie(order: tuple[int, ...]) -> None:
    inputs = draw(2, 5, length=6)
    back = [order.index(n) for n in range(5)]
    laid = [t.detach().permute(order).contiguous().permute(back) for t in inputs[:3]]
    laid = [t.requires_grad_() for t in (*laid, *inputs[3:])]
    got = results_and_gradients(laid, "compiled")
    assert got[0].stride() == laid[2].stride() and got[2].stride() == laid[0].stride()
    for one, other in zip(got, results_and_gradients(inputs, "reference"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@needs_compiler
def test_gradients_by_finite_differences() -> None:
    inputs = draw(3, length=5)
    scale = torch.rand(3, 3, dtype=torch.float64, requires_grad=True)

    def attend(*tensors: Tensor) -> tuple[Tensor, ...]:
        return ops.axial_attention(
            *tensors[:-1], logit_scale=tensors[-1], span=5, backend="compiled"
        )

    assert torch.autograd.gradcheck(attend, (*inputs, scale))


@needs_compiler
def test_layers_take_it_by_themselves() -> None:
    layer = AxialAttention1d(in_channels=8, out_channels=16, axis="width")
    with ops.record_backends() as ran:
        layer(torch.randn(1, 8, 5, 6)).sum().backward()
        with torch.no_grad():
            layer.eval()(torch.randn(1, 8, 5, 6))
    assert ran == 2 * ["compiled"]


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_not_hidden(bad: float) -> None:
    inputs = [t.detach().float() for t in draw(9, length=7)]
    inputs[0][4, 1, 3, 2] = bad
    content, position = ops.axial_attention(*inputs, backend="compiled")
    for result in (content, position):
        wrong = ~result.isfinite()
        assert wrong[4, 1, 3].all() and wrong.sum() == result.shape[-1]


@needs_compiler
@pytest.mark.parametrize("span", [None, 3])
def test_logits_that_are_all_minus_infinity_give_no_number(span: int | None) -> None:
    shapes = [(9, 1, 8, 1)] * 3 + [(15, 1)] * 3
    inputs = [torch.zeros(s) for s in shapes]
    inputs[0][4, 0, 3], inputs[1][4] = -1e30, 1e30
    for backend in ("compiled", "reference"):
        for result in ops.axial_attention(*inputs, span=span, backend=backend):
            assert result[4, 0, 3].isnan().all() and result.isnan().sum() == 1


@needs_compiler
@pytest.mark.parametrize(("length", "span", "at"), [(18, 19, 13), (8, 1, 0), (9, 3, 8), (13, 5, 6)])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_a_number_stays_within_the_span(
    length: int, span: int, at: int, which: int
) -> None:
    """The one of all four queries from a multiple of four: they are worked on together."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, 1, length, d) for d in (2, 2, 3)] + [(2 * length - 1, d) for d in (2, 2, 3)]
    inputs = [torch.randn(s, generator=generator) for s in shapes]
    inputs[which][1, 0, at] = torch.nan
    half, places = span // 2, torch.arange(length)
    first = places[:, None] // 4 * 4
    sees = (places >= first - half) & (places <= first + 3 + half)  # [query][key]
    wrong = places == at if which == 0 else sees[:, at]  # Of the queries.
    inputs = [t.requires_grad_() for t in inputs]
    content, position, *gradients = results_and_gradients(inputs, "compiled", span=span)
    results = [content, position] if which < 2 else [content]
    assert all((r[1, 0].isnan().any(dim=-1) <= wrong).all() for r in results)
    assert all(r[1, 0, max(0, at - half) : at + half + 1].isnan().any() for r in results)
    for gradient in gradients[:3]:
        reached = wrong if gradient is gradients[0] else sees[wrong].any(dim=0)
        assert (gradient[1, 0].isnan().any(dim=-1) <= reached).all()
        assert gradient[[0, 2]].isfinite().all()
    if which == 0:  # Its weights are no numbers, those outside the span remain zero.
        beyond = (places - at).abs() > half
        assert gradients[2][1, 0, beyond].isfinite().all()


@needs_compiler
def test_large_logits_do_not_overflow() -> None:
    inputs = [50 * t.detach().float() for t in draw(9, length=7)]
    got = ops.axial_attention(*inputs, backend="compiled")
    exact = ops.axial_attention(*(t.double() for t in inputs), backend="reference")
    for one, other in zip(got, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-3)


@needs_compiler
def test_torch_compile_takes_it_whole() -> None:
    inputs = draw(2, 5, length=6)

    def attend(*tensors: Tensor) -> Tensor:
        content, position = compiled.axial_attention(*tensors)
        return (content.sin() + position).sum()

    whole = torch.compile(attend, backend="aot_eager", fullgraph=True)
    grads = [torch.autograd.grad(f(*inputs), inputs) for f in (attend, whole)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@needs_compiler
def test_a_trace_does_without() -> None:
    layer = AxialAttention1d(in_channels=8, out_channels=16, axis="width").eval()
    x, other = torch.randn(1, 8, 5, 6), torch.randn(1, 8, 5, 6)
    with torch.no_grad():
        traced = torch.jit.trace(layer, x)
        assert "axial_d2::" not in str(traced.inlined_graph)
        torch.testing.assert_close(traced(other), layer(other), rtol=1e-4, atol=1e-5)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cpp_build.CACHE, str(tmp_path / "cache"))
    cpp_build.load.cache_clear()
    yield tmp_path / "cache"
    cpp_build.load.cache_clear()


def small_source(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    folder.mkdir()
    (folder / "small.cpp").write_text(text)
    monkeypatch.setattr(cpp_build, "SOURCES", folder)


@needs_compiler
def test_it_is_built_once_and_says_so(
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    small_source(tmp_path / "cpp", monkeypatch, 'extern "C" int answer() { return 42; }')
    with caplog.at_level(logging.INFO, logger="axial_d2.ops.cpp_build"):
        assert cpp_build.load("small").answer() == 42
        assert [r.message.split()[0] for r in caplog.records] == ["building", "built"]
        (made,) = own_cache.iterdir()
        time = made.stat().st_mtime_ns
        cpp_build.load.cache_clear()
        assert cpp_build.load("small").answer() == 42
    assert len(caplog.records) == 2 and made.stat().st_mtime_ns == time
    (tmp_path / "cpp/small.cpp").write_text('extern "C" int answer() { return 43; }')
    cpp_build.load.cache_clear()
    assert cpp_build.load("small").answer() == 43
    assert len(list(own_cache.iterdir())) == 2


@needs_compiler
def test_a_source_that_fails_leaves_nothing(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(tmp_path / "cpp", monkeypatch, "int answer( {")
    with pytest.raises(cpp_build.NotBuilt, match=r"could not build small\.cpp: .*error"):
        cpp_build.load("small")
    assert list(own_cache.iterdir()) == []


@needs_compiler
def test_a_broken_library_is_built_anew(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(tmp_path / "cpp", monkeypatch, 'extern "C" int answer() { return 44; }')
    build = cpp_build._build
    monkeypatch.setattr(cpp_build, "_build", lambda *args: args[2].write_bytes(b"no library"))
    with pytest.raises(cpp_build.NotBuilt, match="can't be loaded"):
        cpp_build.load("small")
    (made,) = own_cache.iterdir()
    assert made.read_bytes() == b"no library"
    monkeypatch.setattr(cpp_build, "_build", build)
    assert cpp_build.load("small").answer() == 44


@needs_compiler
def test_a_cache_that_cannot_be_written_costs_the_keeping_alone(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(tmp_path / "cpp", monkeypatch, 'extern "C" int answer() { return 42; }')
    own_cache.write_text("a file in its place")
    assert cpp_build.load("small").answer() == 42


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AXIAL_D2_CPP", "0", "AXIAL_D2_CPP is 0"),
        ("CXX", "no-such-compiler", "no C.. compiler found: no-such-compiler"),
        ("CXX", "no-such-compiler -O1", "no C.. compiler found: no-such-compiler -O1"),
        ("CXX", "g++ '", "CXX: No closing quotation"),
        ("PATH", "", "no C.. compiler found: c.., g.., clang.."),
    ],
)
def test_without_it_the_plain_backends_run_and_the_reason_is_told(
    variable: str, value: str, message: str
) -> None:
    if variable == "PATH" and importlib.util.find_spec(cpp_build.PACKAGE):
        pytest.skip(f"{cpp_build.PACKAGE} is a compiler")
    program = (
        "import torch; from axial_d2 import ops\n"
        "t = [torch.randn(2, 1, 5, 3) for _ in range(3)] + [torch.randn(3, 3) for _ in range(3)]\n"
        "with ops.record_backends() as ran: ops.axial_attention(*t)\n"
        "print(ran)\n"
        "try: ops.axial_attention(*t, backend='compiled')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=HERE,
        env={"PATH": "/usr/bin:/bin", "HOME": str(HERE), variable: value},
    )
    first, second = done.stdout.splitlines()
    assert first == "['kept']" and done.stderr == ""
    assert re.search(message, second)


@needs_compiler
def test_a_compiler_with_options(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(tmp_path / "cpp", monkeypatch, 'extern "C" int answer() { return ANSWER; }')
    with pytest.raises(cpp_build.NotBuilt, match="could not build"):
        cpp_build.load("small")
    cpp_build.load.cache_clear()
    monkeypatch.setenv("CXX", f"{cpp_build.find_compiler()[0]} '-DANSWER=40 + 2'")
    assert cpp_build.load("small").answer() == 42


@needs_compiler
def test_a_compilers_own_cache_passes_with_the_build(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(tmp_path / "cpp", monkeypatch, 'extern "C" int answer() { return 42; }')
    real, seen, wrapper = cpp_build.find_compiler(), tmp_path / "seen", tmp_path / "wrapper"
    wrapper.write_text(
        f'#!/bin/sh\nprintf "$ZIG_GLOBAL_CACHE_DIR" > {seen}\nexec {shlex.join(real)} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    assert cpp_build.load("small").answer() == 42
    assert Path(seen.read_text()).parent == own_cache
    assert [path.suffix for path in own_cache.iterdir()] == [".so"]


@needs_compiler
def test_a_changed_header_is_built_anew(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = '#include "answer.h"\nextern "C" int answer() { return ANSWER; }'
    small_source(tmp_path / "cpp", monkeypatch, source)
    for answer in (41, 42):
        (tmp_path / "cpp" / "answer.h").write_text(f"#define ANSWER {answer}")
        assert cpp_build.load("small").answer() == answer
        cpp_build.load.cache_clear()


@needs_compiler
def test_what_is_built_is_used_where_it_cannot_be_written(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(tmp_path / "cpp", monkeypatch, 'extern "C" int answer() { return 42; }')
    cpp_build.load("small")
    cpp_build.load.cache_clear()
    monkeypatch.setattr(cpp_build, "_writable", lambda *_: pytest.fail("wants to build again"))
    assert cpp_build.load("small").answer() == 42


def test_no_folder_to_build_in_is_no_compiler(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_source(tmp_path / "cpp", monkeypatch, 'extern "C" int answer() { return 42; }')
    own_cache.write_text("a file in its place")
    monkeypatch.setattr(cpp_build.tempfile, "tempdir", "/nonexistent")
    with pytest.raises(cpp_build.NotBuilt, match="no folder to build in|no C\\+\\+ compiler"):
        cpp_build.load("small")
