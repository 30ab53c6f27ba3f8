"""Training equals PyTorch: the gradient of every loss, and five optimizer steps from equal weights.

References: tests/fixtures/training, written out in PyTorch from the formulas.
"""

import importlib
import itertools
from pathlib import Path

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import category_attributes, compatibility, inshop, landmarks, retrieval
from fashionjax import tasks
from fashionjax.runtime import optim, parallel, state
from fashionjax.task import AXIS
from fashionjax.weights.importer import key_rules
from fashionjax.weights.key_maps import fill

FIXTURES = Path(__file__).parents[1] / "fixtures" / "training"
LAYERS = 20
GRADIENT, CHANGE = 1e-4, 1e-3  # relative L2
LABELS = {
    "attribute": [f"a{i}" for i in range(7)],
    "category": [f"c{i}" for i in range(5)],
    "item_id": [f"i{i}" for i in range(4)],
}
TYPES = ["bags", "shoes", "tops"]


def shrunk(config, *, rate: float, backbone: str = "vgg11"):
    """The experiment at the size of the fixtures: whole images of 64 px, a warm-up of four steps."""
    config.labels = LABELS
    config.image_size = config.canvas_size = 64
    config.augment.update({"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "erase": 0.0})
    config.augment.update({"brightness": 0.0, "contrast": 0.0, "saturation": 0.0})
    config.model.backbone, config.model.backbone_fields.width = backbone, 2
    config.model.hidden = config.model.features = 8
    config.optim.update({"lr": rate, "warmup_steps": 4})
    return config


def predictor():
    return shrunk(category_attributes.get_config("pool=landmark"), rate=0.1)


def retriever():
    config = inshop.get_config("backbone=resnet50,pool=landmark")
    config.model.embedding, config.loss.triplet = 6, 1.0
    return shrunk(config, rate=1e-3, backbone="resnet18")


def metric():
    """The three losses of whole batches at once, with the zoo's optimizer and pooling."""
    config = retrieval.get_config("loss=proxy_anchor")
    config.loss = {"batch_hard": 1.0, "info_nce": 1.0, "proxy_anchor": 1.0}
    config.model.update({"global_pooling": "mlp", "embedding": 6})
    config.optim = inshop.get_config().optim
    return shrunk(config, rate=0.01)


def detector():
    """With the published model's double sigmoid (S9)."""
    config = landmarks.get_config()
    config.quirks = ("s9_double_sigmoid",)
    config = shrunk(config, rate=1e-5)
    config.model.hidden = config.model.features = 4
    return config


def type_aware_mask():
    return type_aware(compatibility.get_config("projection=mask"))


def type_aware_fc():
    """With MMFashion's inverted image similarity (C4) and its VSE term weighted twice (C5)."""
    config = compatibility.get_config("projection=fc,types=false")
    config.quirks = ("c4_same_type_apart", "c5_vse_weighted_twice")
    return type_aware(config)


def type_aware(config):
    config = shrunk(config, rate=5e-5, backbone="resnet18")
    config.labels = {
        "category": TYPES,
        "type_space": [list(pair) for pair in itertools.combinations_with_replacement(TYPES, 2)],
    }
    config.model.embedding, config.model.text_features = 6, 10
    return config


CASES = {
    "predictor": predictor,
    "retriever": retriever,
    "metric": metric,
    "detector": detector,
    "type_aware_mask": type_aware_mask,
    "type_aware_fc": type_aware_fc,
}


# case → the switch that is turned over, and the term that it changes
OTHERS = {
    "detector": ("s9_double_sigmoid", "visibility"),  # to the correct loss
    "predictor": ("s14_mean_sigmoid_loss", "attribute"),  # to the mean predicted probability
}


class Reference:
    """A stored case; `flax(prefix)` are its tensors KEY as the parameters they belong to."""

    def __init__(self, name, config, task):
        with np.load(FIXTURES / f"{name}.npz") as file:
            self.stored = dict(file)
        self.batch = self.tensors("batch/")
        n = len(self.batch["image"])
        self.batch |= {"example_valid": np.ones(n, bool), "index": np.arange(n, dtype=np.int32)}
        self.rules = key_rules(config)
        params, statistics = jax.eval_shape(task.init, jax.random.PRNGKey(0), self.batch)
        self.shapes = {"params": params}
        # running statistics, which training only writes
        self.model_state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), statistics)

    def tensors(self, prefix) -> dict:
        return {key.removeprefix(prefix): v for key, v in self.stored.items() if key.startswith(prefix)}

    def flax(self, prefix):
        return fill(self.shapes, self.tensors(prefix), self.rules)[0]["params"]

    def rounding(self, term: str) -> float:
        """How far two float32 computations of a term may be apart.

        To first order a rounding in the network acts as a relative change of a weight by 2^-24, and a value
        passes through LAYERS of them on both sides; independent ones add up by squares. Where large distances
        cancel, as in the triplet term, this exceeds 1e-5 of the value.
        """
        products = jax.tree.map(
            lambda weight, gradient: float(np.square(np.float64(weight) * gradient).sum()),
            self.flax("weight/"),
            self.flax(f"grad/{term}/"),
        )
        spread = 2 * LAYERS * 2.0**-24 * sum(jax.tree.leaves(products)) ** 0.5
        return max(spread, 1e-5 * abs(self.terms()[term]))

    def terms(self) -> dict:
        return {name: float(value) for name, value in self.tensors("value/").items()}


