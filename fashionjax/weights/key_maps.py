"""Torch state dicts ↔ Flax variables by key rules, with both sides accounted for.

`fill` reads: every tensor must be taken by one rule or ignored by name, every leaf must be filled once, in
shape. `unfill` writes the torch names and layouts back through the same rules, so a round trip is bitwise.
A stacked leaf, which rules fill row by row, is taken apart into leaves `path#0`, `path#1`, … before and put
together after, so that everything between knows single tensors only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import flax.traverse_util
import jax
import numpy as np

from fashionjax.errors import UserError
from fashionjax.models.torch_keys import Ignore, KeyRule, Layout, Rules, torch_key_of

SHOWN = 12  # names of each kind in a one-line error; the error object holds them all


class Accounting(NamedTuple):
    """What became of every tensor and leaf. Names are torch keys, or Flax paths where no rule has a key."""

    leaves: int  # a stacked one counts by its rows
    tensors: int
    unread: list[str]  # tensors that no rule takes, or whose place the model does not have
    unfilled: list[str]  # leaves without a tensor
    misshapen: list[str]  # 'key: (file shape), the model needs (shape)'
    unusable: list[str]  # 'key: why', wrong kind of number or not finite
    ignored: list[str]  # tensors left out by name

    def problems(self) -> dict[str, list[str]]:
        kinds = ("unread", "unfilled", "misshapen", "unusable")
        return {kind: getattr(self, kind) for kind in kinds if getattr(self, kind)}


class KeyMismatch(UserError):
    """Tensors do not fit the model; `accounting` holds every name, `hint` what would help."""

    def __init__(self, accounting: Accounting, hint: str = ""):
        self.accounting, self.hint = accounting, hint
        parts = [f"{len(names)} {kind}: {_shortened(names)}" for kind, names in accounting.problems().items()]
        super().__init__("; ".join(parts) + (f". {hint}" if hint else ""))


def fill(template: Mapping, tensors: Mapping[str, np.ndarray], rules: Rules) -> tuple[dict, Accounting]:
    """template {collection: nested dict of shape/dtype leaves}, torch tensors → (the same tree of arrays,
    accounting).

    Numbers are cast to the leaf's dtype within their kind (half and double to float). Raises KeyMismatch with
    everything that is wrong, or ValueError for rules that contradict each other.
    """
    whole = flax.traverse_util.flatten_dict(dict(template), sep="/")
    leaves = _unstacked(whole, rules)
    taken, unread, ignored = _assign(leaves, tensors, rules)
    unfilled = [_name(path, rules) for path in leaves if path not in taken]
    misshapen, unusable, filled = [], [], {}
    for path, (key, layout) in taken.items():
        tensor, leaf = tensors[key], leaves[path]
        if _laid_out(layout, tensor.shape) != leaf.shape:
            misshapen.append(f"{key}: {tensor.shape}, the model needs {_torch_shape(layout, leaf.shape)}")
        elif np.dtype(tensor.dtype).kind != np.dtype(leaf.dtype).kind:
            unusable.append(f"{key}: {tensor.dtype}, the model needs {np.dtype(leaf.dtype)}")
        else:
            with np.errstate(over="ignore"):
                array = np.asarray(layout.to_flax(tensor), dtype=leaf.dtype, order="C")
            filled[path] = array
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                unusable.append(f"{key}: holds NaN or infinity")
    unusable += _other_constants(ignored, tensors, rules)
    accounting = Accounting(len(leaves), len(tensors), unread, unfilled, misshapen, unusable, ignored)
    if accounting.problems():
        raise KeyMismatch(accounting)
    empty = {collection: {} for collection in template}
    return empty | flax.traverse_util.unflatten_dict(_stacked(filled, whole), sep="/"), accounting


def unfill(variables: Mapping, rules: Rules) -> dict[str, np.ndarray]:
    """Variables {collection: nested dict of arrays} → torch tensors by torch key, in torch's layout.

    Raises KeyMismatch for leaves that no rule names, ValueError for two leaves of one name.
    """
    leaves = _unstacked(flax.traverse_util.flatten_dict(dict(variables), sep="/"), rules)
    names = {path: torch_names(path, rules) for path in leaves}
    nameless = [path for path, found in names.items() if not found]
    if nameless:
        raise KeyMismatch(Accounting(len(leaves), 0, [], nameless, [], [], []), "no PyTorch name is known")
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        key, layout = names[path][0]
        if key in tensors:
            raise ValueError(f"two leaves are named {key}")
        tensors[key] = np.asarray(layout.to_torch(np.asarray(leaf)), order="C")
    return tensors


def torch_names(path: str, rules: Rules) -> list[tuple[str, Layout]]:
    """The torch keys that the rules would send to a Flax path, the one that is written first."""
    found = []
    for rule in rules:
        if isinstance(rule, KeyRule) and _may_make(rule.flax, path):
            key = torch_key_of(rule, path)
            match = None if key is None else re.fullmatch(rule.torch, key)
            if match is not None and match.expand(rule.flax) == path:
                found.append((key, rule.layout))
    return found


def _may_make(flax: str, path: str) -> bool:
    """Whether the literal ends of a template are those of the path: spares most regular expressions."""
    return path.startswith(flax.split("\\", 1)[0]) and path.endswith(re.split(r"\\\d", flax)[-1])


def torch_shapes(template: Mapping, rules: Rules) -> dict[str, tuple[int, ...]]:
    """The state dict that would fill `template`: torch key → shape; leaves without a torch name stay out."""
    shapes = {}
    for path, leaf in _unstacked(flax.traverse_util.flatten_dict(dict(template), sep="/"), rules).items():
        for key, layout in torch_names(path, rules)[:1]:
            shapes[key] = _torch_shape(layout, leaf.shape)
    return shapes


def _unstacked(leaves: Mapping, rules: Rules) -> dict:
    """Leaves by path, stacked ones as their rows: arrays, or shapes with a dtype."""
    out = {}
    for path, leaf in leaves.items():
        if not torch_names(f"{path}#0", rules):
            out[path] = leaf
        elif isinstance(leaf, jax.ShapeDtypeStruct):
            row = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
            out |= {f"{path}#{i}": row for i in range(leaf.shape[0])}
        else:
            out |= {f"{path}#{i}": row for i, row in enumerate(np.asarray(leaf))}
    return out


def _stacked(filled: dict[str, np.ndarray], whole: Mapping) -> dict[str, np.ndarray]:
    """The inverse of `_unstacked`: arrays by the paths of `whole`."""
    return {
        path: filled[path]
        if path in filled
        else np.stack([filled[f"{path}#{i}"] for i in range(leaf.shape[0])])
        for path, leaf in whole.items()
    }


def _assign(leaves: Mapping, tensors: Iterable[str], rules: Rules):
    """→ ({path: (torch key, layout)}, unread keys, ignored keys)."""
    compiled = [(rule, re.compile(rule.torch)) for rule in rules]
    taken: dict[str, tuple[str, Layout]] = {}
    unread, ignored = [], []
    for key in tensors:
        matches = [(rule, match) for rule, regex in compiled if (match := regex.fullmatch(key))]
        places = [(m.expand(rule.flax), rule.layout) for rule, m in matches if isinstance(rule, KeyRule)]
        places = [(path, layout) for path, layout in places if path in leaves]
        if len(places) > 1:
            raise ValueError(f"two rules take {key}: {', '.join(path for path, _ in places)}")
        if places and places[0][0] not in taken:
            taken[places[0][0]] = (key, places[0][1])
        elif not places and any(isinstance(rule, Ignore) for rule, _ in matches):
            ignored.append(key)
        else:  # no rule, no such place in the model, or a place that another tensor has filled
            unread.append(key)
    return taken, unread, ignored


def _other_constants(ignored: Iterable[str], tensors: Mapping[str, np.ndarray], rules: Rules) -> list[str]:
    """Tensors left out by name that hold other numbers than the model's constants."""
    wanted = [rule for rule in rules if isinstance(rule, Ignore) and rule.value is not None]
    found = []
    for key in ignored:
        for rule in wanted:
            if not re.fullmatch(rule.torch, key):
                continue
            have, want = np.asarray(tensors[key]).ravel(), np.asarray(rule.value)
            if have.shape != want.shape or not np.allclose(have, want, rtol=1e-4):
                found.append(f"{key}: {', '.join(f'{v:g}' for v in have[:4])}; the model has {rule.value}")
    return found


def _name(path: str, rules: Rules) -> str:
    return next((key for key, _ in torch_names(path, rules)), path)


def _laid_out(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape after `to_flax`, None where the layout does not take such a tensor."""
    try:
        return layout.to_flax(np.broadcast_to(np.False_, shape)).shape
    except (ValueError, IndexError, TypeError, RuntimeError):  # einops raises RuntimeError
        return None


def _torch_shape(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return layout.to_torch(np.broadcast_to(np.False_, shape)).shape
    except TypeError:  # a layout that is only read
        return shape


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:100] for name in names[:SHOWN]) + more
