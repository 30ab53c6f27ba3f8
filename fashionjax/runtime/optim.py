"""Learning-rate schedules and parameter groups → one optax chain."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from fashionjax.errors import UserError

SCHEDULES = ("constant", "step", "cosine")
OPTIMIZERS = ("sgd", "adam", "adamw")
DECAYED = ("kernel", "proxies")  # names of leaves


def total_steps(config: ConfigDict, examples: int) -> tuple[int, int]:
    """(steps of the run, steps of one epoch); `config.steps`, or `config.epochs` over ⌈examples / batch⌉."""
    per_epoch = -(-examples // config.batch_size)
    if bool(config.get("steps")) == bool(config.get("epochs")):
        raise UserError("set exactly one of config.steps and config.epochs (the other to 0)")
    return (int(config.steps) if config.get("steps") else int(config.epochs * per_epoch)), per_epoch


def make_schedule(config: ConfigDict, steps: int, per_epoch: int) -> Callable[[Any], Any]:
    """step (0-based) → learning rate.

    `config.schedule`: constant; step (× `gamma` at each epoch of `boundaries`
    and each step of `boundary_steps`, 0-based); cosine to zero.
    `warmup_steps` W and `warmup_ratio` r: for t < W the rate is multiplied by r + (1 − r)·t/W, the linear
    warm-up of mmcv 0.5.1.
    """
    if config.schedule not in SCHEDULES:
        raise UserError(f"config.optim.schedule={config.schedule!r}: use one of {', '.join(SCHEDULES)}")
    if config.schedule == "step":
        places = [int(epoch * per_epoch) for epoch in config.boundaries]
        drops = dict.fromkeys([*places, *config.get("boundary_steps", ())], config.gamma)
        base = optax.piecewise_constant_schedule(config.lr, drops)
    elif config.schedule == "cosine":
        base = optax.cosine_decay_schedule(config.lr, max(steps, 1))
    else:
        base = optax.constant_schedule(config.lr)
    warm, ratio = config.get("warmup_steps", 0), config.get("warmup_ratio", 0.0)
    if not warm:
        return base

    def warmed(step):
        share = jax.numpy.minimum(step / warm, 1.0)
        return base(step) * (ratio + (1.0 - ratio) * share)

    return warmed


def make_optimizer(config: ConfigDict, params: Any, schedule: Callable) -> optax.GradientTransformation:
    """Gradient clipping → optimizer → weight decay → group rates → learning rate, frozen paths apart.

    Paths are flax paths joined by "/", matched from their start by regular expressions:
    `frozen` (patterns) get no update and no optimizer memory; `groups` ((pattern, factor), …) multiply
    the rate, first match wins; weight decay applies to the leaves of `decayed`, with `decay_biases` to all.
    """
    if config.optimizer not in OPTIMIZERS:
        raise UserError(f"config.optim.optimizer={config.optimizer!r}: use one of {', '.join(OPTIMIZERS)}")
    _check_patterns(config, params)
    chain = []
    if config.get("clip_norm", 0.0):
        chain.append(optax.clip_by_global_norm(config.clip_norm))
    decay = optax.add_decayed_weights(
        config.get("weight_decay", 0.0), mask=None if config.get("decay_biases") else decayed
    )
    if config.optimizer == "sgd":  # torch's order: decay is part of the gradient; v ← μv + g; p ← p − lr·v
        chain += [decay, optax.trace(config.momentum, nesterov=config.get("nesterov", False))]
    elif config.optimizer == "adam":
        chain += [decay, optax.scale_by_adam(config.get("b1", 0.9), config.get("b2", 0.999))]
    else:
        chain += [optax.scale_by_adam(config.get("b1", 0.9), config.get("b2", 0.999)), decay]
    if config.get("groups"):
        chain.append(_scale_groups(config.groups))
    chain.append(_scale_by_rate(schedule))
    frozen = frozen_paths(config)
    if frozen is None:
        return optax.chain(*chain)
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: "frozen" if frozen(path_name(path)) else "trained", params
    )
    return optax.multi_transform({"trained": optax.chain(*chain), "frozen": optax.set_to_zero()}, labels)


def frozen_paths(config: ConfigDict) -> Callable[[str], bool] | None:
    """Whether a flax path is frozen, or None when nothing is."""
    if not config.get("frozen"):
        return None
    pattern = re.compile("|".join(f"(?:{p})" for p in config.frozen))
    return lambda path: pattern.match(path) is not None


def path_name(path: tuple) -> str:
    """A jax key path as "backbone/layer1_0/conv1/kernel"."""
    return "/".join(str(getattr(key, "key", key)) for key in path)


def _scale_by_rate(schedule: Callable) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_learning_rate` at the rate of the run's `step`, where `update` is given one: a skipped
    step leaves the optimizer's memory alone, and its own count would put the schedule off."""
    scale = optax.scale_by_learning_rate(schedule)

    def update(updates, state, params=None, *, step=None, **_):
        return scale.update(updates, state if step is None else state._replace(count=step), params)

    return optax.GradientTransformationExtraArgs(scale.init, update)


def decayed(params: Any) -> Any:
    """Which leaves weight decay acts on, by name: a position or class embedding, the biases and masks of type
    spaces and word vectors have two axes or more and are no weights of a product."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim > 1 and path_name(path).split("/")[-1] in DECAYED, params
    )


def _scale_groups(groups: tuple) -> optax.GradientTransformation:
    def scale(updates, params=None):
        del params

        def one(path, update):
            name = path_name(path)
            factor = next((f for pattern, f in groups if re.match(pattern, name)), 1.0)
            return update * factor

        return jax.tree_util.tree_map_with_path(one, updates)

    return optax.stateless(scale)


def _check_patterns(config: ConfigDict, params: Any) -> None:
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for field, patterns in (
        ("frozen", config.get("frozen", ())),
        ("groups", [pattern for pattern, _ in config.get("groups", ())]),
    ):
        for pattern in patterns:
            if not any(re.match(pattern, name) for name in names):
                raise UserError(
                    f"config.optim.{field}: {pattern!r} matches no parameter; paths look like {names[0]}"
                )
