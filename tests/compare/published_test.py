import copy
import json
import re
from pathlib import Path

import pytest
from report_files import experiment, report_of

from fashionjax import tasks
from fashionjax.compare import published
from fashionjax.errors import UserError

ZOO = published.load()
BUILT = [row for row in ZOO.rows if row["config"]]
TABLES = {
    "attributes": 4,
    "category_attributes": 4,
    "inshop": 4,
    "cgd": 2,
    "consumer2shop": 1,
    "landmarks": 2,
    "compatibility": 3,
    "segmentation": 1,
    "deepfashion2": 2,
    "kfashion": 2,
    "recommendation": 2,
    "rpf-fashionai": 1,
    "rpf-darn": 1,
    "rpf-deepfashion_fine": 1,
}


def row(name: str) -> dict:
    return next(row for row in ZOO.rows if row["id"] == name)


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(published, "experiment", experiment)


# ------------------------------------------------------------------------------ the file
def test_all_tables_with_all_their_rows():
    assert [table["id"] for table in ZOO.tables] == list(TABLES)
    for name, count in TABLES.items():
        rows = [row for row in ZOO.rows if row["table"] == name]
        assert [row["source"]["row"] for row in rows] == list(range(1, count + 1))
    assert len({row["id"] for row in ZOO.rows}) == len(ZOO.rows) == 30
    assert sum(len(row["metrics"]) for row in ZOO.rows) == 139


def test_published_numbers():
    got = {r["id"]: " ".join(m["printed"] for m in r["metrics"]) for r in ZOO.rows}
    assert got == {
        "attributes-vgg16-global": "13.70 99.81",
        "attributes-vgg16-landmark": "14.79 99.27",
        "attributes-resnet50-global": "23.52 99.29",
        "attributes-resnet50-landmark": "30.84 99.30",
        "category_attributes-vgg16-global": "35.91 25.44",
        "category_attributes-vgg16-landmark": "37.71 26.69",
        "category_attributes-resnet50-global": "42.87 29.37",
        "category_attributes-resnet50-landmark": "48.25 32.57",
        "inshop-vgg16-global": "38.76",
        "inshop-vgg16-landmark": "46.29",
        "inshop-resnet50-global": "41.81",
        "inshop-resnet50-landmark": "48.82",
        "cgd-inshop-resnet50": "83.6 95.7 97.1 97.7 98.1 98.4",
        "cgd-inshop-resnext50": "85.0 96.1 97.3 97.9 98.2 98.4",
        "consumer2shop-vgg16-landmark": "7.18",
        "landmarks-vgg16": "0.0813 55.35",
        "landmarks-resnet50": "0.0758 56.32",
        "compatibility-disjoint-fc": "50.4 0.80",
        "compatibility-disjoint-mask": "55.6 0.84",
        "compatibility-nondisjoint-fc": "53.5 0.85",
        "segmentation-resnet50": "0.599 0.584",
        "deepfashion2-cascade-resnet101": "55.866 67.401 62.356 0.228 31.682 57.903 "
        "52.244 66.834 61.169 0.000 22.458 54.445",
        "deepfashion2-baseline": "0.638 0.789 0.745 0.640 0.797 0.754",
        "kfashion-cascade-resnet101": "59.341 72.345 66.059 50.000 56.079 59.267 "
        "51.726 71.804 58.591 30.000 44.805 51.682",
        "kfashion-cascade-resnet101-earlier": "48.194 60.508 53.806 45.000 57.415 48.119 "
        "42.243 59.154 48.035 30.000 39.219 42.198",
        "kfashion-recommendation-cgd": "12.84 18.33 27.93 34.77 41.61 57.76 63.95 77.23 81.57 "
        "57.76 62.82 63.55 63.85",
        "kfashion-recommendation-cgd-pca": "13.64 19.92 38.56 44.60 62.22 68.02 74.16 81.02 84.56 "
        "62.22 65.12 66.84 67.67 67.92",
        "rpf-fashionai": "70.11 66.75 67.86 59.65 73.23 75.72 73.18 74.40 75.01",
        "rpf-darn": "58.80 45.18 54.92 55.08 63.51 57.04 63.54 41.20 86.95 62.43",
        "rpf-deepfashion_fine": "10.22 15.62 8.30 15.02 7.38 4.77",
    }


@pytest.mark.parametrize("name, queries", [
    ("rpf-fashionai", [422, 623, 535, 422, 341, 289, 703, 265]),
    ("rpf-darn", [476, 448, 491, 448, 463, 533, 509, 483, 442]),
    ("rpf-deepfashion_fine", [1008, 1483, 1097, 1022, 915]),
])  # fmt: skip
def test_overall_map_is_weighted_by_the_queries_of_test(name, queries):
    """Which also catches a mistyped number."""
    overall, *attributes = row(name)["metrics"]
    weighted = sum(m["value"] * n for m, n in zip(attributes, queries, strict=True)) / sum(queries)
    assert weighted == pytest.approx(overall["value"], abs=0.01)  # each is printed to two digits


