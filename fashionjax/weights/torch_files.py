"""Files written by torch.save → named tensors, without PyTorch.

Two formats: the zip archive (since PyTorch 1.6) and the stream (0.1.7 to 1.5). The pickled object goes
through `safe_pickle` with the table ALLOWED; it only describes strided views on storages, which are checked
against the storages before they are made.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fashionjax.weights import module_files, safe_pickle
from fashionjax.weights.checked_bytes import (
    BFLOAT16,
    SLACK,
    Archive,
    Refused,
    decode,
    is_count,
    itemsize,
    read_exactly,
    shaped,
)
from fashionjax.weights.safe_pickle import Global, PickleRefused, StandIn, dict_key
from fashionjax.weights.selection import Entry, choose_entry

PICKLE_LIMIT = (
    64 << 20
)  # bytes of pickle in one file; the pickle of a 1,000-tensor checkpoint has about 200 kB
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number 0x1950a86a20f9469cfc6c, pickled
LEGACY_PROTOCOL = 1001
STORAGES = {
    **{"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": BFLOAT16},
    **{"LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1"},
    **{"ByteStorage": "u1", "BoolStorage": "?"},
}


class _StorageRef(NamedTuple):
    """Numbers somewhere in the file: `count` items, of which a view takes `size` from `start`."""

    key: str
    kind: str
    count: int
    start: int
    size: int


class _Tensor(StandIn):
    def __init__(self, storage: _StorageRef, offset: int, size: tuple[int, ...], stride: tuple[int, ...]):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride


class _Parameter(StandIn):
    """A torch.nn.Parameter as torchvision's files of 2017 pickle it."""

    def __init__(self, data: Any = None, requires_grad: Any = True):
        self.tensor = data

    def set_state(self, state: Any) -> None:
        if type(state) is tuple and len(state) == 5:  # PyTorch 0.1: the data came with the state
            self.tensor = state[0]


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Tensor:
    del rest  # requires_grad, hooks, metadata
    if not isinstance(storage, _StorageRef):
        raise PickleRefused("a tensor without a storage")
    for name, numbers in (("size", size), ("stride", stride), ("offset", (offset,))):
        if type(numbers) is not tuple or not all(map(is_count, numbers)):
            raise PickleRefused(f"a tensor whose {name} is not made of counts")
    if len(size) != len(stride) or len(size) > 32:
        raise PickleRefused(f"a tensor with {len(size)} sizes and {len(stride)} strides")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(data: Any, requires_grad: Any, hooks: Any) -> Any:
    if not isinstance(data, _Tensor):
        raise PickleRefused("a parameter without a tensor")
    return data


def _ordered_dict(items: Any = ()) -> dict:
    if type(items) not in (list, tuple) or not all(type(i) in (list, tuple) and len(i) == 2 for i in items):
        raise PickleRefused("an ordered dict is not made of pairs")
    return {dict_key(key): value for key, value in items}


def _size(items: Any = ()) -> tuple:
    if type(items) not in (tuple, list):
        raise PickleRefused("a torch.Size is not made of numbers")
    return tuple(items)


def _default_dict(factory: Any = None) -> dict:
    """Its items follow; the factory, which is never called, is dropped."""
    del factory
    return {}


def _deque(items: Any = (), maxlen: Any = None) -> list:
    """Its items follow."""
    del items, maxlen
    return []


_DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_NUMPY_SCALARS = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)

# what stands beside the tensors (options, counts, dates, paths, arrays): none of it is needed, so none of it
# is made, not even a set, which a pickle could ask for again and again
_BESIDE = (
    *_NUMPY_SCALARS,
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
    "torch.device",
    *("argparse.Namespace", "types.SimpleNamespace", "collections.Counter"),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"pathlib.{kind}{name}" for kind in ("", "Pure") for name in ("PosixPath", "WindowsPath")),
    *(f"pathlib._local.{kind}{name}" for kind in ("", "Pure") for name in ("PosixPath", "WindowsPath")),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "frozenset")),
)
# classes that are named and never called: the factory of a defaultdict, the kind of an array
_NAMED = (
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("dict", "float", "int", "list")
    ),
    *("builtins.str", "__builtin__.unicode", "builtins.tuple", "__builtin__.tuple", "numpy.ndarray"),
)

