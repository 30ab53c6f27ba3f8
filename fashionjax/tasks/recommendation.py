"""Recommendation: embeddings of the garments that a frozen detector finds, trained by the products (pairs)
that images show; fashion-recommendation's CGD head on K-Fashion.

`config.model` is a detector's (tasks/detection) with `head_width` and `descriptors` ("": K-Fashion's power
means 1, 2, 3 of clamped maps; else letters of `cgd.DESCRIPTORS`); a run starts from a detector's checkpoint
(`config.init_from`). Every garment of an image has the image's `pair_id` as its label. `config.retrieval`
holds the constants of the losses, `config.loss` the weights of `id` and `batch_hard`. Evaluation compares the
garments of the first split of a joined one with those of the others: `--split=test+train+val`.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from ml_collections import ConfigDict

from fashionjax import losses, quirks
from fashionjax.data import detection as examples
from fashionjax.data import samplers
from fashionjax.errors import UserError
from fashionjax.metrics import recommendation
from fashionjax.metrics.recommendation import RecommendationMetrics
from fashionjax.models import cgd
from fashionjax.models.detection.rcnn import RCNN
from fashionjax.models.garments import HEAD, GarmentEmbedder, torch_keys
from fashionjax.reports.recommendation import RecommendationReport
from fashionjax.task import AXIS, Batch, Context, Task, TaskEntry, Weights
from fashionjax.tasks import detection, supervised

SAMPLERS = ("shuffle", "identity")
PCA_SEED = 7  # of quirk K5: upstream's seed of everything else
SEEN = "evaluations"  # of the head's state: whether training has passed an evaluation (quirk K3)


def make(config: ConfigDict) -> Task:
    """The task of a config whose `labels` are filled."""
    quirks.check(config)
    if config.retrieval.sampler not in SAMPLERS:
        raise UserError(
            f"config.retrieval.sampler={config.retrieval.sampler!r}: one of {', '.join(SAMPLERS)}"
        )
    if not config.loss or set(config.loss) - {"id", "batch_hard"}:
        raise UserError(f"config.loss has {', '.join(config.loss) or 'no term'}: use id, batch_hard")
    model = make_model(config)
    buckets = examples.check_buckets(config.resize.buckets, config.resize.longest)
    frozen_later = quirks.on(config, "k3_frozen_after_evaluation")

    def init(rng, batch: Batch):
        del batch
        side = detection.INIT_SIDE
        image, size = jnp.zeros((1, side, side, 3), jnp.uint8), jnp.full((1, 2), side)
        variables = model.init(rng, image, size)
        state = dict(variables.get("batch_stats", {}))
        return variables["params"], state | ({SEEN: jnp.zeros(())} if frozen_later else {})

    def loss(params, model_state, batch: Batch, rng):
        del rng
        state = {name: value for name, value in model_state.items() if name != SEEN}
        variables = {"params": params, "batch_stats": state}
        size = jnp.maximum(batch["size"], 1)
        found, maps = jax.lax.stop_gradient(model.apply(variables, batch["image"], size, method="find"))
        valid = found.valid & (batch["example_weight"] > 0)[:, None]
        run = functools.partial(model.apply, variables, maps, found.box, size, valid, method="embed")
        (embedding, logits), updated = run(train=True, mutable=["batch_stats"])
        new = updated["batch_stats"]
        if frozen_later:
            _, still = run(train=False)
            passed = model_state[SEEN] >= (config.eval_every or jnp.inf)
            logits = jnp.where(passed, still, logits)
            head = jax.tree.map(lambda a, b: jnp.where(passed, a, b), state[HEAD], new[HEAD])
            new = new | {HEAD: head, SEEN: model_state[SEEN] + 1}
        terms = loss_terms(config, embedding, logits, batch["item_id"], valid)
        return sum(terms.values()), (new, terms)

    def predict(params, model_state, batch: Batch) -> dict:
        state = {name: value for name, value in model_state.items() if name != SEEN}
        variables = {"params": params, "batch_stats": state}
        size = jnp.maximum(batch["size"], 1)
        if "given_box" in batch:  # garments that were found before
            maps = model.apply(variables, batch["image"], size, method="maps")
            box, valid = batch["given_box"], batch["given_valid"]
            outputs = {"box": box, "detection_valid": valid}
        else:
            found, maps = model.apply(variables, batch["image"], size, method="find")
            box, valid = found.box, found.valid
            outputs = {"box": box, "score": found.score, "category": found.label, "detection_valid": valid}
        embedding, logits = model.apply(variables, maps, box, size, valid, method="embed")
        outputs["embedding"] = embedding
        if "item_id" in batch and logits is not None:
            label = jnp.maximum(batch["item_id"], 0)[:, None]
            outputs["id_loss"] = _id_losses(config, logits, jnp.broadcast_to(label, box.shape[:2]))
        return outputs

    return Task(
        make_preprocess(config),
        init,
        loss,
        predict,
        functools.partial(metrics, config),
        functools.partial(order, config),
        functools.partial(examples.collate, buckets=buckets if jax.process_count() == 1 else buckets[-1:]),
    )


def make_model(config: ConfigDict) -> GarmentEmbedder:
    """The flax module of a config."""
    detector = detection.make_model(config)
    fields = {
        f.name: getattr(detector, f.name)
        for f in dataclasses.fields(RCNN)
        if f.name not in ("parent", "name")
    }
    letters = config.model.get("descriptors", "")
    try:
        described = {"exponents": cgd.exponents_of(letters), "floor": None} if letters else {}
    except ValueError as error:
        raise UserError(f"config.model.descriptors: {error}; or '' for K-Fashion's") from error
    return GarmentEmbedder(
        **fields,
        **described,
        pairs=len(supervised.label_names(config, "item_id")),
        head_width=config.model.head_width,
        head_axis_name=AXIS if config.model.sync_bn else None,
    )


# ------------------------------------------------------------------------------ records and their order
def make_preprocess(config: ConfigDict):
    """A detector's, and item_id i32: the label of the image's pair, -1 for an unknown one; pair i32 [2]:
    the 64 bits of the record's number; role i32 of a joined split."""
    base = examples.make_preprocess(
        config.resize.to_dict(), detection.padding_of(config), truth=detection.truth_fields(config)
    )
    label = {name: number for number, name in enumerate(config.labels.get("item_id", ()))}

    def run(record: dict, rng) -> dict:
        example = base(record, rng)
        if "pair_id" in record:
            pair = int(record["pair_id"])
            example["item_id"] = np.int32(label.get(str(pair), -1))
            example["pair"] = np.frombuffer(np.int64(pair).tobytes(), np.int32)
        if "role" in record:
            example["role"] = np.int32(record["role"])
        return example

    return run


