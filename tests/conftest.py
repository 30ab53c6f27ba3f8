"""Eight CPU devices for every test, a shared compilation cache, and one small prepared synthetic dataset."""

import os
import tempfile
from pathlib import Path

import xla_flags

os.environ["XLA_FLAGS"] = xla_flags.for_devices(8)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("FASHIONJAX_CACHE", str(Path(tempfile.gettempdir()) / "fashionjax-test-cache"))

import jax
import numpy as np
import pytest
from commands import SYNTHETIC, SYNTHETIC_SET

from experiments import demo
from fashionjax.data import builders
from fashionjax.runtime import parallel


@pytest.fixture(autouse=True, scope="session")
def compilation_cache():
    parallel.use_compilation_cache()


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory) -> Path:
    """A data_dir with synthetic_fashion/attributes: 48 train, 21 val, 13 test images of 64 px."""
    folder = tmp_path_factory.mktemp("data")
    builders.prepare("synthetic_fashion/attributes", data_dir=folder, overrides=SYNTHETIC, progress=False)
    return folder


@pytest.fixture
def tiny_config():
    """The demo's config at 32 px with a VGG-11 of width 4, batch 16, and made-up label names."""
    config = demo.get_config("steps=4")
    config.image_size, config.canvas_size, config.batch_size = 32, 36, 16
    config.model.backbone, config.model.backbone_fields.width = "vgg11_bn", 4  # few layers to compile
    config.model.features, config.model.landmark_features = 16, 8
    config.synthetic.set = SYNTHETIC_SET
    config.eval_every, config.log_every = 0, 2
    config.labels = {"category": [f"c{i}" for i in range(5)], "attribute": [f"a{i}" for i in range(7)]}
    return config


@pytest.fixture
def tiny_batch() -> dict:
    """A random training batch of 16 for `tiny_config`, as the pipeline yields it."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (16, 36, 36, 3), dtype=np.uint8),
        "landmark": rng.random((16, 8, 2), dtype=np.float32),
        "visibility": (rng.random((16, 8)) < 0.8).astype(np.float32),
        "category": rng.integers(0, 5, 16, dtype=np.int32),
        "attribute": rng.integers(0, 2, (16, 7), dtype=np.uint8),
        "index": np.arange(16, dtype=np.int32),
        "example_valid": np.ones(16, bool),
    }


@pytest.fixture(scope="session")
def devices():
    return jax.devices()
