"""Max pooling whose gradient is fast on a CPU.

XLA differentiates a windowed maximum into select-and-scatter, which its CPU back end runs one window at a
time. Here the forward pass remembers which cell of its window was the maximum, and the gradient is a handful
of dense selects and adds.
"""

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange


def max_pool(x, window: int, stride: int, padding: int = 0):
    """x [b h w c] -> [b h' w' c] padded symmetrically with -inf, h' = (h + 2 padding - window) // stride + 1.

    Of equal cells of a window the first in row order takes the whole gradient, as in PyTorch's max_pool2d and
    XLA's own gradient. NaN in a window gives NaN. Reverse mode only. ValueError for a window above 15.
    """
    if window > 15:
        raise ValueError(f"max_pool keeps a cell's number in a byte: window {window} is above 15")
    return _pool(window, stride, padding, x.shape[1:3], x)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _pool(window, stride, padding, size, x):
    edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    sides, steps = (1, window, window, 1), (1, stride, stride, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sides, steps, edges)


def _forward(window, stride, padding, size, x):
    """The pooled map, and the number in row order of each window's maximum, uint8 [b h' w' c]."""
    edge = (padding, padding)
    padded = jnp.pad(x, ((0, 0), edge, edge, (0, 0)), constant_values=-jnp.inf)
    rows, cols = ((side + 2 * padding - window) // stride for side in size)
    best = where = None
    for n in range(window * window):
        i, j = divmod(n, window)
        cell = padded[:, i : i + stride * rows + 1 : stride, j : j + stride * cols + 1 : stride]
        if best is None:
            best, where = cell, jnp.zeros(cell.shape, jnp.uint8)
        else:
            where = jnp.where(cell > best, jnp.uint8(n), where)
            best = jnp.maximum(best, cell)
    return best, where


def _backward(window, stride, padding, size, where, dy):
    """Cells of the padded input with equal place modulo the stride form one dense map each: sum the shares
    of the windows there, then interleave the maps."""
    reach = (window - 1) // stride
    edge = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    zero = jnp.zeros((), dy.dtype)
    # a share of cell (i, j) lands i // stride rows below its window's own row of the map
    dy, where = jnp.pad(dy, edge), jnp.pad(where, edge)
    rows, cols = dy.shape[1] - reach, dy.shape[2] - reach

    def share(i, j):
        top, left = reach - i // stride, reach - j // stride
        here = where[:, top : top + rows, left : left + cols] == window * i + j
        return jnp.where(here, dy[:, top : top + rows, left : left + cols], zero)

    def phase(p, q):
        shares = [share(i, j) for i in range(p, window, stride) for j in range(q, window, stride)]
        return sum(shares[1:], shares[0]) if shares else jnp.zeros_like(dy[:, :rows, :cols])

    maps = jnp.stack([jnp.stack([phase(p, q) for q in range(stride)]) for p in range(stride)])
    dx = rearrange(maps, "p q b h w c -> b (h p) (w q) c")
    # windows may leave cells at the far edge uncovered: their gradient is zero
    missing = [(0, max(0, padding + side - have)) for side, have in zip(size, dx.shape[1:3], strict=True)]
    dx = jnp.pad(dx, ((0, 0), *missing, (0, 0)))
    return (dx[:, padding : padding + size[0], padding : padding + size[1]],)


_pool.defvjp(_forward, _backward)
