"""Keras's .h5 files → tensors by layer, through h5py: no TensorFlow, nothing is executed.

Two layouts. Until Keras 2, and where Keras 3 saves a whole model as .h5: a group per layer, at the root of a
file of weights or under `model_weights` of a whole model, whose attribute `weight_names` orders its arrays.
Keras 3's .weights.h5: groups `vars` with arrays 0, 1, …, whose attribute `name` is the layer's.
Tensors are called layer/kernel, layer/bias, layer/gamma, … whatever else the names of the variables carry.

A file may not name places outside of itself (links, external storage, virtual datasets), use filters beyond
those of HDF5 itself, or unpack to much more than it has.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping

import h5py
import numpy as np

from fashionjax.weights.checked_bytes import INFLATION_LIMIT, SLACK, Refused, shaped

MODEL = "model_weights"
OPTIMISER = ("optimizer_weights", "optimizer")  # of a training run, not read
DEPTH = 32  # groups inside groups
OBJECTS = 100_000  # groups, arrays and names that a file may have
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
NORM = ("gamma", "beta", "moving_mean", "moving_variance")
KNOWN = ("kernel", "bias", *NORM)


def read(file: io.BufferedReader, size: int) -> dict[str, np.ndarray]:
    """The tensors {layer/kernel: array} of a file of `size` bytes, read-only. Raises Refused."""
    try:
        with h5py.File(file, "r") as root:
            names = _names(root)
            _check_total(names.values(), size)
            return {name: _array(dataset, name) for name, dataset in names.items()}
    except Refused:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise Refused(f"a damaged HDF5 file ({' '.join(str(error).split())[:120]})") from error


def _names(root: h5py.Group) -> dict[str, h5py.Dataset]:
    """Every array of the model by its name."""
    found = dict(_walk(root))
    if MODEL in root and isinstance(root.get(MODEL, getlink=True), h5py.HardLink):
        inside = f"{MODEL}/"
        found = {
            path.removeprefix(inside): dataset for path, dataset in found.items() if path.startswith(inside)
        }
        root = root[MODEL]
    found = {path: dataset for path, dataset in found.items() if path.split("/")[0] not in OPTIMISER}
    if not found:
        raise Refused("an HDF5 file without weights")
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
        named = _by_layer(root, found)
    else:
        named = _by_variables(root, found)
    several = [name for name, count in Counter(named.values()).items() if count > 1]
    return {path if name in several else name: found[path] for path, name in named.items()}


def _walk(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """(path, array) of all arrays that the group itself holds, in the order of the file."""
    waiting, seen = [("", group, 0)], 0
    while waiting:
        path, group, depth = waiting.pop()
        if depth > DEPTH:
            raise Refused(f"groups nested deeper than {DEPTH}: {path[:80]!r}")
        inner = []
        for name in group:
            seen += 1
            if seen > OBJECTS:
                raise Refused(f"holds more than {OBJECTS:,} objects")
            here = f"{path}/{name}".lstrip("/")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise Refused(f"{here[:80]!r} is a link, perhaps to another file")
            child = group[name]
            if isinstance(child, h5py.Group):
                inner.append((here, child, depth + 1))
            elif isinstance(child, h5py.Dataset):
                yield here, child
        waiting += reversed(inner)


def _strings(attributes: h5py.AttributeManager, name: str) -> list[str]:
    """A list of names; Keras cuts one that is longer than an attribute may be into name0, name1, …."""
    parts = [name] if name in attributes else []
    while not parts or (parts[0] != name and f"{name}{len(parts)}" in attributes):
        parts.append(f"{name}{len(parts)}")
        if parts[0] not in attributes:
            raise Refused(f"its attribute {name!r} is missing")
    found = []
    for part in parts:
        if math.prod(attributes.get_id(part).shape) + len(found) > OBJECTS:
            raise Refused(f"its attribute {part!r} has more than {OBJECTS:,} names")
        found += [_text(value) for value in np.atleast_1d(attributes[part])]
    return found


def _text(value) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise Refused(f"an attribute holds {type(value).__name__}, not a name")
    return value


def _by_layer(root: h5py.Group, found: Mapping[str, h5py.Dataset]) -> dict[str, str]:
    """{path: layer/part} in the order of `layer_names` and `weight_names`; what these do not name keeps its
    path."""
    named: dict[str, str] = {}
    for layer in _strings(root.attrs, "layer_names"):
        if not any(path.startswith(f"{layer}/") for path in found) and layer not in root:
            raise Refused(f"its layer {layer[:80]!r} is missing")
        weights = _strings(root[layer].attrs, "weight_names")
        paths = [f"{layer}/{weight}" for weight in weights]
        for path in paths:
            if path not in found or path in named:
                raise Refused(f"its weight {path[:80]!r} is missing or named twice")
        # a model inside the model has the weights of several layers
        outer = [weight.rpartition("/")[0].rpartition("/")[2] for weight in weights]
        for owner in dict.fromkeys(outer):
            own = [path for path, name in zip(paths, outer, strict=True) if name == owner]
            last = [path.rpartition("/")[2].partition(":")[0] for path in own]
            known = len(set(last)) == len(last) and set(last) <= set(KNOWN)
            parts = last if known else _parts([found[path].shape for path in own])
            stem = layer if len(set(outer)) == 1 else owner
            named |= {path: f"{stem}/{part}" for path, part in zip(own, parts, strict=True)}
    return named | {path: path for path in found if path not in named}


def _by_variables(root: h5py.Group, found: Mapping[str, h5py.Dataset]) -> dict[str, str]:
    """{path: layer/part} of Keras 3's `vars`; other arrays keep their path."""
    groups: dict[str, list[str]] = {}
    for path in found:
        groups.setdefault(path.rpartition("/")[0], []).append(path)
    named = {}
    for group, paths in groups.items():
        paths = sorted(paths, key=lambda path: (len(path), path))  # 2 before 10
        is_layer = group.rpartition("/")[2] == "vars" and "name" in root[group].attrs
        if not is_layer:
            named |= {path: path for path in paths}
            continue
        layer, parts = _text(root[group].attrs["name"]), _parts([found[path].shape for path in paths])
        named |= {path: f"{layer}/{part}" for path, part in zip(paths, parts, strict=True)}
    return named


