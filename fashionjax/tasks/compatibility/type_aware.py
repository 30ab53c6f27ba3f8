"""The losses of the type-aware embedding, on triplets of items (Vasileva et al. 2018; mmfashion/models/
triplet_net.py, type_specific_net.py and losses of MMFashion).

x is the anchor, z the positive of the same outfit, y the negative, of the positive's type.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from ml_collections import ConfigDict

from fashionjax import losses, quirks
from fashionjax.ops import type_spaces
from fashionjax.task import AXIS, Batch
from fashionjax.tasks import supervised

MARGIN = 0.3  # of every ranking term
ROLES = 3  # x, z, y at consecutive places of a batch
STATISTICS = ("role", "batch")


class View(NamedTuple):
    """What the terms read. image, text: embeddings [t b d] of x, z, y; has [t b] 0/1; weight [b] 1 for
    triplets that could be read; space [b] that of x and z; category_logits [t b c] and category [t b]."""

    config: ConfigDict
    image: jax.Array
    text: jax.Array | None
    has: jax.Array | None
    weight: jax.Array
    space: jax.Array
    spaces: type_spaces.Spaces
    category_logits: jax.Array | None
    category: jax.Array


def terms(config: ConfigDict, model, table, params, model_state, batch: Batch):
    """table: space of every two categories. -> ({term: unweighted value}, model_state)."""
    supervised.check_triplets(len(batch["image"]))
    by_role = {
        name: rearrange(batch[name], "(b t) ... -> t b ...", t=ROLES)
        for name in ("image", "text", "has_text", "category", "example_weight")
        if name in batch
    }
    outputs, model_state = _passes(config, model, params, model_state, "__call__", by_role["image"])
    text = None
    if "text" in by_role:
        # upstream's order of the texts is anchor, negative, positive
        turn = jnp.asarray([0, 2, 1])
        text, model_state = _passes(config, model, params, model_state, "encode_text", by_role["text"][turn])
        text = text[turn]
    category = by_role["category"]
    view = View(
        config,
        outputs["embedding"],
        text,
        by_role.get("has_text"),
        (by_role["example_weight"] > 0).all(axis=0).astype(jnp.float32),
        table[category[0], category[1]],
        model.apply({"params": params}, method="scoring"),
        outputs.get("category_logits"),
        category,
    )
    return {name: TERMS[name](view) for name in config.loss}, model_state


def _passes(config, model, params, model_state, method: str, inputs):
    """inputs [t b …] → (outputs [t b …], model_state): each role with batch statistics of its own, one after
    the other, as upstream; or, with `config.model.statistics` = batch, all in one pass."""

    def one(model_state, x):
        variables = {"params": params, "batch_stats": model_state}
        outputs, updated = model.apply(variables, x, train=True, method=method, mutable=["batch_stats"])
        return model_state | updated.get("batch_stats", {}), outputs

    if config.model.statistics == "role":
        model_state, outputs = jax.lax.scan(one, model_state, inputs)
        return outputs, model_state
    model_state, outputs = one(model_state, rearrange(inputs, "t b ... -> (t b) ..."))
    return jax.tree.map(lambda x: rearrange(x, "(t b) ... -> t b ...", t=ROLES), outputs), model_state


def _hinge(near: jax.Array, far: jax.Array) -> jax.Array:
    return losses.margin_ranking(far, near, MARGIN)


def _triplet(view: View) -> jax.Array:
    x, z, y = (type_spaces.project(view.spaces, embedding, view.space) for embedding in view.image)
    near, far = (type_spaces.distance(view.spaces, x, other) for other in (z, y))
    return supervised.selected_mean(_hinge(near, far), view.weight)


def _image_similarity(view: View) -> jax.Array:
    """Positive and negative are of one type and should be nearer to each other than to the anchor."""
    x, z, y = view.image
    same, others = type_spaces.pair_distance(y, z), [type_spaces.pair_distance(a, x) for a in (y, z)]
    if quirks.on(view.config, "c4_same_type_apart"):
        return 0.5 * sum(supervised.selected_mean(_hinge(other, same), view.weight) for other in others)
    return 0.5 * sum(supervised.selected_mean(_hinge(same, other), view.weight) for other in others)


def _text_similarity(view: View) -> jax.Array:
    x, z, y = view.text
    selected = view.has.prod(axis=0) * view.weight
    same = type_spaces.pair_distance(y, z)
    others = (type_spaces.pair_distance(x, a) for a in (y, z))
    return 0.5 * sum(supervised.selected_mean(_hinge(same, far), selected) for far in others)


def _vse(view: View) -> jax.Array:
    """A text is nearer to its own image than to the two others of the triplet."""
    total = 0.0
    for i in range(ROLES):
        selected = view.has[i] * view.weight
        near = type_spaces.pair_distance(view.image[i], view.text[i])
        for j in set(range(ROLES)) - {i}:
            far = type_spaces.pair_distance(view.image[j], view.text[i])
            total += 0.5 * supervised.selected_mean(_hinge(near, far), selected)
    return total / ROLES


def _embedding_norm(view: View) -> jax.Array:
    """Root mean square length of the general embeddings, mean over the roles."""
    squares = jnp.sum(jnp.square(view.image), axis=-1)
    mean = [jax.lax.pmean(supervised.selected_mean(square, view.weight), AXIS) for square in squares]
    return losses.mean_norm([jnp.sqrt(jnp.maximum(square, 1e-12)) for square in mean])


def _space_norm(view: View) -> jax.Array:
    """L1 norm of the mask or kernel of each triplet's space."""
    arrays = view.spaces.kernel if view.spaces.mask is None else view.spaces.mask
    norms = jnp.sum(jnp.abs(arrays), axis=tuple(range(1, arrays.ndim)))
    return supervised.selected_mean(norms[view.space], view.weight)


def _category(view: View) -> jax.Array:
    per_example = jax.vmap(losses.softmax_ce)(view.category_logits, view.category)
    return supervised.selected_mean(per_example.mean(axis=0), view.weight)


TERMS = {
    "triplet": _triplet,
    "image_similarity": _image_similarity,
    "text_similarity": _text_similarity,
    "vse": _vse,
    "embedding_norm": _embedding_norm,
    "space_norm": _space_norm,
    "category": _category,
}
TEXT_TERMS = {"text_similarity", "vse"}
