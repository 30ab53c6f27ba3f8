"""The set transformer against its definition, every token computed in every layer."""

import jax
import numpy as np
import pytest
from close import assert_conditioned

from fashionjax.models.compatibility import SetScorer

WIDTH, HEADS = 8, 2


def norm(x, layer):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def linear(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def gelu(x):  # Flax's default, the tanh form
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attended(p, name, x):
    query, key, value = (linear(x, p[f"{name}_{part}"]) for part in ("query", "key", "value"))
    mixed = np.zeros_like(x)
    for head in (slice(0, 4), slice(4, 8)):
        weight = np.exp(query[:, head] @ key[:, head].T / np.sqrt(WIDTH / HEADS))
        mixed[:, head] = weight / weight.sum(axis=1, keepdims=True) @ value[:, head]
    return linear(mixed, p[f"{name}_out"])


def whole_score(p, depth, embedding, category):
    """embedding [n d], category [n] of one set without padding -> its logit."""
    x = linear(norm(embedding, p["input_norm"]), p["item"]) + p["type"]["embedding"][category]
    x = np.concatenate([p["start"][None], x])
    for i in range(depth):
        x = x + attended(p, f"layer{i}", norm(x, p[f"layer{i}_norm1"]))
        y = gelu(linear(norm(x, p[f"layer{i}_norm2"]), p[f"layer{i}_up"]))
        x = x + linear(y, p[f"layer{i}_down"])
    return linear(norm(x, p["output_norm"]), p["logit"])[0, 0]


@pytest.mark.parametrize("depth", [1, 3])
def test_a_set_scores_as_defined(depth, drawn):
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(3, 5, 6)).astype(np.float32)
    category = rng.integers(0, 4, (3, 5))
    length = np.asarray([5, 2, 3])
    valid = np.arange(5) < length[:, None]
    scorer = SetScorer(types=4, depth=depth, heads=HEADS, width=WIDTH)
    variables = drawn(scorer, embedding, category, valid)
    got = jax.jit(scorer.apply)(variables, embedding, category, valid)

    def definition(params, embedding):
        p, embedding = jax.tree.map(lambda leaf: leaf.astype(np.float64), (params, embedding))
        rows = zip(embedding, category, length)
        return np.asarray([whole_score(p, depth, e[:n], c[:n]) for e, c, n in rows])

    want = definition(variables["params"], embedding)
    assert np.ptp(want) > 0.05
    assert_conditioned(got, want, definition, variables["params"], embedding, terms=2 * WIDTH)
