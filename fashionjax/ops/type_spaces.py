"""Type-specific spaces of a compatibility model: where an item of one type meets items of another.

A space belongs to an unordered pair of types; it is a mask over the general embedding or a linear map of it
(Vasileva et al. 2018; mmfashion/models/type_specific_net.py, triplet_net.py). In a space, compatibility is
a distance, lower is better: Euclidean, or the weighted inner product of a learned metric, which may be
negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fashionjax.ops.distances import unit

NORM_EPSILON = 1e-10  # added to a norm that divides
PAIR_EPSILON = 1e-6  # added to every component of a difference, as torch's pairwise distance
BLOCK = 256  # pairs of one space that are projected together
RANKED = 2048  # candidates that meet every item of an outfit while they are in cache
EXACT = "highest"  # accelerators multiply float32 in fewer bits by default, which would reorder candidates
QUERIES = 8  # an outfit is filled up to a multiple of it: few traces


class Spaces(NamedTuple):
    """The arrays of c spaces. mask [c d], or kernel [c d d] and bias [c d]; metric [d] or None: Euclidean.

    Without any array every space is the general embedding itself.
    """

    mask: Any = None
    kernel: Any = None
    bias: Any = None
    metric: Any = None


def space_table(pairs: Sequence[Sequence[str]], types: Sequence[str], *, complete: bool = True) -> np.ndarray:
    """pairs: the two types of each space; types: their names -> space of every two types, i32 [t t].

    ValueError for a pair of unknown types, one that comes twice, or, with `complete`, one that is missing;
    else the table has -1 there.
    """
    place = {name: number for number, name in enumerate(types)}
    table = np.full((len(types), len(types)), -1, np.int32)
    for number, (a, b) in enumerate(pairs):
        if a not in place or b not in place:
            raise ValueError(f"type space {number} joins {a!r} and {b!r}; the types are {', '.join(types)}")
        if table[place[a], place[b]] >= 0:
            raise ValueError(f"type spaces {table[place[a], place[b]]} and {number} both join {a} and {b}")
        table[place[a], place[b]] = table[place[b], place[a]] = number
    if complete:
        check_joined(table[table < 0], np.argwhere(table < 0), types)
    return table


def check_joined(space: np.ndarray, pairs: np.ndarray, types: Sequence[str]) -> None:
    """space [p] of the pairs of types [p 2]; ValueError where there is none (-1)."""
    lacking = np.flatnonzero(np.asarray(space) < 0)
    if len(lacking):
        a, b = pairs[lacking[0]]
        raise ValueError(f"no type space joins {types[a]} and {types[b]}")


def project(spaces: Spaces, embedding, space):
    """embedding [... d] in the space of each row, space [...] i32 (or one for all) -> [... d].

    Masked vectors are divided by their norm; linear ones are not.
    """
    if spaces.mask is None and spaces.kernel is None:
        return embedding
    if spaces.mask is None:
        kernel = spaces.kernel[space]
        product = "...d,de->...e" if kernel.ndim == 2 else "...d,...de->...e"
        return jnp.einsum(product, embedding, kernel) + spaces.bias[space]
    return unit(embedding * spaces.mask[space], added=NORM_EPSILON)


def project_all(spaces: Spaces, embedding):
    """embedding [b d] in every space -> [b c d]: one product over all pairs of types."""
    if spaces.mask is None:
        return jnp.einsum("bd,cde->bce", embedding, spaces.kernel) + spaces.bias
    return unit(embedding[:, None] * spaces.mask, added=NORM_EPSILON)


def pair_distance(a, b):
    """a, b [... d] -> |a - b + 1e-6|, [...]."""
    return jnp.sqrt(jnp.sum(jnp.square(a - b + PAIR_EPSILON), axis=-1))


def distance(spaces: Spaces, a, b):
    """Two projected embeddings [... d] -> [...]: Euclidean, or the learned metric's sum of w a b."""
    if spaces.metric is None:
        return pair_distance(a, b)
    return jnp.einsum("d,...d,...d->...", spaces.metric, a, b)


