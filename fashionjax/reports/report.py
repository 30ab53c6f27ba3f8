"""A report: `report.json` for programs, `report.html` for people (one file that fetches nothing)."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from fashionjax import files
from fashionjax.reports.panels import Bars, Confusion, Curve, Panel, Table, Tiles

LABELS = {
    "synthetic": "Measured on procedurally rendered images. Not comparable with any published number.",
    "own-images": "Measured on a user's own images. Not comparable with any published number.",
    "retrained": "Trained and measured here on the benchmark's own data.",
    "reproduced-forward": "Published weights, imported and measured here on the benchmark's own data.",
}
PACKAGE = Path(__file__).parents[1]
REQUIRED = ("label", "dataset", "split", "n", "metrics")
EVERY_CELL = 60  # categories up to which the empty cells of a confusion matrix are drawn, too
BARS_SHOWN = 40  # further ones are folded away
BROAD = 1.6  # tiles so many times wider than high get more room

# matplotlib draws with these; the page swaps them for its own variables, which follow light and dark
THEME = {
    "#0a0b0c": "var(--ink)",
    "#0a0b0d": "var(--line)",
    "#0a0b10": "var(--series-1)",
    "#0a0b11": "var(--series-2)",
    "#0a0b12": "var(--series-3)",
    "#0a0b13": "var(--series-4)",
    "#0a0b14": "var(--series-5)",
}
INK, LINE, *SERIES = THEME
SVG_METADATA = ("Date", "Creator", "Type", "Format")
DASHES = ("-", "--", ":", "-.")


def write_report(out_dir: str | os.PathLike, report: Mapping[str, Any], panels: Sequence[Panel]) -> None:
    """Write OUT/report.json and OUT/report.html; each appears whole or not at all.

    `report`: label (one of LABELS), dataset, split, n, metrics {name: value}; and where known n_total,
    missing (ids), seconds_total, step, intervals {metric: (low, high) at 95 %},
    baselines {name: {metric: value}}, definitions {metric or baseline:
    line}, switches [name], config (nested dict), command, checkpoint. The JSON also holds the numbers behind
    every panel under `tables`. Values that are not finite become null.
    """
    lacking = [key for key in REQUIRED if key not in report]
    if lacking:
        raise ValueError(f"the report lacks {', '.join(lacking)}")
    if report["label"] not in LABELS:
        raise ValueError(f"label {report['label']!r} is none of {', '.join(LABELS)}")
    report = dict(report)
    report["definitions"] = dict(report.get("definitions", {}))
    report["tables"] = _tables(panels)
    page = render(report, panels)
    numbers = json.dumps(plain(report), indent=1, allow_nan=False) + "\n"
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / "report.html", page)
    files.write_text(out / "report.json", numbers)


def render(report: Mapping[str, Any], panels: Sequence[Panel]) -> str:
    """The page. Every text is escaped by the template engine, pictures are inlined."""
    metrics = report["metrics"]
    return render_page(
        "reports/report.html.jinja",
        report=report,
        label_meaning=LABELS[report["label"]],
        headline=_headline(
            metrics, report.get("baselines", {}), report.get("intervals", {}), report["label"] == "own-images"
        ),
        metrics={
            "field": [name for name in metrics if not name.startswith("zoo/")],
            "zoo": [name for name in metrics if name.startswith("zoo/")],
        },
        baselines=report.get("baselines", {}),
        config=flat(report.get("config", {})),
        panels=[_view(panel) for panel in panels],
    )


def render_page(template: str, **values: Any) -> str:
    """The package's template ROOM/NAME.html.jinja with `values`; escaped; a missing value raises."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(template).render(**values)


def table_text(table: Table, width: int = 100) -> str:
    """A table for the terminal; one wider than `width` stands with its columns as lines."""
    cells = [[number(cell) if i else str(cell) for i, cell in enumerate(row)] for row in table.rows]
    lines = [[str(name) for name in table.columns], *cells]
    if len(_aligned(lines)[0]) > width:
        lines = [list(column) for column in zip(*lines, strict=True)]
    return "\n".join([table.title, *_aligned(lines)])


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        for line in lines
    ]


