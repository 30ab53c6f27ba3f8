"""Whole modules as torch.save(model) pickles them: their state dict is read, and nothing else of them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from torch_writers import (
    call,
    dense,
    glob,
    legacy_file,
    mapping,
    module,
    number,
    text,
    tuple_of,
    zip_file,
)
from weight_files import assert_same

from fashionjax.errors import UserError
from fashionjax.weights.files import read_tensors

FIXTURES = Path(__file__).parents[1] / "fixtures/weights"
_spec = importlib.util.spec_from_file_location("make_fixtures", FIXTURES / "make_fixtures.py")
fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixtures)


def test_what_pytorch_wrote():
    assert_same(read_tensors(FIXTURES / "whole_zip.pt"), fixtures.whole_arrays())


def a_module(arrays: dict[str, np.ndarray], wrap=lambda value: value) -> tuple[bytes, dict[str, bytes]]:
    """head.0.weight, a parameter of nested modules, and norm.running_mean, a buffer → (pickle, storages)."""
    weight, mean = (dense(str(i), array) for i, array in enumerate(arrays.values()))
    weight = call("torch._utils._rebuild_parameter", weight, b"\x88", mapping({}))
    linear = wrap(module("torch.nn.modules.linear.Linear", {"weight": weight, "bias": b"N"}))
    head = module("torch.nn.modules.container.Sequential", {}, modules={"0": linear, "1": b"N"})
    norm = module("torch.nn.modules.batchnorm.BatchNorm1d", {}, {"running_mean": mean})
    whole = module("cgd.model.CGD", {}, modules={"head": head, "norm": norm})
    return whole, {str(i): array.tobytes() for i, array in enumerate(arrays.values())}


ARRAYS = {
    "head.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "norm.running_mean": np.ones(2, np.float32),
}


@pytest.mark.parametrize("wrap", [None, "model"])
def test_a_whole_pickled_module_gives_its_state_dict(tmp_path, wrap):
    value, data = a_module(ARRAYS)
    value = mapping({wrap: value, "epoch": number(3)}) if wrap else value
    assert_same(read_tensors(zip_file(tmp_path / "w.pt", value, data)), ARRAYS)


def test_a_module_of_an_older_pytorch_names_its_classes_with_their_source(tmp_path):
    value, data = a_module(ARRAYS)
    for name in ("cgd.model.CGD", "torch.nn.modules.linear.Linear"):
        pid = tuple_of(text("module"), glob(name), text("model.py"), text("import os; os.abort()"))
        value = value.replace(glob(name), pid + b"Q")
    counted = [(array.size, raw) for array, raw in zip(ARRAYS.values(), data.values())]
    assert_same(read_tensors(legacy_file(tmp_path / "w.pt", value, list(data), counted)), ARRAYS)


@pytest.mark.parametrize("asked", [
    call("cgd.model.CGD", text("x")),  # a class of a model that is called with something
    call("torch.hub.load", text("x")),
    call("shutil.rmtree", text("x")),
])  # fmt: skip
def test_what_a_pickled_module_may_not_ask_for(tmp_path, asked):
    file = zip_file(tmp_path / "w.pth", module("cgd.model.CGD", {}, {"x": asked}), {})
    with pytest.raises(UserError, match="which tensors do not need"):
        read_tensors(file)


def test_an_empty_module_holds_no_tensors(tmp_path):
    with pytest.raises(UserError, match="holds no tensors"):
        read_tensors(zip_file(tmp_path / "w.pth", module("cgd.model.CGD", {}), {}))
