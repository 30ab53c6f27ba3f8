"""Losses of the detectors against transcriptions in numpy, float64: detectron2's, mmdetection 1.x's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_conditioned, assert_rounded

from fashionjax.models.detection import rcnn, roi_heads, rpn
from fashionjax.models.detection.settings import CASCADE, MASK_RCNN, MMDETECTION

SIZE = np.array([64, 96])
TRUTH = np.float32([[6, 8, 40, 44], [30, 20, 92, 60], [0, 0, 9, 9]])  # the last one is padding
VALID = np.array([True, True, False])
LABEL = np.array([2, 0, 1])
SMALL = {"strides": (8, 16), "anchor_scale": 2, "anchors_sampled": 40, "rois_sampled": 24}
CONVENTIONS = {"detectron2": MASK_RCNN, "mmdetection": MMDETECTION}


def settings_of(name: str):
    return CONVENTIONS[name]._replace(**SMALL)


def encode(box, target, weights, plus):
    """Deltas of boxes to targets, widths x2 - x1 + plus."""
    side, other = box[:, 2:] - box[:, :2] + plus, target[:, 2:] - target[:, :2] + plus
    middle, theirs = (box[:, :2] + box[:, 2:]) / 2, (target[:, :2] + target[:, 2:]) / 2
    if plus == 0:
        middle, theirs = box[:, :2] + side / 2, target[:, :2] + other / 2
    return np.concatenate([(theirs - middle) / side, np.log(other / side)], axis=1) * weights


def wide(*arrays):
    return (np.asarray(x, np.float64) for x in arrays)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def smooth(difference, beta):
    size = np.abs(difference)
    return size if beta == 0 else np.where(size < beta, size**2 / (2 * beta), size - beta / 2)


def overlaps(box, other, plus):
    low, high = np.maximum(box[:, None, :2], other[:, :2]), np.minimum(box[:, None, 2:], other[:, 2:])
    both = np.clip(high - low + plus, 0, None).prod(axis=-1)
    area = [(b[:, 2:] - b[:, :2] + plus).prod(axis=-1) for b in (box, other)]
    return both / (area[0][:, None] + area[1] - both)


def cross_entropy(logits, label):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(label)), label]


def binary_entropy(logit, target):
    return np.logaddexp(0, logit) - target * logit


def anchor_kinds(settings, anchor, truth, plus):
    """(1 foreground, 0 background, -1 neither [n], matched ground truth [n]) by a loop over the truth."""
    overlap = overlaps(anchor, truth, plus)
    kind, index = np.full(len(anchor), -1), overlap.argmax(axis=1)
    best = overlap.max(axis=1)
    usable = np.ones(len(anchor), bool)
    if settings.geometry.anchors_inside:
        usable = (anchor[:, :2] >= 0).all(axis=1) & (anchor[:, 2] < SIZE[1]) & (anchor[:, 3] < SIZE[0])
    kind[best < settings.anchor_background] = 0
    kind[best >= settings.anchor_foreground] = 1
    for g in range(len(truth)):
        of_truth = overlap[usable, g].max()
        if of_truth > 0 and of_truth >= settings.anchor_low_quality:
            claimed = usable & (overlap[:, g] == of_truth)
            kind[claimed] = 1
            if settings.geometry.last_claim_wins:
                index[claimed] = g
    kind[~usable] = -1
    return kind, index


@pytest.mark.parametrize("name", CONVENTIONS)
def test_losses_of_the_proposals(name):
    """All anchors are sampled, so that nothing is left to chance; sums of both terms."""
    settings, plus = settings_of(name), float(name == "mmdetection")
    shapes = [(8, 12), (4, 6)]
    levels = rpn.levels(settings, shapes)
    anchor = np.concatenate([level.anchor for level in levels])
    settings = settings._replace(anchors_sampled=2 * len(anchor), anchor_foreground=0.6)
    rng = np.random.default_rng(1)
    logit, delta = normal(rng, len(anchor)), normal(rng, len(anchor), 4)
    cut = [len(levels[0].anchor)]
    found = rpn.loss(
        settings,
        levels,
        [jnp.asarray(x) for x in np.split(logit, cut)],
        [jnp.asarray(x) for x in np.split(delta, cut)],
        TRUTH,
        VALID,
        SIZE,
        np.array(shapes),
        jax.random.key(0),
    )
    kind, index = anchor_kinds(settings, *wide(anchor, TRUTH[VALID]), plus)
    foreground = kind == 1
    assert 2 <= foreground.sum() < 40 and (kind == 0).sum() > 40

    def sums(anchor, truth, logit, delta):
        anchor, truth, logit, delta = wide(anchor, truth, logit, delta)
        target = encode(anchor[foreground], truth[index[foreground]], 1.0, plus)
        box = smooth(delta[foreground] - target, settings.anchor_beta).sum()
        return box, binary_entropy(logit, foreground)[kind >= 0].sum()

    arguments = anchor, TRUTH[VALID], logit, delta
    got = found.box, found.objectness
    assert_conditioned(got, sums(*arguments), sums, *arguments, terms=4 * len(anchor))
    assert found.sampled == (kind >= 0).sum()


def rois_near_the_truth(rng):
    jitter = rng.uniform(-6, 6, (20, 4))
    box = np.clip(TRUTH[rng.integers(0, 2, 20)] + jitter, 0, [95, 63, 95, 63])
    return np.concatenate([box, [[70, 2, 80, 12], [1, 50, 20, 60]]]).astype(np.float32)


def drawn_rois(settings, box):
    proposals = rpn.Proposals(jnp.asarray(box), jnp.zeros(len(box)), jnp.ones(len(box), bool))
    return roi_heads.sample(settings, 3, proposals, TRUTH, LABEL, VALID, jax.random.key(2))


@pytest.mark.parametrize("name", CONVENTIONS)
def test_losses_of_the_boxes(name):
    settings, plus = settings_of(name), float(name == "mmdetection")
    rng = np.random.default_rng(3)
    rois = drawn_rois(settings, rois_near_the_truth(rng))
    n = len(rois.box)
    logits, delta = normal(rng, n, 4), normal(rng, n, 3, 4)
    found = roi_heads.box_loss(settings, 0, jnp.asarray(logits), jnp.asarray(delta), rois, TRUTH)
    valid = np.asarray(rois.valid)
    overlap = overlaps(*wide(rois.box, TRUTH[VALID]), plus)
    foreground = valid & (overlap.max(axis=1) >= 0.5)
    assert foreground.sum() == np.sum(rois.foreground) == 6 and valid.sum() > 6  # a quarter of 24
    matched = overlap.argmax(axis=1)
    label = np.where(foreground, LABEL[matched], 3)

    def sums(box, truth, logits, delta):
        box, truth, logits, delta = wide(box, truth, logits, delta)
        target = encode(box[foreground], truth[matched[foreground]], np.array([10.0, 10, 5, 5]), plus)
        own = delta[foreground, label[foreground]]
        return smooth(own - target, settings.roi_beta).sum(), cross_entropy(logits, label)[valid].sum()

    arguments = rois.box, TRUTH[VALID], logits, delta
    got = found.box, found.entropy
    assert_conditioned(got, sums(*arguments), sums, *arguments, terms=4 * n)
    assert found.rois == valid.sum()


@pytest.mark.slow
def test_later_stages_match_all_boxes_again_at_their_own_iou():
    """Cascade: refined boxes of the stage before, none drawn anew, empty ones left out."""
    settings = CASCADE._replace(**SMALL)
    rng = np.random.default_rng(4)
    box = np.concatenate([rois_near_the_truth(rng), [[10, 10, 10, 30]]]).astype(np.float32)
    overlap = overlaps(*wide(box[:-1], TRUTH[VALID]), 0.0)
    counts = []
    for stage, threshold in ((1, 0.6), (2, 0.7)):
        rois = roi_heads.rematch(settings, 3, stage, box, np.ones(len(box), bool), TRUTH, LABEL, VALID)
        assert not rois.valid[-1] and np.all(rois.valid[:-1])
        foreground = overlap.max(axis=1) >= threshold
        np.testing.assert_array_equal(rois.foreground[:-1], foreground)
        matched = overlap.argmax(axis=1)
        np.testing.assert_array_equal(rois.label[:-1], np.where(foreground, LABEL[matched], 3))
        logits, delta = normal(rng, len(box), 4), normal(rng, len(box), 1, 4)
        found = roi_heads.box_loss(settings, stage, jnp.asarray(logits), jnp.asarray(delta), rois, TRUTH)
        weights = np.array(settings.stage_weights[stage])

        def total(box, truth, delta, weights=weights):
            box, truth, delta = wide(box, truth, delta)
            return np.abs(delta - encode(box, truth, weights, 0.0)).sum()

        arguments = box[:-1][foreground], TRUTH[matched[foreground]], delta[:-1][foreground, 0]
        assert_conditioned(found.box, total(*arguments), total, *arguments, terms=4 * len(box))
        counts.append(foreground.sum())
    assert 0 < counts[1] < counts[0] < len(box) - 1


def test_losses_of_the_masks():
    rng = np.random.default_rng(5)
    logits, target = normal(rng, 5, 4, 4, 3), rng.random((5, 4, 4)) < 0.5
    label, counted = np.array([2, 0, 1, 3, 3]), np.array([True, True, False, False, False])
    total, count = roi_heads.mask_loss(jnp.asarray(logits), jnp.asarray(target), label, jnp.asarray(counted))
    logits = logits.astype(np.float64)
    want = sum(binary_entropy(logits[i, :, :, label[i]], target[i]).mean() for i in (0, 1))
    assert_rounded(total, want, operations=16 + 2 + 2 * 8 + 2)  # cells, objects, exp and log, the rest
    assert count == 2


def test_terms_are_means_over_what_the_originals_count():
    """RPN terms per 256 anchors an image, box terms per RoI, masks per foreground RoI; of a batch."""

    class Sums:
        def apply(self, *args, method, mutable):
            assert method == "loss_sums" and not mutable
            pairs = {"rpn_cls": ([256.0, 512.0], [256, 256]), "cls": ([6.0, 9.0], [2, 3])}
            pairs["mask"] = ([0.0, 0.0], [0, 0])
            return {name: tuple(map(jnp.asarray, pair)) for name, pair in pairs.items()}

    run = partial(rcnn.losses, Sums(), {}, None, None, None, None, None)
    terms, _ = run()
    assert (terms["rpn_cls"], terms["cls"], terms["mask"]) == (1.5, 3.0, 0.0)
    terms, _ = run(weight=jnp.array([1.0, 0.0]))
    assert (terms["rpn_cls"], terms["cls"]) == (1.0, 3.0)
