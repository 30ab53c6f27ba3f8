"""A comparison as text: aligned columns, or one fact per line where the terminal is too narrow for them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

GAP = "  "
DASH = "–"
HEAD = ("backbone", "variant", "metric", "published")


def render(result: Mapping, columns: Sequence[str], width: int) -> str:
    """Every table, the remarks, the synthetic table, reports outside the zoo, and what is missing."""
    width = max(40, width)
    parts = [_tables(result, columns, width)]
    if result["remarks"]:
        parts.append(
            _section(
                "Remarks", [f"[{r['mark']}] {r['text']}: {r['report']}" for r in result["remarks"]], width
            )
        )
    parts += [_categories(row, width) for row in result["rows"]]
    parts += [_reports(result, width), _synthetic(result, width), _other(result, width)]
    parts.append(_missing(result, columns, width))
    return "\n\n".join(part for part in parts if part)


def decimals(printed: str, value: float, sign: str = "") -> str:
    """`value` with as many decimals as the document prints: ("13.70", 13.712) → 13.71."""
    return f"{value:{sign}.{len(printed.partition('.')[2])}f}"


def describe(row: Mapping) -> str:
    return " ".join(filter(None, (row["backbone"], row["pooling"], row["variant"])))


def cell(metric: Mapping, entry: Mapping | None) -> str:
    """13.71 (+0.01) [2]"""
    if entry is None:
        return DASH
    mark = f" [{entry['mark']}]" if entry["mark"] else ""
    value, difference = (
        decimals(metric["printed"], entry["value"]),
        decimals(metric["printed"], entry["difference"], "+"),
    )
    return f"{value} ({difference}){mark}"


# ------------------------------------------------------------------------------ tables
def _tables(result: Mapping, columns: Sequence[str], width: int) -> str:
    out = []
    for table in result["tables"]:
        rows = [row for row in result["rows"] if row["table"] == table["id"]]
        lines = [(*HEAD, *columns), *(line for row in rows for line in _lines(row, columns))]
        widths = [max(map(len, column)) for column in zip(*lines)]
        wide = sum(widths) + len(GAP) * (len(widths) - 1) <= width
        body = [_aligned(line, widths) for line in lines] if wide else _stacked(lines, width)
        notes = [f"{describe(row)}: {note}" for row in rows for note in _notes(row)]
        if rows:
            out.append("\n".join([table["title"], "-" * len(table["title"]), *body, *_wrapped(notes, width)]))
    return "\n\n".join(out)


def _categories(row: Mapping, width: int) -> str:
    """AP per category of the report that the table shows, beside the published ones; '' without a report."""
    entries = row["per_category"]
    if row["per_category_of"] is None or not entries:
        return ""
    head = ("category", "count", "", "box", "ours", "mask", "ours")
    lines = [head]
    for entry in entries:
        cells = [entry["category"], f"{entry['count']:,}", ""]
        for kind in ("box", "mask"):
            printed, value = entry[f"{kind}_published"], entry[f"{kind}_value"]
            cells += [printed, DASH if value is None else decimals(printed, value)]
        lines.append(tuple(cells))
    widths = [max(map(len, column)) for column in zip(*lines)]
    title = f"{row['id']}: AP per category, published and of {row['per_category_of']}"
    return "\n".join([*textwrap.wrap(title, width), *(_aligned(line, widths) for line in lines)])


def _lines(row: Mapping, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for number, metric in enumerate(row["metrics"]):
        for line in metric["lines"]:
            first = number == 0 and line["as_published"]
            variant = row["pooling"] or row["variant"] or DASH
            name, printed = metric["name"], metric["printed"] + ("*" if metric["note"] else "")
            if not line["as_published"]:
                name, printed = f"{GAP}{switches_text(line['switches'])}", ""
            yield (
                row["backbone"] if first else "",
                variant if first else "",
                name,
                printed,
                *(cell(metric, line[column]) for column in columns),
            )


def switches_text(on: Sequence[str]) -> str:
    """How a line measured otherwise than the published one is named; s1_random_crop_at_test is s1."""
    short = sorted((name.split("_")[0] for name in on), key=lambda name: (len(name), name))
    return f"with {', '.join(short)}" if on else "without quirks"


def _notes(row: Mapping) -> list[str]:
    return list(row["notes"]) + [f"* {m['name']}: {m['note']}" for m in row["metrics"] if m["note"]]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, numbers to the right."""
    cells = [
        text.ljust(size) if i < 3 else text.rjust(size) for i, (text, size) in enumerate(zip(line, widths))
    ]
    return GAP.join(cells).rstrip()


