"""The compatibility task: worked losses, devices, overfitting, scores, what it refuses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import relative_rounding, rounding
from fitting import fit

from experiments import compatibility as experiment
from fashionjax import tasks
from fashionjax.errors import UserError
from fashionjax.metrics import collect
from fashionjax.metrics import compatibility as outfit_metrics
from fashionjax.ops.type_spaces import Spaces
from fashionjax.runtime import optim, parallel, state
from fashionjax.task import AXIS, Context
from fashionjax.tasks import compatibility
from fashionjax.tasks.compatibility import set_transformer, type_aware

LAYERS = 20  # of the networks here, heads included

TYPES = ["bags", "shoes", "tops"]
SPACES = [list(pair) for pair in itertools.combinations_with_replacement(TYPES, 2)]


def tiny(argument="", **fields):
    config = experiment.get_config(",".join(filter(None, ["tiny=true", argument])))
    config.labels = {"category": TYPES, "type_space": SPACES}
    config.image_size = config.canvas_size = 32
    config.augment.update({"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0})
    config.update(fields)
    return config


def batch(config, count=24) -> dict:
    rng = np.random.default_rng(1)
    side = config.image_size
    category = rng.integers(0, 3, count).astype(np.int32)
    category[2::3] = category[1::3]  # a negative has its positive's type
    return {
        "image": rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        "text": rng.normal(size=(count, 20)).astype(np.float32),
        "has_text": rng.integers(0, 2, count).astype(np.float32),
        "category": category,
        "in_outfit": np.arange(count) % 6 != 5,
        "index": np.arange(count, dtype=np.int32),
        "example_valid": np.ones(count, bool),
    }


# ------------------------------------------------------------------------------ records
def record(**fields):
    text = np.arange(4, dtype=np.float32)
    fields = {"text": text, "has_text": 1, "title": "Blue, silky TOP 2", "category": 1} | fields
    return {"image": np.zeros((40, 30, 3), np.uint8), "image_id": "x"} | fields


def test_texts_are_read_in_training_only():
    run = tasks.make(tiny()).preprocess
    trained = run(record(), np.random.default_rng(0))
    np.testing.assert_array_equal(trained["text"], [0, 1, 2, 3])
    assert trained["has_text"] == 1
    assert not {"text", "has_text"} & set(run(record(), None))
    assert run(record(has_text=0), np.random.default_rng(0))["has_text"] == 0


def test_c3_silences_every_text():
    config = tiny()
    config.quirks = ("c3_no_text",)
    silent = tasks.make(config).preprocess(record(), np.random.default_rng(0))
    assert silent["has_text"] == 0 and not silent["text"].any()
    assert silent["text"].dtype == np.float32


def test_words_of_a_title():
    run = tasks.make(tiny("text=words")).preprocess
    example = run(record(), np.random.default_rng(0))
    same = run(record(title="blue silky top 2!"), np.random.default_rng(0))
    np.testing.assert_array_equal(example["text"], same["text"])
    assert (example["text"] > 0).sum() == 4 and example["has_text"] == 1
    assert run(record(title="  "), np.random.default_rng(0))["has_text"] == 0


# ------------------------------------------------------------------------------ losses
def view(config=None, **fields):
    """Vectors of the specification's worked check, in the order x, z, y."""
    x, y, z = ([(0, 0), (1, 0)], [(0, 2), (1, 1)], [(1, 0), (3, 0)])
    image = jnp.asarray([x, z, y], jnp.float32)
    base = type_aware.View(
        config=config or tiny(),
        image=image,
        text=image,
        has=jnp.ones((3, 2)),
        weight=jnp.ones(2),
        space=jnp.asarray([0, 1]),
        spaces=Spaces(kernel=jnp.stack([jnp.eye(2)] * 2), bias=jnp.zeros((2, 2))),
        category_logits=None,
        category=jnp.zeros((3, 2), jnp.int32),
    )
    return base._replace(**fields)


def value(term, view) -> float:
    run = jax.pmap(lambda _: type_aware.TERMS[term](view), axis_name=AXIS, devices=jax.devices()[:1])
    return float(run(jnp.zeros(1))[0])


def test_worked_terms():
    inverted = tiny()
    inverted.quirks = ("c4_same_type_apart",)
    assert value("image_similarity", view(inverted)) == pytest.approx(0.031966, abs=1e-5)
    assert value("triplet", view()) == pytest.approx(0.65, abs=1e-4)
    zero = view().spaces._replace(metric=jnp.zeros(2))
    assert value("triplet", view(spaces=zero)) == pytest.approx(0.3, abs=1e-6)


