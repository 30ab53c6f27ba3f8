"""Checkpoints of tiny untrained models; weights are drawn by numpy, which need not be compiled."""

from pathlib import Path

import jax
import numpy as np

from experiments import attributes, compatibility, demo, inshop, landmarks
from fashionjax import tasks
from fashionjax.runtime import checkpoint, state

ATTRIBUTES = ["striped", "lace", "floral"]
LABELS = {"item_id": [f"id_{n}" for n in range(4)], "attribute": ATTRIBUTES, "category": ["tops", "bags"]}
CONFIGS = {
    "global": lambda: inshop.get_config("pool=global"),
    "landmark": lambda: inshop.get_config("pool=landmark"),
    "zoo": lambda: inshop.get_config("pool=landmark,faithful=zoo"),
    "attributes": lambda: attributes.get_config("pool=landmark,faithful=zoo"),
    "demo": demo.get_config,
    "detector": landmarks.get_config,
    "outfits": lambda: compatibility.get_config("text=words,tiny=true,projection=mask"),
}


def save(workdir: Path, kind: str, weights: int = 0, points: int = 8, **fields) -> Path:
    """A checkpoint of one of `CONFIGS`: VGG-11 of width 4, 32 px, for that many landmarks."""
    config = CONFIGS[kind]()
    config.image_size = config.canvas_size = 32
    config.model.backbone, config.model.backbone_fields.width = "vgg11", 4
    if "hidden" in config.model:
        config.model.hidden = config.model.features = 16
    config.labels = LABELS | {"type_space": [["tops", "tops"], ["tops", "bags"], ["bags", "bags"]]}
    config.update(fields)
    record = {"landmark": np.zeros((points, 2), np.float32), "visibility": np.zeros(points, np.int32)}
    return save_drawn(workdir, config, weights, record)


def save_drawn(workdir: Path, config, seed: int, record: dict | None = None) -> Path:
    """A checkpoint of step 3 with weights drawn by numpy; `record` is what its input has beside an image."""
    task = tasks.make(config)
    record = {"image": np.zeros((40, 60, 3), np.uint8)} | (record or {})
    batch = {name: value[None] for name, value in task.preprocess(record, None).items()}
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(task.init, jax.random.PRNGKey(0), batch)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes[0])
    model_state = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes[1])
    run = state.TrainState(np.int32(3), params, model_state, {}, jax.random.PRNGKey(1))
    manager = checkpoint.open_manager(workdir)
    checkpoint.save(manager, run, config)
    manager.wait_until_finished()
    manager.close()
    return workdir
