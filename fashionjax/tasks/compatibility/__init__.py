"""Outfit compatibility: MMFashion's type-aware embedding (Vasileva et al. 2018), and a set transformer.

`config.model.kind` is type_aware (learns from triplets of items, see type_aware.py) or set_transformer (from
whole outfits, see outfit_sets.py). `config.loss` has a weight per term. Items are embedded once;
`make_scorer` compares the embeddings of outfits and answers, for the metrics here and `fashionjax outfit`.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fashionjax import quirks
from fashionjax.data import samplers
from fashionjax.errors import UserError
from fashionjax.metrics import classification
from fashionjax.metrics.collect import Mapped
from fashionjax.metrics.compatibility import DEFINITIONS, OutfitMetrics
from fashionjax.models.compatibility import VOCABULARY, SetTransformer, TypeAware
from fashionjax.ops import augment, type_spaces
from fashionjax.reports import baselines as simple
from fashionjax.reports import compatibility as compatibility_report
from fashionjax.reports.photo_results import LABELLED
from fashionjax.task import AXIS, Batch, Context, Task, TaskEntry
from fashionjax.tasks import attributes, supervised
from fashionjax.tasks.compatibility import scoring, set_transformer, type_aware, weight_files

TERMS = {"type_aware": type_aware.TERMS, "set_transformer": set_transformer.TERMS}
WORDS = 16  # of a title, for the "words" text encoder


def make(config: ConfigDict) -> Task:
    """The task of a config whose `labels` are filled."""
    _check(config)
    model = make_model(config)
    return Task(
        preprocess=make_preprocess(config),
        init=functools.partial(_init, config, model),
        loss=make_loss(config, model),
        predict=functools.partial(_predict, config, model),
        metrics=functools.partial(metrics, config),
        sampler=functools.partial(order, config),
    )


def make_model(config: ConfigDict) -> TypeAware | SetTransformer:
    """The flax module of a config."""
    spec = config.model
    fields = {
        "backbone": attributes.make_backbone(config),
        "embedding": spec.embedding,
        "pool": spec.pool,
        "types": len(supervised.label_names(config, "category")) if "category" in config.loss else None,
        "text": spec.text,
        "bn_axis_name": AXIS if spec.sync_bn else None,
        "dtype": jnp.dtype(config.dtype),
    }
    if spec.kind == "set_transformer":
        fields["types"] = len(supervised.label_names(config, "category"))
        return SetTransformer(**fields, depth=spec.depth, heads=spec.heads, width=spec.width)
    spaces = len(supervised.label_names(config, "type_space"))
    return TypeAware(**fields, spaces=spaces, projection=spec.projection, metric=spec.metric)


def _check(config: ConfigDict) -> None:
    quirks.check(config)
    spec, wanted = config.model, set(config.loss)
    if spec.kind not in TERMS:
        raise UserError(f"config.model.kind={spec.kind!r}: use one of {', '.join(TERMS)}")
    known = TERMS[spec.kind]
    if not wanted or wanted - set(known):
        raise UserError(f"config.loss has {', '.join(sorted(wanted)) or 'no term'}: use {', '.join(known)}")
    if spec.statistics not in type_aware.STATISTICS:
        raise UserError(
            f"config.model.statistics={spec.statistics!r}: use one of {', '.join(type_aware.STATISTICS)}"
        )
    if wanted & type_aware.TEXT_TERMS and spec.text == "none":
        raise UserError("config.loss has terms of texts; set config.model.text to features or words")
    if quirks.on(config, "c5_vse_weighted_twice") and "vse" in wanted and "text_similarity" not in wanted:
        raise UserError(
            "the quirk c5_vse_weighted_twice multiplies vse by the weight of text_similarity, which "
            "config.loss has not; add it, or turn the switch off"
        )
    if config.accumulate > 1:
        raise UserError("config.accumulate cuts batches whose order matters; set it to 1 for this task")


# ------------------------------------------------------------------------------ records and their order
def make_preprocess(config: ConfigDict) -> Callable:
    """As of all labelled images, and what the text branch reads: text f32 [f], or i32 [t] word ids, with
    has_text f32."""
    base = supervised.make_preprocess(config)
    kind, silent = config.model.text, quirks.on(config, "c3_no_text")

    def run(record: dict, rng) -> dict:
        example = base(record, rng)
        if rng is None or kind == "none":  # texts are read in training only
            return example
        if kind == "words":
            example["text"] = word_ids(record.get("title", ""))
            has = bool(example["text"].any())
        elif "text" in record:
            example["text"], has = np.asarray(record["text"], np.float32), bool(record["has_text"])
        elif silent:
            example["text"], has = np.zeros(config.model.text_features, np.float32), False
        else:
            raise UserError(
                "config.model.text=features: the dataset has no text features; Polyvore Outfits was prepared "
                "without train_hglmm_pca6000.txt. Add the file and prepare it with --overwrite, or set text "
                "to words or none"
            )
        has = has and not silent
        # a text that is not there reaches the branch as zeros, as upstream
        return example | {"text": example["text"] * has, "has_text": np.float32(has)}

    return run


def word_ids(title: str) -> np.ndarray:
    """The first words of a title as hash buckets, i32 [t], 0 behind the last."""
    words = re.findall(r"[a-z0-9]+", title.lower())[:WORDS]
    ids = [zlib.crc32(word.encode()) % (VOCABULARY - 1) + 1 for word in words]
    return np.asarray(ids + [0] * (WORDS - len(ids)), np.int32)


def order(config: ConfigDict, column: Callable[[str], np.ndarray]) -> samplers.Sampler:
    """The stream's order, from the outfits of the training split."""
    if config.model.kind == "set_transformer":
        return samplers.whole_outfits(column("outfit"), config.outfit.slots)
    return samplers.typed_triplets(column("outfit"), column("category"))


