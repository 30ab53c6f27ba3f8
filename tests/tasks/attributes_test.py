"""The attribute and landmark tasks: overfitting, one trace a shape, batch sizes, what is missing."""

import collections

import jax
import numpy as np
import pytest
from fitting import fit

from fashionjax import tasks
from fashionjax.data import pipeline, source
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.metrics import classification, collect
from fashionjax.runtime import optim, parallel, state


def landmarks_config(config, head: str):
    config.task = "landmarks"
    config.model.head = head
    config.model.hidden = config.model.features = 32
    return config


@pytest.fixture
def eight(tiny_batch):
    """Eight of them at 32 px, landmarks within the centres of the 4×4 heat map's outer cells."""
    batch = {name: value[:8] for name, value in tiny_batch.items()}
    return batch | {"image": batch["image"][:, :32, :32], "landmark": 0.2 + 0.6 * batch["landmark"]}


FULL = [pytest.param(case, marks=pytest.mark.full) for case in ("attributes", "regression")]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["heatmap", *FULL])
def test_one_batch_is_overfitted(tiny_config, eight, case, monkeypatch):
    """Below one per cent of the first loss; dropout off, it is noise that no fit removes."""
    monkeypatch.setattr("flax.linen.Dropout.__call__", lambda self, x, **_: x)
    if case == "attributes":
        tiny_config.model.pooling = "global"
        tiny_config.model.labels_predicted = ("attribute", "category")
        tiny_config.model.landmark_source = "given"
    else:
        landmarks_config(tiny_config, case)
    if case == "regression":  # the zoo's backbone: this loss is in pixels, which a VGG fits slowly
        tiny_config.model.backbone = "resnet18"
    tiny_config.model.backbone_fields.width = 8
    tiny_config.optim.update({"lr": 2e-2, "weight_decay": 0.0, "warmup_steps": 10, "clip_norm": 0.0})
    losses = fit(tiny_config, eight, steps=400)
    assert losses[-1] < 0.01 * losses[0], (losses[0], losses[-1])


@pytest.mark.slow
def test_joint_model_learns_its_landmarks(tiny_config, eight):
    """With landmark pooling at its own predictions and dropout on, the loss falls steadily."""
    losses = fit(tiny_config, eight, steps=60)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


@pytest.mark.slow
def test_one_trace_per_batch_shape(tiny_config, synthetic_dir):
    """Training over an epoch and evaluating with a ragged last batch (13 in eights): one trace each."""
    split = source.open_split(
        "synthetic_fashion/attributes", "test", synthetic_dir
    )  # 13 records, batches of 8
    tiny_config.batch_size = 8
    tiny_config.labels.update(split.labels)
    task, traces = tasks.make(tiny_config), collections.Counter()

    def counted(name):
        def run(*args):
            traces[name] += 1
            return getattr(task, name)(*args)

        return run

    counted_task = task._replace(loss=counted("loss"), predict=counted("predict"))
    mesh = parallel.make_mesh()
    sample = next(pipeline.train_batches(split, task.preprocess, batch_size=1, seed=0))
    tx = optim.make_optimizer(
        tiny_config.optim, jax.eval_shape(task.init, jax.random.PRNGKey(0), sample)[0], lambda step: 0.01
    )
    run = parallel.replicate(state.create_state(task, tx, 0, sample), mesh)
    train_step = parallel.compile_train_step(state.make_train_step(counted_task, tx), "pmap", mesh)
    batches = pipeline.train_batches(split, task.preprocess, batch_size=8, seed=0)
    for _ in range(4):
        run, _scalars = train_step(run, parallel.put_batch(next(batches), "pmap", mesh))
    predict_step = parallel.compile_predict_step(state.make_predict_step(counted_task), "pmap", mesh)
    model = inference.Model(tiny_config, task, mesh, predict_step, run.params, run.model_state, 4)
    metrics = [
        collect.measure(task.metrics(inference.context(model, split)), inference.predictions(model, split))
        for _ in range(2)
    ]
    assert traces == {"loss": 1, "predict": 1}
    assert metrics[0] == metrics[1] and 0 <= metrics[0]["standard/category_top1"] <= 1


@pytest.mark.slow
def test_batch_size_does_not_change_predictions(tiny_config, tiny_batch):
    """Batches of 1, 7 and 64 (padded) give the same outputs per example to 1e-5."""
    task = tasks.make(tiny_config)
    batch = tiny_batch | {"image": tiny_batch["image"][:, :32, :32]}
    batch = {name: np.concatenate([value] * 4) for name, value in batch.items()}
    params, model_state = task.init(jax.random.PRNGKey(0), batch)
    predict = jax.jit(task.predict)
    whole = predict(params, model_state, batch)
    for size in (1, 7):
        part = predict(params, model_state, {name: value[3 : 3 + size] for name, value in batch.items()})
        for name, value in part.items():
            expected = np.asarray(whole[name][3 : 3 + size])
            error = np.linalg.norm(np.asarray(value) - expected) / np.linalg.norm(expected)
            assert error <= 1e-5, (size, name, error)