def _parts(shapes: list[tuple[int, ...]]) -> list[str]:
    """A layer's arrays by their order: kernel and bias, those of a normalisation, else numbers."""
    if len(shapes) == len(NORM) and len(set(shapes)) == 1 and len(shapes[0]) == 1:
        return list(NORM)
    if len(shapes) <= 2 and shapes and len(shapes[0]) > 1:
        return ["kernel", "bias"][: len(shapes)]
    return [str(number) for number in range(len(shapes))]


def _check_total(datasets, size: int) -> None:
    declared = sum(math.prod(dataset.shape or ()) * dataset.dtype.itemsize for dataset in datasets)
    if declared > INFLATION_LIMIT * size + SLACK:
        raise Refused(f"its arrays declare {declared:,} bytes, the file has {size:,}")


def _array(dataset: h5py.Dataset, name: str) -> np.ndarray:
    made, label = dataset.id.get_create_plist(), name[:80]
    if made.get_layout() not in LAYOUTS or made.get_external_count():
        raise Refused(f"array {label!r} is stored outside of the file")
    codes = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    if unknown := [code for code in codes if code not in FILTERS]:
        raise Refused(f"array {label!r} is packed by filter {unknown[0]}, expected deflate, shuffle or none")
    dtype = dataset.dtype
    if dataset.shape is None or dtype.kind not in "fiub" or dtype.itemsize > 8 or dtype.subdtype:
        raise Refused(f"array {label!r} holds {dtype}, not numbers")
    declared = math.prod(dataset.shape) * dtype.itemsize
    stored = dataset.id.get_storage_size()
    chunk = math.prod(dataset.chunks or ()) * dtype.itemsize
    if (not codes and stored < declared) or max(declared, chunk) > INFLATION_LIMIT * stored + SLACK:
        raise Refused(f"array {label!r} declares {declared:,} bytes, {stored:,} are stored")
    array = dataset[()]
    return shaped(np.asarray(array, dtype.newbyteorder("=")), dataset.shape, name)
