"""AP per category of a detector's report beside the published table of its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TABLE = "AP per category"  # of reports.detection
KINDS = ("box", "mask")


def beside(row: Mapping, report: Mapping | None) -> list[dict[str, Any]]:
    """The categories of a zoo row: {category, count, KIND_published (as printed), KIND_value or None},
    values of the table of `report`; [] for a row that publishes none."""
    measured = _measured(report or {})
    found = []
    for published in row.get("per_category", []):
        entry = {"category": published["category"], "count": published["count"]}
        for kind in KINDS:
            entry[f"{kind}_published"] = published[f"{kind}_ap"]
            entry[f"{kind}_value"] = measured.get(published["category"], {}).get(kind)
        found.append(entry)
    return found


def _measured(report: Mapping) -> dict[str, dict[str, float]]:
    """{category: {kind: percent}} of a report's table; {} where it has none that can be read."""
    table = (report.get("tables") or {}).get(TABLE)
    if not isinstance(table, dict) or not isinstance(table.get("rows"), list):
        return {}
    columns = {kind: f"{kind} AP (%)" for kind in KINDS}
    names = table.get("columns") or []
    places = {kind: names.index(name) for kind, name in columns.items() if name in names}
    return {
        str(row[0]): {kind: row[place] for kind, place in places.items() if place < len(row)}
        for row in table["rows"]
        if isinstance(row, list) and row
    }