def test_worked_text_similarity():
    """SM(pd(y, z), pd(x, y)) over the first triplet alone is 0.536069; the other half is pd(x, z)."""
    has = jnp.asarray([[1, 0], [1, 1], [1, 1]], jnp.float32)
    want = 0.5 * (0.536069 + (5**0.5 - 1 + 0.3))
    assert value("text_similarity", view(has=has)) == pytest.approx(want, abs=1e-5)
    assert value("text_similarity", view(has=jnp.zeros((3, 2)))) == 0.0
    assert value("vse", view(has=jnp.zeros((3, 2)))) == 0.0


def test_correct_image_similarity_is_the_opposite_hinge():
    near, far = np.asarray([5**0.5, 5**0.5]), (np.asarray([2, 1]), np.asarray([1, 2]))
    want = 0.5 * sum(np.maximum(near - other + 0.3, 0).mean() for other in far)
    assert value("image_similarity", view()) == pytest.approx(want, abs=1e-4)


def test_worked_norms():
    e = jnp.asarray([(1, 2), (3, 4)], jnp.float32)
    masks = Spaces(mask=jnp.asarray([(1, 0), (0.5, 2)]))  # rectified
    worked = view(image=jnp.stack([e] * 3), spaces=masks)
    assert value("embedding_norm", worked) == pytest.approx(3.872983, abs=1e-5)
    assert value("space_norm", worked) == pytest.approx(1.75, abs=1e-6)
    kernel = Spaces(kernel=jnp.asarray([[[1, -2], [0, 1]], [[0, 0], [3, 0]]]), bias=jnp.ones((2, 2)))
    assert value("space_norm", view(spaces=kernel)) == pytest.approx(3.5, abs=1e-6)


def test_metric_gradient_at_zero():
    def loss(weight):
        return type_aware.TERMS["triplet"](view(spaces=view().spaces._replace(metric=weight)))

    run = jax.pmap(jax.grad(loss), axis_name=AXIS, devices=jax.devices()[:1])
    np.testing.assert_allclose(run(jnp.zeros((1, 2)))[0], [1, 0], atol=1e-6)


def test_c5_multiplies_the_weight_again():
    config = tiny()
    config.loss.text_similarity = 5e-5
    assert compatibility.coefficient(config, "vse") == 5e-3
    config.quirks = ("c5_vse_weighted_twice",)
    assert compatibility.coefficient(config, "vse") == pytest.approx(2.5e-7)
    assert compatibility.coefficient(config, "triplet") == config.loss.triplet


# ------------------------------------------------------------------------------ training
def stepped(config, batch, devices):
    task, mesh = tasks.make(config), parallel.make_mesh(jax.devices()[:devices])
    shapes = jax.eval_shape(task.init, jax.random.PRNGKey(0), batch)[0]
    tx = optim.make_optimizer(config.optim, shapes, optim.make_schedule(config.optim, 10, 10))
    run = parallel.replicate(state.create_state(task, tx, 0, batch), mesh)
    step = parallel.compile_train_step(state.make_train_step(task, tx), "shard_map", mesh)
    run, scalars = step(run, parallel.put_batch(batch, "shard_map", mesh))
    return jax.device_get(run.params), jax.device_get(scalars)


@pytest.mark.slow
def test_losses_do_not_depend_on_the_number_of_devices():
    """A triplet that cannot be read, and texts that only one device has, are weighed over all of them."""
    config = tiny("projection=fc")
    config.model.sync_bn = True
    # a gradient step without normalisation, so that updates compare
    config.optim.update({"optimizer": "sgd", "lr": 0.1, "clip_norm": 0.0})
    examples = batch(config)
    examples["has_text"][:12] = 0
    examples["example_valid"][4] = False
    (one, a), (four, b) = (stepped(config, examples, n) for n in (1, 4))
    bound = relative_rounding(24 * 32 * 32, layers=LAYERS)  # sums over the positions of a batch
    for name in a:
        assert a[name] == pytest.approx(b[name], rel=bound, abs=bound * float(a["loss"])), name
    one, four = (np.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (one, four))
    assert np.linalg.norm(one - four) <= bound * np.linalg.norm(one)


