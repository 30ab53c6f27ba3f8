"""Forms of RoIAlign at the size of an 800x1333 image: forward and gradient, 512 RoIs, 7x7 bins.

python -m benchmarks.roi_align [--rois=512] [--channels=256] [--repeats=3] [--cases=…] [--forms=…] [--out=…]

`p2` pools every RoI from one map of 200x336 cells (boxes of 8 to 112 px), `pyramid` from P2 to P5 (boxes of 8
to 800 px, each on its own level). Forms: `tiles` is the project's (`ops/roi_align.py`); `gather` takes the
4 taps of every sample from the concatenated levels, on a grid of 6 samples a bin and axis of which the
adaptive ones count, 32 RoIs at a time; `separable` is one dense weight matrix per RoI and axis and two
products, for the pyramid on all levels with the weights of the others set to 0. Seconds are the best of the
repeats, of calls after compilation; `gradient` is forward and gradient for the features.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import hardware
from fashionjax.ops import roi_align as ops

LEVELS = ((200, 336), (100, 168), (50, 84), (25, 42))
SIZE, GRID = 7, 6


def random_boxes(rng, n: int, largest: float) -> np.ndarray:
    """n boxes inside 800x1333, their side log-uniform from 8 px, aspect 1:2 to 2:1."""
    side = np.exp(rng.uniform(np.log(8), np.log(largest), n))
    aspect = np.exp2(rng.uniform(-0.5, 0.5, n))
    wide, high = np.minimum(side * aspect, 1333), np.minimum(side / aspect, 800)
    x, y = rng.uniform(0, 1333 - wide), rng.uniform(0, 800 - high)
    return np.stack([x, y, x + wide, y + high], axis=1).astype(np.float32)


def geometry(features, box):
    """Level, first flat cell, height and width, start [n 2], length [n 2] of each RoI (y, x)."""
    heights = jnp.array([f.shape[0] for f in features])
    widths = jnp.array([f.shape[1] for f in features])
    cells = heights * widths
    level = ops.assign_level(box, levels=4) if len(features) > 1 else jnp.zeros(len(box), jnp.int32)
    scale = 0.25 / 2.0 ** level[:, None]
    start = box[:, 1::-1] * scale - 0.5
    length = box[:, 3:1:-1] * scale - 0.5 - start
    return level, (jnp.cumsum(cells) - cells)[level], heights[level], widths[level], start, length


def tiles(features, box):
    if len(features) == 1:
        return ops.roi_align(features[0], box, size=SIZE, stride=4)
    return ops.pyramid(features, box, size=SIZE)


def gather(features, box):
    _, base, height, width, start, length = geometry(features, box)
    flat = jnp.concatenate([f.reshape(-1, f.shape[-1]) for f in features])

    def taps(start, length, extent):
        """Index and weight of the two taps of every sample of one axis: [p g 2] each."""
        count = jnp.clip(jnp.ceil(length / SIZE), 0, GRID)
        sample = jnp.arange(GRID)
        at = start + (jnp.arange(SIZE)[:, None] + (sample + 0.5) / jnp.maximum(count, 1)) * length / SIZE
        counted = (sample < count) & (at >= -1) & (at <= extent)
        low = jnp.floor(jnp.clip(at, 0, extent - 1)).astype(jnp.int32)
        part = jnp.clip(at, 0, extent - 1) - low
        weight = jnp.stack([1 - part, part], axis=-1) * (counted / jnp.maximum(count, 1))[..., None]
        return jnp.minimum(jnp.stack([low, low + 1], axis=-1), extent - 1), weight

    def one(base, height, width, start, length):
        row, along_y = taps(start[0], length[0], height)
        column, along_x = taps(start[1], length[1], width)
        index = base + row.reshape(SIZE, 1, -1, 1) * width + column.reshape(1, SIZE, 1, -1)
        weight = along_y.reshape(SIZE, 1, -1, 1) * along_x.reshape(1, SIZE, 1, -1)
        return jnp.einsum("pqij,pqijc->pqc", weight, flat[index], precision="highest")

    return jax.lax.map(lambda roi: one(*roi), (base, height, width, start, length), batch_size=32)


def separable(features, box):
    level, _, _, _, start, length = geometry(features, box)
    pooled = 0.0
    for l, feature in enumerate(features):
        count = jnp.where((level == l)[:, None], jnp.ceil(length / SIZE), 0).astype(jnp.int32)
        along_y, along_x = (
            ops.axis_weights(
                start[:, a],
                length[:, a] / SIZE,
                count[:, a],
                jnp.full(len(box), feature.shape[a]),
                jnp.broadcast_to(jnp.arange(feature.shape[a]), (len(box), feature.shape[a])),
                size=SIZE,
                taps=ops.TAPS,
            )
            for a in (0, 1)
        )
        rows = jnp.einsum("nph,hwc->npwc", along_y, feature, precision="highest")
        pooled += jnp.einsum("nqw,npwc->npqc", along_x, rows, precision="highest")
    return pooled


FORMS = {"tiles": tiles, "gather": gather, "separable": separable}


def best_seconds(function, arguments, repeats: int) -> float:
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return round(min(seconds), 4)


def measure(name: str, form: str, rois: int, channels: int, repeats: int) -> dict:
    rng = np.random.default_rng(0)
    levels = LEVELS if name == "pyramid" else LEVELS[:1]
    features = [jnp.asarray(rng.normal(size=(*shape, channels)), jnp.float32) for shape in levels]
    box = jnp.asarray(random_boxes(rng, rois, 800 if name == "pyramid" else 112))
    upstream = jnp.asarray(rng.normal(size=(rois, SIZE, SIZE, channels)), jnp.float32)
    pool = FORMS[form]
    forward = jax.jit(pool)
    gradient = jax.jit(jax.grad(lambda features, box: jnp.sum(upstream * pool(features, box))))
    difference = float(jnp.max(jnp.abs(forward(features, box) - tiles(features, box))))
    return {
        "case": name,
        "form": form,
        "forward_s": best_seconds(forward, (features, box), repeats),
        "gradient_s": best_seconds(gradient, (features, box), repeats),
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rois", type=int, default=512)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", default="p2,pyramid")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    rows, load = [], os.getloadavg()[0]
    for name in args.cases.split(","):
        for form in args.forms.split(","):
            rows.append(measure(name, form, args.rois, args.channels, args.repeats))
            print(json.dumps(rows[-1]), flush=True)
    about = {
        "hardware": hardware.describe(jax.devices()),
        "load_average_before": round(load, 2),
        "load_average_after": round(os.getloadavg()[0], 2),
        "rois": args.rois,
        "channels": args.channels,
        "repeats": args.repeats,
        "tile": ops.TILE,
        "chunk": ops.CHUNK,
    }
    if args.out:
        Path(args.out).write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
