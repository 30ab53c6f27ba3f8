"""Losses against the original classes' stored values, hand-made examples and naive loops."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_rounded, assert_sums_close, relative_rounding, rounding

from fashionjax import losses

batch_hard_triplet = jax.jit(losses.batch_hard_triplet, static_argnames=("margin", "soft"))
info_nce = jax.jit(losses.info_nce)
proxy_anchor = jax.jit(losses.proxy_anchor)
GOLDEN = np.load(Path(__file__).parent / "fixtures" / "metrics" / "losses.npz")
RANDOM = np.random.default_rng(0)


def check(value, name, terms=256, scale=None):
    """value [b] or scalar -> its mean equals the stored single-precision figure; both are sums of `terms`
    values of up to `scale`, the mean where none is given."""
    value, want = float(jnp.asarray(value).mean()), float(GOLDEN[name])
    assert value == pytest.approx(want, rel=0, abs=relative_rounding(terms) * (scale or abs(want)))


def test_classification_goldens():
    check(losses.sigmoid_bce(GOLDEN["in_logits"], GOLDEN["in_multi_target"]), "bce_mean")
    check(losses.softmax_ce(GOLDEN["in_class_logits"], GOLDEN["in_class_target"]), "ce")
    smoothed = losses.softmax_ce(GOLDEN["in_cgd_logits"] / 0.5, GOLDEN["in_cgd_label"], smoothing=0.1)
    check(smoothed, "cgd_label_smoothing_01_t05")


def test_triplet_goldens():
    triplet = [GOLDEN[f"in_emb_{name}"] for name in "apn"]
    check(losses.cosine_pairs(*triplet, margin=0.0), "triplet_cosine_margin0")
    check(losses.cosine_pairs(*triplet, margin=0.2), "triplet_cosine_margin02")
    check(losses.l2_triplet(*triplet, margin=0.2), "triplet_l2_margin02")


def test_margin_and_norm_goldens():
    a, b, has = (jnp.asarray(GOLDEN[name]) for name in ("in_dist_a", "in_dist_b", "in_has"))
    check(losses.margin_ranking(a, b, 0.3), "margin_ranking_03")
    check(5e-5 * losses.masked_mean(losses.selective_margin(a, b, has, 0.3), has), "selective_margin_03")
    norms = (2.0, 4.5, 6.0)  # the original's inputs enter by their sum, 12.5
    check(5e-4 * losses.mean_norm(norms, np.sqrt(8)), "l2norm")
    check(5e-4 * losses.mean_norm(norms, 8), "l1norm_avg")
    check(5e-3 * losses.mean_norm(norms), "l1norm_noavg")


def test_landmark_goldens():
    feature, visible = GOLDEN["in_lm_feat"].astype(np.float64), GOLDEN["in_vis"]
    logits = feature @ GOLDEN["in_vis_w"][0].astype(np.float64) + GOLDEN["in_vis_b"][0]
    check(losses.visibility_bce_double_sigmoid(logits, visible), "landmark_vis_loss")
    predicted = feature @ GOLDEN["in_reg_w"].T.astype(np.float64) + GOLDEN["in_reg_b"]
    true = GOLDEN["in_lm_target"].reshape(8, 8, 2)
    check(losses.landmark_regression_zoo(predicted, true, visible), "landmark_regress_loss_mean")
    in_unit = losses.landmark_regression_zoo(predicted / 224, true / 224, visible, frame=224)
    check(in_unit, "landmark_regress_loss_mean")


def test_batch_hard_golden():
    embedding, label = GOLDEN["in_cgd_embed"], jnp.asarray(GOLDEN["in_cgd_label"])
    value = batch_hard_triplet(embedding, label, embedding, label, jnp.arange(12), margin=0.1)
    check(value, "cgd_batch_hard_01")


def test_written_out_examples():
    a, p, n = (np.array(x, np.float32) for x in ([[1, 0], [0, 2]], [[1, 1], [0, 1]], [[1, 0], [1, -1]]))
    assert float(losses.cosine_pairs(a, p, n).mean()) == pytest.approx(0.14645 + 0.5, abs=1e-5)
    logits, visible = jnp.array([[0.0, 2.0]]), jnp.array([[1, 0]])
    assert float(losses.visibility_bce_double_sigmoid(logits, visible)[0]) == pytest.approx(0.8508, abs=1e-4)
    assert float(losses.visibility_bce(logits, visible)[0]) == pytest.approx(1.4100, abs=1e-4)


def test_landmark_regression_means_over_visible_points():
    predicted = jnp.array([[[0.1, 0.2], [9.0, 9.0]], [[1.0, 1.0], [jnp.nan, 0.0]]])
    true = jnp.array([[[0.4, 0.6], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    visible = jnp.array([[1, 0], [0, 0]])
    assert_rounded(losses.landmark_regression(predicted, true, visible), [0.25, 0.0], 16)
    absolute = losses.landmark_regression(predicted, true, visible, jnp.abs)
    assert_rounded(absolute, [0.7, 0.0], 16)
    loss = jax.jit(jax.grad(lambda x: losses.landmark_regression(x, true, visible).sum()))
    gradient = loss(predicted)
    assert_rounded(gradient[0], [[-0.6, -0.8], [0, 0]], 16)
    assert not np.asarray(gradient[1]).any()


@pytest.mark.slow
def test_zero_vectors_have_finite_gradients():
    zero = jnp.zeros((2, 4))
    other = jnp.asarray(RANDOM.normal(size=(2, 4)))
    label, own = jnp.array([0, 0]), jnp.arange(2)
    for loss in (
        lambda x: losses.cosine_pairs(x, other, -other).sum(),
        lambda x: info_nce(x, label, x, label, own).sum(),
        lambda x: batch_hard_triplet(x, label, x, label, own).sum(),
        lambda x: proxy_anchor(x, label, other),
    ):
        assert np.isfinite(jax.jit(jax.grad(loss))(zero)).all()


EMBEDDING = RANDOM.normal(size=(9, 5)).astype(np.float32)
LABEL = np.array([0, 0, 0, 1, 1, 2, 2, 3, -1])  # 3 occurs once, -1 takes no part


def naive_batch_hard(x, label, margin):
    result = []
    for i in range(len(x)):
        distance = np.linalg.norm(x - x[i], axis=1)
        positive = [distance[j] for j in range(len(x)) if j != i and label[j] == label[i] >= 0]
        negative = [
            distance[j] for j in range(len(x)) if label[j] != label[i] and min(label[i], label[j]) >= 0
        ]
        result.append(max(0, max(positive) - min(negative) + margin) if positive and negative else 0)
    return result


def naive_info_nce(x, label, temperature):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    result = []
    for i in range(len(x)):
        known = [j for j in range(len(x)) if j != i and label[j] >= 0 and label[i] >= 0]
        total = sum(np.exp(x[i] @ x[j] / temperature) for j in known)
        terms = [-np.log(np.exp(x[i] @ x[j] / temperature) / total) for j in known if label[j] == label[i]]
        result.append(np.mean(terms) if terms else 0)
    return result


def naive_proxy_anchor(x, label, proxy, alpha, delta):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    proxy = proxy / np.linalg.norm(proxy, axis=1, keepdims=True)
    pull, push, present = 0, 0, 0
    for c in range(len(proxy)):
        own = [x[i] @ proxy[c] for i in range(len(x)) if label[i] == c]
        other = [x[i] @ proxy[c] for i in range(len(x)) if label[i] not in (c, -1)]
        present += bool(own)
        pull += np.log(1 + sum(np.exp(-alpha * (s - delta)) for s in own))
        push += np.log(1 + sum(np.exp(alpha * (s + delta)) for s in other))
    return pull / present + push / len(proxy)


def test_batch_losses_equal_naive_loops():
    label, own = jnp.asarray(LABEL), jnp.arange(9)
    hard = batch_hard_triplet(EMBEDDING, label, EMBEDDING, label, own, margin=0.5)
    assert_sums_close(hard, naive_batch_hard(EMBEDDING, LABEL, 0.5), 3 * 5)  # a² - 2 a b + b²
    soft = batch_hard_triplet(EMBEDDING, label, EMBEDDING, label, own, soft=True)
    unhinged = np.array(naive_batch_hard(EMBEDDING.astype(np.float64), LABEL, 100.0))
    assert_sums_close(soft, np.where(unhinged > 0, np.log1p(np.exp(unhinged - 100)), 0), 3 * 5)
    contrast = info_nce(EMBEDDING, label, EMBEDDING, label, own, temperature=0.2)
    # logits of up to 1 / 0.2, the logarithm of a sum of 8 exponentials of them
    want = naive_info_nce(EMBEDDING.astype(np.float64), LABEL, 0.2)
    assert_rounded(contrast, want, 2 * 5 + 8 + 16, scale=1 / 0.2)
    proxy = RANDOM.normal(size=(6, 5)).astype(np.float32)
    anchor = proxy_anchor(EMBEDDING, label, proxy, alpha=32.0, delta=0.1)
    want = naive_proxy_anchor(EMBEDDING.astype(np.float64), LABEL, proxy.astype(np.float64), 32.0, 0.1)
    assert float(anchor) == pytest.approx(want, rel=0, abs=rounding(2 * 5 + 8 + 16, scale=32 * 1.1))


def test_local_rows_against_the_gathered_batch():
    """Two halves, each against all rows, give the whole batch's values."""
    label = jnp.asarray(LABEL)
    for loss in (batch_hard_triplet, info_nce):
        whole = loss(EMBEDDING, label, EMBEDDING, label, jnp.arange(9))
        parts = [
            loss(EMBEDDING[part], label[part], EMBEDDING, label, jnp.arange(9)[part])
            for part in (slice(0, 4), slice(4, 9))
        ]
        assert_rounded(np.concatenate(parts), whole, 3 * 5 + 8 + 16, scale=10)  # temperature 0.1


