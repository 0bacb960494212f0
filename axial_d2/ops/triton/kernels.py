"""The kernels; `sizes` starts them, `tiles` has what they do with one tile.

Of device memory a kernel takes its inputs and results, never a map of logits; a span does the work
of its band. Operands are of DTYPE, sums in single precision.
"""

# Kernels take what they need one by one.
# ruff: noqa: PLR0913

import triton
import triton.language as tl

from axial_d2.ops.triton.tiles import (
    attention_gradients,
    by_distance,
    by_distance_of_key,
    dot,
    joined,
    load_both_rows,
    load_of_head,
    load_per_query,
    load_result_gradients,
    load_rows,
    load_sums,
    load_tile,
    logit_terms,
    moment_gradients,
    pairs_inside,
    store_tile,
    weights_backward,
)


@triton.jit
def attention(
    q_at, k_at, v_at, rq_at, rk_at, rv_at, scale_at, content_at, position_at, sums_at,
    q_strides, k_strides, v_strides, out_strides,
    strips, heads, length, depth, value_depth, far, half, step,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, VALUES: tl.constexpr, DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Content and position of BLOCK queries; in `sums` (B, G, L, 2) what `load_sums` reads."""
    program = tl.program_id(0)
    head, line = program % heads, (program // heads, strips, program % heads)
    i0 = tl.program_id(1) * BLOCK
    q = load_tile(q_at, q_strides, line, i0, length, depth, BLOCK, DEPTH, DTYPE)
    s0, s1, s2 = load_of_head(scale_at, heads, head)
    most = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    content = tl.zeros((BLOCK, VALUES), tl.float32)
    position = tl.zeros((BLOCK, VALUES), tl.float32)
    for j0 in range(tl.maximum(i0 - half, 0), tl.minimum(i0 + BLOCK + half, length), BLOCK):
        k = load_tile(k_at, k_strides, line, j0, length, depth, BLOCK, DEPTH, DTYPE)
        r0 = j0 - i0 - (BLOCK - 1)
        rq, rk = load_both_rows(rq_at, rk_at, step, head, r0, far, depth, BLOCK, DEPTH, DTYPE)
        x, y, z = logit_terms(q, k, rq, rk, BLOCK, PRECISION)
        inside = pairs_inside(i0, j0, length, half, BLOCK)
        logits = tl.where(inside, s0 * x + s1 * y + s2 * z, -float("inf"))
        now = tl.maximum(most, tl.max(logits, 1))
        # A query that has met no key yet: its maximum is no number to subtract.
        base = tl.where(now == -float("inf"), 0.0, now)
        weights = tl.exp(logits - base[:, None])
        shrink = tl.exp(most - base)
        most = now
        total = total * shrink + tl.sum(weights, 1)
        v = load_tile(v_at, v_strides, line, j0, length, value_depth, BLOCK, VALUES, DTYPE)
        rv = load_rows(rv_at, step, head, r0, far, value_depth, BLOCK, VALUES, DTYPE)
        lines = by_distance(weights, BLOCK).to(DTYPE)
        content = content * shrink[:, None] + dot(weights.to(DTYPE), v, PRECISION)
        position = position * shrink[:, None] + dot(lines, rv, PRECISION)
    place = i0 + tl.arange(0, BLOCK)
    inverse = 1.0 / tl.where(place < length, total, 1.0)
    at = sums_at + (tl.cast(program, tl.int64) * length + place) * 2
    tl.store(at, most, mask=place < length)
    tl.store(at + 1, inverse, mask=place < length)
    content, position = content * inverse[:, None], position * inverse[:, None]
    store_tile(content, content_at, out_strides, line, i0, length, value_depth, BLOCK, VALUES)
    store_tile(position, position_at, out_strides, line, i0, length, value_depth, BLOCK, VALUES)


@triton.jit
def queries_backward(
    q_at, k_at, v_at, rq_at, rk_at, rv_at, numbers_at, content_grad_at, position_grad_at, sums_at,
    delta_at, q_grad_at, scale_grad_at,
    q_strides, k_strides, v_strides, content_grad_strides, position_grad_strides, q_grad_strides,
    strips, heads, length, depth, value_depth, far, half, step,
    MOMENTS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, VALUES: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of BLOCK queries, and their part (3, tiles of queries, B G) of the scales'.

    Leaves in `delta`, (B, G, L), each query's results times their gradients, for the others.
    """
    program = tl.program_id(0)
    head, line = program % heads, (program // heads, strips, program % heads)
    i0 = tl.program_id(1) * BLOCK
    q = load_tile(q_at, q_strides, line, i0, length, depth, BLOCK, DEPTH, DTYPE)
    low, high = tl.maximum(i0 - half, 0), tl.minimum(i0 + BLOCK + half, length)
    delta = tl.zeros((BLOCK,), tl.float32)
    if not MOMENTS:
        dc, dp = load_result_gradients(
            content_grad_at, position_grad_at, content_grad_strides, position_grad_strides,
            line, i0, length, value_depth, BLOCK, VALUES, DTYPE,
        )  # fmt: skip
        sums = load_sums(sums_at, program, i0, length, BLOCK)
        s0, s1, s2 = load_of_head(numbers_at, heads, head)
        # From the map, not from the results: so a query's gradients add up to 0 as rounded, too,
        # and the results need not be kept.
        for j0 in range(low, high, BLOCK):
            r0 = j0 - i0 - (BLOCK - 1)
            k = load_tile(k_at, k_strides, line, j0, length, depth, BLOCK, DEPTH, DTYPE)
            rq, rk = load_both_rows(rq_at, rk_at, step, head, r0, far, depth, BLOCK, DEPTH, DTYPE)
            v = load_tile(v_at, v_strides, line, j0, length, value_depth, BLOCK, VALUES, DTYPE)
            rv = load_rows(rv_at, step, head, r0, far, value_depth, BLOCK, VALUES, DTYPE)
            x, y, z = logit_terms(q, k, rq, rk, BLOCK, PRECISION)
            weights, gradient = weights_backward(
                x, y, z, s0, s1, s2, v, rv, dc, dp, sums,
                pairs_inside(i0, j0, length, half, BLOCK), BLOCK, PRECISION,
            )  # fmt: skip
            delta += tl.sum(weights * gradient, 1)
        place = i0 + tl.arange(0, BLOCK)
        tl.store(delta_at + tl.cast(program, tl.int64) * length + place, delta, mask=place < length)
    total = tl.zeros((BLOCK, DEPTH), tl.float32)
    g0, g1, g2 = 0.0, 0.0, 0.0
    for j0 in range(low, high, BLOCK):
        r0 = j0 - i0 - (BLOCK - 1)
        k = load_tile(k_at, k_strides, line, j0, length, depth, BLOCK, DEPTH, DTYPE)
        rq, rk = load_both_rows(rq_at, rk_at, step, head, r0, far, depth, BLOCK, DEPTH, DTYPE)
        inside = pairs_inside(i0, j0, length, half, BLOCK)
        if MOMENTS:
            d0, d1, _ = moment_gradients(
                q, k, rq, rk, numbers_at, inside, heads, head, BLOCK, PRECISION
            )
        else:
            v = load_tile(v_at, v_strides, line, j0, length, value_depth, BLOCK, VALUES, DTYPE)
            rv = load_rows(rv_at, step, head, r0, far, value_depth, BLOCK, VALUES, DTYPE)
            _, d0, d1, _, t0, t1, t2 = attention_gradients(
                q, k, v, rq, rk, rv, dc, dp, sums, delta, numbers_at, inside, heads, head,
                BLOCK, PRECISION,
            )  # fmt: skip
            g0, g1, g2 = g0 + t0, g1 + t1, g2 + t2
        total += dot(d0.to(DTYPE), k, PRECISION)
        total += dot(by_distance(d1, BLOCK).to(DTYPE), rq, PRECISION)
    store_tile(total, q_grad_at, q_grad_strides, line, i0, length, depth, BLOCK, DEPTH)
    if not MOMENTS:
        tiles = tl.num_programs(1) * tl.num_programs(0)
        at = scale_grad_at + tl.program_id(1) * tl.num_programs(0) + program
        tl.store(at, g0)
        tl.store(at + tiles, g1)
        tl.store(at + 2 * tiles, g2)


@triton.jit
def keys_backward(
    q_at, k_at, v_at, rq_at, rk_at, rv_at, numbers_at, content_grad_at, position_grad_at, sums_at,
    delta_at, k_grad_at, v_grad_at,
    q_strides, k_strides, v_strides, content_grad_strides, position_grad_strides, k_grad_strides,
    v_grad_strides,
    strips, heads, length, depth, value_depth, far, half, step,
    MOMENTS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, VALUES: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of BLOCK keys and of their values."""
    program = tl.program_id(0)
    head, line = program % heads, (program // heads, strips, program % heads)
    j0 = tl.program_id(1) * BLOCK
    k = load_tile(k_at, k_strides, line, j0, length, depth, BLOCK, DEPTH, DTYPE)
    if not MOMENTS:
        v = load_tile(v_at, v_strides, line, j0, length, value_depth, BLOCK, VALUES, DTYPE)
    total = tl.zeros((BLOCK, DEPTH), tl.float32)
    value_total = tl.zeros((BLOCK, VALUES), tl.float32)
    for i0 in range(tl.maximum(j0 - half, 0), tl.minimum(j0 + BLOCK + half, length), BLOCK):
        r0 = j0 - i0 - (BLOCK - 1)
        q = load_tile(q_at, q_strides, line, i0, length, depth, BLOCK, DEPTH, DTYPE)
        rq, rk = load_both_rows(rq_at, rk_at, step, head, r0, far, depth, BLOCK, DEPTH, DTYPE)
        inside = pairs_inside(i0, j0, length, half, BLOCK)
        if MOMENTS:
            d0, _, d2 = moment_gradients(
                q, k, rq, rk, numbers_at, inside, heads, head, BLOCK, PRECISION
            )
        else:
            dc, dp = load_result_gradients(
                content_grad_at, position_grad_at, content_grad_strides, position_grad_strides,
                line, i0, length, value_depth, BLOCK, VALUES, DTYPE,
            )  # fmt: skip
            rv = load_rows(rv_at, step, head, r0, far, value_depth, BLOCK, VALUES, DTYPE)
            sums = load_sums(sums_at, program, i0, length, BLOCK)
            delta = load_per_query(delta_at, 1, program, i0, length, BLOCK)
            weights, d0, _, d2, _, _, _ = attention_gradients(
                q, k, v, rq, rk, rv, dc, dp, sums, delta, numbers_at, inside, heads, head,
                BLOCK, PRECISION,
            )  # fmt: skip
            value_total += dot(tl.trans(weights).to(DTYPE), dc, PRECISION)
        total += dot(tl.trans(d0).to(DTYPE), q, PRECISION)
        total += dot(by_distance_of_key(d2, BLOCK).to(DTYPE), rk, PRECISION)
    store_tile(total, k_grad_at, k_grad_strides, line, j0, length, depth, BLOCK, DEPTH)
    if not MOMENTS:
        store_tile(
            value_total, v_grad_at, v_grad_strides, line, j0, length, value_depth, BLOCK, VALUES
        )


@triton.jit
def rows_backward(
    q_at, k_at, v_at, rq_at, rk_at, rv_at, numbers_at, content_grad_at, position_grad_at, sums_at,
    delta_at, rq_grad_at, rk_grad_at, rv_grad_at,
    q_strides, k_strides, v_strides, content_grad_strides, position_grad_strides,
    all_strips, strips, heads, length, depth, value_depth, far, half, step,
    MOMENTS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, VALUES: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of 2 BLOCK rows of the tables, over every so-many-th strip.

    Tiles whose first key and query are the same number of BLOCKs apart share their rows. Written
    are (chunks, G, distances in BLOCKs, 2 BLOCK, D): no two programs add to one number.
    """
    chunk, head = tl.program_id(0), tl.program_id(1)
    apart = (tl.program_id(2) - tl.num_programs(2) // 2) * BLOCK
    r0 = apart - (BLOCK - 1)
    rq, rk = load_both_rows(rq_at, rk_at, step, head, r0, far, depth, BLOCK, DEPTH, DTYPE)
    if not MOMENTS:
        rv = load_rows(rv_at, step, head, r0, far, value_depth, BLOCK, VALUES, DTYPE)
    q_total = tl.zeros((2 * BLOCK, DEPTH), tl.float32)
    k_total = tl.zeros((2 * BLOCK, DEPTH), tl.float32)
    v_total = tl.zeros((2 * BLOCK, VALUES), tl.float32)
    for strip in range(chunk, all_strips, tl.num_programs(0)):
        program, line = strip * heads + head, (strip, strips, head)
        for i0 in range(tl.maximum(-apart, 0), tl.minimum(length - apart, length), BLOCK):
            j0 = i0 + apart
            q = load_tile(q_at, q_strides, line, i0, length, depth, BLOCK, DEPTH, DTYPE)
            k = load_tile(k_at, k_strides, line, j0, length, depth, BLOCK, DEPTH, DTYPE)
            inside = pairs_inside(i0, j0, length, half, BLOCK)
            if MOMENTS:
                _, d1, d2 = moment_gradients(
                    q, k, rq, rk, numbers_at, inside, heads, head, BLOCK, PRECISION
                )
            else:
                v = load_tile(v_at, v_strides, line, j0, length, value_depth, BLOCK, VALUES, DTYPE)
                dc, dp = load_result_gradients(
                    content_grad_at, position_grad_at, content_grad_strides, position_grad_strides,
                    line, i0, length, value_depth, BLOCK, VALUES, DTYPE,
                )  # fmt: skip
                sums = load_sums(sums_at, program, i0, length, BLOCK)
                delta = load_per_query(delta_at, 1, program, i0, length, BLOCK)
                weights, _, d1, d2, _, _, _ = attention_gradients(
                    q, k, v, rq, rk, rv, dc, dp, sums, delta, numbers_at, inside, heads, head,
                    BLOCK, PRECISION,
                )  # fmt: skip
                lines = tl.trans(by_distance(weights, BLOCK)).to(DTYPE)
                v_total += dot(lines, dp, PRECISION)
            q_total += dot(tl.trans(by_distance(d1, BLOCK)).to(DTYPE), q, PRECISION)
            k_total += dot(tl.trans(by_distance_of_key(d2, BLOCK)).to(DTYPE), k, PRECISION)
    window = (chunk * tl.num_programs(1) + head) * tl.num_programs(2) + tl.program_id(2)
    row = window * 2 * BLOCK + tl.arange(0, 2 * BLOCK)[:, None]
    channel, value = tl.arange(0, DEPTH)[None, :], tl.arange(0, VALUES)[None, :]
    tl.store(rq_grad_at + row * depth + channel, q_total, mask=channel < depth)
    tl.store(rk_grad_at + row * depth + channel, k_total, mask=channel < depth)
    if not MOMENTS:
        tl.store(rv_grad_at + row * value_depth + value, v_total, mask=value < value_depth)


@triton.jit
def moments(
    q_at, k_at, rq_at, rk_at, parts_at, q_strides, k_strides,
    strips, heads, length, depth, far, half, step,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of BLOCK queries' terms the mean and the sum of squares about it: (6, tiles, B G)."""
    program = tl.program_id(0)
    head, line = program % heads, (program // heads, strips, program % heads)
    i0 = tl.program_id(1) * BLOCK
    q = load_tile(q_at, q_strides, line, i0, length, depth, BLOCK, DEPTH, DTYPE)
    before = 0.0
    m0, m1, m2, s0, s1, s2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j0 in range(tl.maximum(i0 - half, 0), tl.minimum(i0 + BLOCK + half, length), BLOCK):
        r0 = j0 - i0 - (BLOCK - 1)
        k = load_tile(k_at, k_strides, line, j0, length, depth, BLOCK, DEPTH, DTYPE)
        rq, rk = load_both_rows(rq_at, rk_at, step, head, r0, far, depth, BLOCK, DEPTH, DTYPE)
        x, y, z = logit_terms(q, k, rq, rk, BLOCK, PRECISION)
        inside = pairs_inside(i0, j0, length, half, BLOCK)
        count = tl.sum(tl.where(inside, 1.0, 0.0))
        m0, s0 = joined(before, m0, s0, count, x, inside)
        m1, s1 = joined(before, m1, s1, count, y, inside)
        m2, s2 = joined(before, m2, s2, count, z, inside)
        before += count
    tiles = tl.num_programs(1) * tl.num_programs(0)
    at = parts_at + tl.program_id(1) * tl.num_programs(0) + program
    tl.store(at, m0)
    tl.store(at + tiles, m1)
    tl.store(at + 2 * tiles, m2)
    tl.store(at + 3 * tiles, s0)
    tl.store(at + 4 * tiles, s1)
    tl.store(at + 5 * tiles, s2)