@pytest.mark.parametrize("name, categories, total", [
    ("deepfashion2-cascade-resnet101", 13, 312_186),
    ("kfashion-cascade-resnet101", 21, 10_881),
    ("kfashion-cascade-resnet101-earlier", 21, 10_881),
])  # fmt: skip
def test_tables_per_category(name, categories, total):
    """AP is the mean over categories, which also catches a mistyped number."""
    table, published_ap = row(name)["per_category"], {m["name"]: m["value"] for m in row(name)["metrics"]}
    assert len(table) == len({line["category"] for line in table}) == categories
    assert sum(line["count"] for line in table) == total
    for kind in ("box", "mask"):
        mean = sum(float(line[f"{kind}_ap"]) for line in table) / categories
        # printed to 3 digits: each addend and AP itself may be 0.0005 off
        assert mean == pytest.approx(published_ap[f"standard/{kind}_ap"], abs=0.001)


@pytest.mark.parametrize("row", ZOO.rows, ids=lambda row: row["id"])
def test_row_is_complete(row):
    other_document = "repository" in row["source"]
    for metric in row["metrics"]:
        assert float(metric["printed"]) == metric["value"]
        percent = row["system"] in ("fashion-recommendation", "CGD", "RPF") or metric["value"] >= 1
        assert metric["unit"] == ("percent" if percent else "fraction")
        assert metric["name"].startswith(
            "standard/" if row["system"] == "CGD" or row["task"] == "detection" else "zoo/"
        )
        known = tasks.definition(metric["name"], row["task"])
        assert metric["definition"] == known if row["config"] else metric["definition"]
    assert row["download"] or row["system"] == "DeepFashion2"  # whose weights are not published
    assert all(link["url"].startswith("https://") for link in row["download"])
    assert re.fullmatch(r"[0-9a-f]{40}", row["source"]["commit"])
    assert other_document or row["source"]["file"] == ZOO.document["file"]
    assert row["weights_of"] in {other["id"] for other in ZOO.rows}
    if row["config"]:
        assert (
            row["dataset"]
            and row["split"]
            and row["faithful"]
            == (None if row["task"] == "detection" or row["system"] in ("CGD", "RPF") else "zoo")
        )


def test_shared_download_is_named():
    links = {}
    for r in ZOO.rows:
        if r["download"]:
            links.setdefault(r["download"][0]["url"], []).append(r)
    shared = [rows for rows in links.values() if len(rows) > 1]
    assert [[r["id"] for r in rows] for rows in shared] == [
        ["category_attributes-resnet50-global", "category_attributes-resnet50-landmark"],
        [
            "kfashion-cascade-resnet101",
            "kfashion-cascade-resnet101-earlier",
            "kfashion-recommendation-cgd",
            "kfashion-recommendation-cgd-pca",
        ],
    ]
    assert {r["weights_of"] for r in shared[0]} == {"category_attributes-resnet50-landmark"}
    assert {r["weights_of"] for r in shared[1]} == {"kfashion-cascade-resnet101"}


@pytest.mark.parametrize("row", BUILT, ids=lambda row: row["id"])
def test_config_loads_and_is_the_row(row):
    for faithful in (False, True):
        config = published.experiment(published.config_argument(row, faithful=faithful))
        assert config["task"] == row["task"]
        assert config["model"]["backbone"] == row["backbone"]
        if row["pooling"]:
            assert config["model"]["pooling"] == {"landmark": "roi"}.get(row["pooling"], row["pooling"])
        if row["system"] != "RPF":  # whose config has its quirks on without an argument
            assert bool(published.switches(config)) == (faithful and row["faithful"] is not None)
    assert Path(published.FILE.parents[1], row["config"].partition(":")[0]).is_file()


@pytest.mark.parametrize("row", BUILT, ids=lambda row: row["id"])
def test_report_of_a_rows_own_config_is_placed_in_it(row):
    config = published.experiment(published.config_argument(row, faithful=True))
    report = report_of(row, config=config, switches=published.switches(config))
    for label in (published.FORWARD, published.RETRAINED):
        place = published.place(ZOO, report | {"label": label})
        assert (place.row["id"], place.as_published, place.remarks) == (row["id"], True, ())


