"""Weight files: what PyTorch wrote is read by value; what an attacker wrote is refused and never runs."""

import argparse
import collections
import datetime
import importlib.util
import io
import json
import os
import pickle
import struct
import tarfile
import types
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
from torch_writers import (
    MAGIC,
    PROTOCOL,
    SYSTEM,
    call,
    dense,
    glob,
    legacy_file,
    mapping,
    number,
    pickled,
    save_legacy,
    save_zip,
    storage,
    tensor,
    text,
    tuple_of,
    zip_file,
)

from fashionjax.errors import UserError
from fashionjax.weights import safe_pickle
from fashionjax.weights.files import WeightFileError, read_tensors

FIXTURES = Path(__file__).parents[1] / "fixtures" / "weights"
_spec = importlib.util.spec_from_file_location("make_fixtures", FIXTURES / "make_fixtures.py")
make_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_fixtures)


def assert_same(read: dict, wanted: dict) -> None:
    assert list(read) == list(wanted)
    for name, array in wanted.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(read[name], array, err_msg=name)


# --- files that PyTorch wrote ---


@pytest.mark.parametrize(
    "name", ["bare_zip", "bare_legacy", "module_zip", "module_legacy", "wrapped_zip", "wrapped_legacy"]
)
def test_reads_what_torch_wrote(name):
    assert_same(read_tensors(FIXTURES / f"{name}.pth"), make_fixtures.arrays())


@pytest.mark.parametrize("name", ["views_zip.pth", "views_legacy.pth", "views.npz"])
def test_strided_shared_and_bfloat16_views(name):
    with np.load(FIXTURES / "views.npz") as stored:
        assert_same(read_tensors(FIXTURES / name), dict(stored))


def test_views_are_values_not_windows():
    views = read_tensors(FIXTURES / "views_zip.pth")
    for array in views.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