SWEPT = [pytest.param(argument, marks=pytest.mark.full) for argument in ("projection=fc", "recipe=set")]


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["projection=mask", *SWEPT])
def test_one_batch_is_overfitted(argument):
    """Below one per cent of the first loss, of the terms that can vanish.

    The median of the end: the artificial outfits of a batch are drawn anew at every step.
    """
    config = tiny(argument)
    examples = batch(config)
    if argument == "recipe=set":
        examples["in_outfit"][:] = True
        examples["category"] = np.tile(np.asarray([0, 1, 2, 0, 1, 2], np.int32), 4)
    config.loss = {n: w for n, w in config.loss.items() if n in ("triplet", "outfit", "blank", "category")}
    # The set transformer at its own rate: at 3e-3 the four candidates of an outfit's blank get equal scores
    # (log 4) for hundreds of steps.
    rate, steps = (1e-3, 400) if argument == "recipe=set" else (3e-3, 300)
    config.optim.update({"optimizer": "adam", "lr": rate, "schedule": "constant", "warmup_steps": 0})
    losses = fit(config, examples, steps)
    assert np.median(losses[-50:]) < 0.01 * losses[0], (losses[0], losses[-50:])


@pytest.mark.slow
def test_real_and_artificial_outfits_differ_in_items_alone(monkeypatch):
    """Where a type has no other piece in the batch, the slot is left out of both."""
    config = tiny("recipe=set")
    examples = batch(config) | {"example_weight": np.ones(24, np.float32)}
    examples["category"][:] = np.arange(24) % 6
    examples["category"][2] = 6  # alone of its type
    examples["in_outfit"][:] = True
    seen = []

    class Recorder:
        def apply(self, variables, *arguments, method=None, **_):
            if method is None:
                return {"embedding": np.zeros((24, 4)), "category_logits": np.zeros((24, 9))}, {}
            seen.append([np.asarray(x) for x in arguments])
            return jnp.zeros(len(arguments[0]))

    # on one device without a device axis
    monkeypatch.setattr(set_transformer.supervised, "selected_mean", lambda value, own: (value * own).mean())
    set_transformer.terms(config, Recorder(), {}, {}, examples, jax.random.PRNGKey(0))
    (_, own, there), (_, replaced, kept) = seen[:2]
    np.testing.assert_array_equal(there, kept)
    np.testing.assert_array_equal(own[there], replaced[kept])
    assert there[0].tolist() == [True, True, False, True, True, True]


@pytest.mark.slow
def test_roles_have_statistics_of_their_own():
    """Three passes move the running statistics three times; one pass once."""
    config = tiny()
    examples = batch(config) | {"example_weight": np.ones(24, np.float32), "slot": np.arange(24)}

    def moved(statistics):
        config.model.statistics = statistics
        task = tasks.make(config)
        params, model_state = task.init(jax.random.PRNGKey(0), examples)

        def loss(batch):
            return task.loss(params, model_state, batch, jax.random.PRNGKey(0))[1][0]

        new = jax.pmap(loss, axis_name=AXIS, devices=jax.devices()[:1])(
            jax.tree.map(lambda x: x[None], examples)
        )
        return np.asarray(new["backbone"]["bn1"]["mean"][0])

    once, thrice = moved("batch"), moved("role")
    ratio = np.linalg.norm(thrice) / np.linalg.norm(once)
    assert ratio == pytest.approx((1 - 0.9**3) / 0.1, rel=0.05)


# ------------------------------------------------------------------------------ evaluation
def items(n=12):
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, 16)).astype(np.float32), rng.integers(0, 3, n).astype(np.int32)


def params_of(config):
    task = tasks.make(config)
    return task.init(jax.random.PRNGKey(0), batch(config, 3))[0]


def test_c2_takes_the_masks_as_they_are():
    config, (embedding, category) = tiny(), items()
    params = params_of(config)
    first, second = np.asarray([0, 3]), np.asarray([5, 7])
    rectified = compatibility.make_scorer(config, params).pairs(embedding, category, first, second)
    config.quirks = ("c2_raw_masks",)
    raw = compatibility.make_scorer(config, params).pairs(embedding, category, first, second)
    assert np.abs(rectified - raw).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["projection=mask", "projection=fc", "recipe=set"])
