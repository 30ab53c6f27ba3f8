"""The FashionNet task: records and their quirks, losses by transcription, stages, evaluation,
prediction by part and search."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import save_drawn
from close import assert_conditioned, assert_rounded, relative_rounding
from commands import run
from PIL import Image

from experiments import fashionnet as experiment
from fashionjax import evaluate, predict, tasks, train
from fashionjax.data import builders, source
from fashionjax.errors import UserError
from fashionjax.gallery import collection, embed
from fashionjax.inference import photos
from fashionjax.runtime import checkpoint
from fashionjax.task import AXIS
from fashionjax.tasks import fashionnet

NAMES = ["MEN/Denim", "MEN/Shorts", "WOMEN/Denim", "WOMEN/Skirts"]


def tiny(stage="blue", *quirks, **fields):
    """A VGG-11 of width 2 at 32 px."""
    config = experiment.get_config(f"tiny=true,stage={stage}")
    config.labels = {"category": NAMES, "attribute": ["a", "b", "c"]}
    config.image_size, config.canvas_size, config.batch_size = 32, 36, 6
    config.model.update({"backbone": "vgg11", "fc": 8, "green": 4})
    config.model.backbone_fields.width = 2
    config.quirks = quirks
    config.update(fields)
    return config


# ------------------------------------------------------------------------------ records
def record(**fields) -> dict:
    """A lower garment: landmarks 0 visible, 1 occluded, 2 truncated, 3 visible and outside of the box."""
    landmark = np.zeros((8, 2), np.float32)
    landmark[:4] = [[0.4, 0.4], [0.5, 0.5], [0.6, 0.4], [0.95, 0.9]]
    state = np.asarray([0, 1, 2, 0, 3, 3, 3, 3], np.int32)
    record = {"landmark": landmark, "visibility": state, "category": 2, "attribute": np.zeros(3, np.uint8)}
    record |= {"image": np.zeros((40, 40, 3), np.uint8), "image_id": "x", "item_id": "i"}
    return record | {"box": np.asarray([10, 10, 30, 30], np.float32)} | fields


def prepared(*quirks, rng=None, **fields):
    config = tiny("blue", *quirks, crop_box=True, box_margin=0.0)
    return fashionnet.make_preprocess(config)(record(**fields), rng)


def test_states_of_landmarks():
    assert prepared()["landmark_state"].tolist() == [0, 1, 2, 2, 3, 3, 3, 3]  # cut off by the frame
    assert prepared()["visibility"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert prepared("f9_outside_stays_visible")["landmark_state"].tolist() == [0, 1, 2, 0, 3, 3, 3, 3]
    assert prepared("f7_absent_landmarks_visible")["visibility"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    absent = prepared("f7_absent_landmarks_visible", rng=np.random.default_rng(0))
    assert absent["landmark_state"].tolist() == [0, 1, 2, 2, 0, 0, 0, 0]
    assert absent["visibility"].tolist() == [1, 0, 0, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(absent["landmark"][4:], 0, atol=1e-5)
    assert absent["landmark"][4:].all()  # else a crop would not move them


def test_labels_and_roles():
    assert prepared()["category"] == 2 and prepared("f6_categories_collapsed")["category"] == 0
    assert fashionnet.collapsed(fashionnet.CATEGORIES).tolist() == [
        *range(11), 0, 12, 13, 14, 15, 2, 17, 4, 19, 6, 7, 8,
    ]  # fmt: skip
    assert not prepared()["attribute"].any()
    assert prepared("f10_no_attribute_is_first")["attribute"].tolist() == [1, 0, 0]
    assert "role" not in prepared(view=1) and prepared(view=1, role=1)["role"] == 1


def moved(*quirks, flip=1.0):
    """The record's landmarks through a training crop that is the whole image."""
    config = tiny("blue", *quirks)
    config.augment.update({"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": flip})
    config.labels.landmark_flip = [[0, 1], [2, 3], [4, 5], [6, 7]]
    example = fashionnet.make_preprocess(config)(record(), np.random.default_rng(0))
    batch = {name: jnp.asarray(value)[None] for name, value in example.items()} | {"slot": jnp.zeros(1, int)}
    return jax.device_get(jax.jit(fashionnet.supervised.make_augment(config))(batch, jax.random.PRNGKey(0)))


