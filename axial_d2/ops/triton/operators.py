"""The launches as operators that `torch.compile` takes as they are."""

import math
from functools import partial

import torch
from torch import Tensor

from axial_d2.ops import reference
from axial_d2.ops.library import define
from axial_d2.ops.triton.sizes import Sizes

# Programs that the tables' gradients are divided into, a few for each multiprocessor.
ROWS_PROGRAMS = 1024


def _forward(
    q: Tensor, k: Tensor, v: Tensor, rq: Tensor, rk: Tensor, rv: Tensor, scale: Tensor, half: int
) -> tuple[Tensor, Tensor, Tensor]:
    tables = [t.contiguous() for t in (rq, rk, rv)]
    content, position, sums = _results(q, v)
    sizes = Sizes.of(q, v, tables, half)
    sizes.launch(
        "attention",
        sizes.per_tile,
        *(q, k, v, *tables, scale.contiguous(), content, position, sums),
        *(t.stride() for t in (q, k, v, content)),
    )
    return content, position, sums


def _backward(
    content_grad: Tensor, position_grad: Tensor, q: Tensor, k: Tensor, v: Tensor,
    rq: Tensor, rk: Tensor, rv: Tensor, scale: Tensor, sums: Tensor, half: int,
) -> list[Tensor]:  # fmt: skip
    tables = [t.contiguous() for t in (rq, rk, rv)]
    grads = (content_grad, position_grad)
    return _gradients(q, k, v, tables, scale.contiguous(), grads, sums, half)


def _moments_forward(
    q: Tensor, k: Tensor, rq: Tensor, rk: Tensor, half: int
) -> tuple[Tensor, Tensor]:
    tables = [t.contiguous() for t in (rq, rk)]
    sizes = Sizes.of(q, None, tables, half)
    tiles, programs = sizes.tiles, sizes.per_tile[0]
    parts = q.new_empty(2, 3, tiles, programs, dtype=torch.float32)
    strides = (q.stride(), k.stride())
    sizes.launch("moments", sizes.per_tile, q, k, *tables, parts, *strides)
    # [mean or squares, term, tile, strip, head] in double precision: millions of them are added.
    means, squares = parts.double().unflatten(3, (-1, sizes.heads))
    place = torch.arange(sizes.length, device=q.device)
    seen = (place + half).clamp_max(sizes.length - 1) - (place - half).clamp_min(0) + 1
    missing = tiles * sizes.block - sizes.length
    counts = torch.nn.functional.pad(seen, (0, missing)).view(tiles, -1).sum(dim=1)  # (tiles,)
    counts = counts[:, None, None].double()
    strips, pairs = means.shape[2], reference.pairs_in_band(sizes.length, 2 * half + 1)
    mean = (means * counts).sum(dim=(1, 2)) / (strips * pairs)  # (3, G)
    apart = (means - mean[:, None, None]).square() * counts
    variance = (squares + apart).sum(dim=(1, 2)) / (strips * pairs)
    return mean.float(), variance.float()


def _moments_backward(
    mean_grad: Tensor, variance_grad: Tensor, q: Tensor, k: Tensor, rq: Tensor, rk: Tensor,
    mean: Tensor, half: int,
) -> list[Tensor]:  # fmt: skip
    strips, length = q.shape[0] * q.shape[1], q.shape[3]
    count = strips * reference.pairs_in_band(length, 2 * half + 1)
    # The gradient of one logit x is (mean_grad + 2 variance_grad (x - mean)) / count.
    numbers = torch.stack([mean_grad / count, 2 * variance_grad / count, mean]).float()
    tables = [t.contiguous() for t in (rq, rk)]
    return _gradients(q, k, None, tables, numbers, None, None, half)


