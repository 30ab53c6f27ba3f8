"""Every combination of arguments of every system builds, with the published parameter counts; each family
trains, and retrieval and outfits are evaluated with their grids, matches and questions."""

import importlib
import itertools
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import run
from ml_collections import ConfigDict

from experiments import cgd
from fashionjax import evaluate, quirks, tasks, train
from fashionjax.data import builders
from fashionjax.task import AXIS

SYSTEMS = (
    "attributes",
    "category_attributes",
    "inshop",
    "consumer2shop",
    "landmarks",
    "retrieval",
    "cgd",
    "compatibility",
)
DETECTORS = ("mask_rcnn", "cascade", "recommendation")  # their shapes are tested with the detection task
STAGED = ("fashionnet",)  # tested with its task
ATTRIBUTE_SPECIFIC = ("rpf",)  # and those of these with the task fine_grained
OWN = ("own",)  # tested with finetune
EVERY = (*SYSTEMS, *DETECTORS, *STAGED, *ATTRIBUTE_SPECIFIC, *OWN)
# labels of the benchmarks
COARSE, FINE = {"attribute": 1000}, {"attribute": 26, "category": 50}
IN_SHOP, CONSUMER = {"attribute": 463, "item_id": 7982}, {"attribute": 303, "item_id": 33881}
TRAINED_ITEMS = 3997  # of the in-shop items
LABELS = {
    "deepfashion_attributes/coarse": COARSE,
    "deepfashion_attributes/fine": FINE,
    "deepfashion_inshop": IN_SHOP,
    "synthetic": {"item_id": 400},
    "deepfashion_consumer2shop": CONSUMER,
    "deepfashion_consumer2shop/val_test": CONSUMER,
    "deepfashion_landmarks": {},
    "polyvore_outfits/disjoint": {"category": 11, "type_space": 66},
    "polyvore_outfits/nondisjoint": {"category": 11, "type_space": 66},
}
# millions of parameters of the published models, by what the config names
PUBLISHED = {
    "attributes:benchmark=coarse,backbone=vgg16,pool=global": 138.36,
    "attributes:benchmark=coarse,backbone=resnet50,pool=global": 455.43,
    "attributes:benchmark=coarse,backbone=vgg16,pool=landmark": 188.70,
    "attributes:benchmark=coarse,backbone=resnet50,pool=landmark": 556.10,
    "attributes:benchmark=inshop,backbone=vgg16,pool=landmark": 186.50,
    "category_attributes:backbone=vgg16,pool=global": 41.53,
    "category_attributes:backbone=resnet50,pool=global": 128.52,
    "category_attributes:backbone=vgg16,pool=landmark": 47.83,
    "category_attributes:backbone=resnet50,pool=landmark": 170.47,
    "inshop:backbone=vgg16,pool=global,loss=full": 139.26,
    "inshop:backbone=vgg16,pool=global,loss=id": 137.36,
    "inshop:backbone=resnet50,pool=global,loss=full": 456.33,
    "inshop:backbone=vgg16,pool=landmark,loss=full": 189.60,
    "inshop:backbone=vgg16,pool=landmark,loss=id": 187.70,
    "inshop:backbone=resnet50,pool=landmark,loss=full": 557.00,
    "inshop:backbone=resnet50,pool=landmark,loss=triplet": 555.11,
    "consumer2shop:backbone=vgg16,pool=landmark": 195.60,
    "cgd:backbone=resnet50,descriptors=GS": 34.85,
    "cgd:backbone=resnext50,descriptors=GS": 34.32,
    "landmarks:backbone=vgg16": 142.65,
    "landmarks:backbone=resnet50": 459.73,
    "compatibility:projection=fc,types=false": 23.544384,
    "compatibility:projection=mask,types=false": 19.218752,
    "compatibility:projection=mask,types=false,recipe=origin": 3.191808,
}


def system(name):
    return importlib.import_module(f"experiments.{name}")


# pairs of arguments that an experiment refuses
REFUSED = {"rpf": ({"stage=2", "variant=asen"}, {"stage=2", "conditioned=false"})}


def combinations(name) -> list[str]:
    arguments = system(name).ARGUMENTS
    chosen = [
        [f"{k}={v}" for k, v in zip(arguments, values)] for values in itertools.product(*arguments.values())
    ]
    refused = REFUSED.get(name, ())
    return [",".join(words) for words in chosen if not any(pair <= set(words) for pair in refused)]


def with_labels(config):
    config.labels = {
        name: [f"{name}_{i:02d}" for i in range(count)] for name, count in LABELS[config.dataset].items()
    }
    if config.get("trained_items_only"):
        config.labels.item_id = config.labels.item_id[:TRAINED_ITEMS]
    if "type_space" in config.labels:
        pairs = itertools.combinations_with_replacement(config.labels.category, 2)
        config.labels.type_space = [list(pair) for pair in pairs]
    return config


