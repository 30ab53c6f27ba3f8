"""Predictions over a split do not depend on the number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from fashionjax import quirks
from fashionjax.data import source
from fashionjax.inference import model as inference
from fashionjax.metrics import collect
from fashionjax.runtime import parallel
from fashionjax.task import Task


@pytest.fixture(scope="module")
def split(synthetic_dir):
    return source.open_split("synthetic_fashion/attributes", "val", synthetic_dir)


def model_on(devices: int, config) -> inference.Model:
    """It answers each record's index times a parameter, and its landmark as quirk S3 mixes it."""

    def preprocess(record, rng):
        return {"landmark": np.asarray(record["landmark"], np.float32)}

    def predict(params, model_state, batch):
        index = batch["index"].astype(jnp.float32)
        return {"scaled": params * index, "landmark": quirks.roi_landmark(config, batch)}

    mesh = parallel.make_mesh(jax.devices()[:devices])
    step = parallel.compile_predict_step(predict, config.parallel, mesh)
    params = parallel.replicate(jnp.float32(2), mesh)
    return inference.Model(config, Task(preprocess, None, None, predict, None), mesh, step, params, {}, 0)


@pytest.mark.parametrize("mode", parallel.MODES)
@pytest.mark.parametrize("group", [None, 4])
def test_equal_on_any_number_of_devices(split, mode, group):
    """21 records in batches of 12: neither a batch nor the rest divides over 8 devices, or over 5."""
    config = common.base()
    config.batch_size, config.parallel, config.images_per_gpu = 12, mode, group or 0
    config.quirks = ("s3_roi_scramble_group",) if group else ()
    found = {}
    for devices in (1, 2, 3, 5, 8):
        pairs = inference.predictions(model_on(devices, config), split, show_progress=False)
        found[devices], truth = collect.collect(pairs)
        assert truth["index"].tolist() == list(range(21))
        np.testing.assert_array_equal(found[devices]["scaled"], 2.0 * np.arange(21))
        np.testing.assert_array_equal(found[devices]["landmark"], found[1]["landmark"])
    assert group is None or not np.array_equal(found[1]["landmark"], truth["landmark"])
