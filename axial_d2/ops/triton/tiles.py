"""What the kernels do with one tile.

A tile is BLOCK queries by BLOCK keys of one strip and head. Its relative terms need the table's
rows of 2 BLOCK distances, which lie in shared memory: a product (BLOCK, D) @ (D, 2 BLOCK) holds the
term of query i and key j in line i at column j - i + BLOCK - 1, from where it is gathered. The way
back, from a tile to lines by distance, is a gather too.

Names: i queries, j keys, r columns by distance; `first` the tile's first place in the strip. DEPTH
is the channels' number brought to a power of two.
"""

# Kernels take what they need one by one.
# ruff: noqa: PLR0913

import triton
import triton.language as tl


@triton.jit
def load_tile(at, strides, line, first, length, depth, BLOCK, DEPTH, DTYPE):
    """(BLOCK, DEPTH) places of a (N, S, G, L, D) tensor; zeros beyond the strip and the depth."""
    place, channel = first + tl.arange(0, BLOCK), tl.arange(0, DEPTH)
    inside = ((place >= 0) & (place < length))[:, None] & (channel < depth)[None, :]
    start = at + _start(strides, line)
    places = start + place[:, None] * strides[3] + channel[None, :] * strides[4]
    return tl.load(places, mask=inside, other=0.0).to(DTYPE)


@triton.jit
def store_tile(x, at, strides, line, first, length, depth, BLOCK, DEPTH):
    """Writes what `load_tile` reads."""
    place, channel = first + tl.arange(0, BLOCK), tl.arange(0, DEPTH)
    inside = (place < length)[:, None] & (channel < depth)[None, :]
    start = at + _start(strides, line)
    places = start + place[:, None] * strides[3] + channel[None, :] * strides[4]
    tl.store(places, x.to(at.dtype.element_ty), mask=inside)


@triton.jit
def _start(strides, line):
    """Where in a (N, S, G, L, D) tensor a strip starts; `line` is its number, S and its head."""
    strip, strips, head = tl.cast(line[0], tl.int64), line[1], line[2]
    return strip // strips * strides[0] + strip % strips * strides[1] + head * strides[2]


@triton.jit
def load_rows(at, step, head, first, far, depth, BLOCK, DEPTH, DTYPE):
    """(2 BLOCK, DEPTH) rows of a table, of distances from `first` on; beyond `far` the end rows."""
    distance, channel = first + tl.arange(0, 2 * BLOCK), tl.arange(0, DEPTH)
    row = tl.minimum(tl.maximum(distance, -far), far) + far
    places = at + head * step * depth + row[:, None] * depth + channel[None, :]
    return tl.load(places, mask=(channel < depth)[None, :], other=0.0).to(DTYPE)


@triton.jit
def load_both_rows(rq_at, rk_at, step, head, first, far, depth, BLOCK, DEPTH, DTYPE):
    """The same rows of the queries' and of the keys' table."""
    rq = load_rows(rq_at, step, head, first, far, depth, BLOCK, DEPTH, DTYPE)
    rk = load_rows(rk_at, step, head, first, far, depth, BLOCK, DEPTH, DTYPE)
    return rq, rk


@triton.jit
def load_result_gradients(
    content_at, position_at, content_strides, position_strides, line, first, length, depth,
    BLOCK, DEPTH, DTYPE,
):  # fmt: skip
    """A tile of the gradients of both results."""
    dc = load_tile(content_at, content_strides, line, first, length, depth, BLOCK, DEPTH, DTYPE)
    dp = load_tile(position_at, position_strides, line, first, length, depth, BLOCK, DEPTH, DTYPE)
    return dc, dp


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def by_pair(lines, BLOCK: tl.constexpr):
    """(query, r) to (query, key)."""
    i, j = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    return tl.gather(lines, j - i + BLOCK - 1, 1)


@triton.jit
def by_pair_of_key(lines, BLOCK: tl.constexpr):
    """(key, r) to (query, key)."""
    j, i = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    return tl.trans(tl.gather(lines, j - i + BLOCK - 1, 1))


@triton.jit
def by_distance(pairs, BLOCK: tl.constexpr):
    """(query, key) to (query, r), zero where there is no key."""
    i, r = tl.arange(0, BLOCK)[:, None], tl.arange(0, 2 * BLOCK)[None, :]
    j = r + i - (BLOCK - 1)
    there = (j >= 0) & (j < BLOCK)
    return tl.where(there, tl.gather(pairs, tl.where(there, j, 0), 1), 0.0)


@triton.jit
def by_distance_of_key(pairs, BLOCK: tl.constexpr):
    """(query, key) to (key, r), zero where there is no query."""
    j, r = tl.arange(0, BLOCK)[:, None], tl.arange(0, 2 * BLOCK)[None, :]
    i = j + (BLOCK - 1) - r
    there = (i >= 0) & (i < BLOCK)
    return tl.where(there, tl.gather(tl.trans(pairs), tl.where(there, i, 0), 1), 0.0)


