import html.parser
import json
import os
import subprocess
import sys

import pytest
from report_files import experiment, report_of, write

from fashionjax import cli
from fashionjax.compare import __main__ as compare
from fashionjax.compare import published
from fashionjax.compare import text as compare_text
from fashionjax.errors import UserError

ZOO = published.load()
ROWS = {row["id"]: row for row in ZOO.rows}
FIRST = ROWS["attributes-vgg16-global"]
HOSTILE = "a<b>&\"'é"


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    monkeypatch.setattr(published, "experiment", experiment)


def compared(*folders, data_dir="data"):
    return compare.compare(
        ZOO, compare.find_reports(folders), compare.find_checkpoints(ZOO, folders), data_dir
    )


def entry(result, name):
    return next(row for row in result["rows"] if row["id"] == name)


def every_cell(result):
    return [
        line[column]
        for row in result["rows"]
        for metric in row["metrics"]
        for line in metric["lines"]
        for column in compare.COLUMNS
        if line[column]
    ]


# ------------------------------------------------------------------------------ the table
def test_forward_and_retrained_beside_published(tmp_path):
    write(tmp_path / "a", report_of(FIRST))
    metrics = {"zoo/attribute_recall@5": 12.2, "zoo/attribute_accuracy@5": 99.0}
    write(tmp_path / "b/deep/er", report_of(FIRST, label="retrained", metrics=metrics))
    row = entry(compared(tmp_path), FIRST["id"])
    recall, accuracy = (metric["lines"] for metric in row["metrics"])
    assert len(recall) == len(accuracy) == 1
    assert recall[0]["reproduced-forward"]["value"] == pytest.approx(14.70)
    assert recall[0]["reproduced-forward"]["difference"] == pytest.approx(1.0)
    assert recall[0]["retrained"]["difference"] == pytest.approx(-1.5)
    assert accuracy[0]["retrained"]["difference"] == pytest.approx(-0.81)
    assert row["missing"] == {"dataset": None}


def test_other_switches_have_a_line_of_their_own(tmp_path):
    write(tmp_path / "zoo", report_of(FIRST))
    write(tmp_path / "correct", report_of(FIRST, faithful=False, metrics={"zoo/attribute_recall@5": 20.0}))
    lines = entry(compared(tmp_path), FIRST["id"])["metrics"][0]["lines"]
    assert [line["as_published"] for line in lines] == [True, False]
    assert lines[0]["reproduced-forward"]["value"] == pytest.approx(14.70)
    assert lines[1]["reproduced-forward"]["value"] == 20.0 and lines[1]["switches"] == []


def test_newest_is_shown_and_all_are_listed(tmp_path):
    old = write(tmp_path / "old", report_of(FIRST, n=39999))
    new = write(tmp_path / "new", report_of(FIRST, metrics={m["name"]: 50.0 for m in FIRST["metrics"]}))
    os.utime(old, (1, 1))
    row = entry(compared(tmp_path, tmp_path / "old"), FIRST["id"])
    assert row["metrics"][0]["lines"][0]["reproduced-forward"]["report"] == str(new)
    assert [(r["report"], r["in_table"]) for r in row["reports"]] == [(str(old), False), (str(new), True)]


def test_records_left_out_are_marked(tmp_path):
    path = write(tmp_path / "a", report_of(FIRST, n=39990))
    result = compared(tmp_path)
    assert result["remarks"] == [{"mark": 1, "report": str(path), "text": "39,990 of 40,000 records"}]
    assert [cell["mark"] for cell in every_cell(result)] == [1, 1]
    text = compare_text.render(result, compare.COLUMNS, 100)
    assert "14.70 (+1.00) [1]" in text and "[1] 39,990 of 40,000 records:" in text and str(path) in text


def test_synthetic_never_stands_in_the_columns(tmp_path):
    write(tmp_path / "label", report_of(FIRST, label="synthetic"))
    write(tmp_path / "dataset", report_of(FIRST, dataset="synthetic_fashion/attributes/1.0.0"))
    other = {"label": "synthetic", "dataset": "synthetic_fashion/x", "split": "test", "n": 3}
    write(tmp_path / "other", other | {"metrics": {"zoo/a": 1.0, "standard/category_top1": 0.5}})
    result = compared(tmp_path)
    assert every_cell(result) == [] and result["other"] == []
    by_model = {tuple(e["model_of"]): e["metrics"] for e in result["synthetic"]}
    assert len(result["synthetic"]) == 3
    assert by_model[(FIRST["id"],)].keys() == {m["name"] for m in FIRST["metrics"]}
    assert by_model[()] == {"standard/category_top1": 0.5}
    text = compare_text.render(result, compare.COLUMNS, 100)
    assert "Synthetic (rendered images; not comparable" in text and "(+" not in text


