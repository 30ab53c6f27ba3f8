"""Plain pickles of numpy arrays, as detectron2's model zoo has them (`{"model": {name: array}, …}`) →
named tensors.

The pickle goes through `safe_pickle` with a table of the few names that an array is made of; arrays are
views on the bytes that stand in the file.
"""

from __future__ import annotations

import io
import math
import re
from typing import Any

import numpy as np

from fashionjax.weights import safe_pickle
from fashionjax.weights.checked_bytes import SLACK, Refused, is_count, shaped
from fashionjax.weights.safe_pickle import Global, PickleRefused, StandIn
from fashionjax.weights.selection import Entry, choose_entry
from fashionjax.weights.torch_files import ALLOWED as BESIDE

STARTS = tuple(bytes((0x80, protocol)) for protocol in (2, 3, 4, 5))
_KIND = re.compile(r"[<>|=]?([fiu][1248]|b1)")
_CORES = ("numpy.core", "numpy._core")  # numpy 1 and 2


class _DType(StandIn):
    def __init__(self, name: Any):
        if not isinstance(name, str) or not _KIND.fullmatch(name):
            raise PickleRefused(f"an array of {str(name)[:40]!r}, which are not numbers")
        self.dtype = np.dtype(name)

    def set_state(self, state: Any) -> None:
        """(version, byte order, …)"""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise PickleRefused("a dtype without a byte order")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(StandIn):
    """An array that is being described: shape, dtype, whether columns come first, the bytes."""

    def __init__(self):
        self.state: tuple = ()

    def set_state(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise PickleRefused("an array without shape, type and numbers")
        _, shape, dtype, fortran, raw = state
        self._describe(shape, dtype, fortran, raw)

    def _describe(self, shape: Any, dtype: Any, fortran: Any, raw: Any) -> None:
        if type(shape) is not tuple or len(shape) > 32 or not all(map(is_count, shape)):
            raise PickleRefused("an array whose shape is not made of counts")
        if not isinstance(dtype, _DType) or not isinstance(raw, (bytes, bytearray, str)):
            raise PickleRefused("an array that does not hold numbers")
        self.state = shape, dtype.dtype, bool(fortran), raw

    def materialise(self, name: str, spend) -> np.ndarray:
        if not self.state:
            raise Refused(f"array {name[:80]!r} is declared and has no numbers")
        shape, dtype, fortran, raw = self.state
        if isinstance(raw, str):  # Python 2 wrote bytes as text
            spend(len(raw))
            try:
                raw = raw.encode("latin-1")
            except UnicodeEncodeError as error:
                raise Refused(f"array {name[:80]!r} holds text, not numbers") from error
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise Refused(f"array {name[:80]!r} declares shape {shape} and has {len(raw):,} bytes")
        flat = np.frombuffer(raw, dtype)
        if not dtype.isnative:
            spend(flat.nbytes)
            flat = flat.astype(dtype.newbyteorder("="))
        array = shaped(flat, shape[::-1] if fortran else shape, name)
        return array.T if fortran else array


def read(file: io.BufferedReader, size: int, wanted: str | None = None) -> Entry:
    """The state dict `wanted` of a pickle (see `selection.choose_entry`), its arrays read-only."""
    budget = [2 * size + SLACK]  # bytes that may be copied: a pickle can refer to the same text many times

    def spend(count: int) -> None:
        budget[0] -= count
        if budget[0] < 0:
            raise PickleRefused("its arrays repeat the same numbers too often")

    def encode(text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise PickleRefused("bytes that are not written as Latin-1 text")
        spend(len(text))
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise PickleRefused("bytes that are not written as Latin-1 text") from error

    def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        array = _Array()
        array._describe(shape, dtype, order == "F", raw)
        return array

    allowed = BESIDE | {
        # protocol 2 has no other way to write no bytes
        **{f"{module}.bytes": Global("bytes", lambda: b"") for module in ("builtins", "__builtin__")},
        "_codecs.encode": Global("_codecs.encode", encode),
        "numpy.dtype": Global("numpy.dtype", lambda name, *flags: _DType(name)),
        **{
            f"{core}.multiarray._reconstruct": Global("_reconstruct", lambda *args: _Array())
            for core in _CORES
        },
        **{f"{core}.numeric._frombuffer": Global("_frombuffer", from_buffer) for core in _CORES},
    }
    loaded = safe_pickle.load(file, allowed)
    entry = choose_entry(
        loaded, lambda mapping: {k: v for k, v in mapping.items() if isinstance(v, _Array)}, wanted
    )
    return entry._replace(tensors={k: v.materialise(k, spend) for k, v in entry.tensors.items()})
