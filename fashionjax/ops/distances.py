"""Unit rows, pairwise similarities and distances, in float32 products of full precision.

There is one L2 normalisation: `unit` on devices and in gradients, `unit_rows` on the host for whole
galleries. Both divide by max(norm, EPSILON), as torch.nn.functional.normalize does with its default eps.
"""

import jax.numpy as jnp
import numpy as np

EPSILON = 1e-12  # shortest length that is divided by


def unit(x, *, added: float = 0.0):
    """x [... d] -> float32 rows x / max(|x|, EPSILON); a zero row stays zero and has a finite gradient.

    `added`: x / (|x| + added) instead, for models whose original adds an epsilon to the norm.
    """
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    if not added:
        return x / jnp.sqrt(jnp.maximum(square, EPSILON**2))
    norm = jnp.sqrt(jnp.where(square > 0, square, 1.0)) * (square > 0)  # sqrt has no gradient at 0
    return x / (norm + added)


def unit_rows(x) -> np.ndarray:
    """`unit` of x [n d] in numpy, norms taken in float64 -> float32 [n d]."""
    x = np.asarray(x)
    result = np.empty(x.shape, np.float32)
    for start in range(0, len(x), 4096):  # bounded memory: a chunk in float64 at a time
        rows = x[start : start + 4096].astype(np.float64)
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        result[start : start + 4096] = rows / np.maximum(norm, EPSILON)
    return result


def inner_products(query, gallery):
    """query [q d], gallery [g d] -> inner products [q g] float32."""
    query, gallery = query.astype(jnp.float32), gallery.astype(jnp.float32)
    # HIGHEST: rankings change when inputs are rounded to bfloat16 or TF32.
    return jnp.einsum("qd,gd->qg", query, gallery, precision="highest")


def cosine_similarities(query, gallery):
    """query [q d], gallery [g d] -> cosine similarities [q g]; 0 for a zero row."""
    return inner_products(unit(query), unit(gallery))


def squared_distances(query, gallery):
    """query [q d], gallery [g d] -> squared Euclidean distances [q g], never negative.

    Taken around the gallery's mean, which changes no distance and keeps the cancellation in |q|^2 - 2qg +
    |g|^2 small.
    """
    query, gallery = query.astype(jnp.float32), gallery.astype(jnp.float32)
    mean = gallery.mean(axis=0)
    query, gallery = query - mean, gallery - mean
    squares = jnp.sum(query**2, axis=1)[:, None] + jnp.sum(gallery**2, axis=1)[None, :]
    return jnp.maximum(squares - 2 * inner_products(query, gallery), 0)


def distances(query, gallery):
    """query [q d], gallery [g d] -> Euclidean distances [q g]."""
    return jnp.sqrt(squared_distances(query, gallery))
