"""Completing an outfit of five pieces from a gallery of 100,000: the time after indexing, and the index.

python -m benchmarks.outfit_completion [--gallery=100000] [--pieces=5] [--topk=5] [--repeats=5] [--out=FILE]

Random weights of the published size: 256 values, 66 spaces of 11 types, masks or linear maps, each with the
Euclidean distance and with a learned metric; and the set transformer (width 128, two layers). The garments
are spread evenly over the types that the outfit lacks, so that all of them are ranked. Each model runs in a
process of its own: `first_s` is its first call, with compilation (no compilation cache); `best_s`, `median_s`
and `best_cpu_s` are of the calls after it. `index_mb` counts the embeddings as saved and as they are placed
for ranking, `peak_mb` is the most memory that the process held, with Python and JAX (`bare_mb` of it).
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import hardware
from fashionjax.models.compatibility import SetTransformer
from fashionjax.ops import type_spaces
from fashionjax.outfit import completion

MODELS = ("mask", "mask, learned metric", "fc", "fc, learned metric", "set transformer")
TYPES, DIMENSION, WIDTH, HEADS = 11, 256, 128, 4


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def make_ranker(name: str, rng: np.random.Generator):
    """The ranker of a model with random weights."""
    pairs = list(itertools.combinations_with_replacement("abcdefghijk", 2))
    if name == "set transformer":
        model = SetTransformer(None, embedding=DIMENSION, types=TYPES, width=WIDTH, heads=HEADS)
        pair = np.zeros((1, 2), np.int32)
        embedding = np.zeros((1, 2, DIMENSION), np.float32)
        init = jax.jit(lambda key: model.init(key, embedding, pair, pair == 0, method="score_sets"))
        return completion.set_ranker(model, init(jax.random.PRNGKey(0))["params"])
    metric = rng.normal(size=DIMENSION).astype(np.float32) if "metric" in name else None
    shape = (len(pairs), DIMENSION)
    if name.startswith("mask"):
        spaces = type_spaces.Spaces(mask=np.maximum(rng.normal(0.9, 0.7, shape), 0).astype(np.float32))
    else:
        kernel = rng.normal(0, DIMENSION**-0.5, (*shape, DIMENSION)).astype(np.float32)
        spaces = type_spaces.Spaces(kernel=kernel, bias=np.full(shape, 0.01, np.float32))
    spaces = jax.tree.map(jax.numpy.asarray, spaces)
    table = type_spaces.space_table(pairs, "abcdefghijk")
    return completion.pair_ranker(spaces._replace(metric=metric), table, "abcdefghijk")


def measure(name: str, gallery: int, pieces: int, topk: int, repeats: int) -> dict:
    """The row of one model."""
    rng = np.random.default_rng(0)
    jax.block_until_ready(jax.numpy.zeros(1))
    bare = peak_mb()
    rank = make_ranker(name, rng)
    outfit = rng.normal(size=(pieces, DIMENSION)).astype(np.float32)
    worn = np.arange(pieces, dtype=np.int32) % TYPES
    lacking = [kind for kind in range(TYPES) if kind not in worn]
    embedding = rng.normal(size=(gallery, DIMENSION)).astype(np.float32)
    category = np.asarray(lacking, np.int32)[rng.integers(0, len(lacking), gallery)]
    start = time.perf_counter()
    candidates = completion.by_type(embedding, category, lacking)
    indexing = time.perf_counter() - start
    placed = sum(block.nbytes for found in candidates.values() for block in found.blocks.rows)

    def complete() -> int:
        found = [rank(outfit, worn, kind, candidates[kind], topk) for kind in lacking]
        return sum(len(number) for _, number in found)

    times = []
    for _ in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        ranked = complete()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    if ranked != topk * len(lacking):
        raise RuntimeError(f"{ranked} candidates came back, not {topk * len(lacking)}")
    walls, cpus = zip(*times[1:], strict=True)
    return {
        "model": name,
        "first_s": round(times[0][0], 3),
        "best_s": round(min(walls), 3),
        "median_s": round(statistics.median(walls), 3),
        "best_cpu_s": round(min(cpus), 3),
        "indexing_s": round(indexing, 3),
        "types_ranked": len(lacking),
        "index_mb": round((embedding.nbytes + placed) / 1e6, 1),
        "peak_mb": peak_mb(),
        "bare_mb": bare,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--pieces", type=int, default=5)
    parser.add_argument("--topk", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    sizes = (args.gallery, args.pieces, args.topk, args.repeats)
    rows, load = [], os.getloadavg()[0]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in MODELS:
            rows.append(pool.apply(measure, (name, *sizes)))
            print(json.dumps(rows[-1]), flush=True)
    about = {
        "hardware": hardware.describe(jax.devices()),
        "load_average_before": round(load, 2),
        "load_average_after": round(os.getloadavg()[0], 2),
        "gallery": args.gallery,
        "pieces": args.pieces,
        "topk": args.topk,
        "repeats": args.repeats,
        "spaces": TYPES * (TYPES + 1) // 2,
        "dimension": DIMENSION,
    }
    if args.out:
        Path(args.out).write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