@jax.jit
def _block_distances(spaces: Spaces, embedding, first, second, space):
    """first, second [n s] rows, space [n] -> [n s]; one block at a time."""

    def block(rows):
        a, b, c = rows
        return distance(spaces, project(spaces, embedding[a], c), project(spaces, embedding[b], c))

    return jax.lax.map(block, (first, second, space))


def distances(spaces: Spaces, embedding, first, second, space) -> np.ndarray:
    """Distances of many pairs: embedding [n d], first and second [p] rows of it, space [p] -> f32 [p].

    Pairs are sorted by space and cut into blocks of one, so that only what is asked for is projected and a
    space's map is read once a block. The number of blocks is rounded up to a power of two: few traces.
    """
    first, second, space = (np.asarray(x, np.int32) for x in (first, second, space))
    if not len(first):
        return np.zeros(0, np.float32)
    order = np.argsort(space, kind="stable")
    counts = np.bincount(space)
    blocks = -(-counts // BLOCK)
    start = np.cumsum(blocks) - blocks  # first block of every space
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = start[space[order]] * BLOCK + rank
    total = 1 << int(blocks.sum() - 1).bit_length()
    rows = np.zeros((2, total * BLOCK), np.int32)
    rows[:, place] = first[order], second[order]
    of_block = np.zeros(total, np.int32)
    of_block[: blocks.sum()] = np.repeat(np.arange(len(blocks)), blocks)
    with jax.default_matmul_precision(EXACT):
        found = _block_distances(spaces, embedding, *rows.reshape(2, total, BLOCK), of_block)
    result = np.empty(len(first), np.float32)
    result[order] = np.asarray(found).reshape(-1)[place]
    return result


class Blocks(NamedTuple):
    """count rows on a device, in blocks f32 [RANKED d] of which the last is filled up with zero rows."""

    rows: tuple[jax.Array, ...]
    count: int


def place(candidate) -> Blocks:
    """candidate [n d], all of one type -> what `rank` reads; keep it to rank many times."""
    candidate = np.asarray(candidate, np.float32)
    starts = range(0, len(candidate), RANKED)
    return Blocks(
        tuple(jnp.asarray(_filled(candidate[i : i + RANKED], RANKED)) for i in starts), len(candidate)
    )


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


@jax.jit
def _summed(spaces: Spaces, query, count, candidate):
    """candidate [n d] -> summed distance [n] to the first `count` of query [m d], query i in the i-th space.

    A block that stays in cache while it meets every query is ten times as fast as all rows at once.
    """

    def one(i, total):
        vector = project(spaces, query[i], i)
        if spaces.metric is not None and spaces.kernel is not None:
            # w . (W e + b) p = e . (W (w p)) + b . (w p): the candidates are not projected at all
            weighted = spaces.metric * vector
            return total + candidate @ (spaces.kernel[i] @ weighted) + spaces.bias[i] @ weighted
        return total + distance(spaces, project(spaces, candidate, i), vector)

    return jax.lax.fori_loop(0, count, one, jnp.zeros(len(candidate)))


def rank(spaces: Spaces, query, candidate, space, k: int):
    """The k of candidate [n d] (all of one type; or what `place` made of them) nearest to query [m d] in sum,
    query i in space[i].

    -> (sum of distances [k] ascending, row [k]); ties to the lower row. One trace serves every n, and every m
    up to a multiple of eight.
    """
    blocks = candidate if isinstance(candidate, Blocks) else place(candidate)
    query, space = np.asarray(query, np.float32), np.asarray(space, np.int32)
    size = -(-len(query) // QUERIES) * QUERIES
    rows = jnp.asarray(_filled(space, size))
    own = Spaces(*(None if x is None else jnp.asarray(x)[rows] for x in spaces[:3]), spaces.metric)
    query = jnp.asarray(_filled(query, size))
    with jax.default_matmul_precision(EXACT):
        sums = [_summed(own, query, len(space), block) for block in blocks.rows]
    total = np.concatenate([np.zeros(0, np.float32), *map(np.asarray, sums)])[: blocks.count]
    row = np.argsort(total, kind="stable")[:k]
    return total[row], row
