"""Imports point one way (docs/architecture.md), read from the source text."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# room → the project's rooms it may import; a file's room is the longest prefix in this table
ALLOWED = {
    "fashionjax.errors": (),
    "fashionjax.files": (),
    "fashionjax.task": (),
    "fashionjax.results": (),
    "fashionjax.ops": ("errors", "ops"),
    "fashionjax.losses": ("errors", "ops"),
    "fashionjax.metrics": ("errors", "ops", "metrics"),
    "fashionjax.data": ("errors", "files", "data", "tfds_builders"),
    "fashionjax.models": ("errors", "models", "ops"),
    "fashionjax.quirks": ("errors", "ops"),
    "fashionjax.tasks": ("errors", "quirks", "task", "tasks", "models", "ops", "losses", "metrics", "data",
                         "reports"),
    "fashionjax.runtime": ("errors", "files", "task", "quirks", "data", "runtime"),
    "fashionjax.runtime.state": ("errors", "task", "runtime.optim"),
    "fashionjax.runtime.progress": (),
    "fashionjax.runtime.checkpoint_files": ("errors", "files"),
    "fashionjax.inference": ("errors", "quirks", "results", "task", "tasks", "data", "runtime", "inference"),
    "fashionjax.gallery": ("errors", "files", "ops", "metrics", "data", "runtime", "inference", "gallery"),
    "fashionjax.weights": ("errors", "task", "tasks", "models", "ops", "data", "runtime", "weights",
                           "tfds_builders"),
    "fashionjax.weights.safe_pickle": (),
    "fashionjax.weights.checked_bytes": (),
    "fashionjax.weights.selection": ("weights.checked_bytes",),
    "fashionjax.reports": ("errors", "files", "quirks", "results", "task", "data", "metrics", "reports"),
    "fashionjax.reports.draw": ("data",),
    "experiments": ("experiments",),
    "tfds_builders": ("tfds_builders",),
}  # fmt: skip
OTHERS = ("experiments", "tfds_builders")  # the project's packages beside fashionjax
# third-party packages that stay in their rooms
CONFINED = {
    "tensorflow_datasets": ("fashionjax.data.source", "fashionjax.data.columns", "fashionjax.data.builders",
                            "tfds_builders"),
    "pyarrow": ("fashionjax.data.columns", "tfds_builders"),
    "flax": ("fashionjax.models", "fashionjax.tasks", "fashionjax.runtime.state",
             "fashionjax.runtime.checkpoint", "fashionjax.weights.key_maps", "fashionjax.weights.importer"),
    "orbax": ("fashionjax.runtime.checkpoint",),
    "hotcoco": ("fashionjax.data.masks", "fashionjax.metrics.detection"),
    "torch": ("benchmarks", "tests"),
}  # fmt: skip
FILES = sorted(
    p for top in ("fashionjax", "experiments", "tfds_builders") for p in (ROOT / top).rglob("*.py")
)


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_one_way(path):
    module = module_name(path)
    rooms = [room for room in ALLOWED if within(module, room)]
    if not rooms:
        return  # the commands may import anything above them
    room = max(rooms, key=len)
    prefix = "fashionjax." if room.startswith("fashionjax") else ""
    may = [name if name in OTHERS else prefix + name for name in ALLOWED[room]]
    ours = [n for n in imported(path) if within(n, "fashionjax") or n.split(".")[0] in OTHERS]
    for name in ours:
        if name == "fashionjax":
            continue
        assert any(within(name, allowed) for allowed in may), f"{module} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_packages_stay_in_their_rooms(path):
    module = module_name(path)
    for name in imported(path):
        top = name.split(".")[0]
        if top in CONFINED:
            assert any(within(module, room) for room in CONFINED[top]), f"{module} must not import {name}"


def test_no_drawer():
    assert not [p for p in FILES if p.stem in ("utils", "util", "helpers", "misc")]


def test_the_rooms_form_no_circle():
    """Room by room: whatever may be imported stands on a lower floor."""
    above = {
        room.split(".")[1]: {name.split(".")[0] for name in may} - {room.split(".")[1]}
        for room, may in ALLOWED.items()
        if room.count(".") == 1 and room.startswith("fashionjax.")
    }
    order = list(graphlib.TopologicalSorter(above).static_order())  # CycleError names a circle
    assert order.index("reports") < order.index("tasks") < order.index("inference")