def number(value: Any) -> str:
    """A cell of a table: 0.8732, 55.35, 1,024; a dash for what is not there."""
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"
    return str(value)


def _headline(
    metrics: Mapping, baselines: Mapping, intervals: Mapping, own_images: bool, most: int = 4
) -> list[dict]:
    """The metrics that a baseline was measured for, else the first standard ones."""
    own = [name for name in metrics if own_images and name.startswith("standard/")]  # no zoo to compare with
    metrics = {name: metrics[name] for name in own or metrics}
    compared = [name for name in metrics if any(name in values for values in baselines.values())]
    names = compared or [name for name in metrics if name.startswith("standard/")] or list(metrics)
    return [
        {
            "name": name,
            "value": metrics[name],
            "interval": intervals.get(name),
            "against": [(base, values[name]) for base, values in baselines.items() if name in values],
        }
        for name in names[:most]
    ]


def _view(panel: Panel) -> dict:
    """A panel as the template needs it."""
    view = {"kind": type(panel).__name__.lower(), "title": panel.title, "caption": panel.caption}
    match panel:
        case Curve():
            return view | {"svg": Markup(curve_svg(panel))}
        case Bars():
            return view | {"bars": _bars(panel), "shown": BARS_SHOWN, "reference_name": panel.reference_name}
        case Confusion():
            return view | {"svg": Markup(confusion_svg(panel)), "size": len(panel.names)}
        case Tiles():
            broad = sum(image.shape[1] > BROAD * image.shape[0] for image, _ in panel.tiles)
            view["broad"] = 2 * broad > len(panel.tiles)
            return view | {"tiles": [(data_uri(image), text) for image, text in panel.tiles]}
        case Table():
            return view | {"columns": panel.columns, "rows": panel.rows}
    raise TypeError(f"{type(panel).__name__} is not a panel")


def _bars(panel: Bars) -> list[dict]:
    values = np.asarray(panel.values, np.float64)
    references = np.asarray(panel.reference if panel.reference is not None else [], np.float64)
    finite = np.concatenate([values, references])
    finite = finite[np.isfinite(finite)]
    full = panel.maximum or (finite.max() if len(finite) and finite.max() > 0 else 1.0)

    def percent(value: float) -> float | None:
        return round(float(np.clip(value / full, 0, 1)) * 100, 2) if np.isfinite(value) else None

    marks = [percent(r) for r in references] if len(references) else [None] * len(values)
    return [
        {"name": name, "value": value, "percent": percent(value), "mark": mark}
        for name, value, mark in zip(panel.names, values.tolist(), marks, strict=True)
    ]


def curve_svg(panel: Curve) -> str:
    """Lines over a light grid as an SVG element that follows the page's colours."""
    settings = {"svg.fonttype": "none", "svg.hashsalt": panel.title, "font.size": 9, "axes.linewidth": 0.6}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(5.2, 3.1), layout="constrained")
        axes = figure.add_subplot()
        for index, (name, (x, y)) in enumerate(panel.series.items()):
            style = {
                "color": SERIES[index % len(SERIES)],
                "linestyle": DASHES[index // len(SERIES) % len(DASHES)],
            }
            axes.plot(
                x, y, label=name, linewidth=1.6, marker="o" if len(x) < 12 else "", markersize=3, **style
            )
        axes.set_xlabel(panel.xlabel, color=INK)
        axes.set_ylabel(panel.ylabel, color=INK)
        axes.grid(color=LINE, linewidth=0.6)
        axes.tick_params(colors=INK, length=0)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(LINE)
        if len(panel.series) > 1:
            axes.legend(frameon=False, labelcolor=INK, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(SVG_METADATA),
        )
    return _inline(buffer.getvalue(), panel.title)


def _inline(svg: str, title: str) -> str:
    """matplotlib's SVG file → an element: no prolog, metadata or fixed size; the page's colours."""
    head, body = svg[svg.index("<svg") :].split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)[0]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL).replace("xlink:href", "href")
    for colour, variable in THEME.items():
        body = body.replace(colour, variable)
    return f'<svg role="img" aria-label="{Markup.escape(title)}" {view}>{body}'