def test_scores_do_not_depend_on_the_order_of_an_outfit(argument):
    config, (embedding, category) = tiny(argument), items()
    params = jax.tree.map(lambda x: x + 0.1, params_of(config))
    scorer = compatibility.make_scorer(config, params)
    rows = np.asarray([2, 9, 4, 7])
    sets = [rows, rows[::-1], np.asarray([5])]
    there, back, single = scorer.outfits(embedding, category, sets).double
    bound = rounding(64, scale=max(1, abs(there)))  # means over pairs of distances between 16 values
    assert there == pytest.approx(back, abs=bound) and np.isnan(single)
    longer = scorer.outfits(embedding, category, [rows, np.arange(12)]).double
    assert longer[0] == pytest.approx(there, abs=bound)  # whatever stands beside it
    (answers,) = scorer.answers(embedding, category, [rows[:3]], [np.asarray([7, 0, 7, 1])]).double
    assert answers[0] == answers[2] and answers.shape == (4,)


def test_metrics_leave_out_what_was_not_read():
    config, (embedding, category) = tiny(), items()
    kept = np.delete(np.arange(12), 3)
    predicted = {"embedding": embedding[kept]}
    truth = {"index": kept, "category": category[kept], "example_valid": np.ones(11, bool)}
    tables = {
        "category": category,
        "compatibility": [np.asarray(rows) for rows in ([0, 1], [4, 5, 6], [3, 7])],
        "compatibility_label": np.asarray([1, 0, 1]),
        "question": [np.asarray([0, 1]), np.asarray([2])],
        "answer": [np.asarray([4, 5, 6, 7]), np.asarray([3, 8, 9, 10])],
        "correct": [np.asarray([0, 1, 0, 0]), np.asarray([1, 0, 0, 0])],
    }
    context = Context(params=params_of(config), column=tables.__getitem__)
    found = outfit_metrics.evaluate_outfits(
        compatibility.make_scorer(config, context.params),
        outfit_metrics.items(predicted, truth, 12),
        context.column,
    )
    assert len(found.outfit) == 2 and len(found.question) == 1
    metrics = collect.measure(tasks.make(config).metrics(context), [(predicted, truth)])
    assert metrics["zoo/fill_in_blank"] in (0.0, 100.0)
    assert metrics["standard/compatibility_auc"] in (0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["projection=mask", "recipe=set"])
def test_nothing_left_to_ask_is_no_number(argument):
    """Every outfit and question names the one record that could not be read."""
    config, (embedding, category) = tiny(argument), items()
    kept = np.arange(1, 12)
    truth = {"index": kept, "category": category[kept], "example_valid": np.ones(11, bool)}
    tables = {
        "category": category,
        "compatibility": [np.asarray([0, 1])],
        "compatibility_label": np.asarray([1]),
        "question": [np.asarray([0, 1])],
        "answer": [np.asarray([4, 5])],
        "correct": [np.asarray([0, 1])],
    }
    context = Context(params=params_of(config), column=tables.__getitem__)
    metrics = collect.measure(tasks.make(config).metrics(context), [({"embedding": embedding[kept]}, truth)])
    assert len(metrics) == 4 and np.isnan(list(metrics.values())).all()


def test_diverged_embeddings_are_reported():
    embedding, category = items()
    embedding[4, 0] = np.nan
    truth = {"index": np.arange(12), "category": category}
    with pytest.raises(UserError, match="record 4"):
        outfit_metrics.items({"embedding": embedding}, truth, 12)


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        ("model.kind", "magic", "type_aware"),
        ("model.statistics", "none", "role"),
        ("model.text", "none", "terms of texts"),
        ("accumulate", 2, "order matters"),
        ("loss", {"vse": 1.0}, "weight of text_similarity"),
    ],
)
def test_impossible_configs_are_refused(path, new, message):
    config = tiny("faithful=zoo")
    config.update_from_flattened_dict({path: new})
    with pytest.raises(UserError, match=message):
        tasks.make(config)


def test_types_that_no_space_joins_are_reported_when_they_meet():
    config = tiny()
    config.labels = {"category": [*TYPES, "hats"], "type_space": SPACES}
    tasks.make(config)
    scorer = compatibility.make_scorer(config, params_of(config))
    embedding, category = items()
    assert np.isfinite(scorer.outfits(embedding, category, [np.arange(4)]).double).all()
    category[3] = 3
    with pytest.raises(UserError, match=r"no type space joins \w+ and hats"):
        scorer.outfits(embedding, category, [np.arange(4)])


def test_type_spaces_of_unknown_types_are_refused():
    config = tiny()
    config.labels = {"category": TYPES[:2], "type_space": SPACES}
    with pytest.raises(UserError, match="type space 2 joins 'bags' and 'tops'"):
        tasks.make(config)
