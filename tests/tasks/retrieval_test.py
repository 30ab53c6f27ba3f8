"""The retrieval task: what its records hold, losses over devices, ranking, and what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import relative_rounding, rounding

from experiments import consumer2shop, inshop, retrieval
from fashionjax import tasks
from fashionjax.errors import UserError
from fashionjax.metrics import collect
from fashionjax.metrics import retrieval as retrieval_metrics
from fashionjax.runtime import optim, parallel, state
from fashionjax.task import AXIS, Context
from fashionjax.tasks import retrieval as task_module

LAYERS = 20  # of the networks here, heads included

ITEMS = [f"id_{i}" for i in range(6)]


def tiny(module=inshop, argument="backbone=vgg16", **fields):
    """A retriever on a VGG-11 of width 2 at 32 px."""
    config = module.get_config(argument)
    config.labels = {"item_id": ITEMS, "attribute": ["a", "b", "c"]}
    config.image_size = config.canvas_size = 32
    config.model.backbone, config.model.backbone_fields.width = "vgg11", 2
    config.model.hidden = config.model.features = 8
    config.model.embedding = 4
    config.update(fields)
    return config


def batch(count=24, side=32) -> dict:
    rng = np.random.default_rng(1)
    return {
        "image": rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        "landmark": rng.random((count, 8, 2), dtype=np.float32),
        "visibility": np.ones((count, 8), np.float32),
        "attribute": rng.integers(0, 2, (count, 3), dtype=np.uint8),
        "item_id": np.repeat(np.arange(count // 4, dtype=np.int32) % len(ITEMS), 4),
        "index": np.arange(count, dtype=np.int32),
        "example_valid": np.ones(count, bool),
    }


# ------------------------------------------------------------------------------ records
def record(**fields) -> dict:
    return {"image": np.zeros((40, 30, 3), np.uint8), "item_id": "id_3", "image_id": "x"} | fields


def test_labels_of_a_record():
    run = tasks.make(tiny()).preprocess
    example = run(record(role=1, pair_id=np.asarray([4, 9])), None)
    assert example["item_id"] == 3 and example["role"] == 1 and example["pairs"] == 2
    same, other = run(record(), None), run(record(item_id="id_33"), None)
    np.testing.assert_array_equal(example["identity"], same["identity"])
    assert example["identity"].dtype == np.int32 and example["identity"].shape == (2,)
    assert other["item_id"] == -1 and not np.array_equal(other["identity"], same["identity"])
    assert "role" not in same and "pairs" not in same


def test_role_by_view_where_the_split_does_not_say():
    run = tasks.make(tiny()).preprocess
    assert run(record(view=1), None)["role"] == task_module.QUERY
    assert run(record(view=0), None)["role"] == task_module.GALLERY
    assert run(record(view=1, role=1), None)["role"] == task_module.GALLERY


def test_halved_labels_reach_the_stream():
    """Switch S7 through the task's own sampler."""
    config = tiny(consumer2shop, "backbone=vgg16")
    pair_id = np.empty(8, object)
    for row in range(8):
        pair_id[row] = [row // 2]
    columns = {
        "item_id": np.asarray(["id_0", "id_0", "id_1", "id_1", "id_2", "id_2", "id_3", "id_3"]),
        "pair_id": pair_id,
        "view": np.asarray([1, 0] * 4),
    }
    plain = tasks.make(config).sampler(columns.__getitem__)
    assert plain.epoch == 12 and isinstance(plain.at(0, 0), int)
    config.quirks = ("s7_pair_label_halved",)
    halved = tasks.make(config).sampler(columns.__getitem__)
    labels = dict(halved.at(0, position) for position in range(0, 12, 3))
    assert {row: int(label["item_id"]) for row, label in labels.items()} == {0: 0, 2: 0, 4: 1, 6: 1}


# ------------------------------------------------------------------------------ losses
def test_only_anchors_are_classified():
    """Labels of positives and negatives change nothing; a broken negative drops its triplet alone."""
    config = tiny(argument="backbone=resnet50")
    task = tasks.make(config)
    rng = np.random.default_rng(2)
    outputs = {
        "embedding": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32),
        "id_logits": jnp.asarray(rng.normal(size=(6, 6)), jnp.float32),
        "attribute_logits": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32),
    }

    def terms(item, weight=(1, 1, 1, 1, 1, 1)):
        labels = {"item_id": np.asarray(item), "attribute": np.zeros((6, 3))}
        labels["example_weight"] = np.asarray(weight, np.float32)

        def one(labels):
            return task_module.loss_terms(config, outputs, labels, {})

        per_device = jax.vmap(one, axis_name=AXIS)
        found = per_device(jax.tree.map(lambda x: jnp.asarray(x)[None], labels))
        return {name: float(value[0]) for name, value in found.items()}

    whole = terms([0, 0, 1, 2, 2, 3])
    assert set(whole) == {"loss_id", "loss_attribute", "loss_pair"}
    assert terms([0, 5, 5, 2, 4, 4]) == whole
    assert terms([1, 0, 1, 2, 2, 3])["loss_id"] != whole["loss_id"]
    broken = terms([0, 0, 1, 2, 2, 3], weight=(1.2, 1.2, 0, 1.2, 1.2, 1.2))
    assert broken["loss_id"] == whole["loss_id"] and broken["loss_pair"] != whole["loss_pair"]
    anchor, positive, negative = outputs["embedding"][3:6]
    cosine = lambda a, b: float(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))  # noqa: E731
    pair = 1 - cosine(anchor, positive) + max(0, cosine(anchor, negative))
    assert broken["loss_pair"] == pytest.approx(pair, abs=rounding(4 * 16 + 8, scale=2))  # norms of 16 values
    assert task.sampler is not None