def _init(config: ConfigDict, model, rng, batch: Batch):
    """A batch of bare images initialises a text branch for `config.model.text_features` values."""
    text = batch.get("text")
    if text is None:
        words = config.model.text == "words"
        text = jnp.zeros((1, WORDS), jnp.int32) if words else jnp.zeros((1, config.model.text_features))
    variables = model.init(
        rng, augment.prepare_eval(batch, form=supervised.normalisation(config))["image"], text=text
    )
    return variables["params"], variables.get("batch_stats", {})


def _predict(config: ConfigDict, model, params, model_state, batch: Batch) -> dict:
    """embedding f32 [b d], and of a type head category_logits [b t]."""
    variables = {"params": params, "batch_stats": model_state}
    image = augment.prepare_eval(batch, config.dtype, supervised.normalisation(config))["image"]
    return model.apply(variables, image, train=False)


# ------------------------------------------------------------------------------ loss
def make_loss(config: ConfigDict, model) -> Callable:
    """The task's loss: see `Task.loss`."""
    to_training = supervised.make_augment(config)
    of_sets = config.model.kind == "set_transformer"
    table = None if of_sets else jnp.asarray(space_table(config))

    def loss(params, model_state, batch: Batch, rng):
        batch = to_training(batch, rng)
        if of_sets:
            values, model_state = set_transformer.terms(config, model, params, model_state, batch, rng)
        else:
            values, model_state = type_aware.terms(config, model, table, params, model_state, batch)
        terms = {f"loss_{name}": coefficient(config, name) * values[name] for name in config.loss}
        return sum(terms.values()), (model_state, terms)

    return loss


def coefficient(config: ConfigDict, term: str) -> float:
    """The weight of a loss term; under quirk C5 that of `vse` is multiplied by the text similarity's."""
    weight = float(config.loss[term])
    if term == "vse" and quirks.on(config, "c5_vse_weighted_twice"):
        weight *= float(config.loss["text_similarity"])
    return weight


# ------------------------------------------------------------------------------ evaluation
def make_scorer(config: ConfigDict, params) -> scoring.Scorer:
    """The comparisons of a trained model."""
    if config.model.kind == "set_transformer":
        return scoring.set_scorer(make_model(config), params)
    types = supervised.label_names(config, "category")
    return scoring.pair_scorer(make_spaces(config, params), space_table(config), types)


def make_spaces(config: ConfigDict, params) -> type_spaces.Spaces:
    """The spaces of a trained type-aware model as evaluation uses them; under quirk C2 with raw masks."""
    rectify = not quirks.on(config, "c2_raw_masks")
    return make_model(config).apply({"params": params}, rectify, method="scoring")


def space_table(config: ConfigDict) -> np.ndarray:
    """Type space of every two categories, i32 [t t]; -1 for two that the release's outfits never join."""
    names = supervised.label_names(config, "category")
    try:
        return type_spaces.space_table(supervised.label_names(config, "type_space"), names, complete=False)
    except ValueError as error:
        raise UserError(f"{config.dataset}: {error}") from error


def metrics(config: ConfigDict, context: Context) -> OutfitMetrics:
    """Outfit metrics, and of a type head those of the category."""
    return OutfitMetrics(context, make_scorer(config, context.params))


def baselines(task: Task, context: Context) -> dict[str, Mapped]:
    """Euclidean distance, in no type space, between colour histograms, and between the embeddings of the same
    network before training."""
    types = context.labels["category"]
    table = np.zeros((len(types), len(types)), np.int32)
    plain = scoring.pair_scorer(type_spaces.Spaces(), table, types)
    untrained = context.untrained()
    return {
        "colour_histogram": Mapped(OutfitMetrics(context, plain, type_head=False), simple.colours),
        "untrained": Mapped(
            OutfitMetrics(context, plain, type_head=False), lambda prediction, batch: untrained(batch)
        ),
    }


ENTRY = TaskEntry(
    make=make,
    make_model=make_model,
    definitions={
        "embedding": DEFINITIONS,
        "category_logits": classification.CATEGORY_DEFINITIONS,
    },
    report=compatibility_report.OutfitReport,
    baselines=baselines,
    command="outfit",
    photo_results=LABELLED,  # the type of a piece, where the model has a type head
    unread_labels=("type_space",),  # models keep the order of the type spaces of their own checkpoint
    weights=weight_files.WEIGHTS,
)