def batch_of(config, size: int, count: int = 3) -> dict:
    """What the model may be given, zeros."""
    batch = {
        "image": np.zeros((count, size, size, 3), np.uint8),
        "landmark": np.zeros((count, 8, 2), np.float32),
        "visibility": np.ones((count, 8), np.float32),
        "category": np.zeros(count, np.int32),
        "item_id": np.zeros(count, np.int32),
        "index": np.arange(count, dtype=np.int32),
        "example_valid": np.ones(count, bool),
        "has_text": np.ones(count, np.float32),
        "in_outfit": np.ones(count, bool),
    }
    if config.model.get("text", "none") != "none":
        words = config.model.text == "words"
        batch["text"] = np.zeros((count, 16), np.int32) if words else np.zeros((count, 6000), np.float32)
    if "attribute" in config.labels:
        batch["attribute"] = np.zeros((count, len(config.labels["attribute"])), np.uint8)
    return batch


def shapes(config) -> tuple:
    """(shapes of the loss's terms, shapes of the predictions), nothing computed."""
    task = tasks.make(config)
    params, model_state = jax.eval_shape(
        task.init, jax.random.PRNGKey(0), batch_of(config, config.image_size)
    )
    random_crop = "s1_random_crop_at_test" in config.quirks
    count = config.outfit.slots if config.task == "compatibility" else 3
    batch = batch_of(config, config.image_size if random_crop else config.canvas_size, count)
    batch |= {"example_weight": np.ones(count, np.float32), "slot": np.arange(count, dtype=np.int32)}
    per_device = jax.vmap(task.loss, in_axes=(None, None, 0, None), axis_name=AXIS)
    one_device = jax.tree.map(lambda x: x[None], batch)
    loss, (state, scalars) = jax.eval_shape(
        per_device, params, model_state, one_device, jax.random.PRNGKey(0)
    )
    assert loss.shape == (1,) and jax.tree.structure(state) == jax.tree.structure(model_state)
    predicted = jax.eval_shape(task.predict, params, model_state, batch_of(config, config.image_size))
    return scalars, {name: value.shape for name, value in predicted.items()}


def expected_outputs(config) -> dict:
    if config.task == "retrieval":
        return {"embedding": (3, config.model.embedding)}
    if config.task == "compatibility":
        types = {"category_logits": (3, 11)} if "category" in config.loss else {}
        return {"embedding": (3, config.model.embedding)} | types
    if config.task == "landmarks":
        return {"landmark": (3, 8, 2), "visibility": (3, 8)}
    return {f"{name}_logits": (3, len(config.labels[name])) for name in config.model.labels_predicted}


def check_combinations(name, change=lambda config: None):
    """Each combination's loss terms and predictions; equal models are traced once."""
    seen = {}
    for argument in combinations(name):
        config = with_labels(system(name).get_config(argument))
        assert bool(config.steps) != bool(config.epochs), argument
        change(config)
        traced = [config.get(name, {}) for name in ("model", "loss", "retrieval")]
        key = repr([sorted(dict(part).items()) for part in traced] + [config.quirks, LABELS[config.dataset]])
        if key not in seen:
            seen[key] = shapes(config)
        scalars, predicted = seen[key]
        assert set(scalars) == {f"loss_{term}" for term in config.loss}, argument
        assert predicted == expected_outputs(config), argument


def shallow(config):
    """The same wiring around a backbone of few layers, which is what tracing time is spent on."""
    if config.task == "compatibility":
        config.model.backbone, config.model.backbone_fields = "vgg11", {}
    elif config.model.backbone.startswith("vit"):
        config.model.backbone, config.model.backbone_fields = "vit_s16", {"depth": 2}
    else:
        shallower = {"vgg16": "vgg11", "resnet50": "resnet18", "resnext50": "resnet18"}
        config.model.backbone = shallower.get(config.model.backbone, config.model.backbone)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_combination_builds(name):
    check_combinations(name, shallow)


@pytest.mark.full
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_combination_builds_at_full_depth(name):
    check_combinations(name)


@pytest.mark.parametrize(("row", "millions"), PUBLISHED.items())
def test_published_parameter_counts(row, millions):
    name, _, argument = row.partition(":")
    config = with_labels(system(name).get_config(argument))
    params, _ = jax.eval_shape(tasks.make(config).init, jax.random.PRNGKey(0), batch_of(config, 224))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", SYSTEMS)
def test_wrong_arguments_are_reported(name):
    with pytest.raises(ValueError, match="unknown config argument 'bacbone'"):
        system(name).get_config("bacbone=vgg16")
    with pytest.raises(ValueError, match="there are"):
        system(name).get_config("backbone=alexnet")