def test_low_precision_inputs_are_widened():
    logits = jnp.asarray(GOLDEN["in_logits"], jnp.bfloat16)
    assert losses.sigmoid_bce(logits, jnp.asarray(GOLDEN["in_multi_target"])).dtype == jnp.float32
    assert losses.softmax_ce(logits, jnp.zeros(8, int)).dtype == jnp.float32


# ------------------------------------------------------------------------------ (image, attribute) pairs
def naive_foreground_background(rows, temperature, alpha, *, negatives=True, across=True):
    r, p, c = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows[:3])
    attribute, value = rows[3:]
    found = []
    for i in range(len(r)):
        near, far = np.exp(p @ r[i] / temperature), np.exp(c @ r[i] / temperature)
        related = (attribute == attribute[i]) & (attribute >= 0)
        same = related & (value == value[i])
        others = ((attribute >= 0) if across else related) & ~same
        total = near[same].sum() + negatives * near[others].sum() + alpha * far[related].sum()
        found.append(0.0 if attribute[i] < 0 else np.log(total / near[same].sum()))
    return np.asarray(found)


@pytest.mark.parametrize(("negatives", "across"), [(True, True), (True, False), (False, True)])
def test_foreground_against_background_equals_the_sums(negatives, across):
    attribute, value = np.asarray([0, 0, 0, 1, 1, -1]), np.asarray([0, 0, 1, 0, 2, -1])
    embeddings = np.random.default_rng(5).normal(size=(3, 6, 4)).astype(np.float32)
    rows = losses.AttributeRows(*embeddings, attribute, value)
    loss = losses.foreground_background(rows, rows, 0.2, 3.0, negatives=negatives, across_attributes=across)
    wide = (*embeddings.astype(np.float64), attribute, value)
    want = naive_foreground_background(wide, 0.2, 3.0, negatives=negatives, across=across)
    assert_rounded(loss, want, 3 * 4 + 6 + 16, scale=1 / 0.2)
    assert want[5] == loss[5] == 0


def test_rows_of_other_groups_take_no_part():
    label, group = jnp.asarray(LABEL), jnp.asarray([0, 0, 0, 0, 1, 1, 1, 1, 1])
    part = slice(0, 4)
    alone = losses.info_nce(EMBEDDING[part], label[part], EMBEDDING[part], label[part], jnp.arange(4))
    grouped = losses.info_nce(EMBEDDING, label, EMBEDDING, label, jnp.arange(9), group=group, all_group=group)
    assert_rounded(grouped[part], alone, 3 * 5 + 8 + 16, scale=1 / 0.07)
