"""Which tensors of a checkpoint are meant: one of its state dicts, without the prefix that wrappers add.

Training code saves a dict around the state dict ('state_dict' beside 'optimizer', 'model' beside
'model_ema'), and `torch.compile`, DataParallel, Lightning and the like put a module around the model, which
prefixes every name. The default choice is made here and reported; `--entry` and `--prefix` make another one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fashionjax.weights.checked_bytes import Refused

# dict keys under which training code saves a model, the preferred first
ENTRIES = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "params", "weights")
AVERAGED = re.compile(
    r"(?<![a-z])(ema|swa|avg)(?![a-z])|averag|shadow|teacher|momentum|target", re.IGNORECASE
)
BESIDE = re.compile(r"optim|sched|scaler|\bamp\b|criterion|hyper", re.I)  # never a model
DEPTH = 3  # dicts inside dicts
# attributes that wrappers hold the model in: taken off where every name begins with one, in any order
WRAPPERS = ("module.", "model.", "net.", "network.", "_forward_module.")
# inserted by PyTorch wherever a submodule was wrapped, so taken out of the middle of names too
INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_INSERTED = re.compile(r"(?<![^.])(?:" + "|".join(map(re.escape, INSERTED)) + ")")
SHOWN = 8  # names in a message


class Entry(NamedTuple):
    """One state dict of a checkpoint."""

    name: str  # 'state_dict', 'state_dict.model'; '' where the file is the state dict
    tensors: dict[Any, Any]
    others: tuple[str, ...] = ()  # the state dicts beside it

    def remarks(self) -> list[str]:
        """What the user should know of the choice; nothing where there was none."""
        if not self.others:
            return []
        taken = f"entry {self.name!r}" if self.name else "the top level"
        return [
            f"read {taken} ({len(self.tensors)} tensors); the file also holds {listed(self.others)}: "
            "--entry=NAME reads another one"
        ]


class Named(NamedTuple):
    """Tensors under the names that remain, and what was taken off."""

    tensors: dict[str, Any]
    removed: str = ""  # 'module._orig_mod.'
    dropped: tuple[str, ...] = ()  # tensors outside of --prefix

    def remarks(self) -> list[str]:
        said = []
        if self.removed:
            said.append(f"removed the prefix {self.removed!r} from the names of {len(self.tensors)} tensors")
        if self.dropped:
            rest = f"{len(self.dropped)} tensors with another prefix are not read"
            said.append(f"{rest}: {listed(self.dropped)}")
        return said


def choose_entry(
    loaded: Any, tensors_of: Callable[[Mapping], dict[Any, Any]], wanted: str | None = None
) -> Entry:
    """The state dict of a loaded checkpoint; `tensors_of` gives the tensors that a dict itself holds.

    `wanted` names one as `Entry.name` does. Otherwise a name of ENTRIES at the top is preferred, then the
    top level, then the only one that is no average (EMA). Raises Refused for an unknown `wanted`, for an
    ambiguous choice, and where there are no tensors.
    """
    if type(loaded) is not dict:
        raise Refused(f"holds a {type(loaded).__name__}, not a state dict")
    found = dict(_state_dicts(loaded, tensors_of))
    if wanted is not None and wanted not in found:
        known = listed([name or "'' (the top level)" for name in found]) or "none"
        raise Refused(f"has no state dict --entry={wanted!r}; there are {known}")
    name = _preferred(found) if wanted is None else wanted
    for key in found[name]:
        if not isinstance(key, str):
            raise Refused(f"a tensor is named by {type(key).__name__} {key!r}, not by text")
    return Entry(name, found[name], tuple(other for other in found if other != name))


def _state_dicts(loaded: dict, tensors_of: Callable) -> Iterable[tuple[str, dict]]:
    """(name, tensors) of every dict that holds some, outer before inner; each dict once, however often it is
    referred to."""
    level, seen = [("", loaded)], {id(loaded)}
    for _ in range(DEPTH + 1):
        inner = []
        for path, mapping in level:
            if tensors := tensors_of(mapping):
                yield path, tensors
            for key, value in mapping.items():
                if type(value) is dict and id(value) not in seen and not BESIDE.search(str(key)):
                    seen.add(id(value))
                    inner.append((f"{path}.{key}".lstrip("."), value))
        level = inner


def _preferred(found: Mapping[str, dict]) -> str:
    for name in (*ENTRIES, ""):
        if name in found:
            return name
    known = [name for name in found if set(name.split(".")) <= set(ENTRIES)]
    plain = [name for name in found if not AVERAGED.search(name)]
    for names in (known, plain, list(found)):
        if len(names) == 1:
            return names[0]
        if names:
            raise Refused(f"holds several state dicts: {listed(names)}; --entry=NAME reads one")
    raise Refused("holds no tensors")


def unwrapped(tensors: Mapping[str, Any]) -> Named:
    """Names without what wrappers put before them."""
    removed, names = [], list(tensors)
    if any(_INSERTED.search(name) for name in names):
        shorter = [_INSERTED.sub("", name) for name in names]
        if len(set(shorter)) == len(names):
            removed += [part for part in INSERTED if any(part in name for name in names)]
            names = shorter
    while shared := next((p for p in WRAPPERS if names and all(n.startswith(p) for n in names)), None):
        removed.append(shared)
        names = [name.removeprefix(shared) for name in names]
    return Named(dict(zip(names, tensors.values(), strict=True)), "".join(removed))


def under(tensors: Mapping[str, Any], prefix: str) -> Named:
    """The tensors whose names begin with `prefix`, without it; '' keeps every name as it is in the file.

    Names are those of the file, else those that `unwrapped` leaves. Raises Refused where none has the prefix.
    """
    if prefix and not prefix.endswith((".", "/")):
        prefix += "."
    for names in (dict(tensors), unwrapped(tensors).tensors):
        taken = {
            name.removeprefix(prefix): tensor for name, tensor in names.items() if name.startswith(prefix)
        }
        if taken:
            return Named(taken, prefix, tuple(name for name in names if not name.startswith(prefix)))
    first = sorted({re.split(r"(?<=[./])", name, maxsplit=1)[0] for name in names})
    raise Refused(f"no tensor name begins with --prefix={prefix!r}; they begin with {listed(first)}")


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more."""
    names = [str(name)[:100] for name in names]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
