"""Training on one batch, for the tests of tasks."""

import jax

from fashionjax import tasks
from fashionjax.runtime import optim, parallel, state


def fit(config, batch, steps):
    """Losses of training on one batch whose images stay as they are, without dropout's noise at the end."""
    config.augment.update({"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0})
    config.canvas_size = config.image_size
    task = tasks.make(config)
    mesh = parallel.make_mesh(jax.devices()[:1])
    schedule = optim.make_schedule(config.optim, steps, 1)
    shapes = jax.eval_shape(task.init, jax.random.PRNGKey(0), batch)[0]
    tx = optim.make_optimizer(config.optim, shapes, schedule)
    run = parallel.replicate(state.create_state(task, tx, 0, batch), mesh)
    step = parallel.compile_train_step(state.make_train_step(task, tx), "shard_map", mesh)
    placed = parallel.put_batch(batch, "shard_map", mesh)
    losses = []
    for _ in range(steps):
        run, scalars = step(run, placed)
        losses.append(scalars["loss"])
    return [float(loss) for loss in jax.device_get(losses)]
