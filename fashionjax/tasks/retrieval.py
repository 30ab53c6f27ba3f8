"""Retrieval: embeddings of garments, in-shop and consumer-to-shop; MMFashion's retrievers and their losses,
the losses on whole batches that replaced them, and combined global descriptors (CGD).

`config.loss` has a weight per term of `TERMS`; `config.retrieval` says how the stream is ordered (`sampler`,
one of `SAMPLERS`) and holds the constants of the losses. `config.model.id_head` is linear, proxy or none.
With `config.model.descriptors` (letters of `cgd.DESCRIPTORS`) the model is a CGD on the backbone's last map.
Evaluation compares the records of role query with those of role gallery.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from ml_collections import ConfigDict

from fashionjax import losses, quirks
from fashionjax.data import samplers
from fashionjax.errors import UserError
from fashionjax.metrics import collect, retrieval
from fashionjax.metrics.retrieval import GALLERY, QUERY
from fashionjax.models import cgd, heads, pooled_features, retriever
from fashionjax.models.cgd import CGD
from fashionjax.models.retriever import Retriever
from fashionjax.models.torch_keys import Rules
from fashionjax.reports import baselines as simple
from fashionjax.reports import retrieval as retrieval_report
from fashionjax.task import AXIS, Batch, Context, Task, TaskEntry, Weights
from fashionjax.tasks import attributes, supervised

SAMPLERS = ("shuffle", "triplet", "pair_triplet", "identity")
ID_HEADS = ("linear", "proxy", "none")


def make(config: ConfigDict) -> Task:
    """The task of a config whose `labels` are filled."""
    _check(config)
    return supervised.make_task(
        config,
        make_model(config),
        arguments=functools.partial(model_inputs, config),
        loss_terms=functools.partial(loss_terms, config),
        predictions=lambda outputs: {"embedding": outputs["embedding"]},
        metrics=functools.partial(metrics, config),
        sampler=None if config.retrieval.sampler == "shuffle" else functools.partial(order, config),
        preprocess=make_preprocess(config),
    )


def make_model(config: ConfigDict) -> Retriever | CGD:
    """The flax module of a config."""
    spec = config.model
    if spec.get("descriptors"):
        return _cgd(config)
    return Retriever(
        **attributes.pooled_feature_fields(config, landmark_head=spec.landmark_source == "predicted"),
        embedding=spec.embedding,
        ids=None if spec.id_head == "none" else len(supervised.label_names(config, "item_id")),
        attributes=len(supervised.label_names(config, "attribute")) if "attribute" in config.loss else None,
        normalise=spec.normalise,
        id_head="linear" if spec.id_head == "none" else spec.id_head,
    )


def _cgd(config: ConfigDict) -> CGD:
    spec = config.model
    try:
        exponents = cgd.exponents_of(spec.descriptors)
    except ValueError as error:
        raise UserError(f"config.model.descriptors: {error}") from error
    if spec.embedding % len(exponents):
        raise UserError(
            f"config.model.embedding={spec.embedding}: no multiple of the {len(exponents)} descriptors"
        )
    if spec.id_head == "proxy" or "attribute" in config.loss or spec.pooling != "global":
        raise UserError(
            "config.model.descriptors: a CGD model pools globally, has no attribute head and no proxies"
        )
    return CGD(
        attributes.make_backbone(config),
        spec.descriptors,
        spec.embedding,
        None if spec.id_head == "none" else len(supervised.label_names(config, "item_id")),
        bn_axis_name=AXIS if spec.sync_bn else None,
    )


def _check(config: ConfigDict) -> None:
    spec, wanted = config.retrieval, set(config.loss)
    if spec.sampler not in SAMPLERS:
        raise UserError(f"config.retrieval.sampler={spec.sampler!r}: use one of {', '.join(SAMPLERS)}")
    if config.model.id_head not in ID_HEADS:
        raise UserError(f"config.model.id_head={config.model.id_head!r}: use one of {', '.join(ID_HEADS)}")
    if not wanted or wanted - set(TERMS):
        raise UserError(f"config.loss has {', '.join(wanted) or 'no term'}: use {', '.join(TERMS)}")
    if wanted & {"pair", "triplet"} and not _in_triplets(config):
        raise UserError("config.loss.pair and .triplet need config.retrieval.sampler=triplet or pair_triplet")
    for term, head in (("id", "linear"), ("proxy_anchor", "proxy")):
        if term in wanted and config.model.id_head != head:
            raise UserError(f"config.loss.{term} needs config.model.id_head={head}")
    if config.accumulate > 1 and spec.sampler != "shuffle":
        raise UserError("config.accumulate cuts batches whose order matters; set it to 1 for this sampler")


def _in_triplets(config: ConfigDict) -> bool:
    return config.retrieval.sampler in ("triplet", "pair_triplet")


# ------------------------------------------------------------------------------ records and their order
def make_preprocess(config: ConfigDict) -> Callable:
    """As of all labelled images, and of the record's item: item_id i32 (its label, -1 for an unknown one),
    identity i32 [2] (64 bits of a hash of the id: equal for equal ids whatever the labels), role i32, pairs
    i32 (how many pairs the image is in)."""
    base = supervised.make_preprocess(config)
    label = {name: number for number, name in enumerate(config.labels.get("item_id", ()))}

    def run(record: dict, rng) -> dict:
        example = base(record, rng)
        if "item_id" not in record:
            return example
        item = str(record["item_id"])
        digest = hashlib.blake2b(item.encode(), digest_size=8).digest()
        example["item_id"] = np.int32(label.get(item, -1))
        example["identity"] = np.frombuffer(digest, np.int32)
        if "role" in record or "view" in record:
            by_view = QUERY if record.get("view") == samplers.CONSUMER else GALLERY
            example["role"] = np.int32(record.get("role", by_view))
        if "pair_id" in record:
            example["pairs"] = np.int32(len(record["pair_id"]))
        return example

    return run


def order(config: ConfigDict, column: Callable[[str], np.ndarray]) -> samplers.Sampler:
    """The stream's order for `config.retrieval.sampler`, from the columns of the training split."""
    item, spec = column("item_id"), config.retrieval
    if spec.sampler == "triplet":
        return samplers.triplets(item)
    if spec.sampler == "pair_triplet":
        halved = None
        if quirks.on(config, "s7_pair_label_halved"):
            label = {name: number for number, name in enumerate(supervised.label_names(config, "item_id"))}
            halved = np.asarray([label[name] for name in item.tolist()], np.int32)
        return samplers.pair_triplets(column("pair_id"), column("view"), item, halved)
    return samplers.identity_balanced(item, spec.per_item, column("view") if spec.alternate_views else None)


