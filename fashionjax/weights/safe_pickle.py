"""Untrusted pickles, read as data.

Python's own unpickler runs whatever a file asks for. This is a small machine over the opcode parser of the
standard library (`pickletools.genops`, which only parses): it builds numbers, text, tuples, lists, sets and
dicts, and a global is one of the functions that the caller put into a table. Nothing is imported, no
attribute is looked up or set, and every other global is refused by name. Work and memory are bounded by the
bytes given and by `MAX_OPCODES`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

MAX_OPCODES = 1_000_000  # a checkpoint of 1,000 tensors with its optimizer state has about 100,000


class PickleRefused(ValueError):
    """The pickle is damaged, or asks for something that data does not need."""


class Global(NamedTuple):
    """A name that a pickle may mention; `call` (*args) → data, None where it is held but never called."""

    name: str
    call: Callable[..., Any] | None = None


class StandIn:
    """What a global's `call` returns in place of an object of a class. A state that the pickle sets is
    dropped, unless a subclass knows what the state of its object means."""

    def set_state(self, state: Any) -> None:
        del state


def inert(name: str) -> Global:
    """A global of objects that no tensor needs: an empty stand-in, whatever the arguments."""
    return Global(name, lambda *args: StandIn())


_MARK = object()
_SCALARS = (str, bytes, int, float, bool, type(None))
_PUSH = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_GET = {"GET", "BINGET", "LONG_BINGET"}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    def __init__(self, allowed: Mapping[str, Global], persistent: Callable[[Any], Any] | None):
        self.allowed, self.persistent = allowed, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleRefused("a value is missing before a mark")
        return value

    def pop_to_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                items = self.stack[start + 1 :]
                del self.stack[start:]
                return items
        raise PickleRefused("a mark is missing")

    def top(self, kind: type) -> Any:
        """The container on top of the stack, itself and not a copy."""
        value = self.stack[-1]
        if type(value) is not kind:
            raise PickleRefused(f"expected a {kind.__name__} to add items to, got {type(value).__name__}")
        return value

    def find(self, module: Any, name: Any) -> Global:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleRefused("the name of a global is not text")
        full = f"{module}.{name}"
        if full not in self.allowed:
            raise PickleRefused(f"it names {full[:100]!r}, which tensors do not need")
        return self.allowed[full]

    def call(self, maker: Any, args: Any) -> Any:
        if not isinstance(maker, Global) or maker.call is None:
            shown = maker.name if isinstance(maker, Global) else f"a {type(maker).__name__}"
            raise PickleRefused(f"it calls {shown}")
        if type(args) is not tuple:
            raise PickleRefused(f"the arguments of {maker.name} are a {type(args).__name__}")
        try:
            return maker.call(*args)
        except TypeError as error:
            raise PickleRefused(f"the arguments of {maker.name} do not fit: {error}") from error

    def build(self) -> None:
        """The state of an object: only stand-ins take one; an OrderedDict's attributes are dropped."""
        state, made = self.pop(), self.stack[-1]
        if isinstance(made, StandIn):
            made.set_state(state)
        elif type(made) is not dict:
            raise PickleRefused(f"it sets the state of a {type(made).__name__}")

    def step(self, name: str, arg: Any) -> None:
        stack = self.stack
        if name in _PUSH:
            stack.append(arg)
        elif name in _CONSTANT:
            stack.append(_CONSTANT[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _GET:
            stack.append(self.memo[int(arg)])
        elif name in _PUT:
            self._memoize(int(arg))
        elif name == "MEMOIZE":
            self._memoize(len(self.memo))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.pop_to_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif name == "LIST":
            stack.append(self.pop_to_mark())
        elif name == "DICT":
            items = self.pop_to_mark()
            stack.append({})
            self._set_items(items)
        elif name == "APPEND":
            value = self.pop()
            self.top(list).append(value)
        elif name == "APPENDS":
            values = self.pop_to_mark()
            self.top(list).extend(values)
        elif name == "ADDITEMS":
            values = self.pop_to_mark()
            self.top(set).update(dict_key(value) for value in values)
        elif name == "FROZENSET":
            stack.append(frozenset(dict_key(value) for value in self.pop_to_mark()))
        elif name == "SETITEM":
            value, key = self.pop(), self.pop()
            self._set_items([key, value])
        elif name == "SETITEMS":
            self._set_items(self.pop_to_mark())
        elif name == "GLOBAL":
            stack.append(self.find(*arg.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            stack.append(self.find(module, attribute))
        elif name == "INST":
            args = tuple(self.pop_to_mark())
            stack.append(self.call(self.find(*arg.split(" ", 1)), args))
        elif name in ("REDUCE", "NEWOBJ"):
            args, maker = self.pop(), self.pop()
            stack.append(self.call(maker, args))
        elif name == "BUILD":
            self.build()
        elif name in ("PERSID", "BINPERSID"):
            if self.persistent is None:
                raise PickleRefused("it refers to objects outside of the pickle")
            stack.append(self.persistent(self.pop() if name == "BINPERSID" else arg))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise PickleRefused(f"it uses the opcode {name}, which tensors do not need")

    def _memoize(self, index: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleRefused("it memoizes an empty stack")
        self.memo[index] = self.stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise PickleRefused("a key without a value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2]):
            target[dict_key(key)] = value


def dict_key(value: Any) -> Any:
    """A dict key or set member: text, a number, a stand-in, or a flat tuple (hashing deep ones exhausts the C
    stack)."""
    if isinstance(value, (*_SCALARS, StandIn)) or (
        type(value) is tuple and all(isinstance(v, _SCALARS) for v in value)
    ):
        return value
    raise PickleRefused(f"a dict key is a {type(value).__name__}")


def load(
    stream: IO[bytes] | bytes,
    allowed: Mapping[str, Global],
    persistent: Callable[[Any], Any] | None = None,
    max_opcodes: int = MAX_OPCODES,
) -> Any:
    """The first pickle of `stream` (protocols 0 to 5), which is left behind its end.

    `allowed`: 'module.name' → Global. `persistent` (id) → object for references out of the pickle. Raises
    PickleRefused and nothing else, if the functions in the table raise only ValueError or TypeError.
    """
    machine = _Machine(allowed, persistent)
    try:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
            if count >= max_opcodes:
                raise PickleRefused(f"it has more than {max_opcodes:,} instructions")
            machine.step(opcode.name, arg)
        (result,) = machine.stack
    except PickleRefused:
        raise
    except KeyError as error:
        raise PickleRefused(f"it reads memo entry {error}, which was never stored") from error
    except (ValueError, IndexError, OverflowError, MemoryError) as error:
        raise PickleRefused(
            f"it is damaged ({' '.join(str(error).split())[:120] or 'stack empty'})"
        ) from error
    if result is _MARK:
        raise PickleRefused("it ends without a value")
    return result
