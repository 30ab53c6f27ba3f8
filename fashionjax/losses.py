"""Losses per example: each returns [b] float32, the caller weights and averages.

Retrieval losses compare local rows with the rows of the whole batch; a task that runs on several devices
gathers embeddings and labels over its device axis first and passes `own`, the place of each local row among
them.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fashionjax.ops.distances import unit

COSINE_EPSILON = 1e-12  # added to each squared norm, as torch's cosine_embedding_loss


def masked_mean(value, mask):
    """Mean of value [...] where mask [...] is set; 0 when it is nowhere set."""
    mask = jnp.broadcast_to(mask, value.shape).astype(value.dtype)
    return jnp.sum(value * mask) / jnp.maximum(jnp.sum(mask), 1)


# Classification


def sigmoid_bce(logits, target):
    """logits [b a], target [b a] in 0..1 -> [b]: binary cross-entropy, mean over the attributes."""
    logits, target = logits.astype(jnp.float32), target.astype(jnp.float32)
    return (jax.nn.softplus(logits) - target * logits).mean(axis=-1)


def softmax_ce(logits, label, smoothing: float = 0.0):
    """logits [b c], label [b] int -> [b]. smoothing s: (1 - s) * CE(label) + s * mean over classes of -log
    p.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    loss = -jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]
    return (1 - smoothing) * loss - smoothing * log_p.mean(axis=1) if smoothing else loss


def balanced_bce(logits, target, positive: float, negative: float):
    """logits [b a], target [b a] of 0/1 -> [b]: binary cross-entropies times a weight for positives and one
    for negatives, summed over the attributes (FashionNet)."""
    logits, target = logits.astype(jnp.float32), target.astype(jnp.float32)
    per_label = positive * target * jax.nn.softplus(-logits) + negative * (1 - target) * jax.nn.softplus(
        logits
    )
    return per_label.sum(axis=-1)


# Landmarks


def state_ce(logits, state):
    """logits [b k s], state [b k] int -> [b]: cross-entropy of each landmark's state, summed (FashionNet).

    A landmark whose state is not in 0 to s - 1 (the garment has none) counts nothing.
    """
    states = logits.shape[-1]
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = jnp.take_along_axis(log_p, jnp.clip(state, 0, states - 1)[..., None], axis=-1)[..., 0]
    return -jnp.where((state >= 0) & (state < states), chosen, 0.0).sum(axis=1)


def landmark_square(predicted, true, seen):
    """predicted, true [b k 2], seen [b k] bool -> [b]: squared distances, summed over the landmarks that are
    seen (FashionNet)."""
    # coordinates of others may be anything: taken out before the square
    difference = jnp.where(seen[..., None], (predicted - true).astype(jnp.float32), 0.0)
    return jnp.square(difference).sum(axis=(1, 2))


def landmark_regression_zoo(predicted, true, visibility, frame: float = 1.0):
    """predicted, true [b k 2], visibility [b k] of 0/1 -> [b]: MMFashion's form.

    Mean over all k x 2 of (v * frame * (predicted - true))^2: invisible slots are zeros that stay in the
    denominator. frame=224 turns coordinates in [0, 1] into the zoo's pixels.
    """
    difference = frame * (predicted - true).astype(jnp.float32) * visibility[..., None]
    return jnp.square(difference).mean(axis=(1, 2))


def landmark_regression(predicted, true, visibility, penalty=jnp.square):
    """predicted, true [b k 2], visibility [b k] of 0/1 -> [b]: penalty summed over x and y, mean over
    visible points.

    An example without a visible point has loss 0. `penalty` is elementwise, e.g. jnp.square, jnp.abs.
    """
    visibility = visibility.astype(jnp.float32)
    # Unseen coordinates may be anything, so they are taken out before the penalty and not multiplied away
    # after it.
    difference = jnp.where(visibility[..., None] > 0, (predicted - true).astype(jnp.float32), 0.0)
    per_point = penalty(difference).sum(axis=-1) * visibility
    return per_point.sum(axis=1) / jnp.maximum(visibility.sum(axis=1), 1)


def visibility_bce(logits, visibility):
    """logits [b k], visibility [b k] of 0/1 -> [b]: binary cross-entropy, mean over the slots."""
    return sigmoid_bce(logits, visibility)


def visibility_bce_double_sigmoid(logits, visibility):
    """As `visibility_bce` but the sigmoid of the logits is taken for a logit once more (quirk S9)."""
    return sigmoid_bce(jax.nn.sigmoid(logits.astype(jnp.float32)), visibility)


# Pairs and triplets of embeddings