@pytest.mark.slow
def test_batch_size_does_not_change_metrics(tiny_config, synthetic_dir):
    """A split of 21 in batches of 1, 7 and 64: the predictions to 1e-5, and every count of the metrics the
    same but where two scores are equal to that precision."""
    split = source.open_split("synthetic_fashion/attributes", "val", synthetic_dir)
    tiny_config.labels.update(split.labels)
    tiny_config.parallel = "shard_map"
    task, mesh = tasks.make(tiny_config), parallel.make_mesh(jax.devices()[:1])
    sample = next(pipeline.eval_batches(split, task.preprocess, batch_size=1))
    params, model_state = parallel.replicate(task.init(jax.random.PRNGKey(0), sample), mesh)
    step = parallel.compile_predict_step(state.make_predict_step(task), "shard_map", mesh)

    def evaluate(size):
        tiny_config.batch_size = size
        model = inference.Model(tiny_config, task, mesh, step, params, model_state, 0)
        return collect.collect(inference.predictions(model, split, show_progress=False))

    outputs, truth = evaluate(64)
    assert truth["index"].tolist() == list(range(21))
    for size in (1, 7):
        others, labels = evaluate(size)
        for name, expected in outputs.items():
            error = np.linalg.norm(others[name] - expected) / np.linalg.norm(expected)
            assert error <= 1e-5, (size, name, error)
        np.testing.assert_array_equal(labels["index"], truth["index"])
        for k in (1, 3, 5):
            attributes = [outputs["attribute_logits"], others["attribute_logits"]]
            categories = [outputs["category_logits"], others["category_logits"]]
            counts = [classification.topk_counts(score, truth["attribute"], k) for score in attributes]
            found = [classification.category_counts(score, truth["category"], k) for score in categories]
            assert np.abs(np.subtract(*counts)).sum() <= 4 * ties(attributes[0], k)
            assert np.abs(np.subtract(*found)).sum() <= 4 * ties(categories[0], k)


def ties(score: np.ndarray, k: int) -> int:
    """Rows whose k-th and next score are equal to 1e-5."""
    score = -np.sort(-score, axis=1)
    gap = score[:, k - 1] - score[:, k] if k < score.shape[1] else np.full(len(score), np.inf)
    return int((gap <= 1e-5 * np.abs(score).max()).sum())


def test_given_landmarks_must_be_given(tiny_config, tiny_batch):
    tiny_config.model.landmark_source = "given"
    task = tasks.make(tiny_config)
    variables = jax.eval_shape(task.init, jax.random.PRNGKey(0), tiny_batch)
    bare = {"image": tiny_batch["image"]}
    with pytest.raises(UserError, match="landmark_source=predicted"):
        jax.eval_shape(task.predict, *variables, bare)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_predicted": ("colour",)}, "config.model.labels_predicted"),
        ({"backbone": "resnet19"}, "config.model.backbone"),
        ({"pooling": "maximum"}, "pooling"),
    ],
)
def test_unknown_model_fields_are_reported(tiny_config, tiny_batch, change, message):
    tiny_config.model.update(change)
    with pytest.raises((UserError, ValueError), match=message):
        task = tasks.make(tiny_config)
        jax.eval_shape(task.init, jax.random.PRNGKey(0), tiny_batch)


def test_labels_that_the_dataset_lacks_are_reported(tiny_config):
    del tiny_config.labels["attribute"]
    with pytest.raises(UserError, match="no label 'attribute'"):
        tasks.make(tiny_config)


def test_unknown_task(tiny_config):
    tiny_config.task = "tryon"
    with pytest.raises(UserError, match="attributes, landmarks"):
        tasks.make(tiny_config)


def test_bfloat16_computes_with_float32_parameters(tiny_config, tiny_batch):
    tiny_config.dtype = "bfloat16"
    task = tasks.make(tiny_config)
    params, model_state = jax.eval_shape(task.init, jax.random.PRNGKey(0), tiny_batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, model_state))} == {np.dtype("float32")}
    outputs = jax.eval_shape(task.predict, params, model_state, tiny_batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {np.dtype("float32")}
    text = str(jax.make_jaxpr(task.predict)(params, model_state, tiny_batch))
    assert "bf16" in text