def _gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    tables: list[Tensor],
    numbers: Tensor,
    result_grads: tuple[Tensor, Tensor] | None,
    sums: Tensor | None,
    half: int,
) -> list[Tensor]:
    """The gradients of q, k, v, the tables and the scale; without v, from moments, of four."""
    sizes = Sizes.of(q, v, tables, half)
    options = {"MOMENTS": v is None}
    grads = [torch.empty_like(t) for t in (q, k)]
    # What the kernels of moments never touch still wants an address and strides.
    value, value_table = (q, tables[0]) if v is None else (v, tables[2])
    of_results = (q, q) if result_grads is None else result_grads
    value_grad = q if v is None else torch.empty_like(v)
    known = q.new_empty(0, dtype=torch.float32) if sums is None else sums
    delta = q.new_empty(q.shape[:-1], dtype=torch.float32)
    scale_grad = q.new_empty(3, sizes.tiles, sizes.per_tile[0], dtype=torch.float32)
    given = (q, k, value, *tables[:2], value_table, numbers, *of_results, known, delta)
    strides = [t.stride() for t in (q, k, value, *of_results)]
    sizes.launch(
        "queries_backward", sizes.per_tile, *given, grads[0], scale_grad,
        *strides, grads[0].stride(), **options,
    )  # fmt: skip
    sizes.launch(
        "keys_backward", sizes.per_tile, *given, grads[1], value_grad,
        *strides, grads[1].stride(), value_grad.stride(), **options,
    )  # fmt: skip
    # Distances of tiles, in blocks, that have pairs within the span.
    apart = min(sizes.tiles - 1, (half + sizes.block - 1) // sizes.block)
    windows = 2 * apart + 1
    strips = q.shape[0] * q.shape[1]
    chunks = min(strips, math.ceil(ROWS_PROGRAMS / (sizes.heads * windows)))
    grid = (chunks, sizes.heads, windows)
    row_grads = [
        t.new_empty(*grid, 2 * sizes.block, t.shape[-1], dtype=torch.float32) for t in tables
    ]
    written = row_grads if v is not None else [*row_grads, numbers]
    sizes.launch("rows_backward", grid, *given, *written, *strides, strips, **options)
    far = tables[0].shape[1] // 2
    row = torch.arange(-apart, apart + 1, device=q.device)[:, None] * sizes.block
    row = row + torch.arange(1 - sizes.block, sizes.block + 1, device=q.device)
    row = (row.clamp(-far, far) + far).flatten()
    for table, windows_grad in zip(tables, row_grads, strict=True):
        lines = windows_grad.sum(dim=0).flatten(1, 2)  # (G, rows, D)
        if len(table) == 1:
            lines = lines.sum(dim=0, keepdim=True)
        grad = torch.zeros_like(table, dtype=torch.float32)
        grads.append(grad.index_add_(1, row, lines).to(table.dtype))
    if v is None:
        return grads
    by_head = scale_grad.unflatten(2, (-1, sizes.heads)).sum(dim=(1, 2))  # (3, G)
    return [*grads[:2], value_grad, *grads[2:], by_head]


def _results(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # `empty_like` keeps the order of the strides: results lie as the values do.
    sums = q.new_empty(*q.shape[:-1], 2, dtype=torch.float32)
    return torch.empty_like(v), torch.empty_like(v), sums


def _fake_forward(
    q: Tensor, k: Tensor, v: Tensor, rq: Tensor, rk: Tensor, rv: Tensor, scale: Tensor, half: int
) -> tuple[Tensor, Tensor, Tensor]:
    return _results(q, v)


def _fake_backward(*arguments: Tensor | int) -> list[Tensor]:
    return [torch.empty_like(t) for t in arguments[2:9]]


def _fake_moments(q: Tensor, k: Tensor, rq: Tensor, rk: Tensor, half: int) -> tuple[Tensor, Tensor]:
    moment = q.new_empty(3, q.shape[2], dtype=torch.float32)
    return moment, torch.empty_like(moment)


def _fake_moments_backward(*arguments: Tensor | int) -> list[Tensor]:
    return [torch.empty_like(t) for t in arguments[2:6]]


# On whatever device the kernels run: a GPU, or the CPU by the interpreter.
_define = partial(define, on="CompositeExplicitAutograd")
_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor rq, Tensor rk, Tensor rv, Tensor scale"
_PAIRS = "Tensor q, Tensor k, Tensor rq, Tensor rk"
attention = _define("triton_attention", f"{_INPUTS}, int half", 3, run=_forward, fake=_fake_forward)
attention_backward = _define(
    "triton_attention_backward",
    f"Tensor content_grad, Tensor position_grad, {_INPUTS}, Tensor sums, int half",
    7,
    run=_backward,
    fake=_fake_backward,
)
moments = _define(
    "triton_moments", f"{_PAIRS}, int half", 2, run=_moments_forward, fake=_fake_moments
)
moments_backward = _define(
    "triton_moments_backward",
    f"Tensor mean_grad, Tensor variance_grad, {_PAIRS}, Tensor mean, int half",
    4,
    run=_moments_backward,
    fake=_fake_moments_backward,
)