@pytest.mark.slow
def test_flips():
    exchanged, kept = moved(), moved("f8_flip_keeps_sides")
    assert exchanged["landmark_state"][0].tolist() == [1, 0, 0, 2, 3, 3, 3, 3]
    assert_rounded(exchanged["landmark"][0, :2], [[0.5, 0.5], [0.6, 0.4]], operations=16, scale=1)
    assert kept["landmark_state"][0].tolist() == [0, 1, 2, 0, 3, 3, 3, 3]
    assert_rounded(kept["landmark"][0, :2], [[0.6, 0.4], [0.5, 0.5]], operations=16, scale=1)
    absent = moved("f7_absent_landmarks_visible", "f8_flip_keeps_sides")
    np.testing.assert_allclose(
        absent["landmark"][0, 4:], [[1, 0]] * 4, atol=1e-5
    )  # flipped, though not there
    assert fashionnet._state(tiny(), absent)[0].tolist() == [0, 1, 2, 0, 0, 0, 0, 0]


# ------------------------------------------------------------------------------ losses
def outputs_and_batch():
    rng = np.random.default_rng(0)
    outputs = {
        "blue_category_logits": rng.standard_normal((3, 4)),
        "category_logits": rng.standard_normal((3, 4)),
        "attribute_logits": rng.standard_normal((3, 3)),
        "landmark": rng.random((3, 8, 2)),
        "state_logits": rng.standard_normal((3, 8, 3)),
        "embedding": rng.random((3, 5)),
    }
    batch = {
        "category": np.asarray([0, 3, 2]),
        "attribute": np.asarray([[1, 0, 0], [0, 0, 0], [1, 1, 0]]),
        "landmark": rng.random((3, 8, 2)),
        "landmark_state": rng.integers(0, 4, (3, 8)),
        "visibility": np.ones((3, 8)),
        "example_weight": np.asarray([1.5, 1.5, 0.0]),  # the last could not be read
    }
    batch["landmark_state"][0, :4] = [0, 1, 2, 3]
    batch["visibility"][0, 0] = 0  # cut off by the crop

    def as_float(tree):
        return {n: jnp.asarray(v, "f4" if v.dtype.kind == "f" else "i4") for n, v in tree.items()}

    return outputs, batch, as_float(outputs), as_float(batch)


def notebook_losses(outputs, batch, *, swapped, outside_visible, weights):
    """The notebook's formulas in numpy, per example, then the weighted mean."""
    one_hot, positive_weight, negative_weight = np.eye(4)[batch["category"]], 0.95857, 0.04143
    if swapped:
        positive_weight, negative_weight = negative_weight, positive_weight
    p, y = 1 / (1 + np.exp(-outputs["attribute_logits"])), batch["attribute"]
    weight = np.where(y == 1, positive_weight, negative_weight)
    losses = {"attribute": (-np.log(y * p + (1 - y) * (1 - p) + 1e-7) * weight).sum(axis=1)}
    for name in ("blue_category", "category"):
        z = np.exp(outputs[f"{name}_logits"])
        losses[name] = -(weights * one_hot * np.log(z / z.sum(axis=1, keepdims=True) + 1e-7)).sum(axis=1)
    state = batch["landmark_state"].copy()
    if not outside_visible:
        state[(state == 0) & (batch["visibility"] == 0)] = 2
    square = ((outputs["landmark"] - batch["landmark"]) ** 2).sum(axis=-1)
    losses["landmark"] = (square * (state == 0)).sum(axis=1)
    z = np.exp(outputs["state_logits"])
    share = np.take_along_axis(z / z.sum(-1, keepdims=True), np.minimum(state, 2)[..., None], -1)[..., 0]
    losses["visibility"] = (-np.log(share) * (state < 3)).sum(axis=1)
    return {name: (value * batch["example_weight"]).mean() for name, value in losses.items()}


@pytest.mark.parametrize("literal", [False, True])
def test_losses_are_those_of_the_notebook(literal):
    _, _, *on_device = outputs_and_batch()
    quirks = ("f5_attribute_weights_swapped", "f9_outside_stays_visible") if literal else ()
    weights = (0.5, 1.0, 2.0, 45.6) if literal else ()
    config = tiny("blue", *quirks, balance={"attribute_rate": 0.04143, "category_weights": weights})
    config.loss = dict.fromkeys(experiment.TYPE_1, 1.0)
    got = fashionnet.loss_terms(config, *on_device, {})

    def definition(outputs, batch):
        outputs, batch = jax.tree.map(
            lambda x: np.float64(x) if x.dtype == np.float32 else np.asarray(x), (outputs, batch)
        )
        settings = {"swapped": literal, "outside_visible": literal}
        return notebook_losses(outputs, batch, **settings, weights=np.asarray(weights or (1.0,) * 4))

    want = definition(*on_device)
    assert {name.removeprefix("loss_") for name in got} == set(want)
    got = {name.removeprefix("loss_"): value for name, value in got.items()}
    assert_conditioned(got, want, definition, *on_device, terms=16)  # coordinates of eight landmarks


