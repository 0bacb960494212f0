"""Runs the Triton kernels and the reference on the same numbers; prints the errors as JSON.

    TRITON_INTERPRET=1 python tests/ops/triton_cases.py [NAME ...]

A process of its own: triton's interpreter must be asked for before anything imports triton. Without
it the kernels run on the GPU.
"""

import json
import os
import sys
from functools import partial

import torch
from torch import Tensor

from axial_d2 import ops
from axial_d2.layers import AxialAttention1d
from axial_d2.ops.triton import sizes

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
HEADS = 2
NAMES = ("content", "position", "mean", "variance", "normalized content", "normalized position")
GRADIENTS = ("q", "k", "v", "query_table", "key_table", "value_table", "scale")
# Strips of a picture, length, span, distances in the table, depth, value depth, which tables are
# per head, type.
CASES = {
    "one position": (2, 1, None, 2, 3, 6, (False,) * 3, "float32"),
    "a prime length, a span": (2, 7, 3, 9, 3, 6, (False,) * 3, "float32"),
    "tiles, a table shorter than the strip": (1, 17, None, 4, 4, 9, (True,) * 3, "float32"),
    "tiles, a span of less than one": (1, 33, 9, 50, 4, 9, (False, True, False), "float32"),
    "deep heads": (1, 5, None, 6, 20, 33, (False,) * 3, "float32"),
    "float16, a span of more than a tile": (1, 17, 31, 30, 1, 2, (False,) * 3, "float16"),
    "bfloat16": (1, 5, None, 30, 4, 9, (False,) * 3, "bfloat16"),
}


def draw(
    strips: int, length: int, distance: int, depth: int, value_depth: int, per_head: tuple
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    depths = (depth, depth, value_depth)
    # Strips of two pictures, as an attention layer cuts them out of a map: channels last.
    shapes = [(2, strips, length, HEADS, d) for d in depths]
    shapes += [
        (*([HEADS] if own else []), 2 * distance + 1, d)
        for own, d in zip(per_head, depths, strict=True)
    ]
    drawn = [torch.randn(s, generator=generator) for s in shapes]
    scale = torch.rand(3, HEADS, generator=generator)
    return [*(t.transpose(2, 3) for t in drawn[:3]), *drawn[3:], scale]


def run(backend: str, inputs: list[Tensor], span: int | None, dtype: torch.dtype) -> list[Tensor]:
    """The results named by NAMES, then the gradients named by GRADIENTS."""
    device = DEVICE if backend == "triton" else "cpu"
    inputs = [t.detach().to(device, dtype).requires_grad_() for t in inputs]
    *tensors, scale = inputs
    with ops.record_backends() as ran:
        outputs = [*ops.axial_attention(*tensors, logit_scale=scale, span=span, backend=backend)]
        outputs += ops.logit_moments(*tensors[:2], *tensors[3:5], span=span, backend=backend)[:2]
        outputs += ops.normalized_axial_attention(
            *tensors,
            scale_of=lambda mean, variance, _: scale * (variance + 0.1).rsqrt() + 0.1 * mean,
            span=span,
            backend=backend,
        )
    assert ran == [backend] * 2, ran  # The moments alone are not recorded.
    waves = [torch.sin(torch.arange(o.numel()) + 1.0).view(o.shape).to(o) for o in outputs]
    sum((o * w).sum() for o, w in zip(outputs, waves, strict=True)).backward()
    assert all(t.grad.shape == t.shape and t.grad.dtype == dtype for t in inputs)
    return [t.detach().cpu().double() for t in (*outputs, *(t.grad for t in inputs))]


def errors(name: str) -> dict[str, tuple[float, float]]:
    """By name of the result: the kernels' error, root mean square, and the one that is allowed."""
    strips, length, span, distance, depth, value_depth, per_head, kind = CASES[name]
    dtype = getattr(torch, kind)
    inputs = [t.to(dtype) for t in draw(strips, length, distance, depth, value_depth, per_head)]
    exact = run("reference", inputs, span, torch.float64)
    eager, ours = (run(b, inputs, span, dtype) for b in ("reference", "triton"))
    found = {}
    for label, true, plain, fast in zip((*NAMES, *GRADIENTS), exact, eager, ours, strict=True):
        # Twice the reference's own error, or four roundings of the largest value.
        roundings = 4 * torch.finfo(dtype).eps * true.abs().max()
        bound = max(2 * (plain - true).square().mean().sqrt(), roundings)
        found[label] = (float((fast - true).square().mean().sqrt()), float(bound))
    return found


def large_mean() -> dict[str, tuple[float, float]]:
    """Of moments where queries and keys are far from zero: the relative error and the bound."""
    q, k, _, rq, rk, *_ = draw(1, 17, 30, 4, 4, (False,) * 3)
    q, k = 10 + q, 10 + k
    exact = ops.logit_moments(*(t.double() for t in (q, k, rq, rk)), backend="reference")
    ours = ops.logit_moments(*(t.to(DEVICE) for t in (q, k, rq, rk)), backend="triton")
    names = ("mean", "variance")
    return {
        n: (float(((a.cpu() - b) / b).abs().max()), 1e-5)
        for n, a, b in zip(names, ours, exact, strict=False)
    }


def layer() -> dict[str, tuple[float, float]]:
    """A layer in training and in evaluation, its backends against each other."""
    torch.manual_seed(3)
    found = {}
    for backend in ("reference", "triton"):
        device = DEVICE if backend == "triton" else "cpu"
        torch.manual_seed(3)
        one = AxialAttention1d(
            in_channels=6, out_channels=8, axis="height", num_heads=HEADS, backend=backend
        ).to(device)
        x = torch.randn(1, 6, 5, 2).to(device).requires_grad_()
        y = one(x)
        (y * y.detach().cos()).sum().backward()
        results = [y, x.grad, *(p.grad for p in one.parameters()), *one.buffers()]
        with torch.no_grad():
            results.append(one.eval()(x))
        found[backend] = [t.detach().cpu().double() for t in results]
    pairs = zip(found["triton"], found["reference"], strict=True)
    return {
        str(n): (float((a - b).abs().max()), 1e-5 * max(1.0, float(b.abs().max())))
        for n, (a, b) in enumerate(pairs)
    }


EVERYTHING = {
    **{name: partial(errors, name) for name in CASES},
    "a large mean": large_mean,
    "a layer": layer,
}


def main() -> None:
    # Small tiles, so that short strips have several: the interpreter is slow.
    sizes.block_size = lambda *_: 16
    json.dump({name: EVERYTHING[name]() for name in sys.argv[1:] or EVERYTHING}, sys.stdout)


if __name__ == "__main__":
    main()