# everything that a checkpoint's pickle may name
ALLOWED: dict[str, Global] = {
    "collections.OrderedDict": Global("collections.OrderedDict", _ordered_dict),
    "collections.defaultdict": Global("collections.defaultdict", _default_dict),
    "collections.deque": Global("collections.deque", _deque),
    "torch._utils._rebuild_tensor": Global("torch._utils._rebuild_tensor", _rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Global("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
    "torch._utils._rebuild_parameter": Global("torch._utils._rebuild_parameter", _rebuild_parameter),
    "torch.nn.parameter.Parameter": Global("torch.nn.parameter.Parameter", _Parameter),
    "torch.Size": Global("torch.Size", _size),
    **{f"torch.{name}": Global(f"torch.{name}") for name in STORAGES},
    **{f"torch.cuda.{name}": Global(f"torch.{name}") for name in STORAGES},
    **{f"torch.{name}": Global(f"torch.{name}") for name in _DTYPES},
    **{name: safe_pickle.inert(name) for name in _BESIDE},
    **{name: Global(name) for name in _NAMED},
}


class _Storages:
    """Collects the storages that a pickle refers to; one key has one type and one length."""

    def __init__(self):
        self.refs: dict[str, _StorageRef] = {}

    def refer(self, pid: Any) -> _StorageRef | Global:
        """('storage', type, key, location, count[, view]) → reference; view: None or (key, start, size).

        ('module', class, its file, its source) → the class, as PyTorch before 1.6 names those of modules.
        """
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], Global):
            return pid[1]
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            raise PickleRefused("a persistent id that is not a storage")
        _, storage_type, key, _, count, *view = pid
        kind = (
            STORAGES.get(storage_type.name.removeprefix("torch."))
            if isinstance(storage_type, Global)
            else None
        )
        if kind is None or not isinstance(key, str) or not is_count(count):
            raise PickleRefused("a storage id without type, key or length")
        whole = _StorageRef(key, kind, count, 0, count)
        if self.refs.setdefault(key, whole) != whole:
            raise PickleRefused(f"storage {key[:40]!r} is declared twice with different types or lengths")
        if not view or view[0] is None:
            return whole
        if type(view[0]) is not tuple or len(view[0]) != 3 or not all(map(is_count, view[0][1:])):
            raise PickleRefused("a storage view without start or length")
        _, start, size = view[0]
        if start + size > count:
            raise PickleRefused(f"a view beyond the end of storage {key[:40]!r}")
        return whole._replace(start=start, size=size)


def _tensors(mapping: dict) -> dict[Any, _Tensor]:
    """The tensors that a dict itself holds, parameters among them."""
    bare = {k: v.tensor if isinstance(v, _Parameter) else v for k, v in mapping.items()}
    return {k: v for k, v in bare.items() if isinstance(v, _Tensor)}


def _materialise(
    tensors: dict[str, _Tensor], storage_of: Callable[[_StorageRef], np.ndarray]
) -> dict[str, np.ndarray]:
    """Strided views on storages → arrays. Every view is checked against its storage before it is made."""
    cache: dict[str, np.ndarray] = {}
    copied, out = 0, {}
    for name, tensor in tensors.items():
        ref, count = tensor.storage, math.prod(tensor.size)
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.size, tensor.stride))
        if count and (last >= ref.size or count > ref.size):
            raise Refused(f"tensor {name[:80]!r} reaches beyond its storage of {ref.size:,} numbers")
        if ref.key not in cache:
            cache[ref.key] = storage_of(ref)
        numbers = cache[ref.key][ref.start : ref.start + ref.size]
        if count == 0:
            out[name] = shaped(numbers[:0], tensor.size, name)
            continue
        dense = np.cumprod((1, *tensor.size[:0:-1]), dtype=np.int64)[::-1]
        if all(n == 1 or s == d for n, s, d in zip(tensor.size, tensor.stride, dense)):
            array = numbers[tensor.offset : tensor.offset + count]
        else:
            strides = [s * numbers.itemsize if n > 1 else 0 for n, s in zip(tensor.size, tensor.stride)]
            view = np.lib.stride_tricks.as_strided(
                numbers[tensor.offset :], tensor.size, strides, writeable=False
            )
            copied += view.nbytes
            if copied > 4 * sum(a.nbytes for a in cache.values()) + SLACK:
                raise Refused("its tensors repeat the same numbers too often")
            array = np.ascontiguousarray(view)
        out[name] = shaped(array, tensor.size, name)
    return out


