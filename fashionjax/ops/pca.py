"""PCA with whitening of features on the host, as scikit-learn computes it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fashionjax.errors import UserError

OVERSAMPLED, ITERATIONS = 10, 7  # of the randomised solver


class PCA(NamedTuple):
    """mean [d], components [k d] of length 1, variance [k] explained by each, float32."""

    mean: np.ndarray
    components: np.ndarray
    variance: np.ndarray


def fit(features: np.ndarray, count: int, *, randomised: int | None = None) -> PCA:
    """features [n d] → the first `count` components. Signs are those that make the largest entry of each
    component positive.

    `randomised`: the seed of Halko et al.'s solver (arXiv:0909.4061) with power iterations, which
    scikit-learn chose for features of this size; None: exact. UserError for more components than there are.
    """
    n, d = features.shape
    if not 1 <= count <= min(n - 1, d):
        raise UserError(f"PCA of {count} components: {n} features of {d} values have {max(min(n - 1, d), 0)}")
    mean = features.astype(np.float64).mean(axis=0)
    centred = features.astype(np.float64) - mean
    if randomised is None:
        _, values, components = np.linalg.svd(centred, full_matrices=False)
    else:
        values, components = _randomised(centred, min(count + OVERSAMPLED, d), randomised)
    components = components[:count]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    components = components * np.sign(largest)
    variance = values[:count] ** 2 / (n - 1)
    if variance[-1] <= variance[0] * 1e-12:
        raise UserError(
            f"PCA of {count} components: the features vary in fewer directions; ask for fewer components"
        )
    return PCA(*(part.astype(np.float32) for part in (mean, components, variance)))


def _randomised(centred: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    basis = centred @ np.random.default_rng(seed).standard_normal((centred.shape[1], size))
    for _ in range(ITERATIONS):
        basis, _ = np.linalg.qr(basis)
        basis, _ = np.linalg.qr(centred.T @ basis)
        basis = centred @ basis
    basis, _ = np.linalg.qr(basis)
    _, values, components = np.linalg.svd(basis.T @ centred, full_matrices=False)
    return values, components


def transform(found: PCA, features: np.ndarray) -> np.ndarray:
    """features [n d] → float32 [n k], each component of unit variance."""
    centred = features.astype(np.float64) - found.mean
    return (centred @ found.components.T.astype(np.float64) / np.sqrt(found.variance)).astype(np.float32)