# ------------------------------------------------------------------------------ loss
def model_inputs(config: ConfigDict, batch: Batch) -> dict:
    """As the attribute models'; in triplets quirk S3 mixes anchors with anchors, positives with positives
    and negatives with negatives."""
    triplets = _in_triplets(config) and "slot" in batch  # slots are of training batches
    return attributes.model_inputs(config, batch, roles=3 if triplets else 1)


class View(NamedTuple):
    """What the terms read: `anchor` are outputs and labels of the anchors (all examples outside triplets)
    with their weight [b]; `every` those of the whole local batch; `triple` the embeddings of anchor, positive
    and negative with the weight of whole triplets, None outside triplets."""

    config: ConfigDict
    every: dict
    anchor: dict
    triple: tuple | None
    params: dict


def loss_terms(config: ConfigDict, outputs: dict, batch: Batch, params: dict) -> dict:
    """Weighted terms by name, `loss_<term>`."""
    labels = {name: batch[name] for name in ("item_id", "attribute", "example_weight") if name in batch}
    every, triple = outputs | labels, None
    anchor = every
    if _in_triplets(config):
        supervised.check_triplets(len(outputs["embedding"]))
        anchor = {name: value[::3] for name, value in every.items() if getattr(value, "ndim", 0)}
        anchor["example_weight"] = _weight(anchor["example_weight"] > 0)
        whole = rearrange(every["example_weight"], "(b t) -> t b", t=3).min(axis=0) > 0
        triple = (*(outputs["embedding"][role::3] for role in range(3)), _weight(whole))
    view = View(config, every, anchor, triple, params)
    return {f"loss_{name}": weight * TERMS[name](view) for name, weight in config.loss.items()}


def _weight(valid: jax.Array) -> jax.Array:
    """[b] bool → weights whose mean over all devices is 1."""
    valid = valid.astype(jnp.float32)
    return valid / jnp.maximum(jax.lax.pmean(jnp.mean(valid), AXIS), 1e-6)


def _id(view: View) -> jax.Array:
    spec = view.config.retrieval
    logits = view.anchor["id_logits"] / spec.get("id_temperature", 1.0)
    per_example = losses.softmax_ce(logits, view.anchor["item_id"], spec.get("smoothing", 0.0))
    return supervised.weighted_mean(per_example, view.anchor)


def _attribute(view: View) -> jax.Array:
    per_example = losses.sigmoid_bce(view.anchor["attribute_logits"], view.anchor["attribute"])
    return supervised.weighted_mean(per_example, view.anchor)


def _pair(view: View) -> jax.Array:
    *embeddings, weight = view.triple
    return jnp.mean(weight * losses.cosine_pairs(*embeddings, view.config.retrieval.margin))