def read_zip(archive: Archive, root: str, wanted: str | None = None) -> Entry:
    """The state dict `wanted` of an archive (see `selection.choose_entry`), its tensors as arrays."""
    if f"{root}constants.pkl" in archive.entries:
        raise Refused("a TorchScript program, not a checkpoint: save its state_dict() instead")
    order = "<"
    if f"{root}byteorder" in archive.entries:
        text = archive.read(f"{root}byteorder", limit=16).tobytes()
        if text not in (b"little", b"big"):
            raise Refused("its byte order is neither little nor big")
        order = "<" if text == b"little" else ">"
    storages = _Storages()
    pickled = archive.read(f"{root}data.pkl", limit=PICKLE_LIMIT).tobytes()
    loaded = safe_pickle.load(pickled, module_files.Classes(ALLOWED), storages.refer)
    entry = choose_entry(module_files.state_dicts(loaded), _tensors, wanted)

    def storage_of(ref: _StorageRef) -> np.ndarray:
        name, item = f"{root}data/{ref.key}", itemsize(ref.kind)
        if name not in archive.entries:
            raise Refused(f"the archive lacks storage {ref.key[:40]!r}")
        held = archive.entries[name].file_size // item
        if held != ref.count:
            raise Refused(f"storage {ref.key[:40]!r} declares {ref.count:,} numbers and holds {held:,}")
        return decode(archive.read(name)[: ref.count * item], ref.kind, order)

    return entry._replace(tensors=_materialise(entry.tensors, storage_of))


def read_legacy(file: io.BufferedReader, size: int, wanted: str | None = None) -> Entry:
    """As `read_zip`, of the stream format: pickles of magic number, protocol, system, object, storage keys,
    and per key a count and the numbers."""
    head = io.BytesIO(file.read(PICKLE_LIMIT))
    storages = _Storages()
    safe_pickle.load(head, {})
    protocol = safe_pickle.load(head, {})
    if protocol != LEGACY_PROTOCOL or type(protocol) is not int:
        raise Refused(f"an unknown protocol of torch.save, expected {LEGACY_PROTOCOL}")
    safe_pickle.load(head, {})
    loaded = safe_pickle.load(head, module_files.Classes(ALLOWED), storages.refer)
    entry = choose_entry(module_files.state_dicts(loaded), _tensors, wanted)
    keys = safe_pickle.load(head, {})
    named = type(keys) is list and all(isinstance(key, str) for key in keys)
    if not named or len(keys) != len(storages.refs) or set(keys) != set(storages.refs):
        raise Refused("its list of storages does not match those that its tensors use")
    starts, position = {}, head.tell()
    for key in keys:
        ref = storages.refs[key]
        file.seek(position)
        counted = file.read(8)
        if len(counted) < 8 or struct.unpack("<q", counted)[0] != ref.count:
            raise Refused(
                f"storage {key[:40]!r} is not where it should be, or has another length than declared"
            )
        starts[key] = position + 8
        position += 8 + ref.count * itemsize(ref.kind)
        if position > size:
            raise Refused(f"storage {key[:40]!r} reaches beyond the end of the file")

    def storage_of(ref: _StorageRef) -> np.ndarray:
        file.seek(starts[ref.key])
        return decode(read_exactly(file, ref.count * itemsize(ref.kind)), ref.kind)

    return entry._replace(tensors=_materialise(entry.tensors, storage_of))
