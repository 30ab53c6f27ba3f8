"""Which photos are held out where the input does not say: a seeded rule, whole groups, class by class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np


def groups(*keys: Sequence[object]) -> np.ndarray:
    """Rows that share a value of any of `keys` (each [n]), directly or over others → [n] group numbers."""
    count = len(keys[0])
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for key in keys:
        first: dict[object, int] = {}
        for i, value in enumerate(key):
            parent[root(i)] = root(first.setdefault(value, i))
    roots = np.asarray([root(i) for i in range(count)])
    return np.unique(roots, return_inverse=True)[1]


def hold_out(
    group: np.ndarray, name: Sequence[str], stratum: Sequence[object], shares: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each row: "train", or a name of `shares` (split → its share of every stratum's groups).

    Groups stay whole and count in the stratum of their first row. They are ordered by a hash of `seed` and
    the least `name` of their rows, so neither the order of rows nor other strata matter. A stratum of three
    groups or more has one in each split with a share, one of two has a group in the first of `shares`, a
    single group is trained on.
    """
    members: dict[int, list[int]] = {}
    for row, number in enumerate(group.tolist()):
        members.setdefault(number, []).append(row)
    strata: dict[object, list[int]] = {}
    for number, rows in members.items():
        strata.setdefault(stratum[rows[0]], []).append(number)
    split = ["train"] * len(group)
    for of in strata.values():
        order = sorted(of, key=lambda number: _rank(seed, min(name[row] for row in members[number])))
        for held, count in _counts(len(order), shares).items():
            for number in order[:count]:
                for row in members[number]:
                    split[row] = held
            order = order[count:]
    return split


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()


def _counts(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many of a stratum's groups each split gets; at least one is left to train on."""
    counts, left = {}, total - 1
    for split, share in shares.items():
        wanted = max(1, round(share * total)) if share > 0 else 0
        counts[split] = min(wanted, left)
        left -= counts[split]
    return counts
