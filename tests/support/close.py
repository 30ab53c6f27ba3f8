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
