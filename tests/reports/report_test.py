import html.parser
import json
import re

import numpy as np
import pytest

from fashionjax.reports import report
from fashionjax.reports.panels import Bars, Confusion, Curve, Table, Tiles

HOSTILE = "A<b>&\"'é"
VOID = {"meta", "img", "link", "br", "hr", "input", "path", "use", "rect"}


class Page(html.parser.HTMLParser):
    """Collects text and attributes, and checks that tags nest."""

    def __init__(self, source):
        super().__init__()
        self.stack, self.texts, self.attributes, self.tags = [], [], [], []
        self.feed(source)
        self.close()
        assert not self.stack, f"left open: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack and self.stack.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.texts.append(data)


def all_panels():
    return [
        Curve(HOSTILE, "step", "loss", {"a": ([1, 2, 3], [3.0, float("nan"), 1.0]), HOSTILE: ([1], [2])}),
        Bars("bars", [HOSTILE, "b", "c"], [0.5, float("nan"), 0.25], [0.1, 0.2, 0.3], "prevalence"),
        Bars("many", [f"name {i}" for i in range(100)], np.linspace(0, 1, 100)),
        Confusion("confusion", [HOSTILE, "other"], np.array([[3, 1], [0, 0]]), HOSTILE),
        Tiles("tiles", HOSTILE, [(np.zeros((20, 30, 3), np.uint8), HOSTILE)]),
        Table("table", ["name", "value"], [[HOSTILE, 1.5], ["b", np.int64(1234)]]),
        Table("table", ["name"], []),
    ]


