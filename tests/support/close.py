"""Bounds of float32 comparisons that follow from the arithmetic, so that they hold on every processor."""

import numpy as np

UNIT = 2.0**-24  # the unit roundoff of float32
SLACK = 8  # both sides may carry the error, and the largest result stands for a sum's magnitude


def assert_sums_close(got, want, terms: int) -> None:
    """Each element of `got` equals `want` within the rounding of float32 sums of `terms` products.

    A sum of n products, in any order and with or without fused multiply-add, errs by at most n·2⁻²⁴·Σ|aᵢbᵢ|
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and for operands without a trend
    Σ|aᵢbᵢ| is about √n times the largest result. Layers in a row add their terms.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, (got.shape, want.shape)
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