def test_report_of_no_row_is_reported(tmp_path):
    path = write(tmp_path / "a", report_of(FIRST, split="val"))
    result = compared(tmp_path)
    assert every_cell(result) == []
    assert [(e["report"], e["why"]) for e in result["other"]] == [
        (str(path), f"closest is {FIRST['id']}, but split val (test)")
    ]
    text = compare_text.render(result, compare.COLUMNS, 200)
    assert "split val (test)" in " ".join(text.split())  # a long path wraps the line


def test_missing_or_undefined_metric_leaves_the_cell_empty(tmp_path):
    write(tmp_path / "a", report_of(FIRST, metrics={"zoo/attribute_recall@5": None}))
    row = entry(compared(tmp_path), FIRST["id"])
    assert row["metrics"][0]["lines"][0]["reproduced-forward"] is None
    assert row["reports"][0]["lacks"] == [m["name"] for m in FIRST["metrics"]]
    assert not row["reports"][0]["in_table"]
    assert "reproduced-forward" in row["missing"]


# ------------------------------------------------------------------------------ what is missing
def test_missing_names_dataset_link_and_commands(tmp_path):
    missing = entry(compared(data_dir=tmp_path), FIRST["id"])["missing"]
    assert " ".join(missing["dataset"]["command"]) == (
        f"fashionjax prepare deepfashion_attributes/coarse --manual_dir=DIR --data_dir={tmp_path}"
    )
    download, importing, evaluating = missing["reproduced-forward"]
    assert download["links"] == FIRST["download"]
    words = importing["command"]
    assert words[:3] == ["fashionjax", "import", "FILE"]
    assert "--config=experiments/attributes.py:backbone=vgg16,pool=global,faithful=zoo" in words
    assert "--config.dataset=deepfashion_attributes/coarse" in words
    workdir = next(word for word in words if word.startswith("--workdir=")).partition("=")[2]
    assert f"--checkpoint={workdir}" in evaluating["command"] and "--split=test" in evaluating["command"]
    assert f"--data_dir={tmp_path}" in evaluating["command"]
    weights, start, train, _ = missing["retrained"]
    assert [link["url"] for link in weights["links"]] == [ZOO.initial_weights["vgg16"]["url"]]
    assert start["command"][2] == "vgg16-397923af.pth" and start["command"][-1] == "--backbone_only"
    folder = next(word for word in start["command"] if word.startswith("--workdir=")).partition("=")[2]
    assert train["command"][:2] == ["fashionjax", "train"]
    assert train["command"][-1] == f"--config.init_from={folder}"
    without = entry(compared(data_dir=tmp_path), "attributes-vgg16-landmark")["missing"]["retrained"]
    assert [step["what"] for step in without] == ["train", "evaluate"]


def test_missing_lists_the_training_that_a_row_goes_on_from(tmp_path):
    """RPF: ImageNet's ResNet-50 → stage 1 → the transformer's file beside it → stage 2."""
    steps = entry(compared(data_dir=tmp_path), "rpf-darn")["missing"]["retrained"]
    what = [
        "initial weights",
        "import",
        "train the first stage",
        "initial weights",
        "import",
        "train",
        "evaluate",
    ]
    assert [step["what"] for step in steps] == what
    _, resnet, first, vit, imported, second, _ = steps
    assert vit["links"] == [{"host": "Google", "url": ZOO.initial_weights["imagenet21k_vit_b16"]["url"]}]
    first_config, config = (f"--config=experiments/rpf.py:dataset=darn{end}" for end in ("", ",stage=2"))
    assert first_config in resnet["command"] and first_config in first["command"]
    assert config in imported["command"] and config in second["command"]
    made = [
        next(word for word in step["command"] if word.startswith("--workdir=")).partition("=")[2]
        for step in (resnet, first, imported)
    ]
    begun = [step["command"][-1].partition("init_from=")[2] for step in (first, imported, second)]
    assert begun == made and imported["command"][2] == "ViT-B_16.npz"


def test_missing_sees_a_prepared_dataset(tmp_path):
    folder = tmp_path / "deepfashion_attributes/coarse_mmfashion/1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    result = compared(data_dir=tmp_path)
    assert entry(result, FIRST["id"])["missing"]["dataset"] is None
    assert entry(result, "inshop-vgg16-global")["missing"]["dataset"] is not None