def content():
    return {
        "label": "synthetic",
        "dataset": HOSTILE,
        "split": "test",
        "n": 10,
        "n_total": 12,
        "missing": ["img/1.jpg", HOSTILE],
        "seconds_total": 12.5,
        "step": np.int32(400),
        "metrics": {
            "standard/category_top1": np.float32(0.875),
            "zoo/attribute_recall@5": 55.35,
            "own/metric": float("nan"),
        },
        "baselines": {"majority": {"standard/category_top1": 0.125}},
        "definitions": {"own/metric": HOSTILE},
        "switches": ["S3"],
        "config": {"model": {"name": HOSTILE}, "lr": 0.1},
        "command": f"python -m fashionjax.evaluate --checkpoint={HOSTILE}",
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "new" / "folder"
    report.write_report(out, content(), all_panels())
    return out


def test_json_keeps_every_number(written):
    got = json.loads((written / "report.json").read_text())
    assert got["label"] == "synthetic" and got["n"] == 10 and got["step"] == 400
    assert got["metrics"] == {
        "standard/category_top1": 0.875,
        "zoo/attribute_recall@5": 55.35,
        "own/metric": None,
    }
    assert got["baselines"]["majority"]["standard/category_top1"] == 0.125
    assert got["definitions"] == {"own/metric": HOSTILE}
    tables = got["tables"]
    assert list(tables) == [HOSTILE, "bars", "many", "confusion", "table", "table (2)"]
    assert tables[HOSTILE]["series"]["a"] == {"x": [1, 2, 3], "y": [3.0, None, 1.0]}
    assert tables["bars"]["values"] == [0.5, None, 0.25] and tables["bars"]["reference"] == [0.1, 0.2, 0.3]
    assert tables["confusion"]["counts"] == [[3, 1], [0, 0]]
    assert tables["table"]["rows"] == [[HOSTILE, 1.5], ["b", 1234]]
    assert "base64" not in (written / "report.json").read_text()


def test_page_is_whole_and_escaped(written):
    page = Page((written / "report.html").read_text())
    text = "".join(page.texts)
    assert "b" not in page.tags, "a name became a tag"
    for name in (HOSTILE, "0.8750", "55.35", "majority", "2 of 12 examples could not be read", "1,234"):
        assert name in text, name
    assert page.tags.count("img") == 1 and page.tags.count("svg") == 2
    assert "60 more" in text


def test_label_stands_beside_every_number(written):
    source = (written / "report.html").read_text()
    badge = '<span class="badge">synthetic</span>'
    for block in re.findall(r"<section.*?</section>", source, re.DOTALL):
        assert badge in block
    for card in re.findall(r'<div class="card">.*?</dl>', source, re.DOTALL):
        assert badge in card
    assert "Not comparable with any published number" in source


def test_nothing_is_fetched(written):
    source = (written / "report.html").read_text()
    page = Page(source)
    for name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert value.startswith(("data:image/jpeg;base64,", "#")), value
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert "://" not in source and "@import" not in source
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", source))


def test_svg_follows_the_page_and_ids_do_not_clash(written):
    source = (written / "report.html").read_text()
    assert "var(--series-1)" in source
    assert not any(colour in source for colour in report.THEME)
    two = [report.curve_svg(Curve(title, "x", "y", {"a": ([0, 1], [0, 1])})) for title in ("one", "two")]
    clips = [set(re.findall(r'clipPath id="([^"]+)"', svg)) for svg in two]
    assert clips[0] and not clips[0] & clips[1]
    assert two[0] == report.curve_svg(Curve("one", "x", "y", {"a": ([0, 1], [0, 1])}))


def test_bar_lengths():
    rows = report._bars(Bars("t", ["a", "b", "c"], [0.5, float("nan"), 1.0], [2.0, 0.0, 1.0]))
    assert [row["percent"] for row in rows] == [25.0, None, 50.0]
    assert [row["mark"] for row in rows] == [100.0, 0.0, 50.0]
    assert report._bars(Bars("t", ["a"], [0.0]))[0]["percent"] == 0.0
    assert report._bars(Bars("t", ["a"], [0.5], maximum=1.0))[0]["percent"] == 50.0


def test_numbers_as_people_read_them():
    values = (0.87321, 55.349, 1234, np.float32(0.5), None, float("inf"), "a", True)
    shown = [report.number(value) for value in values]
    assert shown == ["0.8732", "55.35", "1,234", "0.5000", "–", "–", "a", "yes"]


def test_a_failed_report_leaves_the_old_one(tmp_path):
    report.write_report(tmp_path, content(), [])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"report.json", "report.html"}
    with pytest.raises(TypeError):
        report.write_report(tmp_path, content() | {"config": {"bad": object()}}, [])
    with pytest.raises(ValueError, match="label 'published'"):
        report.write_report(tmp_path, content() | {"label": "published"}, [])
    with pytest.raises(ValueError, match="lacks split"):
        report.write_report(tmp_path, {k: v for k, v in content().items() if k != "split"}, [])
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_minimal_report():
    needed = {"label": "retrained", "dataset": "d", "split": "val", "n": 1, "metrics": {"x": 1.0}}
    source = report.render(needed | {"definitions": {}}, [])
    assert "synthetic" not in source and Page(source)


def test_figures_of_own_images():
    """Standard metrics alone are on the cards, with their intervals; contact sheets get room."""
    values = {"zoo/category_recall@1": 40.0, "standard/category_top1": 0.4}
    given = {"label": "own-images", "dataset": "d", "split": "test", "n": 30, "metrics": values}
    given |= {"baselines": {"majority": values}, "intervals": {"standard/category_top1": (0.2459, 0.5768)}}
    given["definitions"] = {}
    sheet, photo = (np.zeros((40, width, 3), np.uint8) for width in (240, 40))
    page = report.render(given, [Tiles("sheets", "", [(sheet, "a")]), Tiles("photos", "", [(photo, "b")])])
    text = " ".join(Page(page).texts)
    assert "0.2459 to 0.5768 (95 % interval of 30 examples)" in text
    cards = page[page.index('class="cards"') : page.index('class="metrics"')]
    assert "standard/category_top1" in cards and "zoo/" not in cards
    assert page.count('class="tiles broad"') == 1 and page.count('class="tiles"') == 1
