"""The losses of the set transformer, on whole outfits of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from ml_collections import ConfigDict

from fashionjax import losses
from fashionjax.errors import UserError
from fashionjax.task import Batch
from fashionjax.tasks import supervised

TERMS = ("outfit", "blank", "category")


def terms(config: ConfigDict, model, params, model_state, batch: Batch, rng):
    """Real outfits against ones whose items are replaced by others of their type in the batch (`outfit`), and
    the true item of a blank against such others (`blank`)."""
    spec = config.outfit
    if len(batch["image"]) % spec.slots:
        count = len(batch["image"])
        raise UserError(
            f"per-device batch of {count} images is not a multiple of {spec.slots} (outfit slots)"
        )
    variables = {"params": params, "batch_stats": model_state}
    outputs, updated = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
    model_state = model_state | updated.get("batch_stats", {})
    readable = batch["example_weight"] > 0
    inside = batch["in_outfit"] & readable
    others = _others_of_type(rng, batch["category"], inside, batch["index"], spec.slots, spec.candidates)
    rows = jnp.arange(len(inside))
    exists = others >= 0
    others = jnp.where(exists, others, rows[:, None])

    def score(rows, valid):  # [o m] rows of the batch → logit [o]
        embedding, category = outputs["embedding"][rows], batch["category"][rows]
        return model.apply({"params": params}, embedding, category, valid, method="score_sets")

    own = rearrange(rows, "(o m) -> o m", m=spec.slots)
    valid = inside[own]
    complete = valid.sum(axis=1) > 1
    replaced, can = others[own][..., 0], exists[own][..., 0] & valid
    pair = (complete & (can.sum(axis=1) > 1)).astype(jnp.float32)
    # both without the slots that nothing can replace: neither size nor types tell which one is real
    real, fake = score(own, can), score(replaced, can)
    values = {"outfit": 0.5 * supervised.selected_mean(jax.nn.softplus(-real) + jax.nn.softplus(fake), pair)}

    # one blank a set: a random slot that has another item of its type in the batch
    noise = jax.random.uniform(jax.random.fold_in(rng, 3), valid.shape)
    blank = jnp.argmax(jnp.where(can, 1 + noise, noise * valid), axis=1)
    at = jnp.arange(spec.slots) == blank[:, None]
    chosen = others[own][jnp.arange(len(own)), blank]  # [o k]
    known = exists[own][jnp.arange(len(own)), blank]
    logits = [
        score(own, valid),
        *(score(jnp.where(at, chosen[:, k, None], own), valid) for k in range(spec.candidates)),
    ]
    seen = jnp.concatenate([jnp.ones_like(known[:, :1]), known], axis=1)
    logits = jnp.where(seen, jnp.stack(logits, axis=1), -1e9)
    asked = (complete & known.any(axis=1)).astype(jnp.float32)
    values["blank"] = supervised.selected_mean(-jax.nn.log_softmax(logits)[:, 0], asked)
    per_example = losses.softmax_ce(outputs["category_logits"], batch["category"])
    values["category"] = supervised.selected_mean(per_example, inside.astype(jnp.float32))
    return values, model_state


def _others_of_type(rng, category, inside, index, slots: int, k: int):
    """For every example k random rows of the local batch of its type, of other outfits and other records;
    -1 where there are fewer. [n k]"""
    n = len(category)
    outfit = jnp.arange(n) // slots
    may = (
        (category[:, None] == category[None])
        & (outfit[:, None] != outfit[None])
        & (index[:, None] != index[None])
        & inside[None]
        & inside[:, None]
    )
    noise = jax.random.uniform(jax.random.fold_in(rng, 2), (n, n))
    value, row = jax.lax.top_k(jnp.where(may, noise, -1.0), min(k, n))
    row = jnp.where(value >= 0, row, -1)
    return jnp.pad(row, ((0, 0), (0, k - row.shape[1])), constant_values=-1)
