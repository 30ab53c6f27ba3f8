"""The training state, and the per-device train and predict steps built from a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.extend import random as prng

from fashionjax.runtime.optim import path_name
from fashionjax.task import AXIS, Batch, Task


@flax.struct.dataclass
class TrainState:
    """Everything a step reads and writes; arrays only, so that saving it is saving the run."""

    step: jax.Array  # i32 [], optimizer steps taken
    params: Any
    model_state: Any  # batch-norm running statistics, {} where a model has none
    opt_state: Any
    rng: jax.Array  # u32 [2], the run's key; step k uses fold_in(rng, k)
    average: Any = None  # moving average of params, where the run keeps one: what is evaluated and used

    @property
    def used(self) -> Any:
        """The parameters that evaluation and prediction use."""
        return self.params if self.average is None else self.average


def _philox_bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    """Bits of XLA's generator with the algorithm named: "rbg" leaves it to the backend."""
    dtype = getattr(jnp, f"uint{width}")
    return jax.lax.rng_bit_generator(key, shape, dtype, algorithm=jax.lax.RandomAlgorithm.RNG_PHILOX)[1]


# A program of hundreds of threefry draws takes twice as long to compile.
_PHILOX = prng.define_prng_impl(
    key_shape=(4,),
    seed=prng.rbg_prng_impl.seed,
    split=prng.rbg_prng_impl.split,
    random_bits=_philox_bits,
    fold_in=prng.rbg_prng_impl.fold_in,
    name="philox",
    tag="philox",
)


def initial_key(seed: int) -> jax.Array:
    """The key of every fresh parameter, in training and in imports: the same bits on every backend."""
    return jax.random.key(seed, impl=_PHILOX)


def run_key(seed: int) -> jax.Array:
    """u32 [2]: `TrainState.rng`, from which the steps draw."""
    return jax.random.PRNGKey(seed)


def create_state(
    task: Task, tx: optax.GradientTransformation, seed: int, batch: Batch, *, averaged: bool = False
) -> TrainState:
    """A fresh state; `batch` gives shapes only and may hold one example. `averaged`: it keeps an average."""

    @jax.jit
    def build(key, rng):
        params, model_state = task.init(key, batch)
        average = jax.tree.map(jnp.copy, params) if averaged else None
        return TrainState(jnp.zeros((), jnp.int32), params, model_state, tx.init(params), rng, average)

    return build(initial_key(seed), run_key(seed))


def make_train_step(
    task: Task,
    tx: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    frozen: Callable | None = None,
    average: float = 0.0,
) -> Callable:
    """The per-device step (state, batch) → (state, scalars f32 []).

    Gradients, running statistics and scalars are averaged over the axis `batch`. A step whose loss or
    gradient is not finite leaves everything but the step counter as it was and sets `nonfinite` to 1; the
    learning rate goes by the step counter.
    `accumulate` splits the local batch into that many equal parts, one after the other; batch-norm sees
    each part alone. `frozen` (path → bool) names parameters that get no gradient, so that the backward pass
    ends where nothing below it is trained, and running statistics that must not move.
    """

    tx = optax.with_extra_args_support(tx)
    if frozen is not None:
        task = task._replace(loss=_stopped(task.loss, frozen))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        rng = jax.random.fold_in(state.rng, state.step)
        loss, grads, model_state, scalars = _accumulated(task, state, _weigh(batch), rng, accumulate)
        loss, grads, model_state, scalars = _mean_over_devices((loss, grads, model_state, scalars))
        updates, opt_state = tx.update(grads, state.opt_state, state.params, step=state.step)
        grad_norm = optax.global_norm(grads)
        if frozen is not None:
            model_state = _keep_frozen(frozen, state.model_state, model_state)
        taken = state.replace(
            params=optax.apply_updates(state.params, updates), model_state=model_state, opt_state=opt_state
        )
        if average:
            taken = taken.replace(average=_averaged(state.average, taken.params, average, state.step))
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), taken, state)
        scalars = scalars | {"loss": loss, "grad_norm": grad_norm, "nonfinite": 1.0 - finite}
        return kept.replace(step=state.step + 1), scalars

    return step


def _averaged(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """The moving average of weights after a step: decay · average + (1 − decay) · params, with the decay at
    most (1 + step) / (10 + step), so that the first steps are soon forgotten."""
    rate = 1 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + (rate * (new - old)).astype(old.dtype), average, params)


def make_predict_step(task: Task) -> Callable:
    """The per-device (params, model_state, batch) → {name: array [b …]}."""
    return task.predict


def _mean_over_devices(tree: Any) -> Any:
    """`pmean`; on a single device it would only copy every gradient."""
    return tree if jax.lax.axis_size(AXIS) == 1 else jax.lax.pmean(tree, AXIS)


def _weigh(batch: Batch) -> Batch:
    """Adds `example_weight` and `slot` (see task.py)."""
    valid = batch["example_valid"].astype(jnp.float32)
    share = jax.lax.pmean(jnp.mean(valid), AXIS)
    slot = jax.lax.axis_index(AXIS) * valid.shape[0] + jnp.arange(valid.shape[0], dtype=jnp.int32)
    return batch | {"example_weight": valid / jnp.maximum(share, 1e-6), "slot": slot}


def _accumulated(task: Task, state: TrainState, batch: Batch, rng: jax.Array, parts: int):
    grad = jax.value_and_grad(task.loss, has_aux=True)
    if parts == 1:
        (loss, (model_state, scalars)), grads = grad(state.params, state.model_state, batch, rng)
        return loss, grads, model_state, scalars

    def part(model_state, number, microbatch):
        key = jax.random.fold_in(rng, number)  # else every part would draw the same dropout masks
        (loss, (model_state, scalars)), grads = grad(state.params, model_state, microbatch, key)
        return model_state, (loss, grads, scalars)

    # example i goes to part i % parts, so that a part of the global batch is the same on any device count
    split = jax.tree.map(lambda x: rearrange(x, "(b m) ... -> m b ...", m=parts), batch)
    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(lambda m: part(state.model_state, 0, m)[1], first)

    def body(carry, numbered):
        model_state, total = carry
        model_state, result = part(model_state, *numbered)
        return (model_state, jax.tree.map(jnp.add, total, result)), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (model_state, total), _ = jax.lax.scan(body, (state.model_state, zeros), (jnp.arange(parts), split))
    loss, grads, scalars = jax.tree.map(lambda x: x / parts, total)
    return loss, grads, model_state, scalars


def _stopped(loss: Callable, frozen: Callable) -> Callable:
    """`loss` without a gradient for frozen parameters."""

    def stop(path, leaf):
        return jax.lax.stop_gradient(leaf) if frozen(path_name(path)) else leaf

    return lambda params, *rest: loss(jax.tree_util.tree_map_with_path(stop, params), *rest)


def _keep_frozen(frozen: Callable, old: Any, new: Any) -> Any:
    def pick(path, old_leaf, new_leaf):
        return old_leaf if frozen(path_name(path)) else new_leaf

    return jax.tree_util.tree_map_with_path(pick, old, new)
