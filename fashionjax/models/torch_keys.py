"""Rules that pair PyTorch state-dict keys with Flax variable paths.

Every model file carries a tuple of rules, `TORCH_KEYS`. A rule is data: a regular expression for the torch
key, a template for the Flax path and a layout, i.e. the re-ordering of one array with its inverse. Reading a
checkpoint walks the torch keys through the rules; writing one walks the Flax paths back through the same
rules (`torch_key_of`), so there is one table per model and no second direction to keep in step.

Shape of the regular expressions: literal text with escaped dots and unnested groups `(...)`, nothing else
outside the groups. That is what makes a rule reversible. Rule order is irrelevant: at most one rule may match
a key.

A template that ends in `#` and a group stacks: `params/net/kernel#\\1` sends the tensor whose group 1 is "12"
to row 12 of the leaf `params/net/kernel`, whose first axis numbers such tensors. The layout is that of one
row.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from einops import rearrange


class Layout(NamedTuple):
    """How one array is laid out on either side; the two functions are inverse to each other."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


class KeyRule(NamedTuple):
    torch: str  # regular expression, matched against the whole key
    flax: str  # template for re.Match.expand, collection first: r'params/layer\1_\2/conv\3/kernel'; see #
    layout: Layout


class Ignore(NamedTuple):
    torch: str  # regular expression, matched against the whole key
    why: str
    value: tuple[float, ...] | None = None  # what the tensor must hold, None: anything


Rules = tuple[KeyRule | Ignore, ...]

SAME = Layout(lambda x: x, lambda x: x)
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))  # [o i h w] <-> [h w i o]
LINEAR = Layout(lambda x: x.T, lambda x: x.T)  # [o i] <-> [i o]


def chw_linear(h: int, w: int) -> Layout:
    """A linear layer behind a flattened map: torch flattens (c h w), this project (h w c)."""
    return Layout(
        lambda x: rearrange(x, "o (c h w) -> (h w c) o", h=h, w=w),
        lambda x: rearrange(x, "(h w c) o -> o (c h w)", h=h, w=w),
    )


def linear_rules(torch: str, flax: str, layout: Layout = LINEAR) -> Rules:
    """Weight and bias of a linear layer; `torch` without a trailing dot, `flax` without the collection."""
    return (
        KeyRule(rf"{torch}\.weight", f"params/{flax}/kernel", layout),
        KeyRule(rf"{torch}\.bias", f"params/{flax}/bias", SAME),
    )


def norm_rules(torch: str, flax: str) -> Rules:
    """A normalisation layer's scale and bias."""
    return (
        KeyRule(rf"{torch}\.weight", f"params/{flax}/scale", SAME),
        KeyRule(rf"{torch}\.bias", f"params/{flax}/bias", SAME),
    )


def batch_norm_rules(torch: str, flax: str) -> Rules:
    """Scale, bias and running statistics of a batch normalisation."""
    return (
        *norm_rules(torch, flax),
        KeyRule(rf"{torch}\.running_mean", f"batch_stats/{flax}/mean", SAME),
        KeyRule(rf"{torch}\.running_var", f"batch_stats/{flax}/var", SAME),
    )


BATCH_COUNTER = Ignore(r"(.*)num_batches_tracked", "a step counter; nothing here reads it")


def prefixed(rules: Rules, torch_prefix: str, flax_prefix: str) -> Rules:
    """Rules of a submodule inside a bigger model: `prefixed(rules, 'backbone.', 'backbone')`."""

    def lift(rule):
        torch = re.escape(torch_prefix) + rule.torch
        if isinstance(rule, Ignore):
            return rule._replace(torch=torch)
        collection, path = rule.flax.split("/", 1)
        return rule._replace(torch=torch, flax=f"{collection}/{flax_prefix}/{path}")

    return tuple(lift(rule) for rule in rules)


def torch_key_of(rule: KeyRule, flax_path: str) -> str | None:
    """The torch key that `rule` sends to `flax_path` ('params/...'), or None when the rule does not reach
    that path.
    """
    pieces = re.split(r"\(([^()]*)\)", rule.torch)  # literal, group, literal, group, ..., literal
    literals, groups = pieces[::2], pieces[1::2]
    pattern, seen = "", set()
    for i, part in enumerate(re.split(r"\\(\d)", rule.flax)):
        if i % 2 == 0:
            pattern += re.escape(part)
        elif part in seen:
            pattern += f"(?P=g{part})"
        else:
            seen.add(part)
            pattern += f"(?P<g{part}>{groups[int(part) - 1]})"
    match = re.fullmatch(pattern, flax_path)
    if match is None:
        return None
    key = re.sub(r"\\(.)", r"\1", literals[0])
    for i, literal in enumerate(literals[1:], start=1):
        key += match[f"g{i}"] + re.sub(r"\\(.)", r"\1", literal)
    return key
