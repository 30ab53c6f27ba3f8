"""PCA with whitening: against eigenvectors of the covariance, and the randomised solver against the exact."""

import numpy as np
import pytest

from fashionjax.errors import UserError
from fashionjax.ops import pca


def features(n=60, d=12) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)) * np.arange(1, d + 1) + 5


def test_components_are_eigenvectors_of_the_covariance():
    x = features()
    found = pca.fit(x, 4)
    value, vector = np.linalg.eigh(np.cov(x.T))
    np.testing.assert_allclose(found.variance, value[::-1][:4], rtol=1e-5)
    overlap = np.abs(np.einsum("kd,dk->k", found.components, vector[:, ::-1][:, :4]))
    np.testing.assert_allclose(overlap, 1, rtol=1e-5)


def test_whitened_features_are_uncorrelated_with_unit_variance():
    x = features()
    white = pca.transform(pca.fit(x, 5), x)
    assert white.shape == (60, 5) and white.dtype == np.float32
    np.testing.assert_allclose(np.cov(white.T), np.eye(5), atol=1e-5)


def test_the_randomised_solver_is_repeatable_and_close():
    x = features()
    exact, drawn = pca.fit(x, 4), pca.fit(x, 4, randomised=7)
    for a, b in zip(drawn, pca.fit(x, 4, randomised=7)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(drawn.variance, exact.variance, rtol=1e-5)
    np.testing.assert_allclose(drawn.components, exact.components, atol=1e-4)


@pytest.mark.parametrize("count", [0, 12, 60])
def test_more_components_than_there_are(count):
    with pytest.raises(UserError, match=f"PCA of {count} components"):
        pca.fit(features(12, 30), count)


def test_features_that_do_not_vary():
    with pytest.raises(UserError, match="fewer directions"):
        pca.fit(np.repeat(np.eye(3), 4, axis=0)[:, :2] * [1, 0], 2)
