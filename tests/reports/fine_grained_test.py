"""The report of attribute-specific retrieval: the table, the files, examples in a bounded number."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from fashionjax.metrics.fine_grained import PART, FineGrainedMetrics
from fashionjax.reports import draw, panels
from fashionjax.reports import report as report_page
from fashionjax.reports.fine_grained import FineGrainedReport
from fashionjax.task import Context

N = 24
ATTRIBUTE = np.arange(N) % 2
VALUE = np.arange(N) // 2 % 3
ROLE = np.where(np.arange(N) < 8, 1, 2)


def png(row: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), 10 * row, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make(out=None, attention=True):
    labels = {"attribute": ["collar", "hem"], "attribute_value": [["a", "b", "c"], ["d", "e"]]}
    context = Context(
        labels=labels,
        column=lambda name: np.asarray([f"{row}.jpg" for row in range(N)]),
        record=lambda row: {"image": png(row), "image_id": f"{row}.jpg"},
        out=out,
    )
    metrics = FineGrainedMetrics(context)
    report = FineGrainedReport(context, metrics)
    random = np.random.default_rng(0)
    for part in np.split(np.arange(N), 3):
        batch = {"attribute": ATTRIBUTE[part], "value": VALUE[part], "role": ROLE[part], "index": part}
        batch |= {"example_valid": np.ones(len(part), bool)}
        prediction = {"embedding": random.normal(size=(len(part), 4))}
        if attention:
            prediction["attention"] = random.random((len(part), 5, 5))
            prediction["crop_box"] = np.tile(np.float32([0.2, 0.2, 0.8, 0.8]), (len(part), 1))
            batch["part_box"] = np.tile(np.float32([0, 0, 0.5, 1]), (len(part), 1))
        metrics.update(prediction, batch)
        report.update(prediction, batch)
    return report, metrics.result()


def test_table_is_that_of_the_metrics(tmp_path):
    report, figures = make(tmp_path)
    assert list(report.table) == ["collar", "hem", "overall"]
    for name, ending in (("collar", "/collar"), ("hem", "/hem"), ("overall", "")):
        row = report.table[name]
        assert row["zoo/map"] == figures[f"zoo/map{ending}"]
        assert row[PART] == figures[f"{PART}{ending}"]
    assert report.table["overall"]["queries"] == 8 and report.table["hem"]["candidates"] == 8
    assert report.table["collar"]["random"] == pytest.approx(report.table["overall"]["random"], abs=15)
    table = report.panels()[0]
    assert isinstance(table, panels.Table) and table.columns == ["", "collar", "hem", "overall"]
    assert table.rows[0][3] == figures["zoo/map"] and table.rows[-1][1:] == [8, 8, 16]
    wide, narrow = report_page.table_text(table).splitlines(), report_page.table_text(table, 40).splitlines()
    assert wide[1].split() == ["collar", "hem", "overall"] and len(wide) == 2 + len(table.rows)
    assert [line.split()[0] for line in narrow[2:]] == ["collar", "hem", "overall"]
    assert wide[2].split()[-1] == narrow[-1].split()[1] == report_page.number(figures["zoo/map"])


def test_files(tmp_path):
    (matches,) = make(tmp_path)[0].artifacts()
    lines = [json.loads(line) for line in matches.read_text().splitlines()]
    assert len(lines) == 8 and {line["attribute"] for line in lines} == {"collar", "hem"}
    first = lines[0]
    assert (first["id"], first["attribute"], first["value"]) == ("0.jpg", "collar", "a")
    assert len(first["matches"]) == 8 and first["matches"][0]["score"] >= first["matches"][1]["score"]
    assert all(match["correct"] == (match["value"] == "a") for match in first["matches"])
    assert {match["value"] for line in lines for match in line["matches"]} == {"a", "b", "c", "d", "e", "2"}
    assert make()[0].artifacts() == []


def test_examples_are_shown():
    kinds = [type(panel) for panel in make()[0].panels()]
    assert kinds == [panels.Table, panels.Bars, panels.Tiles, panels.Tiles]
    found, looked = make()[0].panels()[2:]
    assert len(found.tiles) == len(looked.tiles) == 4
    assert [type(panel) for panel in make(attention=False)[0].panels()] == kinds[:3]


def test_attention_darkens_where_it_is_low():
    image = np.full((20, 10, 3), 200, np.uint8)
    drawn = draw.attention(image, np.asarray([[0.0], [1.0]]))
    assert drawn.shape == image.shape and (drawn[0] == 50).all() and (drawn[-1] == 200).all()
    assert (np.diff(drawn[:, 0, 0].astype(int)) >= 0).all()
    np.testing.assert_array_equal(draw.attention(image, np.ones((3, 3))), image)
