"""Pairwise similarities and distances between rows, in float32 products of full precision."""

import jax.numpy as jnp
import numpy as np


def unit_rows(x) -> np.ndarray:
    """x [n d] (numpy) -> float32 rows of length 1, norms taken in float64; a zero row stays zero."""
    x = np.asarray(x)
    result = np.empty(x.shape, np.float32)
    for start in range(0, len(x), 4096):  # bounded memory: a chunk in float64 at a time
        rows = x[start : start + 4096].astype(np.float64)
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        result[start : start + 4096] = rows / np.where(norm > 0, norm, 1)
    return result


def inner_products(query, gallery):
    """query [q d], gallery [g d] -> inner products [q g] float32."""
    query, gallery = query.astype(jnp.float32), gallery.astype(jnp.float32)
    # HIGHEST: rankings change when inputs are rounded to bfloat16 or TF32.
    return jnp.einsum("qd,gd->qg", query, gallery, precision="highest")


def cosine_similarities(query, gallery):
    """query [q d], gallery [g d] -> cosine similarities [q g]; 0 for a zero row."""

    def unit(x):
        norm = jnp.linalg.norm(x.astype(jnp.float32), axis=1, keepdims=True)
        return x / jnp.where(norm > 0, norm, 1)

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