@pytest.mark.slow
def test_batch_losses_do_not_depend_on_the_number_of_devices(monkeypatch):
    """24 images on eight devices and on one: losses see the batch of all devices, gradients agree."""
    monkeypatch.setattr(nn.Dropout, "__call__", lambda self, x, **_: x)
    config = tiny(retrieval, "loss=proxy_anchor")
    config.loss = {"batch_hard": 1.0, "info_nce": 1.0, "proxy_anchor": 1.0}
    config.augment.update({"flip": 0.0, "erase": 0.0})
    task = tasks.make(config)
    whole = batch()
    whole["example_valid"][5] = False
    tx = optim.make_optimizer(inshop.get_config().optim, {}, lambda step: 0.1)
    before = state.create_state(task, tx, 0, whole)
    results = []
    for devices in (jax.devices(), jax.devices()[:1]):
        mesh = parallel.make_mesh(devices)
        step = parallel.compile_train_step(state.make_train_step(task, tx), "shard_map", mesh)
        run = parallel.replicate(jax.tree.map(jnp.copy, before), mesh)
        after, scalars = step(run, parallel.put_batch(whole, "shard_map", mesh))
        update = jax.tree.map(
            lambda a, b: np.ravel(np.asarray(a) - np.asarray(b)), after.params, before.params
        )
        results.append((jax.device_get(scalars), np.concatenate(jax.tree.leaves(update))))
    (eight, update8), (one, update1) = results
    bound = relative_rounding(24 * 32 * 32, layers=LAYERS)  # sums over the positions of a batch
    for term in ("loss_batch_hard", "loss_info_nce", "loss_proxy_anchor"):
        assert eight[term] == pytest.approx(one[term], rel=bound) and one[term] > 0
    assert np.linalg.norm(update8 - update1) <= bound * np.linalg.norm(update1)


@pytest.mark.slow
def test_s3_mixes_within_the_roles_of_triplets():
    config = tiny(argument="backbone=vgg16,pool=landmark")
    config.quirks, config.images_per_gpu = ("s3_roi_scramble_group",), 2
    given = batch(6)
    plain = task_module.model_inputs(config, given)["landmark"]  # evaluation: in the order of the records
    training = task_module.model_inputs(config, given | {"slot": np.arange(6)})["landmark"]
    landmark = given["landmark"]
    # the pair (first, second) gives (x1, x2) and (y1, y2); in training first and second are of one role
    np.testing.assert_array_equal(plain[0, :, 1], landmark[1, :, 0])
    for role in range(3):
        np.testing.assert_array_equal(training[role, :, 0], landmark[role, :, 0])
        np.testing.assert_array_equal(training[role, :, 1], landmark[3 + role, :, 0])
        np.testing.assert_array_equal(training[3 + role, :, 0], landmark[role, :, 1])


# ------------------------------------------------------------------------------ evaluation
def stream(embedding, item, role, **labels):
    identity = np.stack([np.asarray(item), np.zeros(len(item), int)], axis=1).astype(np.int32)
    truth = {"identity": identity, "role": np.asarray(role), "example_valid": np.ones(len(item), bool)}
    return {"embedding": np.asarray(embedding, np.float32)}, truth | labels


# queries [1, 0] of item 0 and [0, 1] of item 1; the worked example of the spec
QUERIES = [[1, 0], [0, 1]]
GALLERY = [[10, 1], [5, 6], [1, 1], [0, 1], [3, 0], [0.1, 1]]
EXAMPLE = stream(QUERIES + GALLERY, [0, 1] + [0, 1, 0, 0, 2, 1], [0, 0] + [1] * 6)