def _triplet(view: View) -> jax.Array:
    *embeddings, weight = view.triple
    return jnp.mean(weight * losses.l2_triplet(*embeddings, view.config.retrieval.margin))


def _gathered(view: View) -> tuple:
    """(embedding [b d], label [b], all embeddings [g d], all labels [g], own [b]); unreadable: label -1."""
    embedding = view.every["embedding"]
    label = jnp.where(view.every["example_weight"] > 0, view.every["item_id"], -1)
    gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)
    own = jax.lax.axis_index(AXIS) * len(embedding) + jnp.arange(len(embedding))
    return embedding, label, gather(embedding), gather(label), own


def _batch_hard(view: View) -> jax.Array:
    loss = losses.batch_hard_triplet(*_gathered(view), margin=view.config.retrieval.margin)
    return supervised.weighted_mean(loss, view.every)


def _info_nce(view: View) -> jax.Array:
    loss = losses.info_nce(*_gathered(view), temperature=view.config.retrieval.temperature)
    return supervised.weighted_mean(loss, view.every)


def _proxy_anchor(view: View) -> jax.Array:
    _, _, embedding, label, _ = _gathered(view)
    proxies, spec = view.params["embed_extractor"]["proxies"], view.config.retrieval
    return losses.proxy_anchor(embedding, label, proxies, spec.alpha, spec.delta)


# The first four are MMFashion's (`triplet` its unused alternative); the others take the batch of all devices.
TERMS = {
    "id": _id,
    "attribute": _attribute,
    "pair": _pair,
    "triplet": _triplet,
    "batch_hard": _batch_hard,
    "info_nce": _info_nce,
    "proxy_anchor": _proxy_anchor,
}


# ------------------------------------------------------------------------------ evaluation
def metrics(config: ConfigDict, context: Context) -> retrieval.RetrievalMetrics:
    """Every retrieval metric; under quirk S15 an image counts once per pair it is in."""
    return retrieval.RetrievalMetrics(context, per_pair=quirks.on(config, "s15_gallery_per_pair"))


def baselines(task: Task, context: Context) -> dict[str, collect.Mapped]:
    """The same ranking by colours alone."""
    return {"colour_histogram": collect.Mapped(task.metrics(context), simple.colours)}


def fitting_config(backbone: str, pooling: str, parts: tuple[str, ...]) -> str:
    """The fields of a config whose model has these parts, and the experiments' argument for its losses."""
    if "global descriptors" in parts:
        return f"task=retrieval model.backbone={backbone} model.descriptors=SG (experiments/cgd.py)"
    full = "loss=full (config.loss has attribute)"
    alone = "loss=id or loss=triplet (config.loss has no attribute)"
    loss = full if "attribute head" in parts else alone
    return f"task=retrieval model.backbone={backbone} model.pooling={pooling} {loss}"


LABEL_HEADS = {"attribute": heads.PARTS["attribute head"], "item_id": heads.PARTS["id head"]}
CGD_PARTS = {"global descriptors": cgd.HEAD + cgd.BRANCH, "auxiliary classifier": cgd.HEAD + cgd.AUXILIARY}
PARTS = ("attribute head", "embedding head", "id head", "heatmap head")


def _key_rules(model: Retriever | CGD, keys=None) -> Rules:
    return cgd.torch_keys(model) if isinstance(model, CGD) else pooled_features.torch_keys(model)


def _from_shapes(backbone, shapes) -> Retriever | CGD:
    of_cgd = CGD_PARTS["global descriptors"] in shapes
    return (cgd if of_cgd else retriever).from_shapes(backbone, shapes)


def _pooling(shapes) -> str:
    return "descriptor" if CGD_PARTS["global descriptors"] in shapes else pooled_features.pooling(shapes)


def _fit_config(config: ConfigDict, shapes, known, given: bool = False) -> list[str]:
    is_cgd = bool(config.model.get("descriptors"))
    label_heads = {"item_id": CGD_PARTS["auxiliary classifier"]} if is_cgd else LABEL_HEADS
    return supervised.fit_labels(label_heads, config, shapes, known, given)


WEIGHTS = Weights(
    key_rules=_key_rules,
    parts={part: heads.PARTS[part] for part in PARTS} | CGD_PARTS,
    defining=("embedding head", "id head", "global descriptors"),
    from_shapes=_from_shapes,
    pooling=_pooling,
    fitting_config=fitting_config,
    fit_config=_fit_config,
    renamed=cgd.canonical,
)
ENTRY = TaskEntry(
    make=make,
    make_model=make_model,
    definitions={"embedding": retrieval.DEFINITIONS},
    report=retrieval_report.RetrievalReport,
    baselines=baselines,
    command="search",
    unread_labels=("attribute", "attribute_group"),
    weights=WEIGHTS,
)
