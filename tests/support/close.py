"""Bounds of float32 comparisons that follow from the arithmetic, so that they hold on every processor."""

import jax
import numpy as np

UNIT = 2.0**-24  # the unit roundoff of float32
MOVES = 2  # both sides may carry the error
SLACK = 8  # both sides may carry the error, and the largest result stands for a sum's magnitude


def assert_sums_close(got, want, terms: int) -> None:
    """Each element of `got` equals `want` within the rounding of float32 sums of `terms` products.

    A sum of n products, in any order and with or without fused multiply-add, errs by at most n·2⁻²⁴·Σ|aᵢbᵢ|
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and for operands without a trend
    Σ|aᵢbᵢ| is about √n times the largest result. Layers in a row add their terms.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, (got.shape, want.shape)
    assert terms <= 500, "the bound would be beyond a hundredth of the result: see relative_rounding"
    bound = SLACK * terms**1.5 * UNIT * max(float(np.abs(want).max(initial=0)), 1e-30)
    np.testing.assert_allclose(got, want, rtol=0, atol=bound)


def rounding(operations: int, scale: float = 1.0) -> float:
    """How far two float32 computations of a number may be apart after so many operations in a row.

    Each operation errs by at most 2⁻²⁴ of its result, on both sides; `scale` is the largest value on the way,
    which is more than the result where terms cancel. exp, log, sqrt and the like, a few units of the last
    place off, count as 8. Fused multiply-add only lowers the error of an operation.
    """
    return 2 * operations * UNIT * scale


def assert_rounded(got, want, operations: int, scale: float | None = None) -> None:
    """Each element of `got` equals `want` within `rounding`; the default scale is the largest of `want`."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, (got.shape, want.shape)
    scale = float(np.abs(want).max(initial=0)) if scale is None else scale
    np.testing.assert_allclose(got, want, rtol=0, atol=rounding(operations, scale))


def relative_rounding(terms: int, layers: int = 1) -> float:
    """Relative L2 distance within which two float32 computations of sums of `terms` products agree, such as
    outputs or gradients of a network with so many layers in a row.

    Independent roundings add up by squares (Higham and Mary 2019).
    """
    return SLACK * (layers * terms) ** 0.5 * UNIT


def moved(tree, seed: int = 0):
    """The tree with each float32 number replaced by the next above or below it, at random; zeros stay."""
    rng = np.random.default_rng(seed)

    def neighbour(leaf):
        leaf = np.asarray(leaf)
        if leaf.dtype != np.float32:
            return leaf
        towards = np.where(rng.integers(0, 2, leaf.shape), np.inf, -np.inf)
        return np.where(leaf == 0, leaf, np.nextafter(leaf, towards.astype(np.float32)))

    return jax.tree.map(neighbour, tree)


def assert_conditioned(got, want, function, *arguments, terms: int, digits: int | None = None) -> None:
    """Each leaf of `got` equals `want` within what float32 makes of them when `function(*arguments)` computes
    the tree `want`, in float32 or transcribed in float64.

    A float32 sum of n products is the exact sum of operands that are off by n·2⁻²⁴ of themselves at most
    (Higham, section 3.1) and by about √n·2⁻²⁴ (Higham and Mary 2019), so that rounding is a move of the
    parameters of each layer. What a move of all arguments by one rounding changes is measured, and √terms of
    it are allowed, `terms` being the products of the longest sum. A bound above a fiftieth of the largest
    value would check nothing, and fails. `got` was rounded to so many decimal `digits`.
    """
    base = function(*arguments)
    probes = [function(*moved(arguments, seed)) for seed in range(3)]

    def check(got, want, base, *probes):
        got, want, base, *probes = (np.asarray(x, np.float64) for x in (got, want, base, *probes))
        assert got.shape == want.shape, (got.shape, want.shape)
        largest = float(np.abs(base).max(initial=0))
        change = max(float(np.abs(probe - base).max(initial=0)) for probe in probes)
        written = 0 if digits is None else 0.5 * 10.0**-digits
        bound = MOVES * (terms**0.5 * change + UNIT * largest) + written
        assert bound <= 0.02 * largest, f"a bound of {bound:g} for values up to {largest:g} checks nothing"
        np.testing.assert_allclose(got, want, rtol=0, atol=bound)

    jax.tree.map(check, got, want, base, *probes)
