"""Weight files written without PyTorch: pickle opcodes by hand, both formats of torch.save, honest or not."""

import struct
import zipfile
from pathlib import Path

import numpy as np

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}."
KINDS = {
    **{
        "float32": "FloatStorage",
        "float64": "DoubleStorage",
        "float16": "HalfStorage",
        "int64": "LongStorage",
    },
    **{"uint8": "ByteStorage", "bool": "BoolStorage", "int32": "IntStorage"},
}


# --- pieces of a pickle ---


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def glob(full: str) -> bytes:
    module, name = full.rsplit(".", 1)
    return f"c{module}\n{name}\n".encode()


def call(full: str, *args: bytes) -> bytes:
    return glob(full) + tuple_of(*args) + b"R"


def storage(key: str, kind: str, count: int, *view: bytes) -> bytes:
    pid = tuple_of(text("storage"), glob(f"torch.{kind}"), text(key), text("cpu"), number(count), *view)
    return pid + b"Q"


def tensor(stored: bytes, size: tuple, stride: tuple, offset: int = 0) -> bytes:
    shape = (tuple_of(*map(number, numbers)) for numbers in (size, stride))
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", stored, number(offset), *shape, b"\x89", hooks)


def mapping(items: dict[str, bytes]) -> bytes:
    return call("collections.OrderedDict") + b"(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def module(name: str, parameters: dict[str, bytes], buffers=(), modules=()) -> bytes:
    """An object of the class `name` as torch.save(model) pickles it, with PyTorch's own attributes."""
    state = {
        "training": b"\x89",
        "_parameters": mapping(parameters),
        "_buffers": mapping(dict(buffers)),
        "_non_persistent_buffers_set": glob("__builtin__.set") + tuple_of(b"]") + b"R",
        "_forward_hooks": mapping({}),
        "_modules": mapping(dict(modules)),
    }
    return glob(name) + b")\x81}(" + b"".join(text(k) + v for k, v in state.items()) + b"ub"


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def strides(shape: tuple) -> tuple:
    return tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))


def dense(key: str, array: np.ndarray, *view: bytes) -> bytes:
    return tensor(storage(key, KINDS[array.dtype.name], array.size, *view), array.shape, strides(array.shape))


# --- whole files ---


def zip_file(
    path: Path, value: bytes, data: dict[str, bytes], *, root="archive", mode=zipfile.ZIP_STORED
) -> Path:
    """A zip with `value` (an unfinished pickle) as data.pkl and raw storages."""
    with zipfile.ZipFile(path, "w", mode) as archive:
        archive.writestr(f"{root}/data.pkl", pickled(value))
        archive.writestr(f"{root}/byteorder", "little")
        for key, raw in data.items():
            archive.writestr(f"{root}/data/{key}", raw)
        archive.writestr(f"{root}/version", "3\n")
    return path


def legacy_file(path: Path, value: bytes, keys: list[str], data: list[tuple[int, bytes]]) -> Path:
    """A stream with `value` as its object; `data`: per key (declared count, raw numbers)."""
    listed = pickled(b"](" + b"".join(map(text, keys)) + b"e")
    raw = b"".join(struct.pack("<q", count) + numbers for count, numbers in data)
    path.write_bytes(MAGIC + PROTOCOL + SYSTEM + pickled(value) + listed + raw)
    return path


def save_zip(path: Path, arrays: dict[str, np.ndarray], wrap: str | None = None, **options) -> Path:
    """An honest zip checkpoint of `arrays`, wrapped under the key `wrap` if given."""
    value = mapping({name: dense(str(i), array) for i, (name, array) in enumerate(arrays.items())})
    value = mapping({wrap: value}) if wrap else value
    return zip_file(path, value, {str(i): a.tobytes() for i, a in enumerate(arrays.values())}, **options)


def save_legacy(path: Path, arrays: dict[str, np.ndarray], wrap: str | None = None) -> Path:
    """An honest stream checkpoint of `arrays`."""
    keys = [str(1000 + i) for i in range(len(arrays))]
    value = mapping({name: dense(k, array, b"N") for k, (name, array) in zip(keys, arrays.items())})
    value = mapping({wrap: value}) if wrap else value
    return legacy_file(path, value, keys, [(a.size, a.tobytes()) for a in arrays.values()])