@pytest.mark.parametrize(
    "imported, column",
    [({"file": "x.pth", "backbone_only": False}, "reproduced-forward"), (None, "retrained"),
     ({"file": "x.pth", "backbone_only": True}, "retrained")],
)  # fmt: skip
def test_missing_sees_a_checkpoint(tmp_path, imported, column):
    config = report_of(FIRST)["config"] | {"dataset": FIRST["dataset"], "imported": imported}
    for step in ("0", "20") if column == "retrained" else ("0",):
        folder = tmp_path / "run/checkpoints" / step / "config"
        folder.mkdir(parents=True)
        (folder / "metadata").write_text(json.dumps(config))
    write(tmp_path / "other", report_of(ROWS["landmarks-vgg16"]))
    missing = entry(compared(tmp_path), FIRST["id"])["missing"]
    assert [step["what"] for step in missing[column]] == ["evaluate"]
    assert f"--checkpoint={tmp_path / 'run'}" in missing[column][0]["command"]
    (other,) = set(compare.COLUMNS) - {column}
    assert len(missing[other]) > 1


def test_a_run_that_was_not_trained_is_no_checkpoint(tmp_path):
    config = report_of(FIRST)["config"] | {"dataset": FIRST["dataset"], "imported": {"backbone_only": True}}
    folder = tmp_path / "run/checkpoints/0/config"
    folder.mkdir(parents=True)
    (folder / "metadata").write_text(json.dumps(config))
    assert compare.find_checkpoints(ZOO, [tmp_path]) == {}
    (tmp_path / "run/checkpoints/0").rename(tmp_path / "run/checkpoints/5")
    assert compare.find_checkpoints(ZOO, [tmp_path]) == {(FIRST["id"], "retrained"): tmp_path / "run"}


def test_weights_that_were_trained_on_are_no_published_ones(tmp_path):
    """Neither column has them as its checkpoint, and a report of them carries a remark."""
    imported = {"file": "epoch_40.pth", "backbone_only": False}
    report = report_of(FIRST, label="retrained")
    report["config"] |= {"dataset": FIRST["dataset"], "imported": imported}
    folder = tmp_path / "run/checkpoints/2/config"
    folder.mkdir(parents=True)
    (folder / "metadata").write_text(json.dumps(report["config"]))
    assert compare.find_checkpoints(ZOO, [tmp_path]) == {}
    path = write(tmp_path / "report", report)
    result = compared(tmp_path)
    remark = "trained on from imported weights epoch_40.pth"
    assert result["remarks"] == [{"mark": 1, "report": str(path), "text": remark}]
    assert [cell["mark"] for cell in every_cell(result)] == [1, 1]


def test_an_imported_backbone_is_reported_with_the_report(tmp_path):
    report = report_of(FIRST, label="retrained")
    report["config"]["imported"] = {"file": "vgg16.pth", "backbone_only": True}
    write(tmp_path / "a", report)
    result = compared(tmp_path)
    assert result["remarks"] == []
    assert entry(result, FIRST["id"])["reports"][0]["init_from"] == "the backbone in vgg16.pth"


def test_missing_uses_the_config_that_is_prepared(tmp_path):
    folder = tmp_path / "deepfashion_attributes/coarse_mmfashion/1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    train = entry(compared(data_dir=tmp_path), FIRST["id"])["missing"]["retrained"][-2]["command"]
    assert "--config.dataset=deepfashion_attributes/coarse_mmfashion" in train


def test_rows_that_cannot_be_filled_say_why():
    result = compared()
    shared = entry(result, "category_attributes-resnet50-global")["missing"]["reproduced-forward"]
    assert [step["command"] for step in shared] == [None]
    assert "category_attributes-resnet50-landmark" in shared[0]["what"]
    assert entry(result, "deepfashion2-baseline")["missing"]["why"] == "this system is not built yet"


def test_a_row_tested_on_another_dataset_needs_both(monkeypatch):
    monkeypatch.undo()  # the project's own configs
    missing = entry(compared(), "compatibility-nondisjoint-fc")["missing"]
    assert "polyvore_outfits/disjoint" in missing["dataset"]["command"]
    *_, data, train, evaluate = missing["retrained"]
    assert data["command"][2] == "polyvore_outfits/nondisjoint"
    assert not any(word.startswith("--config.dataset") for word in train["command"])
    assert evaluate["command"][1] == "evaluate"