def measure(config, pairs):
    return collect.measure(tasks.make(config).metrics(Context()), pairs)


def test_metrics_of_the_worked_example():
    found = measure(tiny(), [EXAMPLE])
    assert found["zoo/recall@3"] == pytest.approx(83.3333, abs=1e-3)
    assert found["standard/recall@1"] == 0 and found["standard/recall@3"] == 1
    ranking = retrieval_metrics.rank(*EXAMPLE, k=3)
    assert [ranks.tolist() for ranks in ranking.ranks] == [[2, 3, 6], [2, 3]]
    assert ranking.top.tolist() == [[6, 2, 4], [5, 7, 3]]  # places in the stream
    assert ranking.query.tolist() == [0, 1] and ranking.gallery.tolist() == [2, 3, 4, 5, 6, 7]


def test_s15_counts_a_picture_once_per_pair():
    """Query 0 in two pairs, gallery row 3 (item 1) in two: three queries, three relevant rows of item 1."""
    predicted, truth = EXAMPLE
    truth = truth | {"pairs": np.asarray([2, 1, 1, 2, 1, 1, 1, 1])}
    config = tiny()
    assert measure(config, [(predicted, truth)]) == measure(config, [EXAMPLE])
    config.quirks = ("s15_gallery_per_pair",)
    ranking = retrieval_metrics.rank(predicted, truth, per_pair=True)
    assert len(ranking.query) == 3 and len(ranking.gallery) == 7
    found = measure(config, [(predicted, truth)])
    # item 0 (twice): ranks 2, 4, 7 behind the repeated row; item 1: ranks 2, 3, 4
    assert [ranks.tolist() for ranks in ranking.ranks] == [[2, 3, 7], [2, 3, 7], [2, 3, 4]]
    assert found["zoo/recall@3"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 2 / 3) / 3, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": np.zeros(8, int)}, "needs both"),
        ({"identity": np.arange(16, dtype=np.int32).reshape(8, 2)}, "no gallery item has"),
        ({"role": None}, "query\\+gallery"),
    ],
)
def test_streams_that_cannot_be_ranked(change, message):
    predicted, truth = EXAMPLE
    truth = {name: value for name, value in (truth | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        retrieval_metrics.rank(predicted, truth)


def test_queries_that_nothing_can_match_are_left_out_with_a_warning(capsys):
    """As when their item's gallery images cannot be read."""
    predicted, truth = EXAMPLE
    identity = truth["identity"].copy()
    identity[1] = 99
    found = measure(tiny(), [(predicted, truth | {"identity": identity})])
    assert "1 of 2 queries have no image of their item" in capsys.readouterr().err
    rows = np.arange(8) != 1
    alone = {name: value[rows] for name, value in truth.items()}
    assert found == measure(tiny(), [({"embedding": predicted["embedding"][rows]}, alone)])


def test_diverged_embeddings_are_reported():
    predicted = {"embedding": EXAMPLE[0]["embedding"].copy()}
    predicted["embedding"][4, 0] = np.nan
    with pytest.raises(UserError, match="example 4"):
        retrieval_metrics.rank(predicted, EXAMPLE[1])


# ------------------------------------------------------------------------------ configs
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("retrieval.sampler", "pairs", "shuffle, triplet"),
        ("model.id_head", "arcface", "linear, proxy, none"),
        ("loss", {"pair": 1.0}, "sampler=triplet"),
        ("loss", {"proxy_anchor": 1.0}, "id_head=proxy"),
        ("loss", {"centre": 1.0}, "batch_hard"),
        ("labels", {}, "item_id"),
    ],
)
def test_impossible_configs_are_refused(path, value, message):
    config = tiny()
    with config.unlocked():
        config.update_from_flattened_dict({path: value}) if "." in path else setattr(config, path, value)
    with pytest.raises(UserError, match=message):
        tasks.make(config)


def test_accumulation_would_cut_triplets():
    config = tiny(argument="backbone=vgg16,pool=landmark", accumulate=2)
    with pytest.raises(UserError, match="accumulate"):
        tasks.make(config)


def test_triplets_that_do_not_fill_a_device_are_refused():
    config = tiny(argument="backbone=vgg16,pool=landmark")
    labels = {"example_weight": jnp.ones(4), "item_id": jnp.zeros(4, jnp.int32)}
    with pytest.raises(UserError, match="batch of 4 images is not a multiple of 3"):
        task_module.loss_terms(config, {"embedding": jnp.zeros((4, 2))}, labels, {})
