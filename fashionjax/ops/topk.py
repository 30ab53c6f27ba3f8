"""Exact ranking of a gallery by inner product: tiled, sharded over devices, ties to the lower index.

The gallery lies on the devices in tiles of `BLOCK` x m rows, arranged so that row `block * BLOCK + slot` of
a tile stands at [slot, block]: the best score per block of neighbouring rows is then an elementwise maximum
over the slots. The k best rows of a tile lie in the k blocks with the best maxima, so only those blocks are
ranked. Memory is one tile of scores, [query tile, gallery tile] float32, per device.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

BLOCK = 16
GALLERY_TILE = 16384
# Fewer queries are filled up to this many: in products of 2 to 63 rows XLA's CPU code sums some columns in
# another order, and equal gallery rows would get unequal scores.
SMALLEST_QUERY_TILE = 64
# Score of the rows that fill up the last tile; finite, because an infinity becomes NaN in split-precision
# products.
FILLER = -1e30
AXIS = "shard"


class Arranged(NamedTuple):
    """A gallery on its devices: rows [shard tile slot block d + 1], the last column a bias; `count` real
    rows.
    """

    rows: jax.Array
    mesh: Mesh
    count: int


def arrange(
    rows: np.ndarray, bias: np.ndarray | None = None, devices=None, tile: int = GALLERY_TILE
) -> Arranged:
    """rows [g d] float32, bias [g] added to each row's score (None: 0) -> the gallery spread over `devices`
    by rows.
    """
    devices = jax.devices() if devices is None else list(devices)
    count, d = rows.shape
    per_device = -(-count // len(devices))
    tiles = -(-per_device // tile)
    blocks = -(-per_device // (tiles * BLOCK))
    shape = (len(devices), tiles, blocks, BLOCK, d + 1)
    full = np.zeros((int(np.prod(shape[:-1])), d + 1), np.float32)
    full[:count, :d] = rows
    full[:, d] = FILLER
    full[:count, d] = 0 if bias is None else bias
    full = rearrange(full.reshape(shape), "shard tile block slot d -> shard tile slot block d")
    mesh = Mesh(np.asarray(devices), (AXIS,))
    return Arranged(jax.device_put(full, NamedSharding(mesh, P(AXIS))), mesh, count)


def _scores(query, tile):
    """query [q d + 1], tile [slot block d + 1] -> [q slot block]."""
    return jnp.einsum("qd,smd->qsm", query, tile, precision="highest")


def _tile_topk(query, tile, k):
    """The k best rows of one tile: (score [q k], row within the tile [q k])."""
    score = _scores(query, tile)
    slots, blocks = tile.shape[:2]
    _, block = jax.lax.top_k(score.max(axis=1), min(k, blocks))
    # In index order again, so that of equal scores the lower row comes first below.
    block = jnp.sort(block, axis=1)
    candidate = jnp.take_along_axis(score, block[:, None, :], axis=2)
    candidate = rearrange(candidate, "q slot block -> q (block slot)")
    value, place = jax.lax.top_k(candidate, min(k, candidate.shape[1]))
    return value, jnp.take_along_axis(block, place // slots, axis=1) * slots + place % slots


def _merge(value, index, k):
    """Candidates [q n] in order of their index among equals -> the k best."""
    value, place = jax.lax.top_k(value, min(k, value.shape[1]))
    return value, jnp.take_along_axis(index, place, axis=1)


def _shard_topk(rows, query, k):
    """Per device: rows [1 tile slot block d + 1], query [q d + 1] -> merged over devices, alike on each."""
    _, tiles, slots, blocks, _ = rows.shape
    first = jax.lax.axis_index(AXIS) * (tiles * slots * blocks)

    def step(t, carry):
        value, index = carry
        tile_value, tile_index = _tile_topk(query, rows[0, t], k)
        value = jnp.concatenate([value, tile_value], axis=1)
        index = jnp.concatenate([index, tile_index + t * slots * blocks], axis=1)
        return _merge(value, index, k)

    if tiles == 1:
        value, index = _tile_topk(query, rows[0, 0], k)
    else:
        # Every tile in the loop: outside of it the compiler may lay the product out, and round it, in
        # another way.
        nothing = jnp.full((len(query), k), -jnp.inf), jnp.zeros((len(query), k), jnp.int32)
        value, index = jax.lax.fori_loop(0, tiles, step, nothing)
    value = jax.lax.all_gather(value, AXIS, axis=1, tiled=True)
    index = jax.lax.all_gather(index + first, AXIS, axis=1, tiled=True)
    return _merge(value, index, k)


def _over_shards(function, mesh, arguments):
    """The per-device function with the gallery split by rows and everything else on every device."""
    specs = (P(AXIS), *[P()] * arguments)
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)


@partial(jax.jit, static_argnames=("mesh", "k"))
def _topk(rows, query, *, mesh, k):
    return _over_shards(partial(_shard_topk, k=k), mesh, 1)(rows, query)


def _tile_size(arranged: Arranged, count: int, tile: int | None) -> int:
    """Queries per product: `tile` (None: by device and dimension), or the power of two that holds a few of
    them.
    """
    if tile is None:
        # On a CPU long rows want many queries per pass over the gallery (packing it costs 1 / tile of the
        # product), short rows want scores that stay in cache for the selection. Measured with 256 and 4096
        # values per row.
        half = 1 << (arranged.rows.shape[-1] // 2).bit_length() - 1
        tile = min(2048, max(256, half)) if arranged.mesh.devices.flat[0].platform == "cpu" else 2048
    return min(max(tile, SMALLEST_QUERY_TILE), max(SMALLEST_QUERY_TILE, 1 << (count - 1).bit_length()))


def _query_tiles(query: np.ndarray, tile: int):
    """query [q d] -> tiles [tile d + 1] of one shape (1 in the bias column, zero rows at the end)."""
    for start in range(0, len(query), tile):
        part = np.zeros((tile, query.shape[1] + 1), np.float32)
        rows = query[start : start + tile]
        part[: len(rows), :-1] = rows
        part[:, -1] = 1
        yield part


def topk(arranged: Arranged, query: np.ndarray, k: int, query_tile: int | None = None):
    """query [q d] float32 -> (score [q k] float32, index [q k] int32), best first, lower index first among
    equals.

    The score is the inner product plus the row's bias. k is at most the number of rows (ValueError).
    """
    if not 1 <= k <= arranged.count:
        raise ValueError(f"k = {k} of a gallery of {arranged.count}")
    if len(query) == 0:
        return np.zeros((0, k), np.float32), np.zeros((0, k), np.int32)
    tiles = _query_tiles(query, _tile_size(arranged, len(query), query_tile))
    parts = [_topk(arranged.rows, part, mesh=arranged.mesh, k=k) for part in tiles]
    score, index = (np.concatenate([np.asarray(part[i]) for part in parts])[: len(query)] for i in (0, 1))
    return score, index


def _shard_ranks(rows, query, relevant):
    """Per device: relevant [q r] global row numbers (-1: none) -> ranks [q r], 1 for the best row."""
    _, tiles, slots, blocks, _ = rows.shape
    size = tiles * slots * blocks
    local = relevant - jax.lax.axis_index(AXIS) * size
    row = jnp.arange(blocks)[None, :] * slots + jnp.arange(slots)[:, None]

    def own_score(t, total):
        place = local - t * slots * blocks
        here = (place >= 0) & (place < slots * blocks)
        flat = rearrange(_scores(query, rows[0, t]), "q slot block -> q (slot block)")
        position = jnp.where(here, place % slots * blocks + place // slots, 0)
        return jnp.where(here, jnp.take_along_axis(flat, position, axis=1), total)

    def better(t, total):
        score = _scores(query, rows[0, t])

        def count(r):
            mine, place = own[:, r][:, None, None], (local[:, r] - t * slots * blocks)[:, None, None]
            # Not the row itself, should the two products have been rounded differently.
            ahead = ((score > mine) & (row != place)) | ((score == mine) & (row < place))
            return jnp.sum(ahead, axis=(1, 2))

        return total + jnp.moveaxis(jax.lax.map(count, jnp.arange(relevant.shape[1])), 0, 1)

    own = jnp.full(relevant.shape, -jnp.inf, jnp.float32)
    # With one tile both uses of its scores are the same product, which the compiler then computes once.
    loop = (lambda f, x: f(0, x)) if tiles == 1 else (lambda f, x: jax.lax.fori_loop(0, tiles, f, x))
    own = jax.lax.pmax(loop(own_score, own), AXIS)
    ahead = jax.lax.psum(loop(better, jnp.zeros(relevant.shape, jnp.int32)), AXIS)
    return jnp.where(relevant >= 0, ahead + 1, 0)


@partial(jax.jit, static_argnames="mesh")
def _ranks(rows, query, relevant, *, mesh):
    return _over_shards(_shard_ranks, mesh, 2)(rows, query, relevant)


def relevant_ranks(
    arranged: Arranged, query: np.ndarray, relevant: list, query_tile: int | None = None
) -> list:
    """query [q d], relevant: per query an array of gallery rows -> per query their ranks (1 = best),
    ascending.

    Ranks are exact over the whole gallery by the same scores and tie rule as `topk`, without ever holding
    more than a tile of scores. Queries are taken in order of how many relevant rows they have, so that
    padding stays small.
    """
    length = np.array([len(rows) for rows in relevant], int)
    order = np.argsort(length, kind="stable")
    tile = _tile_size(arranged, max(len(query), 1), query_tile)
    result = [np.zeros(0, int)] * len(query)
    pending = []
    for part, start in zip(_query_tiles(query[order], tile), range(0, len(order), tile), strict=True):
        members = order[start : start + tile]
        width = 1 << max(int(length[members].max()) - 1, 0).bit_length()
        wanted = np.full((tile, width), -1, np.int32)
        for place, member in enumerate(members):
            wanted[place, : length[member]] = relevant[member]
        pending.append((members, _ranks(arranged.rows, part, wanted, mesh=arranged.mesh)))
    for members, ranks in pending:
        for member, row in zip(members, np.asarray(ranks), strict=False):
            result[member] = np.sort(row[: length[member]])
    return result