def cosine(a, b):
    """a, b [b d] -> cosine similarity [b]; 0 rather than NaN for a zero vector."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    squares = (jnp.sum(a * a, axis=-1) + COSINE_EPSILON) * (jnp.sum(b * b, axis=-1) + COSINE_EPSILON)
    return jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(squares)


def cosine_pairs(anchor, positive, negative, margin: float = 0.0):
    """anchor, positive, negative [b d] -> [b]: 1 - cos(a, p) + max(0, cos(a, n) - margin).

    MMFashion's TripletLoss with method "cosine": two pair terms, not a triplet hinge.
    """
    return 1 - cosine(anchor, positive) + jax.nn.relu(cosine(anchor, negative) - margin)


def l2_triplet(anchor, positive, negative, margin: float = 0.2):
    """anchor, positive, negative [b d] -> [b]: max(0, |a - p|^2 - |a - n|^2 + margin)."""
    anchor, positive, negative = (x.astype(jnp.float32) for x in (anchor, positive, negative))
    # |a - p|^2 - |a - n|^2 without the difference of two large sums, which would lose digits of a small one
    difference = jnp.sum((negative - positive) * ((anchor - positive) + (anchor - negative)), axis=-1)
    return jax.nn.relu(difference + margin)


def margin_ranking(larger, smaller, margin: float = 0.3):
    """larger, smaller [b] -> [b]: max(0, smaller - larger + margin)."""
    return jax.nn.relu(smaller - larger + margin)


def selective_margin(near, far, selected, margin: float = 0.3):
    """near, far [b] distances, selected [b] of 0/1 -> [b]: selected * clip(near - far + margin, 0, 1e6).

    The original divides the sum by the number selected and weighs it by 5e-5: `masked_mean(loss, selected)`.
    """
    return selected * jnp.clip(near - far + margin, 0, 1e6)


def mean_norm(norms, divisor: float = 1.0):
    """Mean of scalar norms (a sequence of three in MMFashion) over `divisor`.

    MMFashion's L2NormLoss divides by sqrt(batch size), L1NormLoss by the batch size or, not averaging, by 1.
    """
    return jnp.mean(jnp.stack([jnp.asarray(x, jnp.float32) for x in norms])) / divisor


def cosine_triplet(anchor, positive, negative, margin: float = 0.2):
    """anchor, positive, negative [b d] -> [b]: max(0, cos(a, n) - cos(a, p) + margin) (RPF, ASEN)."""
    return jax.nn.relu(cosine(anchor, negative) - cosine(anchor, positive) + margin)


def cosine_alignment(a, b):
    """a, b [b d] -> [b]: max(0, 1 - cos(a, b)), which draws two embeddings of one image together (ASEN++)."""
    return jax.nn.relu(1 - cosine(a, b))


# Retrieval over the whole batch


def _relations(label, all_label, own, group=None, all_group=None):
    """Masks [b g] of rows with the same identity (own row left out) and with another; label -1 takes no
    part. With groups only rows of the same group are compared.
    """
    known = (label[:, None] >= 0) & (all_label[None, :] >= 0)
    if group is not None:
        known &= group[:, None] == all_group[None, :]
    same = label[:, None] == all_label[None, :]
    not_self = own[:, None] != jnp.arange(all_label.shape[0])[None, :]
    return known & same & not_self, known & ~same


def batch_hard_triplet(
    embedding,
    label,
    all_embedding,
    all_label,
    own,
    margin: float = 0.1,
    *,
    soft: bool = False,
    added: float = 0.0,
    fallback: bool = False,
):
    """Hinge between the farthest row of the own identity and the nearest of another, Euclidean (Hermans et
    al. 2017).

    embedding [b d], label [b] int (-1: takes no part), all_embedding [g d], all_label [g], own [b] index of
    each row in the whole batch -> [b]. Rows are taken as they are (normalise first with
    `ops.distances.unit` where wanted). A row with no positive or no negative has loss 0. soft: log(1 +
    exp(dp - dn)) in place of the hinge with a margin. added: to each component of a difference before its
    norm (1e-6 in torch.nn.functional.pairwise_distance). fallback: the first row of the batch stands for a
    positive or negative that does not exist, as in fashion-recommendation (a row with label -1 takes no
    part).
    """
    embedding, all_embedding = embedding.astype(jnp.float32), all_embedding.astype(jnp.float32)
    positive, negative = _relations(label, all_label, own)
    # Which rows are hard is decided by the product form; their distances are then taken exactly.
    product = jnp.einsum("bd,gd->bg", embedding, all_embedding, precision="highest")
    order = jax.lax.stop_gradient(jnp.sum(all_embedding**2, axis=1)[None, :] - 2 * product)
    hardest = jnp.argmax(jnp.where(positive, order, -jnp.inf), axis=1)
    nearest = jnp.argmin(jnp.where(negative, order, jnp.inf), axis=1)

    def distance(index):
        square = jnp.sum(jnp.square(embedding - all_embedding[index] + added), axis=1)
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

    gap = distance(hardest) - distance(nearest)
    loss = jax.nn.softplus(gap) if soft else jax.nn.relu(gap + margin)
    usable = label >= 0 if fallback else positive.any(axis=1) & negative.any(axis=1)
    return jnp.where(usable, loss, 0.0)


def info_nce(
    embedding,
    label,
    all_embedding,
    all_label,
    own,
    temperature: float = 0.07,
    *,
    group=None,
    all_group=None,
):
    """Contrastive loss with labels (SupCon, Khosla et al. 2020; NT-Xent when every label occurs twice).

    Arguments as in `batch_hard_triplet`; rows are normalised here. Per row: mean over its positives of
    -log(exp(s_p / T) / sum over all other rows of exp(s / T)); 0 for a row without positives. -> [b]
    group [b], all_group [g]: rows of other groups (attributes, whose values are not comparable) take no part.
    """
    positive, negative = _relations(label, all_label, own, group, all_group)
    similarity = (
        jnp.einsum("bd,gd->bg", unit(embedding), unit(all_embedding), precision="highest") / temperature
    )
    others = positive | negative
    # A finite mask value keeps the gradient of a row without any other row at 0 instead of NaN.
    log_total = jax.nn.logsumexp(jnp.where(others, similarity, -1e9), axis=1)
    log_p = similarity - log_total[:, None]
    return -jnp.sum(jnp.where(positive, log_p, 0.0), axis=1) / jnp.maximum(positive.sum(axis=1), 1)


class AttributeRows(NamedTuple):
    """Embeddings of (image, attribute) pairs: region, patch and complement (background) [n d], attribute and
    value [n] int; attribute -1 takes no part."""

    region: jax.Array
    patch: jax.Array
    complement: jax.Array
    attribute: jax.Array
    value: jax.Array


def foreground_background(
    rows: AttributeRows,
    every: AttributeRows,
    temperature: float = 0.07,
    alpha: float = 12.0,
    *,
    negatives: bool = True,
    across_attributes: bool = True,
    self_positive: bool = False,
    self_temperature: float = 1.0,
):
    """RPF's contrast of foreground and background ("E-InfoNCE"), rows of length b against `every` of length g
    -> [b].

    -log(p / (p + n + c)) with p the sum of exp(region . patch / T) over the rows of the same attribute and
    value (the own one included), n over all others and c alpha times the sum of exp(region . complement / T)
    over the rows of the same attribute. Rows are normalised here. Without `across_attributes`, n leaves out
    the rows of other attributes. The forms that the original never trains with: without `negatives` there is
    no n; with `self_positive` p is exp(region . region / `self_temperature`), not divided by T there.
    """
    region, patch, complement = unit(rows.region), unit(every.patch), unit(every.complement)
    known = (rows.attribute[:, None] >= 0) & (every.attribute[None, :] >= 0)
    related = known & (rows.attribute[:, None] == every.attribute[None, :])
    positive = related & (rows.value[:, None] == every.value[None, :])
    negative = (known if across_attributes else related) & ~positive & negatives

    def log_sum(other, mask):
        product = jnp.einsum("bd,gd->bg", region, other, precision="highest") / temperature
        return jax.nn.logsumexp(jnp.where(mask, product, -1e9), axis=1)

    log_p, log_c = log_sum(patch, positive), math.log(alpha) + log_sum(complement, related)
    if self_positive:
        log_p = jnp.sum(region * region, axis=1) / self_temperature
    total = jax.nn.logsumexp(jnp.stack([log_p, log_sum(patch, negative), log_c]), axis=0)
    return jnp.where(rows.attribute >= 0, total - log_p, 0.0)


def proxy_anchor(all_embedding, all_label, proxy, alpha: float = 32.0, delta: float = 0.1):
    """Proxy-Anchor loss (Kim et al. 2020) of the whole batch: all_embedding [g d], all_label [g], proxy [c
    d] -> scalar.

    The one loss here that does not split over examples: it averages over proxies. Every device computes it
    on the gathered batch, and the mean of the gradients over devices is then the gradient on the whole
    batch. label -1 takes no part. Embeddings and proxies are normalised here.
    """
    similarity = jnp.einsum("gd,cd->gc", unit(all_embedding), unit(proxy), precision="highest")
    known = (all_label >= 0)[:, None]
    same = (all_label[:, None] == jnp.arange(proxy.shape[0])[None, :]) & known
    other = known & ~same

    def log_one_plus_sum(exponent, mask):
        # log(1 + sum exp) as a log-sum-exp with one extra element 0, so that large alpha does not overflow.
        exponent = jnp.where(mask, exponent, -jnp.inf)
        return jax.nn.logsumexp(jnp.concatenate([jnp.zeros_like(exponent[:1]), exponent]), axis=0)

    pull = log_one_plus_sum(-alpha * (similarity - delta), same)
    push = log_one_plus_sum(alpha * (similarity + delta), other)
    return pull.sum() / jnp.maximum(same.any(axis=0).sum(), 1) + push.mean()
