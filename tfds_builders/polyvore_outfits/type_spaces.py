"""`typespaces.p`: a pickled list of pairs of semantic types; the position in the list numbers the space.

Pickles can hold programs. Here every instruction is checked first: only those that build lists, tuples and
strings are let through, and none that would ask for more memory than the file has bytes; then an unpickler
that knows no names reads it. Protocols 0 to 4, of Python 2 and 3.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, NoReturn

from tfds_builders.release import ReleaseError, TextFile, open_text

SIZE_LIMIT = 1 << 20  # bytes; the original has about 2,000
PAIRS_LIMIT = 4096
_TEXT = {
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES"),
}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"}
_BUILD = {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module[:40]}.{name[:40]}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to objects outside of the pickle")


def read(text: TextFile) -> list[tuple[str, str]]:
    """The pairs in their order. ReleaseError for anything else than a list of pairs of names."""
    with open_text(text) as file:
        try:
            data = file.read(SIZE_LIMIT + 1)
        except Exception as error:  # a damaged archive shows as many types
            raise text.error(None, f"cannot be read ({error})") from error
    if len(data) > SIZE_LIMIT:
        raise text.error(None, f"larger than {SIZE_LIMIT:,} bytes; it must hold a list of pairs of types")
    try:
        _check_instructions(data)
        found = _Unpickler(io.BytesIO(data), encoding="utf-8").load()
    except ReleaseError as error:
        raise text.error(None, str(error)) from error
    except UnicodeDecodeError as error:
        raise text.error(None, f"holds text that is not UTF-8 ({error.reason})") from error
    except Exception as error:  # whatever damaged bytes make of an unpickler
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise text.error(None, f"a damaged pickle ({reason})") from error
    return _pairs(text, found)


def _check_instructions(data: bytes) -> None:
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            named = f" {argument.replace(' ', '.')[:80]!r}" if isinstance(argument, str) else ""
            raise ReleaseError(
                f"its pickle asks for the program{named} at byte {position}, which is never run"
            )
        if opcode.name in _MEMO:
            if not 0 <= int(argument) <= len(data):
                raise ReleaseError(f"a damaged pickle (memory place {argument} at byte {position})")
        elif opcode.name not in _TEXT | _BUILD:
            raise ReleaseError(
                f"its pickle has the instruction {opcode.name} at byte {position}; a list of pairs of names "
                "needs none but lists, tuples and strings"
            )


def _pairs(text: TextFile, found: Any) -> list[tuple[str, str]]:
    if type(found) is not list or not 1 <= len(found) <= PAIRS_LIMIT:
        raise text.error(None, f"holds no list of 1 to {PAIRS_LIMIT} pairs of types")
    pairs = []
    for position, pair in enumerate(found):
        if type(pair) not in (tuple, list) or len(pair) != 2:
            raise text.error(None, f"entry {position} is not a pair of type names")
        names = [_name(part) for part in pair]
        if None in names:
            raise text.error(None, f"entry {position} is not a pair of type names (printable UTF-8 text)")
        pairs.append((names[0], names[1]))
    first: dict[frozenset[str], int] = {}
    for position, pair in enumerate(pairs):
        before = first.setdefault(frozenset(pair), position)
        if before != position:
            raise text.error(
                None, f"entry {position} ({pair[0]}, {pair[1]}) is the pair of entry {before} again"
            )
    return pairs


def _name(part: Any) -> str | None:
    """Printable text, or the bytes that Python 2 wrote for text; None for all else."""
    if type(part) is bytes:
        try:
            part = part.decode()
        except UnicodeDecodeError:
            return None
    return part if type(part) is str and part.isprintable() and part.strip() == part != "" else None