def test_every_experiment_has_a_model_card():
    docs = Path(cgd.__file__).parents[1] / "docs"
    text = "\n".join(file.read_text() for file in docs.glob("*.md"))
    for name in (*EVERY, "demo"):
        cards = re.findall(
            rf"^#+ (?:Model card: )?experiments/{name}\.py\n\n(.*?)\n\n", text + "\n\n", re.M | re.S
        )
        assert len(cards) == 1, name
        lines = [line.split("|")[1].strip() for line in cards[0].splitlines()]
        assert {"model", "for", "data", "training", "published", "measured here", "limits"} <= set(lines), (
            name
        )


def test_every_field_can_be_set_from_the_command_line():
    """A field named like a method of ConfigDict is shadowed by it there."""
    methods = set(dir(ConfigDict))
    for name in (*EVERY, "demo"):
        fields, left = set(), [system(name).get_config()]
        for part in left:
            fields |= set(part.keys())
            left += [value for value in part.values() if isinstance(value, ConfigDict)]
        assert not fields & methods, name


@pytest.mark.parametrize("name", SYSTEMS)
def test_docstrings_say_the_command_and_nothing_is_on_by_default(name):
    module = system(name)
    assert f"--config=experiments/{name}.py" in module.__doc__ and "fashionjax evaluate" in module.__doc__
    assert module.get_config().quirks == () and not module.get_config().images_per_gpu


def test_faithful_sets_what_the_rows_used():
    def on(name, argument=""):
        config = system(name).get_config(f"faithful=zoo{argument}")
        return " ".join(quirk.split("_")[0] for quirk in quirks.names_on(config)), config.images_per_gpu

    landmark = ",backbone=resnet50,pool=landmark"
    assert on("attributes") == ("s1 s2 s12", 0)
    assert on("attributes", ",pool=landmark") == ("s1 s2 s3 s5 s12", 32)
    assert on("category_attributes", landmark) == ("s1 s2 s3 s12", 64)
    assert on("landmarks") == ("s1 s2 s9 s10 s11", 0)
    assert on("inshop") == ("s1 s2 s13", 0)
    assert on("inshop", landmark) == ("s1 s2 s3 s4 s5 s6 s13", 16)
    assert on("consumer2shop") == ("s1 s2 s3 s4 s7 s8 s13 s15", 8)
    assert on("compatibility") == ("s1 c1 c2 c3 c4 c5", 0)
    assert on("compatibility", ",split=nondisjoint") == ("s1 c1 c2 c3 c4 c5 c6", 0)


# ------------------------------------------------------------------------------ two steps of each family
ARGUMENTS = {
    "attributes": "pool=landmark,faithful=zoo",
    "category_attributes": "",
    "landmarks": "head=heatmap",
    "inshop": "pool=landmark,loss=full",
    "consumer2shop": "faithful=zoo",
    "retrieval": "loss=proxy_anchor,benchmark=consumer2shop",
    "cgd": "descriptors=SMG",
    "compatibility": "projection=fc",
}


@pytest.fixture(scope="module")
def data_dir(synthetic_dir):
    """The shared folder with the two retrieval sets and outfits beside the attributes."""
    small = {"test_items": "4", "size": "48"}
    builders.prepare(
        "synthetic_fashion/in_shop",
        data_dir=synthetic_dir,
        overrides=small | {"train_items": "8"},
        progress=False,
    )
    builders.prepare(
        "synthetic_fashion/consumer_to_shop",
        data_dir=synthetic_dir,
        overrides=small | {"train_items": "8", "val_items": "3"},
        progress=False,
    )
    builders.prepare(
        "synthetic_fashion/outfits",
        data_dir=synthetic_dir,
        overrides={"train": "16", "val": "8", "test": "8", "size": "48"},
        progress=False,
    )
    return synthetic_dir


