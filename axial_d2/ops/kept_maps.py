"""The maps of `kept`, and the products that make them and take them back.

A relative term is a product per position, not per strip: the query at place i of every strip meets
the same L rows of the table, so that the places are the batch and the strips the rows of one matrix
product. No pair outside the strip is computed and no map is skewed. With R[i, j] = row j - i:

    q.rq [i, :, j] = q[:, i] @ R[i].T        (strips, D) @ (D, L)
    k.rk [j, :, i] = k[:, j] @ R[:, j].T     the same with keys and queries exchanged

Inside, the heads come first, (G, B, L, D), and heads that share a table are strips like any other:
T tables (1 or G) of M strips each, T M = G B.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from axial_d2.ops import products, reference


class Maps(NamedTuple):
    """The logit terms, each in the layout its product leaves it in.

    Attributes:
        content: (G, B, L, L), q.k, [head, strip, query, key].
        query: (T, L, M, L), q.rq, [table, query, strip, key].
        key: (T, L, M, L), k.rk, [table, key, strip, query].
    """

    content: Tensor
    query: Tensor
    key: Tensor


def windows(table: Tensor, length: int, *, by_key: bool = False) -> Tensor:
    """The rows that each place of a strip meets, the end rows repeated.

    Args:
        table: (R, D) or (G, R, D).
        length: L.
        by_key: the place is the key's, and its rows belong to the queries.

    Returns:
        (T, L, D, L), T tables: at [t, i, :, j] the row of distance j - i; i - j by key.
    """
    (rows,) = reference.rows_in_use(table, length=length)  # (T, 2 L - 1, D)
    if by_key:
        rows = rows.flip(1)
    return rows.unfold(1, length, 1).flip(1)  # windows that start at 1 - L, .. 0; wanted from 0 on


def make_maps(q: Tensor, k: Tensor, query_rows: Tensor, key_rows: Tensor) -> Maps:
    """The terms as they are, of pairs outside the span too."""
    return Maps(
        q @ k.mT,
        by_place(q, len(query_rows)) @ query_rows,
        by_place(k, len(key_rows)) @ key_rows,
    )


def gradients(
    q: Tensor, k: Tensor, query_rows: Tensor, key_rows: Tensor, maps: Maps, factor: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """From the gradients of the terms to those of what the terms are made of.

    Args:
        q: (G, B, L, D).
        k: (G, B, L, D).
        query_rows: (T, L, D, L).
        key_rows: (T, L, D, L).
        maps: the gradients, but for a factor per term and head.
        factor: (3, G), that factor.

    Returns:
        The gradients of q, k, query_rows and key_rows; and that of the factor, (3, G), where it is
        a scale on the terms.
    """
    factor = factor[..., None, None, None]  # (3, G, 1, 1, 1)
    content = product(maps.content, k)  # (G, B, L, D), of q
    query = by_strip(product(maps.query, query_rows.mT), q)  # of q
    key = by_strip(product(maps.key, key_rows.mT), k)  # of k
    factor_grad = torch.stack(
        [(a * b).sum(dim=(1, 2, 3)) for a, b in ((q, content), (q, query), (k, key))]
    )
    k_grad = product(maps.content.mT, q * factor[0]).addcmul_(key, factor[2])
    query_rows_grad = by_place(q * factor[1], len(query_rows)).mT @ maps.query
    key_rows_grad = by_place(k * factor[2], len(key_rows)).mT @ maps.key
    q_grad = (content * factor[0]).addcmul_(query, factor[1])
    return (q_grad, k_grad, query_rows_grad, key_rows_grad), factor_grad


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b."""
    return products.product(a, b).contiguous()


def by_place(strips: Tensor, tables: int) -> Tensor:
    """(G, B, L, X) as (T, L, M, X), places before strips; a view."""
    return strips.flatten(0, 1).unflatten(0, (tables, -1)).transpose(1, 2)


def by_strip(places: Tensor, like: Tensor) -> Tensor:
    """Views (T, L, M, X) as (G, B, L, X), G and B those of `like`."""
    heads, strips = like.shape[:2]
    split = places.unflatten(2, (heads // len(places), strips))  # (T, L, G / T, B, X)
    return split.permute(0, 2, 3, 1, 4).flatten(0, 1)


def transposed(matrices: Tensor) -> Tensor:
    """(T, X, Y) to (T, Y, X), contiguous.

    One after the other: torch is four times faster at the transpose of one matrix than of a stack.
    """
    out = matrices.new_empty(matrices.mT.shape)
    for target, matrix in zip(out, matrices, strict=True):
        target.copy_(matrix.t())
    return out


def per_head(term: Tensor, heads: int) -> Tensor:
    """Views a map as (rows, G, numbers)."""
    return term.view(1 if len(term) == heads else term.shape[1], heads, -1)


def keep_inside(maps: Maps, inside: Tensor | None) -> None:
    """Sets pairs outside the span to 0, in place. A band is its own transpose."""
    if inside is not None:
        maps.content.mul_(inside)
        maps.query.mul_(inside[:, None])
        maps.key.mul_(inside[:, None])
