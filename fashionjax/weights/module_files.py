"""Whole modules that torch.save pickled (`torch.save(model)`) → the tensors of their state dicts.

Such a pickle names the classes of the model, which belong to the code that wrote it. None of them is looked
for: an object of a class that this table lets pass is an empty stand-in, of whose state the parameters,
buffers and submodules are kept, as `nn.Module.state_dict` would list them. What lets a class pass is that
its object is made without arguments; anything that is called with some stays refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fashionjax.weights.checked_bytes import Refused
from fashionjax.weights.safe_pickle import Global, PickleRefused, StandIn

TORCH = ("torch.nn.modules.", "torch.nn.functional.", "torchvision.")
# packages whose functions and classes no module's pickle needs, beside the standard library's
REFUSED = frozenset(sys.stdlib_module_names) | {"__builtin__", "torch", "numpy", "copy_reg"}
DEPTH = 64  # modules inside modules


class Module(StandIn):
    """An object of a class that the file names."""

    def __init__(self):
        self.parts: dict[str, dict] = {}

    def set_state(self, state: Any) -> None:
        """The attributes of the object; those of another object are dropped."""
        if type(state) is dict:
            names = ("_parameters", "_buffers", "_modules")
            self.parts = {name: state[name] for name in names if type(state.get(name)) is dict}


class Classes(Mapping):
    """`table`, and beside it every class that may be one of a model's modules."""

    def __init__(self, table: Mapping[str, Global]):
        self.table = table

    def __contains__(self, name: object) -> bool:
        return name in self.table or _may_be_a_module(str(name))

    def __getitem__(self, name: str) -> Global:
        return self.table[name] if name in self.table else Global(name, _made(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)


def _may_be_a_module(name: str) -> bool:
    return name.startswith(TORCH) or name.split(".", 1)[0] not in REFUSED


def _made(name: str) -> Callable[..., Module]:
    def make(*args: Any) -> Module:
        if args:
            raise PickleRefused(f"it calls {name[:100]!r}, which tensors do not need")
        return Module()

    return make


def state_dicts(loaded: Any, depth: int = 3) -> Any:
    """What a file holds, each whole module in its dicts replaced by its state dict."""
    if isinstance(loaded, Module):
        return state_dict(loaded)
    if type(loaded) is dict and depth:
        return {key: state_dicts(value, depth - 1) for key, value in loaded.items()}
    return loaded


def state_dict(module: Module) -> dict[str, Any]:
    """Parameters and buffers by their dotted names; those that are None are left out, as PyTorch does."""
    found: dict[str, Any] = {}

    def walk(part: Module, prefix: str, depth: int) -> None:
        if depth > DEPTH:
            raise Refused(f"modules inside modules, more than {DEPTH} deep")
        for kind in ("_parameters", "_buffers"):
            found.update((f"{prefix}{name}", value) for name, value in part.parts.get(kind, {}).items())
        for name, child in part.parts.get("_modules", {}).items():
            if isinstance(child, Module):
                walk(child, f"{prefix}{name}.", depth + 1)

    walk(module, "", 0)
    return {name: value for name, value in found.items() if value is not None}