def test_documentation_lists_every_row():
    text = (published.FILE.parents[1] / "docs/zoo.md").read_text()
    for row in ZOO.rows:
        numbers = ", ".join(metric["printed"] for metric in row["metrics"])
        experiment = f"`{row['config']}`" if row["config"] else "not built yet"
        assert f"| `{row['id']}` | {numbers} | {experiment} |" in text


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda z: z.pop("rows"), "the top level lacks 'rows'"),
        (lambda z: z["rows"][2].pop("split"), "rows[2] lacks 'split'"),
        (lambda z: z["rows"][0].update(metrics="x"), "rows[0].metrics must be a list"),
        (lambda z: z["rows"][0].update(pooling=3), "rows[0].pooling must be a text or null"),
        (lambda z: z["rows"][0]["metrics"][1].pop("printed"), "rows[0].metrics[1] lacks 'printed'"),
        (lambda z: z["rows"][0].update(table="other"), "'other', which is not among tables"),
        (lambda z: z["rows"][1].update(initial_weights="x"), "rows[1].initial_weights is not among"),
        (lambda z: z["rows"].insert(0, 5), "rows[0] must be an object"),
        (lambda z: z["rows"][-1]["first_stage"].pop("config"), "rows[29].first_stage lacks 'config'"),
        (
            lambda z: z["rows"][-1]["first_stage"].update(initial_weights="x"),
            "rows[29].first_stage.initial_weights is not among",
        ),
        (
            lambda z: z["rows"][21]["per_category"][3].update(count="9"),
            "rows[21].per_category[3].count must be an integer",
        ),
    ],
)
def test_broken_zoo_is_refused(tmp_path, change, message):
    content = json.loads(published.FILE.read_text())
    change(content)
    path = tmp_path / "zoo.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(message)) as error:
        published.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_unreadable_zoo_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        published.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        published.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "config, message",
    [
        ("demo", "must be experiments/NAME.py"),
        ("experiments/../x.py", "must be experiments/NAME.py"),
        ("experiments/nothing_here.py:a=1", "there is no experiments/nothing_here.py"),
        ("experiments/demo.py:steps=many", "expected int"),
    ],
)
def test_config_that_cannot_be_loaded_is_named(config, message):
    with pytest.raises(UserError, match=message):
        published.experiment(config)


# ------------------------------------------------------------------------------ placing
@pytest.mark.parametrize("row", BUILT, ids=lambda row: row["id"])
def test_each_row_gets_its_report(made_up, row):
    place = published.place(ZOO, report_of(row))
    assert (place.row["id"], place.as_published, place.remarks) == (row["id"], True, ())


def test_other_switches_stay_apart(made_up):
    place = published.place(ZOO, report_of(BUILT[0], faithful=False))
    assert place.row["id"] == BUILT[0]["id"] and not place.as_published and not place.remarks


def test_switch_with_another_number_is_remarked(made_up):
    report = report_of(BUILT[1])
    report["config"]["images_per_gpu"] = 16
    place = published.place(ZOO, report)
    assert place.as_published and place.remarks == ("images_per_gpu 16 (32)",)


def test_alternative_config_of_the_benchmark_counts(made_up):
    report = report_of(
        row("attributes-vgg16-global"), dataset="deepfashion_attributes/coarse_mmfashion/1.0.0"
    )
    assert published.place(ZOO, report).row["id"] == "attributes-vgg16-global"


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("attributes-vgg16-global", {"split": "val"}, "split val (test)"),
        (
            "consumer2shop-vgg16-landmark",
            {"dataset": "deepfashion_consumer2shop/original/1.0.0"},
            "(deepfashion_",
        ),
        ("landmarks-vgg16", {"dataset": "my_own/x/1.0.0"}, "closest is landmarks-vgg16, but dataset my_own"),
        ("landmarks-vgg16", {"config": {}}, "holds no config"),
        ("landmarks-vgg16", {"config": {"task": "rpf"}}, "no row of task 'rpf'"),
    ],
)
def test_mismatch_is_reported_and_not_placed(made_up, name, changes, message):
    place = published.place(ZOO, report_of(row(name)) | changes)
    assert place.row is None and message in place.why


def test_another_model_is_not_placed(made_up):
    report = report_of(row("inshop-vgg16-global"))
    report["config"]["model"]["backbone"] = "vit_b16"
    place = published.place(ZOO, report)
    assert place.row is None and "model.backbone vit_b16 (vgg16)" in place.why


def test_another_loss_matters_only_when_trained_here(made_up):
    report = report_of(row("attributes-vgg16-global"))
    report["config"]["loss"]["attribute"] = 4.0
    assert published.place(ZOO, report).row["id"] == "attributes-vgg16-global"
    place = published.place(ZOO, report | {"label": "retrained"})
    assert place.row is None and "loss.attribute 4.0 (1.0)" in place.why


def test_conditions_are_remarked(made_up):
    report = report_of(BUILT[0], label="retrained", n=39990)
    report["config"] |= {"image_size": 96, "optim": {"lr": 0.1}, "seed": 7, "data_dir": "elsewhere"}
    remarks = published.place(ZOO, report).remarks
    assert remarks == ("39,990 of 40,000 records", "image_size 96 (224); optim.lr 0.1 (0.001)")
    forward = published.place(ZOO, report | {"label": "reproduced-forward"}).remarks
    assert forward == ("39,990 of 40,000 records", "image_size 96 (224)")


def test_unknown_field_of_a_config_is_a_condition(made_up):
    report = report_of(BUILT[0])
    report["config"]["new_thing"] = True
    assert published.place(ZOO, report).remarks == ("new_thing True (nothing)",)


def test_ambiguous_report_is_placed_nowhere(made_up):
    twin = copy.deepcopy(BUILT[0]) | {"id": "twin"}
    place = published.place(ZOO._replace(rows=[*ZOO.rows, twin]), report_of(BUILT[0]))
    assert place.row is None and place.why == f"fits several rows: {BUILT[0]['id']}, twin"


def test_many_differences_are_cut():
    assert published.listed([str(i) for i in range(8)]) == "0; 1; 2; 3; 4; and 3 more"