@triton.jit
def pairs_inside(i0, j0, length, half, BLOCK: tl.constexpr):
    """Which pairs of the tile are in the strip and within the span."""
    i, j = i0 + tl.arange(0, BLOCK)[:, None], j0 + tl.arange(0, BLOCK)[None, :]
    near = (j - i <= half) & (i - j <= half)
    return (i < length) & (j < length) & (j >= 0) & near


@triton.jit
def logit_terms(q, k, rq, rk, BLOCK: tl.constexpr, PRECISION: tl.constexpr):
    """q.k, q.rq and k.rk of the pairs, in single precision."""
    content = dot(q, tl.trans(k), PRECISION)
    by_query = by_pair(dot(q, tl.trans(rq), PRECISION), BLOCK)
    by_key = by_pair_of_key(dot(k, tl.trans(rk), PRECISION), BLOCK)
    return content, by_query, by_key


@triton.jit
def load_of_head(at, heads, head):
    """A (3, G) tensor's three numbers of a head."""
    return tl.load(at + head), tl.load(at + heads + head), tl.load(at + 2 * heads + head)


@triton.jit
def load_per_query(at, step, program, first, length, BLOCK: tl.constexpr):
    """A tile's queries' numbers, `step` apart, of a tensor (B, G, L) or (B, G, L, step)."""
    place = first + tl.arange(0, BLOCK)
    there = (place >= 0) & (place < length)
    line = at + (tl.cast(program, tl.int64) * length + place) * step
    return tl.load(line, mask=there, other=0.0)


@triton.jit
def load_sums(at, program, first, length, BLOCK: tl.constexpr):
    """Of a tile's queries the largest logit, and one over the sum of exp(logit - largest).

    Apart, as (B, G, L, 2): their logarithms' sum, rounded, would cost a large logit its digits.
    """
    most = load_per_query(at, 2, program, first, length, BLOCK)
    return most, load_per_query(at + 1, 2, program, first, length, BLOCK)


@triton.jit
def weights_backward(
    x, y, z, s0, s1, s2, v, rv, content_grad, position_grad, sums, inside,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The weights of a tile, and their gradients."""
    logits = tl.where(inside, s0 * x + s1 * y + s2 * z - sums[0][:, None], -float("inf"))
    gradient = dot(content_grad, tl.trans(v), PRECISION)
    gradient += by_pair(dot(position_grad, tl.trans(rv), PRECISION), BLOCK)
    return tl.exp(logits) * sums[1][:, None], gradient


@triton.jit
def attention_gradients(
    q, k, v, rq, rk, rv, content_grad, position_grad, sums, delta, scale_at, inside, heads, head,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of a tile: the weights, the gradients of the three terms, and those of the scales on them."""
    x, y, z = logit_terms(q, k, rq, rk, BLOCK, PRECISION)
    s0, s1, s2 = load_of_head(scale_at, heads, head)
    weights, gradient = weights_backward(
        x, y, z, s0, s1, s2, v, rv, content_grad, position_grad, sums, inside, BLOCK, PRECISION
    )
    gradient = weights * (gradient - delta[:, None])
    return (weights, s0 * gradient, s1 * gradient, s2 * gradient,
            tl.sum(gradient * x), tl.sum(gradient * y), tl.sum(gradient * z))  # fmt: skip


@triton.jit
def moment_gradients(
    q, k, rq, rk, numbers_at, inside, heads, head, BLOCK: tl.constexpr, PRECISION: tl.constexpr
):
    """The gradients of the three terms from those of their moments.

    Each is first + second (term - mean); `numbers` are these three of each term and head.
    """
    x, y, z = logit_terms(q, k, rq, rk, BLOCK, PRECISION)
    a0, a1, a2 = load_of_head(numbers_at, heads, head)
    b0, b1, b2 = load_of_head(numbers_at + 3 * heads, heads, head)
    m0, m1, m2 = load_of_head(numbers_at + 6 * heads, heads, head)
    return (
        tl.where(inside, a0 + b0 * (x - m0), 0.0),
        tl.where(inside, a1 + b1 * (y - m1), 0.0),
        tl.where(inside, a2 + b2 * (z - m2), 0.0),
    )


@triton.jit
def joined(before, mean, squares, count, term, inside):
    """Mean and squares about it of the numbers so far and of a tile's (Chan et al., 1983)."""
    # The middle tile of a band has pairs; one at its end may have none.
    some = tl.maximum(count, 1.0)
    here = tl.sum(tl.where(inside, term, 0.0)) / some
    away = tl.where(inside, term - here, 0.0)
    apart, everything = here - mean, tl.maximum(before + count, 1.0)
    middle = mean + apart * (count / everything)
    return middle, squares + tl.sum(away * away) + apart * apart * (before * count / everything)