def test_wrong_configs_are_refused():
    for change, message in (
        ({"part": "green"}, "config.part='green'"),
        ({"loss": {"ids": 1.0}}, "config.loss has ids"),
        ({"balance": {"attribute_rate": 0.0, "category_weights": ()}}, "attribute_rate=0.0"),
        ({"balance": {"attribute_rate": 0.1, "category_weights": (1.0,)}}, "has 1 weights"),
    ):
        config = tiny()
        with config.unlocked():
            for name, value in change.items():
                del config[name]
                config[name] = value
        with pytest.raises(UserError, match=message):
            tasks.make(config)
    config = tiny()
    config.model.backbone = "resnet18"
    with pytest.raises(UserError, match="trunk is a VGG"):
        tasks.make(config)


def test_stages_and_upstream():
    for stage, frozen in (
        ("blue", ["backbone/"]),
        ("red_green", ["backbone/", "blue_"]),
        ("joint", ["backbone/"]),
    ):
        config = experiment.get_config(f"stage={stage}")
        assert list(config.optim.frozen) == frozen and not config.quirks
        assert config.model.blue_running == (stage == "red_green")
    literal = experiment.get_config("faithful=upstream,stage=joint")
    assert dict(literal.loss) == experiment.TYPE_1 and len(literal.quirks) == 11
    assert literal.balance.category_weights[5] == pytest.approx(45.6, abs=0.05)  # the spec's figures
    assert literal.balance.category_weights[8] == pytest.approx(0.0997, abs=0.0001)
    assert literal.balance.category_weights[11] == 0 and len(literal.balance.category_weights) == 23