def shrunk(name, data_dir):
    """The tiny variant at 32 px with a VGG-11 of width 4, reading what is prepared; 24 images a step."""
    config = system(name).get_config(f"tiny=true,{ARGUMENTS[name]}")
    config.dataset = "synthetic_fashion/" + config.synthetic.config.replace("landmarks", "attributes")
    config.data_dir = str(data_dir)
    config.image_size, config.canvas_size = 32, 36
    config.model.backbone = "resnet18" if name == "cgd" else "vgg11"
    config.model.backbone_fields.width = 4
    config.model.landmark_levels = 2
    config.steps, config.log_every = 2, 1
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_two_steps_and_an_evaluation(name, data_dir, tmp_path):
    config = shrunk(name, data_dir)
    state = train.train(config, tmp_path)
    assert int(state.step) == 2
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["nonfinite"] for line in lines] == [0, 0]
    assert all(np.isfinite(line["loss"]) for line in lines)
    evaluated = json.loads((tmp_path / "evaluations.jsonl").read_text().splitlines()[-1])
    assert any(key.startswith("standard/") for key in evaluated)
    if name == "compatibility":
        check_outfits(evaluate.evaluate(tmp_path, "", tmp_path / "test"), tmp_path / "test")
    if name not in ("inshop", "consumer2shop"):
        return
    result = evaluate.evaluate(tmp_path, "", tmp_path / "test")
    assert result["split"] == "query+gallery" and result["n"] == 4 * 2 + 4 * 3
    assert result["label"] == "synthetic"
    assert set(result["baselines"]) == {"colour_histogram"}
    switches = {"inshop": [], "consumer2shop": ["s1", "s2", "s3", "s4", "s7", "s8", "s13", "s15"]}
    assert [switch.split("_")[0] for switch in result["switches"]] == switches[name]
    page = json.loads((tmp_path / "test" / "report.json").read_text())
    assert "Retrieval per category" in page["tables"] and "zoo/recall@k" not in page["metrics"]
    assert page["definitions"]["zoo/recall@5"].startswith("mean over queries of the share")
    check_matches(read_lines(tmp_path / "test" / "matches.jsonl"), result)


def read_lines(path):
    return [json.loads(line) for line in path.open()]


def check_outfits(result, out):
    """The file of questions holds what the metrics count, and the page has its panels."""
    assert result["split"] == "test" and set(result["baselines"]) == {"colour_histogram", "untrained"}
    questions, outfits = (read_lines(out / name) for name in ("fill_in_blank.jsonl", "outfits.jsonl"))
    assert len(questions) == 8 and len(outfits) == 16
    right = [q["chosen"] in q["correct"] for q in questions]
    assert result["metrics"]["zoo/fill_in_blank"] == pytest.approx(100 * np.mean(right))
    good, bad = ([o["score"] for o in outfits if o["label"] == label] for label in (1, 0))
    auc = np.mean([(a > b) + 0.5 * (a == b) for a in good for b in bad])
    assert result["metrics"]["standard/compatibility_auc"] == pytest.approx(auc, abs=0.02)
    page = json.loads((out / "report.json").read_text())
    assert {"Model", "Pairs of types"} <= set(page["tables"])
    assert page["tables"]["Model"]["rows"][0][1] == "type spaces by linear maps, learned metric"


def check_matches(matches, result):
    """Ids of queries and gallery; the share of queries with a match at 1 and 5 is the metric's."""
    assert len(matches) == 8
    right = []
    for query in matches:
        assert query["id"].startswith("query/") and len(query["matches"]) == 12
        item = query["id"].split("/")[1]
        scores = [match["score"] for match in query["matches"]]
        assert scores == sorted(scores, reverse=True)
        for match in query["matches"]:
            assert match["id"].startswith("gallery/")
            assert match["correct"] == (match["id"].split("/")[1] == item)
        right.append([match["correct"] for match in query["matches"]])
    for k in (1, 5):
        share = np.mean([any(row[:k]) for row in right])
        assert result["metrics"][f"standard/recall@{k}"] == pytest.approx(share)


EVERY_DAY = ("landmarks", "compatibility")
SWEPT = [pytest.param(name, marks=pytest.mark.full) for name in ("demo", *EVERY) if name not in EVERY_DAY]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EVERY_DAY, *SWEPT])
def test_tiny_trains_from_the_command_line(name, tmp_path):
    """`tiny=true` as it stands, but for the number of steps; its synthetic data is rendered first."""
    done = run(
        "train",
        f"--config=experiments/{name}.py:tiny=true",
        *(f"--workdir={tmp_path / 'run'}", f"--config.data_dir={tmp_path / 'data'}", "--config.steps=2"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    assert read_lines(tmp_path / "run" / "evaluations.jsonl")[-1]["step"] == 2


def test_every_experiment_is_tested():
    files = {path.stem for path in Path("experiments").glob("[a-z]*.py")}
    assert files == {*EVERY, "common", "demo"}


def test_refused_pairs_are_refused():
    for name, pairs in REFUSED.items():
        for pair in pairs:
            with pytest.raises(ValueError, match="config argument stage=2: only"):
                system(name).get_config(",".join(sorted(pair)))


def test_no_experiment_chooses_on_the_split_that_it_reports():
    for name in EVERY:
        for argument in combinations(name):
            config = system(name).get_config(argument)
            tested = config.test_split.split("+")
            # of test+train+val the first part asks, the others are the database
            tested = set(tested[:1] if config.task == "recommendation" else tested)
            assert not config.best or not tested & set(config.eval_split.split("+")), (name, argument)