def _stacked(lines: Sequence[Sequence[str]], width: int) -> list[str]:
    head, *lines = lines
    out = []
    for line in lines:
        if line[0]:
            out += textwrap.wrap(f"{line[0]} {line[1]}", width)
        out += textwrap.wrap(line[2].strip(), width, initial_indent="  ", subsequent_indent="  ")
        out += [f"    {name:<20}{text}" for name, text in zip(head[3:], line[3:]) if text]
    return out


# ------------------------------------------------------------------------------ lists
def _section(title: str, items: Sequence[str], width: int) -> str:
    return "\n".join([title, "-" * len(title), *_wrapped(items, width)])


def _wrapped(items: Sequence[str], width: int) -> list[str]:
    return [
        line
        for item in items
        for line in textwrap.wrap(
            item, width, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
        )
    ]


def _reports(result: Mapping, width: int) -> str:
    items = []
    for row in result["rows"]:
        for report in row["reports"]:
            facts = [report["label"], _records(report)]
            facts += [] if report["dataset"].startswith(f"{row['dataset']}/") else [report["dataset"]]
            facts += [f"step {report['step']}"] if report["step"] is not None else []
            facts += [f"initialised from {report['init_from']}"] if report["init_from"] else []
            facts += [] if report["in_table"] else ["older than the one in the table"]
            facts += [f"lacks {', '.join(report['lacks'])}"] if report["lacks"] else []
            items.append(f"{row['id']}: {report['report']} ({', '.join(facts)})")
    return _section("Reports", items, width) if items else ""


def _records(report: Mapping) -> str:
    total = report["n_total"]
    return f"n = {report['n']:,}" + (f" of {total:,}" if total is not None and total != report["n"] else "")


def _synthetic(result: Mapping, width: int) -> str:
    items = []
    for entry in result["synthetic"]:
        model = f"model of {', '.join(entry['model_of'])}" if entry["model_of"] else "a model of no zoo row"
        values = ", ".join(f"{name} {_number(value)}" for name, value in entry["metrics"].items())
        items.append(
            f"{entry['dataset']} {entry['split']}, {_records(entry)}, {model}: {values} ({entry['report']})"
        )
    if not items:
        return ""
    title = "Synthetic (rendered images; not comparable with any published number)"
    return _section(title, items, width)


def _number(value: Any) -> str:
    return DASH if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _other(result: Mapping, width: int) -> str:
    items = [
        f"{e['report']} ({e['label']}, {e['dataset']}, {e['split']}): {e['why']}" for e in result["other"]
    ]
    return _section("In no row of the zoo", items, width) if items else ""


# ------------------------------------------------------------------------------ what is missing
def _missing(result: Mapping, columns: Sequence[str], width: int) -> str:
    blocks = []
    for row in result["rows"]:
        lines = list(_missing_lines(row["missing"], columns, width))
        if lines:
            blocks.append("\n".join([row["id"], *lines]))
    title = "To fill the table"
    return "\n\n".join([f"{title}\n{'-' * len(title)}", *blocks]) if blocks else ""


def _missing_lines(missing: Mapping, columns: Sequence[str], width: int) -> Iterator[str]:
    if "why" in missing:
        yield f"  {missing['why']}"
        yield from (f"    {link_text(link)}" for link in missing["links"])
        return
    if missing["dataset"]:
        yield "  dataset"
        yield from fold(missing["dataset"]["command"], width)
    for column in columns:
        for number, step in enumerate(missing.get(column, ())):
            if number == 0:
                yield f"  {column}"
            if step["command"] is None and not step["links"]:
                yield from textwrap.wrap(step["what"], width, initial_indent="    ", subsequent_indent="    ")
            yield from (f"    {link_text(link)}" for link in step["links"])
            if step["command"]:
                yield from fold(step["command"], width)


def link_text(link: Mapping) -> str:
    return link["url"] + (f" ({link['host']}, code {link['code']})" if "code" in link else "")


def fold(command: Sequence[str], width: int, indent: str = "    ") -> list[str]:
    """A shell command on lines of at most `width`, continued with backslashes (a longer word stays whole)."""
    lines = [indent + command[0]]
    for word in command[1:]:
        if len(lines[-1]) + 1 + len(word) + 2 <= width:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"{indent}  {word}")
    return lines
