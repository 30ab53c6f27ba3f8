"""Tiny models, drawn tensors and weight files, for the tests of imports and exports."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import common
from experiments import compatibility as outfit_experiment
from fashionjax import cli, import_weights, tasks
from fashionjax.models import backbones
from fashionjax.models.landmark_detector import LandmarkDetector
from fashionjax.models.predictor import Predictor
from fashionjax.models.retriever import Retriever
from fashionjax.weights import importer
from fashionjax.weights.key_maps import torch_shapes

IMAGE, POINTS = (
    jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, 8, 2), jnp.float32),
)


def tiny_backbone(name: str):
    fields = {"width": 8} if not name.startswith("vit") else {"width": 16, "depth": 2, "heads": 2, "grid": 2}
    return backbones.build(name, **fields)


def shapes_of(model) -> dict:
    if isinstance(model, LandmarkDetector | Predictor | Retriever):
        shapes = jax.eval_shape(lambda i, p: model.init(jax.random.PRNGKey(0), i, p), IMAGE, POINTS)
    else:
        shapes = jax.eval_shape(lambda i: model.init(jax.random.PRNGKey(0), i), IMAGE)
    return {"batch_stats": {}, **shapes}


def drawn(shapes: dict[str, tuple], seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict with values of its own in every place."""
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype and a[key].shape == b[key].shape, key
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def drop(rng, tensors, key):
    del tensors[key]
    return "unfilled", key


def rename(rng, tensors, key):
    stem, _, leaf = key.rpartition(".")
    new = (f"{stem}.{leaf}s", f"{stem}x.{leaf}", f"model.{key}", key.upper(), f"{key}\n")[rng.integers(5)]
    tensors[new] = tensors.pop(key)
    return "unread", new


def extra(rng, tensors, key):
    new = (f"{key}.weight", "fc.weight", "backbone.layer9.0.conv1.weight", "", "state")[rng.integers(5)]
    tensors[new] = np.zeros(3, np.float32)
    return "unread", new


def grow(rng, tensors, key):
    axis = rng.integers(tensors[key].ndim)
    tensors[key] = np.concatenate([tensors[key], np.take(tensors[key], [0], axis)], axis)
    return "misshapen", key


def cut(rng, tensors, key):
    if max(tensors[key].shape) == 1:
        return grow(rng, tensors, key)
    axis = int(np.argmax(tensors[key].shape))
    tensors[key] = np.take(tensors[key], range(tensors[key].shape[axis] - 1), axis)
    return "misshapen", key


def add_axis(rng, tensors, key):
    tensors[key] = np.expand_dims(tensors[key], int(rng.integers(tensors[key].ndim + 1)))
    return "misshapen", key


def flatten(rng, tensors, key):
    tensors[key] = tensors[key].ravel() if tensors[key].ndim > 1 else tensors[key].sum()
    return "misshapen", key


def transpose(rng, tensors, key):
    if tensors[key].shape == tensors[key].shape[::-1]:
        return add_axis(rng, tensors, key)
    tensors[key] = tensors[key].T
    return "misshapen", key


def retype(rng, tensors, key):
    tensors[key] = tensors[key].astype((np.int64, np.uint8, np.bool_, np.complex64)[rng.integers(4)])
    return "unusable", key


def poison(rng, tensors, key):
    tensors[key] = tensors[key].copy()
    tensors[key].flat[rng.integers(tensors[key].size)] = (np.nan, np.inf, -np.inf)[rng.integers(3)]
    return "unusable", key


def overflow(rng, tensors, key):
    tensors[key] = tensors[key].astype(np.float64) * 1e300
    return "unusable", key


MUTATIONS = (drop, rename, extra, grow, cut, add_axis, flatten, transpose, retype, poison, overflow)


def tiny_config(backbone="resnet18", **model) -> ConfigDict:
    config = common.base()
    config.task = "attributes"
    config.dataset = "no_such_benchmark"
    config.image_size = config.canvas_size = 32
    config.batch_size, config.steps = 2, 2
    config.model = common.model(backbone)
    config.model.update({"hidden": 6, "features": 5, "labels_predicted": ("attribute", "category")})
    config.model.backbone_fields.width = 8
    config.model.update(model)
    config.loss = {"attribute": 1.0, "category": 1.0, "landmark": 1.0, "visibility": 1.0}
    return config


def backbone_config(name: str) -> ConfigDict:
    """An attribute model of two labels around a tiny backbone."""
    config = tiny_config(name, labels_predicted=("attribute",))
    config.labels = ConfigDict({"attribute": ["a", "b"]})
    fields = {"width": 16, "depth": 2, "heads": 2, "grid": 2} if name.startswith("vit") else {"width": 8}
    config.model.backbone_fields = ConfigDict(fields)
    return config


def file_for(config: ConfigDict, widths: dict[str, int], seed=0) -> dict[str, np.ndarray]:
    """An honest state dict for a config, with head widths of the test's choice."""
    config = config.copy_and_resolve_references()
    config.labels = ConfigDict({name: [str(i) for i in range(n)] for name, n in widths.items()})
    task = tasks.make(config)
    return drawn(torch_shapes(importer.template(config, task), importer.key_rules(config)), seed)


def run_command(monkeypatch, capsys, *argv) -> tuple[int, dict | None, str]:
    """The command in this process → (exit status, its JSON line, stderr)."""
    from absl import flags

    flags.FLAGS.unparse_flags()
    for name in [
        n
        for n in ("config", "workdir", "backbone_only", "type_spaces", "entry", "prefix")
        if n in flags.FLAGS
    ]:
        delattr(flags.FLAGS, name)
    monkeypatch.setattr(sys, "argv", ["fashionjax import", *map(str, argv)])
    with pytest.raises(SystemExit) as exit_:
        cli.run(import_weights.main, import_weights.add_flags)
    out = capsys.readouterr()
    return exit_.value.code or 0, json.loads(out.out) if out.out.strip() else None, out.err


def config_file(tmp_path: Path, code: str) -> Path:
    path = tmp_path / "experiment.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}")
    return path


HEAD_KEYS = {"resnet18": "fc", "vgg11": "classifier.6", "vit_b16": "head"}


def imagenet_file(name: str) -> dict[str, np.ndarray]:
    backbone = tiny_backbone(name)
    tensors = drawn(torch_shapes(shapes_of(backbone), backbones.torch_keys(backbone)), seed=3)
    return tensors | {f"{HEAD_KEYS[name]}.weight": np.zeros((10, 4), np.float32),
                      f"{HEAD_KEYS[name]}.bias": np.zeros(10, np.float32)}  # fmt: skip


TYPES = ["bags", "shoes", "tops"]
PAIRS = [("tops", "shoes"), ("bags", "bags"), ("shoes", "shoes"), ("bags", "shoes"), ("tops", "tops"),
         ("tops", "bags")]  # fmt: skip


def tiny_outfits(argument: str, data_dir="nowhere") -> ConfigDict:
    """The compatibility experiment of an argument, small, with three types."""
    config = outfit_experiment.get_config(argument)
    config.data_dir = str(data_dir)
    config.image_size = config.canvas_size = 32
    config.model.backbone_fields.width = 8
    config.model.update({"embedding": 6, "text_features": 7, "width": 8, "heads": 2})
    config.labels = {"category": TYPES, "type_space": [list(pair) for pair in PAIRS]}
    return config