# ------------------------------------------------------------------------------ text
@pytest.mark.parametrize("width", [100, 60])
def test_text_fits(tmp_path, width):
    for i, row in enumerate(row for row in ZOO.rows if row["config"]):
        write(tmp_path / f"{i}f", report_of(row, n=39999))
        write(tmp_path / f"{i}c", report_of(row, faithful=False, label="retrained"))
    text = compare_text.render(compared(tmp_path), compare.COLUMNS, width)
    # a path, link or single word of a command is not broken
    long = [line for line in text.splitlines() if len(line) > width and len(line.split()) > 2]
    assert long == []
    for row in ZOO.rows:
        assert row["id"] in text
        assert all(metric["printed"] in text for metric in row["metrics"])


def test_columns_are_aligned(tmp_path):
    write(tmp_path / "a", report_of(FIRST))
    lines = compare_text.render(compared(tmp_path), compare.COLUMNS, 100).splitlines()
    head = next(line for line in lines if line.startswith("backbone"))
    row = next(line for line in lines if line.startswith("vgg16"))
    end = head.index("published") + len("published")
    assert row[:end].endswith("13.70") and row.index("global") == head.index("variant")
    column = head.index("reproduced-forward") + len("reproduced-forward")
    assert row[:column].endswith("14.70 (+1.00)")


def test_numbers_keep_the_digits_of_the_document():
    assert compare_text.decimals("0.0813", 0.08) == "0.0800"
    assert compare_text.decimals("13.70", -1.234, "+") == "-1.23"
    assert compare_text.decimals("50.4", 50.0) == "50.0"


def test_switches_are_named_by_their_numbers():
    on = ["s10_invisible_counts", "s1_random_crop_at_test", "s9_double_sigmoid"]
    assert compare_text.switches_text(on) == "with s1, s9, s10"
    assert compare_text.switches_text([]) == "without quirks"


def test_folded_command_is_the_same_for_the_shell():
    words = ["fashionjax", "import", "FILE", "--config=" + "x" * 30, "--workdir=" + "y" * 20, "--a=b"]
    lines = compare_text.fold(words, 50)
    assert len(lines) > 1 and all(len(line) <= 50 for line in lines)
    got = subprocess.run(
        ["sh", "-c", "printf '%s\n' " + "\n".join(lines).strip()], capture_output=True, text=True
    )
    assert got.stdout.splitlines() == words


# ------------------------------------------------------------------------------ page and command
class Page(html.parser.HTMLParser):
    """Text and attributes; checks that tags nest."""

    void = frozenset(("meta", "br", "link", "img"))

    def __init__(self, source):
        super().__init__()
        self.stack, self.text, self.attributes = [], "", []
        self.feed(source)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in self.void:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_and_json(tmp_path):
    write(tmp_path / "runs" / HOSTILE, report_of(FIRST, n=39990))
    write(tmp_path / "runs/b", report_of(FIRST, faithful=False))
    write(tmp_path / "runs/c", report_of(FIRST, label="synthetic", dataset=f"synthetic_fashion/{HOSTILE}"))
    write(tmp_path / "runs/d", report_of(FIRST, split=HOSTILE))
    result = compared(tmp_path / "runs")
    compare.write(tmp_path / "out", result)
    page = Page((tmp_path / "out/compare.html").read_text())
    for text in ("14.70", "(+1.00)", "39,990 of 40,000 records", "without quirks", HOSTILE, "0.0813"):
        assert text in page.text
    assert "None" not in page.text
    fetched = [value for name, value in page.attributes if name == "src"]
    assert fetched == []  # it only links
    assert json.loads((tmp_path / "out/compare.json").read_text()) == result


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not readable as JSON"),
        ("[]", "no report of `fashionjax evaluate` (no object)"),
        ("{}", "no report of `fashionjax evaluate` (field 'label')"),
        ('{"label": "retrained", "dataset": "d", "split": "s", "n": 1}', "(field 'metrics')"),
        ('{"label": "best", "dataset": "d", "split": "s", "n": 1, "metrics": {}}', "label 'best' is none of"),
        (
            '{"label": "retrained", "dataset": "d", "split": "s", "n": 1, "metrics": {}, "config": 3}',
            "'config'",
        ),
    ],
)
def test_broken_report_is_one_line(tmp_path, content, message):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(UserError) as error:
        compare.find_reports([tmp_path])
    assert message in str(error.value) and "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"switches": None}, "switches"),
        ({"switches": [1]}, "switches"),
        ({"n_total": "x"}, "n_total"),
        ({"n": True}, "n"),
        ({"step": "last"}, "step"),
        ({"metrics": {"zoo/recall@5": True}}, "metrics.zoo/recall@5"),
        ({"metrics": {"zoo/recall@5": "0.5"}}, "metrics.zoo/recall@5"),
        ({"config": {"quirks": "s1"}}, "config.quirks"),
        ({"config": {"imported": "x.pth"}}, "config.imported"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, changes, field):
    path = write(tmp_path / "a", report_of(FIRST) | changes)
    with pytest.raises(UserError) as error:
        compare.find_reports([tmp_path])
    assert str(error.value) == f"{path}: no report of `fashionjax evaluate` (field {field!r})"