def order(config: ConfigDict, column) -> samplers.Sampler:
    """Images with objects in a fresh order each epoch, or `per_item` images of one pair after the other."""
    objects = np.asarray([len(found) > 0 for found in column("instance/category")])
    pair = np.asarray(column("pair_id"))
    rows = np.flatnonzero(objects & (pair >= 0))
    if not len(rows):
        raise UserError(f"{config.dataset}: no image of {config.train_split} has an object and a pair")
    if config.retrieval.sampler == "shuffle":
        return samplers.Sampler(len(rows), functools.partial(_shuffled, rows))
    balanced = samplers.identity_balanced(pair[rows], config.retrieval.per_item)
    return samplers.Sampler(balanced.epoch, functools.partial(_of_rows, rows, balanced))


def _shuffled(rows: np.ndarray, seed: int, position: int) -> int:
    epoch, place = divmod(position, len(rows))
    return int(rows[samplers.permutation(seed, epoch, len(rows))[place]])


def _of_rows(rows: np.ndarray, sampler: samplers.Sampler, seed: int, position: int) -> int:
    return int(rows[sampler.at(seed, position)])


# ------------------------------------------------------------------------------ loss
def loss_terms(config: ConfigDict, embedding, logits, item_id, valid) -> dict:
    """embedding [b n d], logits [b n c], item_id [b], valid [b n] → weighted terms by name, means over the
    garments of all devices; a batch without garments has loss 0."""
    flat = rearrange(embedding, "b n d -> (b n) d")
    label = jnp.where(valid, item_id[:, None], -1).reshape(-1)
    known = (label >= 0).astype(jnp.float32)
    weight = known / jnp.maximum(jax.lax.pmean(jnp.sum(known), AXIS), 1.0)
    terms = {}
    if "id" in config.loss:
        per_garment = _id_losses(config, rearrange(logits, "b n c -> (b n) c"), jnp.maximum(label, 0))
        terms["loss_id"] = config.loss.id * jnp.sum(weight * per_garment)
    if "batch_hard" in config.loss:
        gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)
        own = jax.lax.axis_index(AXIS) * len(flat) + jnp.arange(len(flat))
        per_garment = losses.batch_hard_triplet(
            flat,
            label,
            gather(flat),
            gather(label),
            own,
            config.retrieval.margin,
            added=1e-6,
            fallback=quirks.on(config, "k2_no_positive_index0"),
        )
        terms["loss_batch_hard"] = config.loss.batch_hard * jnp.sum(weight * per_garment)
    return terms


def _id_losses(config: ConfigDict, logits, label):
    """logits [... c], label [...] → smoothed cross-entropy [...]."""
    spec = config.retrieval
    flat = logits.reshape(-1, logits.shape[-1]) / spec.id_temperature
    return losses.softmax_ce(flat, label.reshape(-1), spec.smoothing).reshape(label.shape)


# ------------------------------------------------------------------------------ evaluation
def metrics(config: ConfigDict, context: Context) -> RecommendationMetrics:
    """Ranking of garments and, where pairs are the training's, the losses of validation batches."""
    return RecommendationMetrics(
        context,
        supervised.label_names(config, "category"),
        config.loss.to_dict(),
        config.retrieval.margin,
        config.model.whiten,
        PCA_SEED if quirks.on(config, "k5_randomised_pca") else None,
        quirks.on(config, "k1_first_box_features"),
    )


def _from_shapes(backbone, shapes):
    raise KeyError("the detector that the head belongs to")


WEIGHTS = Weights(
    key_rules=lambda model, keys=None: torch_keys(model),
    parts={"descriptor branch": cgd.BRANCH, "auxiliary classifier": cgd.AUXILIARY},
    defining=("descriptor branch",),
    from_shapes=_from_shapes,
    pooling=lambda shapes: "detector RoI",
    fitting_config=lambda backbone, pooling, parts: (
        "experiments/recommendation.py (task=recommendation) init_from=DETECTOR"
    ),
    fit_config=functools.partial(supervised.fit_labels, {"item_id": cgd.AUXILIARY}),
    head=HEAD,
)
ENTRY = TaskEntry(
    make=make,
    make_model=make_model,
    definitions={"embedding": recommendation.DEFINITIONS},
    report=RecommendationReport,
    command="embed",
    weights=WEIGHTS,
    unread_labels=("item_id", "landmark", "landmark_flip", "landmark_count", "attribute"),
)
