"""Exact retrieval at the size of DeepFashion In-shop: this project beside FAISS flat, numpy and a loop over
pairs.

python benchmarks/retrieval.py [--queries=14218] [--gallery=12612] [--dims=256,4096] [--k=50] [--repeats=5]
[--out=FILE]

Embeddings are random unit rows. The methods take turns `repeats` times; the best and the median time of each
are given, with the least processor time, which says more when the machine is shared; warm-up apart (the
first round compiles). FAISS is measured when it is installed (pip install faiss-cpu). The pair loop computes
one cosine distance per Python call, as MMFashion's evaluator does; it is timed on a few queries and
extrapolated. `agreement` is the share of positions of the top k that equal FAISS's (or, without it,
numpy's); methods differ where scores differ by less than a float32 product's rounding.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from fashionjax.gallery import index as galleries
from fashionjax.metrics.retrieval import relevant_rows

PAIR_LOOP_QUERIES = 2


def hardware() -> str:
    """The device and, for a CPU, its name and the number of cores this process may use."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{len(jax.devices())} x {device.device_kind}"
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def numpy_topk(query, rows, k):
    """Blocks of products, argpartition, then a sort of the k: the usual way in numpy."""
    parts = []
    for start in range(0, len(query), 512):
        score = query[start : start + 512] @ rows.T
        best = np.argpartition(-score, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(score, best, axis=1), axis=1, kind="stable")
        parts.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(parts)


def pair_loop_seconds(query, rows) -> float:
    """Seconds for all queries of one cosine distance per pair and a full sort, extrapolated from a few
    queries.
    """

    def distance(a, b):
        return 1 - np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))

    begin = time.perf_counter()
    for one in query[:PAIR_LOOP_QUERIES]:
        np.argsort([distance(one, row) for row in rows])
    return (time.perf_counter() - begin) / PAIR_LOOP_QUERIES * len(query)


def methods(query, rows, k, rng) -> dict:
    """Name -> a call that returns the indices [q k] (None for rankings of another kind)."""
    gallery = galleries.build([(rows, map(str, range(len(rows))))], "cosine")
    placed = galleries.place(gallery)
    identity = rng.integers(
        0, max(1, len(rows) // 3), len(rows)
    )  # about 3 gallery images per item, as In-shop
    relevant = relevant_rows(identity[rng.integers(0, len(rows), len(query))], identity)
    calls = {
        "fashionjax": lambda: galleries.search(gallery, query, k, placed)[1],
        "fashionjax, ranks of all relevant items": lambda: galleries.ranks(gallery, query, relevant, placed),
        "numpy": lambda: numpy_topk(query, rows, k),
    }
    try:
        import faiss
    except ImportError:
        return calls
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return {"faiss": lambda: index.search(query, k)[1], **calls}


def measure(queries: int, size: int, d: int, k: int, repeats: int) -> dict:
    """The report of one dimension."""
    rng = np.random.default_rng(0)
    query, rows = (rng.normal(size=(n, d)).astype(np.float32) for n in (queries, size))
    query, rows = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, rows))
    calls = methods(query, rows, k, rng)
    seconds, results = {name: [] for name in calls}, {}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = call()
            if round_:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    reference = results.get("faiss", results["numpy"])
    report = {}
    for name, times in seconds.items():
        wall, cpu = zip(*times, strict=True)
        report[name] = {
            "best_s": round(min(wall), 3),
            "median_s": round(statistics.median(wall), 3),
            "best_cpu_s": round(min(cpu), 3),
        }
        if isinstance(results[name], np.ndarray):
            report[name]["agreement"] = round(float((results[name] == reference).mean()), 6)
    report["loop over pairs"] = {
        "extrapolated_s": round(pair_loop_seconds(query, rows)),
        "from_queries": PAIR_LOOP_QUERIES,
    }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=14218)
    parser.add_argument("--gallery", type=int, default=12612)
    parser.add_argument("--dims", default="256,4096")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--out", type=Path, help="also write the JSON here, e.g. benchmarks/results/retrieval_cpu.json"
    )
    args = parser.parse_args()
    report = {
        "hardware": hardware(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "jax": jax.__version__,
        "queries": args.queries,
        "gallery": args.gallery,
        "k": args.k,
        "repeats": args.repeats,
        "dims": {
            d: measure(args.queries, args.gallery, int(d), args.k, args.repeats) for d in args.dims.split(",")
        },
    }
    report["load_average_after"] = round(os.getloadavg()[0], 2)
    text = json.dumps(report, indent=2)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