def test_folders_without_reports_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no report\.json below it"):
        compare.find_reports([tmp_path])
    with pytest.raises(UserError, match="no such folder"):
        compare.find_reports([tmp_path / "none"])


@pytest.mark.parametrize("content", ["{", "[]", '{"quirks": {}}', '{"imported": 3}', '{"dataset": 1}'])
def test_broken_checkpoint_config_is_named(tmp_path, content):
    (tmp_path / "checkpoints/0/config").mkdir(parents=True)
    (tmp_path / "checkpoints/0/config/metadata").write_text(content)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        compare.find_checkpoints(ZOO, [tmp_path])


@pytest.mark.slow
def test_command(tmp_path):
    synthetic = report_of(FIRST, label="synthetic", dataset="synthetic_fashion/attributes/1.0.0")
    write(tmp_path / "runs", synthetic)
    flags = [str(tmp_path / "runs"), f"--out={tmp_path / 'out'}", f"--data_dir={tmp_path}"]
    code = "import sys; from fashionjax import cli; cli.main()"
    command = [sys.executable, "-c", code, "compare"]
    environment = os.environ | {"COLUMNS": "100"}
    done = subprocess.run([*command, *flags], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Synthetic (" in done.stdout and "99.81*" in done.stdout
    assert f"page: {tmp_path / 'out/compare.html'}" in done.stdout
    assert json.loads((tmp_path / "out/compare.json").read_text())["synthetic"]


def test_commands_are_listed():
    assert {"compare", "import", "export", "parity"} <= cli.COMMANDS.keys()
    assert all(name in cli.usage() for name in cli.COMMANDS)


def test_fraction_is_compared_with_a_published_percentage():
    metric = {"name": "standard/box_ap", "value": 55.866, "printed": "55.866", "unit": "percent"}
    item = compare.Found("report.json", 0.0, {"n": 10})
    cell = compare._cell(metric, 0.55966, item, published.Place(None))
    assert cell["value"] == pytest.approx(55.966) and cell["difference"] == pytest.approx(0.1)
    fraction = metric | {"value": 0.599, "unit": "fraction"}
    assert compare._cell(fraction, 0.55966, item, published.Place(None))["value"] == 0.55966


def test_reports_of_earlier_versions_are_read(tmp_path):
    report = report_of(FIRST)
    quirks, group = report["config"].pop("quirks"), report["config"].pop("images_per_gpu")
    report["config"]["faithful"] = dict.fromkeys(quirks, True) | {"s3_roi_scramble_group": group, "s9": False}
    (found,) = compare.find_reports([write(tmp_path / "a", report)])
    assert found.report["config"]["quirks"] == [*quirks, "s3_roi_scramble_group"]
    assert found.report["config"]["images_per_gpu"] == group


# ------------------------------------------------------------------------------ categories
def test_published_categories_stand_beside_the_reports(tmp_path):
    row = ROWS["kfashion-cascade-resnet101"]
    names = [entry["category"] for entry in row["per_category"]]
    table = {"kind": "table", "columns": ["category", "objects", "box AP (%)", "mask AP (%)"]}
    table["rows"] = [[name, 5, 10.0 + i, None] for i, name in enumerate(names[:3])]
    write(tmp_path / "a", report_of(row, label="retrained") | {"tables": {"AP per category": table}})
    result = compared(tmp_path)
    first, *_, last = entry(result, row["id"])["per_category"]
    assert (first["box_published"], first["box_value"], first["mask_value"]) == ("51.548", 10.0, None)
    assert last["box_value"] is None and last["count"] == row["per_category"][-1]["count"]
    text = compare_text.render(result, compare.COLUMNS, 120)
    assert "AP per category, published and of" in text
    (line,) = [line for line in text.splitlines() if line.startswith("cardigan")]
    assert line.split() == ["cardigan", "133", "51.548", "10.000", "37.292", "–"]
    assert entry(result, FIRST["id"])["per_category"] == []
    compare.write(tmp_path / "out", result)
    assert "10.000" in (tmp_path / "out/compare.html").read_text()