@pytest.fixture(autouse=True)
def no_dropout(monkeypatch):
    monkeypatch.setattr(nn.Dropout, "__call__", lambda self, x, **_: x)


@pytest.fixture(params=CASES)
def case(request):
    config = CASES[request.param]()
    task = tasks.make(config)
    return request.param, config, task, Reference(request.param, config, task)


def relative(got, want) -> float:
    got, want = (
        np.concatenate([np.ravel(v) for _, v in sorted(flax.traverse_util.flatten_dict(tree).items())])
        for tree in (got, want)
    )
    return float(np.linalg.norm(np.float64(got) - want) / np.linalg.norm(np.float64(want)))


def terms_and_gradients(task, reference):
    """({term: value}, {term: gradient}) at the stored weights, one device."""
    n = len(reference.batch["image"])
    batch = reference.batch | {
        "example_weight": np.ones(n, np.float32),
        "slot": np.arange(n, dtype=np.int32),
    }
    one_device = jax.tree.map(lambda x: jnp.asarray(x)[None], batch)

    def terms(params):
        def loss(batch):
            return task.loss(params, reference.model_state, batch, jax.random.PRNGKey(0))[1][1]

        return jax.tree.map(lambda x: x[0], jax.vmap(loss, axis_name=AXIS)(one_device))

    def weighed(params, weight):
        values = terms(params)
        return sum(weight[name] * value for name, value in values.items()), values

    params = reference.flax("weight/")
    names = list(jax.eval_shape(terms, params))
    run = jax.jit(jax.value_and_grad(weighed, has_aux=True))  # one program; a term at a time has weight 1
    found = {name: run(params, {other: float(other == name) for other in names}) for name in names}
    values = next(iter(found.values()))[0][1]
    return jax.device_get((values, {name: gradient for name, (_, gradient) in found.items()}))


@pytest.mark.slow
def test_gradient_of_every_loss(case):
    name, config, task, reference = case
    values, gradients = terms_and_gradients(task, reference)
    wanted = {term for term in reference.terms() if term.startswith("loss_")}
    assert set(values) == wanted
    for term in wanted:
        assert abs(values[term] - reference.terms()[term]) <= reference.rounding(term), term
        assert relative(gradients[term], reference.flax(f"grad/{term}/")) <= GRADIENT, term
    if name in OTHERS:
        switch, term = OTHERS[name]
        config.quirks = tuple({switch} ^ set(config.quirks))
        values, gradients = terms_and_gradients(tasks.make(config), reference)
        other = f"other_{term}"
        assert abs(values[f"loss_{term}"] - reference.terms()[other]) <= reference.rounding(other)
        assert relative(gradients[f"loss_{term}"], reference.flax(f"grad/other_{term}/")) <= GRADIENT


@pytest.mark.slow
def test_five_steps_change_the_parameters_alike(case):
    _, config, task, reference = case
    before = reference.flax("weight/")
    schedule = optim.make_schedule(config.optim, 1000, 1000)
    tx = optim.make_optimizer(config.optim, before, schedule)
    mesh = parallel.make_mesh(jax.devices()[:1])
    step = parallel.compile_train_step(state.make_train_step(task, tx), "pmap", mesh)
    run = state.TrainState(
        jnp.zeros((), jnp.int32), before, reference.model_state, tx.init(before), jax.random.PRNGKey(0)
    )
    run = parallel.replicate(jax.tree.map(jnp.asarray, run), mesh)
    for number in range(5):
        batch = reference.batch | {"image": np.roll(reference.batch["image"], number, axis=2)}
        run, scalars = step(run, parallel.put_batch(batch, "pmap", mesh))
        assert scalars["nonfinite"] == 0
    change = jax.tree.map(lambda after, start: np.asarray(after) - start, run.params, before)
    assert relative(change, reference.flax("change/")) <= CHANGE


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_fixtures_are_what_pytorch_says(name, monkeypatch):
    pytest.importorskip("torch", reason="make test-full installs it")
    monkeypatch.syspath_prepend(FIXTURES)
    kind = "type_aware" if name.startswith("type_aware") else "training"
    make = importlib.import_module(f"make_{kind}_fixtures")
    with np.load(FIXTURES / f"{name}.npz") as stored:
        derived = make.derive(name)
        assert set(derived) == set(stored.files)
        for key, value in derived.items():
            error = np.linalg.norm(np.float64(value) - stored[key])
            assert error <= 1e-4 * max(np.linalg.norm(np.float64(stored[key])), 1e-12), key
