"""Rendering rate of the synthetic data set per config and view, in one process.

python benchmarks/rendering.py [--images=200] [--size=128]

Prints JSON: images per second of CPU time and of wall time, JPEG encoding included, by config ("attributes"
is the mix it ships with, "plain" and "cluttered" its two views alone).
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import time
from collections.abc import Callable

from tfds_builders.synthetic_fashion import fine_grained, records


def measure(render: Callable[[int], object], images: int) -> dict[str, float]:
    """Rates over the first `images` records after a short warm-up."""
    for index in range(5):
        render(index)
    wall, cpu = time.perf_counter(), time.process_time()
    for index in range(images):
        render(index)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"images_per_cpu_second": round(images / cpu, 1), "images_per_second": round(images / wall, 1)}


def plans(size: int) -> dict[str, tuple[records.Plan, str]]:
    """Name → plan and split, with the shares that the builder configs ship with."""
    sizes = {"train": 1 << 20, "query": 1 << 20, "gallery": 1 << 20}
    labelled = records.Plan("attributes", sizes, size, seed=0)
    return {
        "plain": (labelled._replace(cluttered=0.0), "train"),
        "cluttered": (labelled._replace(cluttered=1.0), "train"),
        "attributes": (labelled, "train"),
        "landmarks": (labelled._replace(kind="landmarks"), "train"),
        "in_shop gallery (plain)": (labelled._replace(kind="in_shop"), "gallery"),
        "in_shop query (cluttered)": (labelled._replace(kind="in_shop"), "query"),
        "consumer_to_shop (three plain of five)": (labelled._replace(kind="consumer_to_shop"), "train"),
        "instances": (labelled._replace(kind="instances", cluttered=0.5), "train"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    rates = {
        name: measure(functools.partial(records.record, *of), args.images)
        for name, of in plans(args.size).items()
    }
    sizes = dict.fromkeys(fine_grained.SPLITS, 1 << 20)
    plan = fine_grained.Plan(sizes, args.size, seed=0, queries=0.2, cluttered=0.3)
    rates["fine_grained"] = measure(functools.partial(fine_grained.record, plan, "train"), args.images)
    print(
        json.dumps({"machine": platform.processor() or platform.machine(), "size": args.size, "rates": rates})
    )


if __name__ == "__main__":
    main()