# ------------------------------------------------------------------------------ devices
@pytest.mark.slow
def test_four_devices_take_the_step_of_one():
    """Terms, gradients and statistics of 12 images, one of which could not be read, on 4 devices (a triplet
    each, statistics of all) and on 1. Computed in float64: batch normalisation multiplies rounding."""
    config = tiny("joint", dtype="float64")
    config.model.sync_bn = True
    task, rng, count = tasks.make(config), np.random.default_rng(1), 12
    examples = [
        task.preprocess(record(image=rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), category=i % 4), None)
        for i in range(count)
    ]
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    valid = np.arange(count) != 5
    batch |= {"slot": np.arange(count), "example_valid": valid}
    batch["example_weight"] = (valid / valid.mean()).astype(np.float32)
    with jax.enable_x64(True):
        params, model_state = task.init(jax.random.PRNGKey(0), batch)

    def step(devices):
        by_device = jax.tree.map(lambda x: x.reshape(devices, count // devices, *x.shape[1:]), batch)
        run = jax.value_and_grad(task.loss, has_aux=True)
        run = jax.jit(jax.vmap(run, in_axes=(None, None, 0, None), axis_name=AXIS))
        (_, (state, terms)), gradient = run(params, model_state, by_device, jax.random.PRNGKey(2))
        mean = lambda tree: jax.tree.map(lambda x: np.float64(x).mean(axis=0), tree)  # noqa: E731
        return mean(terms), np.concatenate([x.ravel() for x in jax.tree.leaves(mean((gradient, state)))])

    with jax.enable_x64(True):
        (one, moved), (four, parts) = step(1), step(4)
    assert set(one) == {f"loss_{name}" for name in config.loss} and all(one.values())
    bound = relative_rounding(count)  # parameters and weights of the images are float32
    for name, value in one.items():
        assert four[name] == pytest.approx(value, rel=bound), name
    assert np.linalg.norm(parts - moved) <= bound * np.linalg.norm(moved)


def test_a_device_needs_whole_triplets():
    outputs, batch, *_ = outputs_and_batch()
    four = {name: np.resize(value, (4, *value.shape[1:])) for name, value in (outputs | batch).items()}
    with pytest.raises(UserError, match=r"4 images .* config.batch_size has to be a multiple of 3 x devices"):
        fashionnet.loss_terms(tiny("joint"), four, four, {})


# ------------------------------------------------------------------------------ three stages
@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root, overrides = tmp_path_factory.mktemp("data"), {"train_items": "8", "test_items": "3", "size": "40"}
    builders.prepare("synthetic_fashion/in_shop", data_dir=root, overrides=overrides, progress=False)
    return root


def run_stage(stage: str, data_dir, workdir, before: str) -> str:
    """One step; → the workdir."""
    config = tiny(stage)
    config.dataset, config.data_dir = "synthetic_fashion/in_shop", str(data_dir)
    config.batch_size, config.steps, config.log_every, config.init_from = 24, 1, 1, before
    config.optim.warmup_steps = 0
    train.train(config, workdir)
    return str(workdir)


@pytest.fixture(scope="module")
def blue(data_dir, tmp_path_factory):
    """The workdir of drawn weights in place of a trained blue stage."""
    config = tiny("blue")
    config.dataset, config.data_dir = "synthetic_fashion/in_shop", str(data_dir)
    config.labels = dict(source.open_split(config.dataset, "train", str(data_dir)).labels)
    return str(save_drawn(tmp_path_factory.mktemp("blue"), config, 0))


@pytest.fixture(scope="module")
def trained(blue, data_dir, tmp_path_factory):
    """The workdir of a red and green stage that began with `blue`."""
    return run_stage("red_green", data_dir, tmp_path_factory.mktemp("red_green"), blue)


def check_frozen(before, after, frozen: tuple[str, ...]):
    """Parameters of `frozen` modules are as before, all others moved."""
    before, after = (checkpoint.restore_for_inference(path) for path in (before, after))
    same = lambda a, b, name: jax.tree.all(jax.tree.map(np.array_equal, a[name], b[name]))  # noqa: E731
    for name in after.params:
        assert same(before.params, after.params, name) == name.startswith(frozen), name
    for name in after.model_state:
        assert same(before.model_state, after.model_state, name) == name.startswith(frozen), name


@pytest.mark.slow
def test_a_stage_leaves_frozen_parts_alone(blue, trained):
    check_frozen(blue, trained, ("backbone", "blue_"))


@pytest.mark.full
def test_three_stages(data_dir, tmp_path):
    before = ""
    for stage in experiment.STAGES:
        after = run_stage(stage, data_dir, tmp_path / stage, before)
        if before:
            check_frozen(before, after, ("backbone", "blue_") if stage == "red_green" else ("-",))
        before = after


@pytest.mark.slow
def test_evaluation(blue, tmp_path):
    result = evaluate.evaluate(blue, "", tmp_path)
    metrics = result["metrics"]
    assert result["label"] == "synthetic" and result["n"] == 3 * 5
    shown = (
        "category_top1",
        "blue_category_top1",
        "attribute_map",
        "landmark_ne_visible",
        "roi_hit",
        "recall@1",
    )
    for name in shown:
        assert f"standard/{name}" in metrics and f"standard/{name}" in result["definitions"]
    assert {"majority", "mean_landmark", "colour_histogram"} <= set(result["baselines"])
    assert len((tmp_path / "matches.jsonl").read_text().splitlines()) == 6
    page = (tmp_path / "report.html").read_text()
    for title in ("RoIs of the local branch", "Visible landmarks inside their RoI", "Retrieval per category"):
        assert title in page
    alone = evaluate.evaluate(blue, "query", tmp_path / "query", with_baselines=False)
    assert "standard/recall@1" not in alone["metrics"] and "standard/category_top1" in alone["metrics"]


@pytest.mark.slow
def test_parts_predict_their_tasks(blue, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    found = {}
    for part in ("blue", "red_green", "whole"):
        predictor = predict.load(blue, 1, part=part)
        (found[part],) = predict.predict([str(tmp_path / "a.png")], predictor, topk=4, out=tmp_path)
    first, local, whole = found.values()
    assert first.landmark == whole.landmark and len(first.landmark) == 8 and first.attribute is None
    assert local.landmark is None and local.attribute == whole.attribute
    assert local.category == whole.category != first.category
    with pytest.raises(UserError, match=r"config.part='green'"):
        predict.load(blue, 1, part="green")


@pytest.mark.slow
def test_search_by_its_embedding(blue, tmp_path):
    (tmp_path / "shop").mkdir()
    for i in range(3):
        picture = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "shop" / f"{i}.png")
    done = run(
        "search",
        *(tmp_path / "shop" / "1.png", f"--checkpoint={blue}", f"--gallery={tmp_path / 'shop'}"),
        *(f"--out={tmp_path}", "--topk=2", f"--save_gallery={tmp_path / 'gallery'}"),
    )
    assert done.returncode == 0, done.stderr[-1500:]
    matches = json.loads(done.stdout)["matches"]
    bound = relative_rounding(9 * 64, layers=16)
    assert matches[0]["id"] == "1.png" and matches[0]["score"] == pytest.approx(1, abs=bound)
    model = photos.load(blue, "search")
    with pytest.raises(UserError, match="which outfit does not serve"):
        photos.load(blue, "outfit")
    saved = collection.load(str(tmp_path / "gallery"), embed.fingerprint(model))
    assert saved.rows.id == ("0.png", "1.png", "2.png") and saved.rows.embedding.shape == (3, 8 + 4)