def confusion_svg(panel: Confusion) -> str:
    """Cells shaded by their share of the row, with counts while they fit; pointing at one tells its pair."""
    counts = np.asarray(panel.counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(panel.names)
    cell, letter = (30, 11) if size <= 20 else (14, 9)
    margin = 12 + round(0.6 * letter * max((len(name) for name in panel.names), default=1))
    side = margin + size * cell + 4
    names = [Markup.escape(name) for name in panel.names]
    parts = [
        f'<svg role="img" aria-label="{Markup.escape(panel.title)}" viewBox="0 0 {side} {side}" '
        f'class="confusion" style="--side:{side}px" font-size="{letter}">'
    ]
    many = size > EVERY_CELL
    if many:
        whole = f'x="{margin}" y="{margin}" width="{size * cell}" height="{size * cell}"'
        parts.append(f'<rect {whole} class="blank"/>')
    for row, name in enumerate(names):
        line = f"{margin + (row + 0.5) * cell + letter * 0.35:.1f}"
        parts.append(f'<text x="{margin - 6}" y="{line}" text-anchor="end">{name}</text>')
        parts.append(f'<text transform="translate({line} {margin - 6}) rotate(-90)">{name}</text>')
        for column, other in enumerate(names):
            if many and not counts[row, column]:
                continue
            title = f"{name} → {other}: {counts[row, column]} ({share[row, column]:.0%})"
            corner = margin + column * cell, margin + row * cell
            drawn = _cell(*corner, cell, counts[row, column], share[row, column], right=row == column)
            parts.append(f"<g><title>{title}</title>{drawn}</g>")
    return "".join([*parts, "</svg>"])


def _cell(x: int, y: int, cell: int, count: int, share: float, *, right: bool) -> str:
    place = f'x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}"'
    if not count:
        return f'<rect {place} class="blank"/>'
    kind, on = "right" if right else "wrong", ' class="on"' if share > 0.55 else ""
    text = f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle"{on}>{count}</text>'
    return (
        f'<rect {place} class="blank"/><rect {place} class="{kind}" fill-opacity="{share:.3f}"/>'
        f"{text if cell >= 30 else ''}"
    )


def data_uri(image: np.ndarray) -> str:
    """uint8 [h w 3] → a JPEG with full colour resolution (thin coloured marks survive) as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image, np.uint8)).save(
        buffer, "JPEG", quality=88, subsampling=0, optimize=True
    )
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _tables(panels: Sequence[Panel]) -> dict[str, dict]:
    """{title: the numbers of the panel}; pictures have none."""
    tables: dict[str, dict] = {}
    for panel in panels:
        match panel:
            case Curve():
                series = {name: {"x": x, "y": y} for name, (x, y) in panel.series.items()}
                data = {"x": panel.xlabel, "y": panel.ylabel, "series": series}
            case Bars():
                data = {"names": panel.names, "values": panel.values, "reference": panel.reference}
                data["reference_name"] = panel.reference_name
            case Confusion():
                data = {"names": panel.names, "counts": panel.counts}
            case Table():
                data = {"columns": panel.columns, "rows": panel.rows}
            case _:
                continue
        title, copy = panel.title, 2
        while title in tables:
            title, copy = f"{panel.title} ({copy})", copy + 1
        tables[title] = {"kind": type(panel).__name__.lower(), **data}
    return tables


def plain(value: Any) -> Any:
    """Arrays and numpy scalars → what JSON has; not finite → null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flat(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} → {"optim.lr": 1}"""
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        fields |= flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return fields
