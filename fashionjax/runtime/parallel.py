"""The device mesh, how a per-device step is compiled over it, and moving batches to and from it.

Steps are written per device with explicit collectives over the axis `batch`. One function serves both
compilers: gradients are `pmean(grad(loss))`, which is right under `pmap` and under `shard_map` with
`check_vma=False` (with the default `check_vma=True` the same line is wrong by the device count).
State stays replicated without a leading device axis in both.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from absl import flags
from einops import rearrange
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fashionjax.errors import UserError
from fashionjax.task import AXIS

Mode = Literal["pmap", "shard_map"]
MODES = ("pmap", "shard_map")
GATHERED = 1 << 26  # bytes that `gather` has under way


def add_flags() -> None:
    """Flags of every command that runs on several hosts."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process, or auto on a cluster")
    flags.DEFINE_integer("process_count", None, "number of processes, with --coordinator=HOST:PORT")
    flags.DEFINE_integer("process_id", None, "this process, 0 …, with --coordinator=HOST:PORT")


def start() -> None:
    """Join the other hosts as the flags say and switch the compilation cache on; before JAX is used.

    "auto" takes coordinator and numbers from the cluster's environment (SLURM, TPU pods). Compiled programs
    are kept in $FASHIONJAX_CACHE, by default ~/.cache/fashionjax.
    """
    args = flags.FLAGS
    if args.coordinator == "auto":
        jax.distributed.initialize()
    elif args.coordinator:
        if args.process_count is None or args.process_id is None:
            raise UserError("--coordinator=HOST:PORT needs --process_count and --process_id as well")
        jax.distributed.initialize(args.coordinator, args.process_count, args.process_id)
    use_compilation_cache()


def use_compilation_cache() -> None:
    """Keep compiled programs in $FASHIONJAX_CACHE, by default ~/.cache/fashionjax."""
    folder = os.environ.get("FASHIONJAX_CACHE", str(Path.home() / ".cache" / "fashionjax"))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def this_process() -> tuple[int, int]:
    """(index, count) of the hosts."""
    return jax.process_index(), jax.process_count()


def make_mesh(devices: list | None = None) -> Mesh:
    """All devices on one axis named `batch`."""
    return Mesh(np.asarray(devices or jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    share = mesh.size * accumulate
    if batch_size < 1 or batch_size % share:
        raise UserError(
            f"config.batch_size={batch_size} does not divide over {mesh.size} devices × "
            f"{accumulate} accumulation steps; use a multiple of {share}"
        )


def compile_train_step(step: Callable, mode: Mode, mesh: Mesh) -> Callable:
    """(state, batch) → (state, scalars); state replicated and donated, batch split over the devices."""
    return _compile(step, mode, mesh, arguments=2, split_output=False)


def compile_predict_step(step: Callable, mode: Mode, mesh: Mesh) -> Callable:
    """(params, model_state, batch) → arrays [b …], split over the devices like the batch."""
    return _compile(step, mode, mesh, arguments=3, split_output=True)


def _compile(step: Callable, mode: Mode, mesh: Mesh, *, arguments: int, split_output: bool) -> Callable:
    donate = () if split_output else (0,)
    if mode == "pmap":
        in_axes = (None,) * (arguments - 1) + (0,)
        out_axes = 0 if split_output else (None, None)
        return jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=in_axes,
            out_axes=out_axes,
            donate_argnums=donate,
            devices=list(mesh.devices.flat) if jax.process_count() == 1 else None,
        )
    if mode != "shard_map":
        raise UserError(f"config.parallel={mode!r} is unknown; use one of {', '.join(MODES)}")
    in_specs = (P(),) * (arguments - 1) + (P(AXIS),)
    out_specs = P(AXIS) if split_output else (P(), P())
    mapped = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return jax.jit(mapped, donate_argnums=donate)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same values on every device of every host."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def to_global(tree: Any, mesh: Mesh) -> Any:
    """Replicated arrays as arrays of all hosts, which is what a checkpoint is written from: what pmap returns
    on several hosts knows this host's devices only."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.host_local_array_to_global_array(tree, mesh, P())


def put_batch(batch: dict[str, np.ndarray], mode: Mode, mesh: Mesh) -> dict[str, jax.Array]:
    """This host's share of a batch to its devices; images travel as uint8."""
    sharding = NamedSharding(mesh, P(AXIS))
    local_devices = len(mesh.local_devices)

    def put(array: np.ndarray) -> jax.Array:
        if mode == "pmap":
            array = rearrange(np.asarray(array), "(n b) ... -> n b ...", n=local_devices)
        return jax.make_array_from_process_local_data(sharding, np.asarray(array))

    return {name: put(array) for name, array in batch.items()}


def fetch(tree: dict[str, jax.Array], mode: Mode) -> dict[str, np.ndarray]:
    """Arrays that are split over the devices → numpy [b …] of this host's share of the batch."""
    if jax.process_count() > 1:
        return {name: _local(array, mode) for name, array in tree.items()}
    tree = jax.device_get(tree)
    if mode == "pmap":
        tree = {name: rearrange(array, "n b ... -> (n b) ...") for name, array in tree.items()}
    return tree


def _local(array: jax.Array, mode: Mode) -> np.ndarray:
    """The parts of an array on this host's devices, in order, as rows [b …]."""
    parts = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    rows = np.concatenate([np.asarray(part.data) for part in parts])
    return rearrange(rows, "n b ... -> (n b) ...") if mode == "pmap" else rows


def gather(value: Any) -> list[Any]:
    """What each host has, in the order of the hosts, on every host: arrays, lists, anything that pickles.

    A collective: call it at the same point everywhere. It travels as bytes, GATHERED at a time.
    """
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray(len(data))).reshape(-1).tolist()
    whole = [bytearray() for _ in lengths]
    for start in range(0, max(lengths), GATHERED):
        size = min(GATHERED, max(lengths) - start)
        chunk = np.zeros(size, np.uint8)
        own = data[start : start + size]
        chunk[: len(own)] = own
        for buffer, length, part in zip(
            whole, lengths, multihost_utils.process_allgather(chunk), strict=True
        ):
            buffer += part[: max(length - start, 0)].tobytes()
    return [pickle.loads(bytes(buffer)) for buffer in whole]


def gather_rows(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{name: array [n …]} of this host → the rows of all hosts, ordered by `index`, on every host. A
    collective."""
    if jax.process_count() == 1:
        return rows
    parts = [part for part in gather(rows) if part and len(part["index"])]
    if not parts:
        return {}
    order = np.argsort(np.concatenate([part["index"] for part in parts]), kind="stable")
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def prefetch(batches: Iterable[dict], put: Callable[[dict], Any], depth: int = 2) -> Iterator[tuple]:
    """(host batch, device batch), with `depth` transfers under way before the first is used."""
    waiting: list[tuple] = []
    for batch in batches:
        waiting.append((batch, put(batch)))
        if len(waiting) > depth:
            yield waiting.pop(0)
    yield from waiting


def any_host(flag: bool) -> bool:
    """True on every host when it is true on one. A collective: call it at the same step everywhere."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
