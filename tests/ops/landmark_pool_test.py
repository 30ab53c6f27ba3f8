"""Landmark pooling against the published form's numbers, a naive loop and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_rounded, rounding

from fashionjax.ops import landmark_pool as ops

landmark_pool = jax.jit(ops.landmark_pool, static_argnames=("samples", "crop", "align_corners"))
scramble_centres = jax.jit(ops.scramble_centres)
RAMP = (10.0 * np.arange(7)[:, None] + np.arange(7)[None, :])[..., None].astype(np.float32)
RAMP_SCALE = 7 * (10 + 1)  # a position of up to 7 cells, times the slope


def naive_pool(feature, landmark, samples, crop, align_corners):
    """The same definition, one sample and one tap at a time, float64."""
    h, w, c = feature.shape
    result = np.full((len(landmark), c), -np.inf)
    for k, (x, y) in enumerate(np.asarray(landmark, np.float64)):
        for i in range(samples):
            for j in range(samples):
                taps = []
                for value, step, size in ((x, j, w), (y, i, h)):
                    if align_corners:
                        base = -1 + 2 * step / (samples - 1) if samples > 1 else 0.0
                        grid = samples / crop * base - 1 + 2 * value
                        position = (grid + 1) / 2 * (size - 1)
                    else:
                        grid = samples / crop * ((2 * step + 1) / samples - 1) - 1 + 2 * value
                        position = ((grid + 1) * size - 1) / 2
                    position = min(max(position, 0.0), size - 1.0)
                    low = int(np.floor(position))
                    taps.append((low, min(low + 1, size - 1), position - low))
                (x0, x1, fx), (y0, y1, fy) = taps
                top = (1 - fx) * feature[y0, x0] + fx * feature[y0, x1]
                bottom = (1 - fx) * feature[y1, x0] + fx * feature[y1, x1]
                result[k] = np.maximum(result[k], (1 - fy) * top + fy * bottom)
    return result


def test_published_positions():
    landmark = jnp.array([[112, 64], [96, 96], [16, 48], [224, 224], [0, 0]]) / 224
    assert_rounded(landmark_pool(RAMP, landmark)[:, 0], [23.5, 33, 15.5, 66, 0], 16, scale=RAMP_SCALE)


def test_aligned_corners():
    pooled = landmark_pool(RAMP, jnp.array([[112, 64]]) / 224, align_corners=True)
    assert_rounded(pooled[0], [207 / 7], 16, scale=RAMP_SCALE)


def test_twice_scaled_landmark_pools_the_corner():
    pooled = landmark_pool(RAMP, jnp.array([[3.5, 2.0]]) / 224)
    assert_rounded(pooled[0], [0.734375], 16, scale=RAMP_SCALE)


@pytest.mark.parametrize(
    "hw,samples,crop,align_corners",
    [((7, 7), 2, 7, False), ((7, 7), 2, 7, True), ((5, 9), 3, 7, False), ((12, 4), 1, 5, True)],
)
def test_equals_naive_loop(hw, samples, crop, align_corners):
    random = np.random.default_rng(0)
    feature = random.normal(size=(*hw, 3)).astype(np.float32)
    landmark = random.uniform(-0.3, 1.3, size=(8, 2)).astype(np.float32)
    options = {"samples": samples, "crop": crop, "align_corners": align_corners}
    # a position of up to 12 cells, times the slope between neighbouring cells
    slope = max(np.abs(np.diff(feature, axis=axis)).max() for axis in (0, 1))
    got, want = landmark_pool(feature, landmark, **options), naive_pool(feature, landmark, **options)
    assert_rounded(got, want, 16, scale=max(hw) * slope)


def test_vmap_over_images_and_dtype():
    feature = jnp.stack([RAMP, RAMP + 100]).astype(jnp.bfloat16)
    landmark = jnp.array([[[112, 64], [32, 32]], [[192, 160], [64, 96]]]) / 224
    pooled = jax.jit(jax.vmap(ops.landmark_pool))(feature, landmark)
    assert pooled.dtype == jnp.bfloat16
    pooled = jax.jit(jax.vmap(ops.landmark_pool))(feature.astype(jnp.float32), landmark)[..., 0]
    assert_rounded(pooled, [[23.5, 11], [156, 132]], 16, scale=RAMP_SCALE + 100)


def test_gradients_by_finite_differences():
    random = np.random.default_rng(1)
    feature = random.normal(size=(7, 6, 2)).astype(np.float32)
    landmark = random.uniform(0.2, 0.8, size=(4, 2)).astype(np.float32)
    weight = random.normal(size=(4, 2))

    def reference(feature, landmark):
        return float((naive_pool(feature, landmark, 2, 7, False) * weight).sum())

    def value(feature, landmark):
        return jnp.sum(landmark_pool(feature, landmark) * weight)

    by_feature, by_landmark = jax.jit(jax.grad(value, argnums=(0, 1)))(feature, landmark)
    for argument, gradient in ((0, by_feature), (1, by_landmark)):
        gradient = np.asarray(gradient)
        for index in list(np.ndindex(gradient.shape))[:60]:
            inputs = [feature.astype(np.float64), landmark.astype(np.float64)]
            step = 1e-5
            inputs[argument][index] += step
            up = reference(*inputs)
            inputs[argument][index] -= 2 * step
            difference = (up - reference(*inputs)) / (2 * step)  # exact up to 1e-10 of a bilinear function
            assert float(gradient[index]) == pytest.approx(difference, abs=rounding(64, 7 * 4)), index


def test_clamped_landmark_has_no_gradient_and_ties_go_to_the_first_sample():
    gradient = jax.jit(jax.grad(lambda p: landmark_pool(RAMP, p).sum()))(jnp.array([[1.5, -0.4]]))
    np.testing.assert_array_equal(gradient, 0)
    flat = jax.grad(lambda f: landmark_pool(f, jnp.array([[3 / 7, 3 / 7]])).sum())(jnp.zeros((7, 7, 1)))
    expected = np.zeros((7, 7))
    expected[2, 2] = 1
    assert_rounded(flat[..., 0], expected, 16, scale=7)  # weights follow from positions of up to 7 cells


def test_scramble_as_published():
    points = jnp.array([[[1.0, 2]], [[3, 4]], [[5, 6]], [[7, 8]]])
    np.testing.assert_array_equal(scramble_centres(points, 4)[:, 0], [[1, 3], [5, 7], [2, 4], [6, 8]])
    landmark = jnp.array([[[112, 64], [32, 32]], [[192, 160], [64, 96]]]) / 224
    pooled = jax.jit(jax.vmap(ops.landmark_pool))(
        jnp.stack([RAMP, RAMP + 100]), scramble_centres(landmark, 2)
    )
    assert_rounded(pooled[..., 0], [[63.5, 21], [152, 131]], 16, scale=RAMP_SCALE + 100)


@pytest.mark.parametrize("b,group,count", [(7, 3, None), (8, 8, 5), (5, 1, None), (6, 4, 6)])
def test_scramble_equals_naive_list(b, group, count):
    landmark = np.random.default_rng(2).uniform(size=(b, 3, 2)).astype(np.float32)
    expected = landmark.copy()
    real = b if count is None else count
    for start in range(0, real, group):
        chunk = landmark[start : min(start + group, real)]
        for k in range(3):
            flat = [*chunk[:, k, 0], *chunk[:, k, 1]]
            for i in range(len(chunk)):
                expected[start + i, k] = flat[2 * i], flat[2 * i + 1]
    np.testing.assert_array_equal(scramble_centres(jnp.asarray(landmark), group, count), expected)