BESIDE = {
    "args": argparse.Namespace(lr=0.1, layers=[1, 2], out=Path("runs")),
    "options": types.SimpleNamespace(a=1),
    "meters": collections.defaultdict(list, {"loss": [1.0, 2.0]}),
    "best": collections.defaultdict(float, {3: 0.5}),
    "seen": collections.Counter("abca"),
    "last": collections.deque([1, 2], maxlen=3),
    "classes": {"top", "skirt"},
    "fixed": frozenset([1, 2]),
    "paths": {PurePosixPath("a/b"), PureWindowsPath("c")},
    "started": datetime.datetime(2020, 5, 6, 12, tzinfo=datetime.UTC),
    "took": datetime.timedelta(hours=3),
    "by_day": {datetime.date(2020, 5, 6): 1},
    "curve": np.arange(4.0),
    "lr": np.float64(0.1),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("protocol", range(2, 5))  # torch.save writes 2
def test_what_stands_beside_the_tensors_does_not_matter(tmp_path, name, protocol):
    """Honest objects of the standard library become nothing, whatever protocol wrote them."""
    a = np.arange(3, dtype=np.float32)
    value = pickle.dumps(BESIDE[name], protocol)[:-1]  # without its stop
    frame = value.find(b"\x95")
    value = value[2:] if frame != 2 else value[11:]  # nor its start
    value = mapping({"state_dict": mapping({"w": dense("0", a)}), name: value})
    assert_same(read_tensors(zip_file(tmp_path / "w.pth", value, {"0": a.tobytes()})), {"w": a})


def test_deflated_archives_and_big_endian_numbers(tmp_path):
    arrays = {"w": np.arange(300, dtype=np.float32)}
    assert_same(read_tensors(save_zip(tmp_path / "a.pth", arrays, mode=zipfile.ZIP_DEFLATED)), arrays)
    path = tmp_path / "big.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled(mapping({"w": dense("0", arrays["w"])})))
        archive.writestr("x/byteorder", "big")
        archive.writestr("x/data/0", arrays["w"].astype(">f4").tobytes())
    assert_same(read_tensors(path), arrays)


def test_files_of_2017(tmp_path):
    """_rebuild_tensor without hooks, parameters as objects with a state, Python 2's byte strings."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)

    def string(value):  # Python 2's str
        return b"U" + bytes([len(value)]) + value.encode()

    pid = (
        tuple_of(string("storage"), glob("torch.FloatStorage"), string("7"), string("cpu"), number(6), b"N")
        + b"Q"
    )
    shape = (tuple_of(number(2), number(3)), tuple_of(number(3), number(1)))
    made = call("torch._utils._rebuild_tensor", pid, number(0), *shape)
    parameter = (
        glob("torch.nn.parameter.Parameter")
        + tuple_of(made)
        + b"\x81"
        + tuple_of(b"\x88", b"\x89", b"N")
        + b"b"
    )
    again = call("torch.nn.parameter.Parameter") + tuple_of(made, b"N", b"\x89", b"\x88", b"N") + b"b"
    pairs = [b"](" + string(name) + made + b"e" for name, made in (("a", parameter), ("b", again))]
    value = call("collections.OrderedDict", b"](" + b"".join(pairs) + b"e")
    path = legacy_file(tmp_path / "old.pth", value, ["7"], [(6, array.tobytes())])
    assert_same(read_tensors(path), {"a": array, "b": array})


def test_storage_views_of_the_stream_format(tmp_path):
    """Before PyTorch 1.6 a storage could be a view on another one: (key, start, size)."""
    root = np.arange(10, dtype=np.float32)
    view = tuple_of(text("5-4"), number(4), number(3))
    value = mapping({"v": tensor(storage("5", "FloatStorage", 10, view), (2,), (1,), offset=1)})
    path = legacy_file(tmp_path / "v.pth", value, ["5"], [(10, root.tobytes())])
    assert_same(read_tensors(path), {"v": root[5:7]})


def test_safetensors(tmp_path):
    from safetensors.numpy import save_file

    arrays = make_fixtures.arrays()
    save_file(arrays, tmp_path / "w.safetensors", metadata={"format": "pt"})
    read = read_tensors(tmp_path / "w.safetensors")
    assert_same({k: read[k] for k in arrays}, arrays)
    assert len(read) == len(arrays)
    path = safetensors_file(
        tmp_path / "b.safetensors", {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    )
    path.write_bytes(path.read_bytes()[:-4] + b"\x80\x3f\x20\xc0")  # 1.0 and -2.5
    np.testing.assert_array_equal(read_tensors(path)["x"], np.array([1.0, -2.5], np.float32))


def test_npz_orders(tmp_path):
    arrays = {
        "a/kernel": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    }
    np.savez(tmp_path / "w.npz", **arrays)
    assert_same(read_tensors(tmp_path / "w.npz"), arrays)
    np.savez_compressed(tmp_path / "c.npz", **arrays)
    assert_same(read_tensors(tmp_path / "c.npz"), arrays)


# --- hostile files: each tries to run code, to read what is not there, or to exhaust the host ---

A = np.arange(4, dtype=np.float32)
HONEST = dense("0", A)
RAW = {"0": A.tobytes()}


def with_value(value):
    return lambda path, canary: zip_file(path, mapping({"w": HONEST, "x": value}), RAW)


def with_tensor(*args, **options):
    return lambda path, canary: zip_file(path, mapping({"w": tensor(*args, **options)}), RAW)


def as_bytes(raw):
    return lambda path, canary: path.write_bytes(raw)


def running(full, *args):
    """Both formats would run full(*args); the text 'CANARY' becomes the path of the canary."""

    def write(path, canary):
        encoded = (text(a.replace("CANARY", str(canary))) if isinstance(a, str) else a for a in args)
        zip_file(path, mapping({"w": HONEST, "x": call(full, *encoded)}), RAW)

    return write


def reduced(path, canary):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    path.write_bytes(MAGIC + PROTOCOL + SYSTEM + pickle.dumps({"w": Payload()}, 2))


def in_system_info(path, canary):
    run = pickled(call("os.system", text(f"touch {canary}")))
    path.write_bytes(MAGIC + PROTOCOL + run + pickled(mapping({"w": HONEST})))


def in_storage_keys(path, canary):
    run = pickled(call("posix.system", text(f"touch {canary}")))
    path.write_bytes(MAGIC + PROTOCOL + SYSTEM + pickled(mapping({"w": HONEST})) + run)


def persistent_code(path, canary):
    run = call("os.system", text(f"touch {canary}"))
    pid = tuple_of(text("storage"), run, text("0"), text("cpu"), number(4)) + b"Q"
    zip_file(path, mapping({"w": tensor(pid, (4,), (1,))}), RAW)


def instance_opcode(path, canary):
    zip_file(path, mapping({"w": HONEST, "x": b"(" + text(f"touch {canary}") + b"ios\nsystem\n"}), RAW)


def stack_global(path, canary):
    run = text("os") + text("system") + b"\x93" + tuple_of(text(f"touch {canary}")) + b"R"
    zip_file(path, mapping({"w": HONEST, "x": run}), RAW)


def build_on_global(path, canary):
    state = b"}" + text("call") + glob("torch.Size") + b"s"
    zip_file(path, mapping({"w": HONEST, "x": glob("torch.Size") + state + b"b"}), RAW)


def zip_entries(entries, mode=zipfile.ZIP_STORED):
    def write(path, canary):
        with zipfile.ZipFile(path, "w", mode) as archive:
            for name, raw in entries:
                archive.writestr(name, raw)

    return write


def overlapping_entries(path, canary):
    """Two directory entries that share the bytes of one: the quine zip bomb."""
    zip_file(path, mapping({"w": HONEST, "v": dense("1", A)}), {"0": A.tobytes(), "1": A.tobytes()})
    raw = bytearray(path.read_bytes())
    entries = zipfile.ZipFile(path).infolist()
    first, second = (next(e for e in entries if e.filename.endswith(f"data/{k}")) for k in "01")
    directory = raw.index(b"PK\x01\x02")
    at = raw.index(struct.pack("<I", second.header_offset) + second.filename.encode(), directory)
    raw[at : at + 4] = struct.pack("<I", first.header_offset)
    path.write_bytes(raw)


def two_entries(path, canary):
    """Two storages of one name: readers that take the first and readers that take the last would differ."""
    zip_file(path, mapping({"w": HONEST, "v": dense("1", A)}), {"0": A.tobytes(), "1": A.tobytes()})
    path.write_bytes(path.read_bytes().replace(b"archive/data/1", b"archive/data/0"))


def lying_sizes(path, canary):
    """An archive whose directory declares 2 GB for a storage of 16 bytes."""
    zip_file(path, mapping({"w": dense("0", A)}), RAW, mode=zipfile.ZIP_DEFLATED)
    raw = bytearray(path.read_bytes())
    name = b"archive/data/0"
    at = raw.index(name, raw.index(b"PK\x01\x02")) - 46
    raw[at + 24 : at + 28] = struct.pack("<I", 1 << 31)
    path.write_bytes(raw)


def safetensors_file(path, header, body=None):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = max((e["data_offsets"][1] for e in header.values()), default=0) if isinstance(header, dict) else 0
    body = b"\x00" * min(size, 64) if body is None else body
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
    return path


def lying_safetensors(header, body=None):
    return lambda path, canary: safetensors_file(path, header, body)


def entry(shape=(4,), start=0, stop=16, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def npz(**arrays):
    return lambda path, canary: np.savez(path, **arrays)


class Runs:
    """numpy pickles arrays of objects; unpickling this one would create the canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def object_npz(path, canary):
    np.savez(path, w=np.array([Runs(canary)], dtype=object))


def huge_npy(path, canary):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    zip_entries([("w.npy", raw)])(path, canary)


def old_tar(path, canary):
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("pickle")
        archive.addfile(member, io.BytesIO(b""))


def short_stream(cut):
    def write(path, canary):
        path.write_bytes(save_legacy(path, {"w": A}).read_bytes()[:cut])

    return write


def stream(value, keys, data):
    return lambda path, canary: legacy_file(path, value, keys, data)


STORED = storage("0", "FloatStorage", 4)
HOSTILE = {
    # code
    "os.system": (running("os.system", "touch CANARY"), "os.system"),
    "posix.system": (running("posix.system", "touch CANARY"), "posix.system"),
    "eval": (running("builtins.eval", "open('CANARY', 'w')"), "builtins.eval"),
    "python 2 eval": (running("__builtin__.eval", "open('CANARY', 'w')"), "__builtin__.eval"),
    "exec": (running("builtins.exec", "open('CANARY', 'w')"), "builtins.exec"),
    "getattr": (running("builtins.getattr", glob("torch.Size"), "__class__"), "builtins.getattr"),
    "importlib": (running("importlib.import_module", "antigravity"), "importlib.import_module"),
    "subprocess": (running("subprocess.check_output", "touch CANARY"), "subprocess.check_output"),
    "numpy exec": (
        running("numpy.testing._private.utils.runstring", "open('CANARY','w')", b"}"),
        "numpy.testing",
    ),
    "torch load": (running("torch.load", "CANARY"), "torch.load"),
    "nested global": (with_value(glob("torch.serialization.os.system")), "torch.serialization.os.system"),
    "dotted attribute": (with_value(text("torch") + text("Size.__new__") + b"\x93"), "torch.Size.__new__"),
    "reduce of an object": (reduced, "posix.system"),
    "in the system pickle": (in_system_info, "os.system"),
    "in the key pickle": (in_storage_keys, "posix.system"),
    "in a persistent id": (persistent_code, "os.system"),
    "instance opcode": (instance_opcode, "os.system"),
    "stack global": (stack_global, "os.system"),
    "state of a global": (build_on_global, "state of a Global"),
    "extension registry": (with_value(b"\x82\x01"), "EXT1"),
    "calling data": (with_value(text("x") + tuple_of() + b"R"), "calls a str"),
    "state of an inert object": (
        with_value(call("argparse.Namespace") + b"}" + text("x") + glob("os.system") + b"sb"),
        "os.system",
    ),
    "factory of a defaultdict": (running("collections.defaultdict", glob("posix.system")), "posix.system"),
    "calling a factory": (running("builtins.list", "x"), "calls builtins.list"),
    "setting items of an inert object": (
        with_value(call("collections.Counter") + text("x") + b"Ns"),
        "expected a dict",
    ),
    "calling a storage type": (with_value(call("torch.FloatStorage")), "calls torch.FloatStorage"),
    "argument flood": (with_value(call("torch.Size", *[b"N"] * 50)), "arguments of torch.Size"),
    # persistent ids
    "persistent text": (with_value(text("storage") + b"Q"), "persistent id"),
    "persistent path": (with_value(b"P/etc/passwd\n"), "persistent id"),
    "other persistent id": (with_value(tuple_of(text("module"), *[text("os")] * 4) + b"Q"), "persistent id"),
    "storage outside of the archive": (
        with_tensor(storage("../../../../etc/passwd", "FloatStorage", 4), (4,), (1,)),
        "lacks storage",
    ),
    # storages and views
    "missing storage": (with_tensor(storage("9", "FloatStorage", 4), (4,), (1,)), "lacks storage"),
    "huge storage": (with_tensor(storage("0", "FloatStorage", 1 << 50), (4,), (1,)), "declares 1,1"),
    "negative storage": (
        with_tensor(storage("0", "FloatStorage", -4), (4,), (1,)),
        "without type, key or length",
    ),
    "storage of two types": (
        lambda path, canary: zip_file(
            path, mapping({"w": HONEST, "v": tensor(storage("0", "IntStorage", 4), (4,), (1,))}), RAW
        ),
        "declared twice",
    ),
    "view too long": (with_tensor(STORED, (5,), (1,)), "beyond its storage"),
    "offset out of range": (with_tensor(STORED, (2,), (1,), offset=3), "beyond its storage"),
    "huge offset": (with_tensor(STORED, (1,), (1,), offset=1 << 61), "beyond its storage"),
    "negative offset": (with_tensor(STORED, (2,), (1,), offset=-1), "offset"),
    "negative stride": (with_tensor(STORED, (2,), (-1,), offset=3), "stride"),
    "huge stride": (with_tensor(STORED, (2,), (1 << 61,)), "beyond its storage"),
    "negative size": (with_tensor(STORED, (-1, -4), (1, 1)), "size"),
    "expanded to terabytes": (with_tensor(STORED, (1 << 20, 1 << 20), (0, 0)), "beyond its storage"),
    "product that overflows": (with_tensor(STORED, (1 << 32, 1 << 32), (0, 0)), "beyond its storage"),
    "impossible empty": (with_tensor(STORED, (0, 1 << 61, 1 << 61), (1, 1, 1)), "impossible shape"),
    "sizes and strides differ": (with_tensor(STORED, (2, 2), (1,)), "2 sizes and 1 strides"),
    "a thousand axes": (with_tensor(STORED, (1,) * 1000, (1,) * 1000), "1000 sizes"),
    "size of text": (
        with_value(
            call(
                "torch._utils._rebuild_tensor_v2", STORED, number(0), tuple_of(text("4")), tuple_of(number(1))
            )
        ),
        "size",
    ),
    "tensor without storage": (
        with_value(call("torch._utils._rebuild_tensor_v2", b"N", number(0), tuple_of(), tuple_of())),
        "without a storage",
    ),
    # opcode bombs
    "instruction bomb": (with_value(b"N0" * 600_000 + b"N"), "more than"),
    "stack bomb": (with_value(b"2" * 1_100_000), "more than"),
    "memo never stored": (with_value(b"j\xff\xff\xff\x7f"), "never stored"),
    "deep tuple as a key": (with_value(b"})" + b"\x85" * 200_000 + b"Ns"), "dict key"),
    "list as a key": (with_value(b"}]Ns"), "dict key"),
    "huge text": (
        as_bytes(MAGIC + PROTOCOL + SYSTEM + b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f" + b"x"),
        "damaged",
    ),
    "integer of a million digits": (with_value(b"I" + b"9" * 1_000_000 + b"\n"), "damaged"),
    "no stop": (as_bytes(MAGIC + PROTOCOL + SYSTEM + b"\x80\x02}"), "damaged"),
    "mark missing": (with_value(b"t"), "refused"),
    "self as item": (with_value(b"}q\x01h\x01h\x01s"), "dict key"),
    # archives
    "path traversal": (
        zip_entries([("a/data.pkl", pickled(mapping({}))), ("../../evil", b"")]),
        "outside of itself",
    ),
    "absolute path": (zip_entries([("a/data.pkl", b""), ("/etc/cron.d/evil", b"")]), "outside of itself"),
    "zip bomb": (
        zip_entries([("a/data.pkl", b""), ("a/data/0", b"\x00" * (40 << 20))], zipfile.ZIP_DEFLATED),
        "zip bomb",
    ),
    "pickle bomb": (
        zip_entries(
            [("a/data.pkl", b"N" * (65 << 20)), ("a/data/0", np.random.default_rng(0).bytes(4 << 20))],
            zipfile.ZIP_DEFLATED,
        ),
        "at most",
    ),
    "entries overlap": (overlapping_entries, "overlap"),
    "two entries of one name": (two_entries, "two entries"),
    "lying sizes": (lying_sizes, "zip bomb"),
    "two pickles": (zip_entries([("a/data.pkl", b""), ("b/data.pkl", b"")]), "no data.pkl"),
    "no pickle": (zip_entries([("a/readme", b"")]), "no data.pkl"),
    "TorchScript": (zip_entries([("a/data.pkl", b""), ("a/constants.pkl", b"")]), "TorchScript"),
    "torn archive": (as_bytes(b"PK\x03\x04" + b"\x00" * 100), "damaged zip"),
    "unknown compression": (zip_entries([("a/data.pkl", b"x")], zipfile.ZIP_LZMA), "method 14"),
    # streams
    "no stream": (as_bytes(MAGIC), "damaged"),
    "other protocol": (as_bytes(MAGIC + b"\x80\x02M\xe8\x03."), "unknown protocol"),
    "stream cut in the pickle": (short_stream(200), "damaged"),
    "stream cut in the numbers": (short_stream(-1), "beyond the end"),
    "stream cut in a count": (short_stream(-17), "where it should be"),
    "stream with another count": (
        stream(mapping({"w": dense("0", A, b"N")}), ["0"], [(1 << 40, A.tobytes())]),
        "another length",
    ),
    "stream of terabytes": (
        stream(
            mapping({"w": tensor(storage("0", "FloatStorage", 1 << 40, b"N"), (4,), (1,))}),
            ["0"],
            [(1 << 40, A.tobytes())],
        ),
        "beyond the end",
    ),
    "storage list differs": (
        stream(mapping({"w": dense("0", A, b"N")}), ["1"], [(4, A.tobytes())]),
        "list of storages",
    ),
    "view beyond its root": (
        stream(
            mapping(
                {
                    "w": tensor(
                        storage("0", "FloatStorage", 4, tuple_of(text("v"), number(3), number(2))), (2,), (1,)
                    )
                }
            ),
            ["0"],
            [(4, A.tobytes())],
        ),
        "beyond the end of storage",
    ),
    "old tar": (old_tar, "tar archive"),
    # safetensors
    "lying header length": (as_bytes(struct.pack("<Q", 1 << 60) + b"{}"), "header declares"),
    "header beyond the file": (as_bytes(struct.pack("<Q", 100) + b"{}"), "header declares"),
    "header that is no JSON": (lying_safetensors(b"{" * 20), "JSON"),
    "header that nests": (lying_safetensors(b'{"a":' * 100_000), "JSON"),
    "name twice": (lying_safetensors(b'{"a": {}, "a": {}}'), "twice"),
    "offsets overlap": (lying_safetensors({"a": entry(), "b": entry(start=8, stop=24)}), "overlaps"),
    "hole": (lying_safetensors({"a": entry(), "b": entry(start=20, stop=36)}), "hole"),
    "tail": (lying_safetensors({"a": entry()}, b"\x00" * 20), "declare 16"),
    "offsets beyond the file": (lying_safetensors({"a": entry((1 << 40,), 0, 1 << 42)}), "declare"),
    "shape and offsets differ": (lying_safetensors({"a": entry((5,))}), "do not fit"),
    "negative shape": (lying_safetensors({"a": entry((-2, -2))}), "not counts"),
    "fractional shape": (lying_safetensors({"a": entry((4.0,))}), "not counts"),
    "unknown dtype": (lying_safetensors({"a": entry(dtype="F8_E4M3", stop=4)}), "dtype"),
    # npz
    "object array": (object_npz, "pickled objects"),
    "text array": (npz(w=np.array(["a"])), "not numbers"),
    "record array": (npz(w=np.zeros(2, [("a", "f4")])), "not numbers"),
    "huge npy": (huge_npy, "declares shape"),
    "npy without a header": (zip_entries([("w.npy", b"\x93NUMPY")]), "damaged header"),
    "npy of code": (
        zip_entries([("w.npy", b"\x93NUMPY\x01\x00\x10\x00__import__('os') ")]),
        "damaged header",
    ),
    # not weights
    "empty": (as_bytes(b""), "empty file"),
    "plain pickle": (as_bytes(pickle.dumps({"a": 1})), "holds no tensors"),
    "HDF5": (as_bytes(b"\x89HDF\r\n\x1a\n" + b"\x00" * 64), "HDF5"),
    "a photo": (as_bytes(b"\xff\xd8\xff\xe0" + b"\x00" * 600), "unknown first bytes"),
    "no tensors": (lambda path, canary: zip_file(path, mapping({"epoch": number(3)}), {}), "no tensors"),
    "a list": (lambda path, canary: zip_file(path, b"]", {}), "holds a list"),
    "numbered tensors": (
        lambda path, canary: zip_file(path, b"}" + number(1) + HONEST + b"s", RAW),
        "by int 1",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_nothing_runs(tmp_path, name):
    write, reason = HOSTILE[name]
    path, canary = tmp_path / "weights.npz", tmp_path / "canary"
    write(path, canary)
    with pytest.raises(WeightFileError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert not canary.exists()
    assert reason in message, message
    assert str(path) in message and "\n" not in message and len(message) < 400
    assert isinstance(caught.value, UserError)


def test_the_canary_would_have_died(tmp_path):
    """The same payload kills the canary under Python's own unpickler, so the corpus is live."""
    canary = tmp_path / "canary"
    pickle.loads(pickled(call("os.system", text(f"touch {canary}"))))
    assert canary.exists()


@pytest.mark.parametrize("name", ["bare_zip.pth", "wrapped_legacy.pth", "views_legacy.pth", "views.npz"])
def test_damaged_bytes_give_values_or_typed_errors(tmp_path, name):
    """Cut and flipped copies of honest files: an error is always typed, never anything else."""
    raw = (FIXTURES / name).read_bytes()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    path, refused = tmp_path / "x", 0
    for trial in range(120):
        damaged = bytearray(raw)
        if trial % 4 == 0:
            damaged = damaged[: rng.integers(len(raw))]
        else:
            for at in rng.integers(0, len(raw), 1 + trial % 3):
                damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except WeightFileError:
            refused += 1
    assert refused > 20


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(WeightFileError, match="no such file"):
            read_tensors(path)


def test_sets_asked_for_again_and_again_cost_nothing(tmp_path):
    """A long list once, and a set of it 20,000 times, would be hours of work."""
    items = b"](" + b"N" * 100_000 + b"eq\x01"
    again = (glob("builtins.set") + b"h\x01\x85R0") * 20_000
    zip_file(tmp_path / "w.pth", mapping({"w": HONEST, "x": items + again}), RAW)
    assert list(read_tensors(tmp_path / "w.pth")) == ["w"]


@pytest.mark.parametrize("protocol", range(6))
def test_safe_pickle_agrees_with_pickle(protocol):
    value = {
        "a": [1, -(2**70), 1.5, None, True],
        b"b": (("x",), {"y": set("pq")}, "é", ()),
        (1, "k"): [[]],
        7: 2**40,
    }
    value = value | {"same": value["a"]}
    if protocol < 4:  # bytes and sets are globals there
        value = {k: v for k, v in value.items() if k not in (b"b",)}
    assert safe_pickle.load(pickle.dumps(value, protocol), {}) == value
