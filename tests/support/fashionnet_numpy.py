"""FashionNet's forward pass in numpy float64, layer by layer as the Keras notebook writes it, on weights
under their Keras names; and such weights drawn at random."""

import numpy as np

TRUNK = (("block1", 2), ("block2", 2), ("block3", 3), ("block4", 3))
EPSILON = 1e-3


def shapes(width=2, fc=8, green=4, categories=3, attributes=5, side=32, landmarks=8) -> dict:
    """{Keras name: shape} of every weight, in the order of the layers; `side` of the image in pixels."""
    found, channels, last = {}, 3, 8 * width
    for (block, count), factor in zip(TRUNK, (1, 2, 4, 8)):
        for i in range(count):
            found |= _pair(f"{block}_conv{i + 1}", (3, 3, channels, width * factor))
            channels = width * factor
    flat = last * (side // 32) ** 2
    for branch in ("blue", "red"):
        for i in (1, 2, 3):
            found |= _pair(f"{branch}_conv{i}", (3, 3, last, last))
    found |= _pair("blue_fc1", (flat, fc)) | _norm("blue_normal1", fc)
    found |= _pair("blue_fc2", (fc, fc)) | _norm("blue_normal2", fc)
    found |= _pair("blue_cates", (fc, categories)) | _pair("blue_lands", (fc, 5 * landmarks))
    found |= _pair("red_fc1", (flat, fc)) | _pair("green_fc1", (landmarks * 4 * last, green))
    found |= _norm("concate_normal", fc + green)
    found |= _pair("concate_category", (fc + green, categories))
    return found | _pair("attribute", (fc + green, attributes))


def _pair(name: str, kernel: tuple) -> dict:
    return {f"{name}/kernel": kernel, f"{name}/bias": kernel[-1:]}


def _norm(name: str, width: int) -> dict:
    return {f"{name}/{part}": (width,) for part in ("gamma", "beta", "moving_mean", "moving_variance")}


def draw(seed=0, **sizes) -> dict:
    """Random float32 weights whose activations stay near 1."""
    rng, found = np.random.default_rng(seed), {}
    for name, shape in shapes(**sizes).items():
        value = rng.standard_normal(shape) * (np.sqrt(2 / np.prod(shape[:-1])) if "kernel" in name else 0.1)
        if name.endswith(("gamma", "moving_variance")):
            value = 1 + np.abs(value)
        found[name] = value.astype(np.float32)
    return found


def forward(weights: dict, image: np.ndarray, literal: bool) -> dict:
    """image [b h w 3], normalised → trunk, the four outputs of the original (linear landmarks, categories and
    attributes before softmax and sigmoid) and `concate_activation`. `literal`: the RoIs as executed."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = np.asarray(image, np.float64)
    for number, (block, count) in enumerate(TRUNK):
        if number:
            x = max_pool(x)
        for i in range(count):
            x = conv(w, f"{block}_conv{i + 1}", x)
    trunk, out = x, {"trunk": x}
    flat = {}
    for branch in ("blue", "red"):
        y = max_pool(trunk)
        for i in (1, 2, 3):
            y = conv(w, f"{branch}_conv{i}", y)
        flat[branch] = max_pool(y).reshape(len(y), -1)
    y = flat["blue"]
    for i in (1, 2):
        y = np.maximum(_normalised(w, f"blue_normal{i}", _dense(w, f"blue_fc{i}", y)), 0)
    out["blue_cates"], out["blue_lands"] = _dense(w, "blue_cates", y), _dense(w, "blue_lands", y)
    pooled = (_as_executed if literal else _as_meant)(trunk, out["blue_lands"].reshape(len(y), -1, 5))
    joined = [_dense(w, "red_fc1", flat["red"]), _dense(w, "green_fc1", pooled.reshape(len(y), -1))]
    y = np.maximum(_normalised(w, "concate_normal", np.concatenate(joined, axis=1)), 0)
    out["concate_activation"] = y
    return out | {name: _dense(w, name, y) for name in ("concate_category", "attribute")}


def conv(w, name, x):
    kernel, height, width = w[f"{name}/kernel"], *x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = w[f"{name}/bias"]
    for i in range(3):
        for j in range(3):
            total = total + padded[:, i : i + height, j : j + width] @ kernel[i, j]
    return np.maximum(total, 0)


def _dense(w, name, x):
    return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]


def _normalised(w, name, x):
    gamma, beta, mean, variance = (
        w[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta


def max_pool(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def _bilinear(plane, y, x):
    """plane [h w c] at a point of it in cells."""
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    y1, x1 = min(y0 + 1, len(plane) - 1), min(x0 + 1, plane.shape[1] - 1)
    dy, dx = y - y0, x - x0
    top = (1 - dx) * plane[y0, x0] + dx * plane[y0, x1]
    return (1 - dy) * top + dy * ((1 - dx) * plane[y1, x0] + dx * plane[y1, x1])


def _as_executed(trunk, lands):
    """crop_and_resize of boxes that begin at the raw outputs, all of them in image 0, to their corners."""
    size = trunk.shape[1]
    out = np.zeros((len(lands), lands.shape[1], 2, 2, trunk.shape[-1]))
    for b, points in enumerate(lands):
        for k, (x, y) in enumerate(points[:, 3:]):
            for i in range(2):
                for j in range(2):
                    row, column = (y + i * 4 / size) * (size - 1), (x + j * 4 / size) * (size - 1)
                    if 0 <= row <= size - 1 and 0 <= column <= size - 1:
                        out[b, k, i, j] = _bilinear(trunk[0], row, column)
    return out


def _as_meant(trunk, lands):
    """The maximum of each quarter of four by four cells around the landmark, on the image's own map."""
    size = trunk.shape[1]
    out = np.zeros((len(lands), lands.shape[1], 2, 2, trunk.shape[-1]))
    xy = 1 / (1 + np.exp(-lands[..., 3:]))
    for b, points in enumerate(xy):
        for k, (x, y) in enumerate(points):
            for i in range(2):
                for j in range(2):
                    steps = np.array([-1.5, -0.5]) + 2 * np.array([[i], [j]])
                    rows, columns = np.clip(np.array([[y], [x]]) * size - 0.5 + steps, 0, size - 1)
                    samples = [_bilinear(trunk[b], row, column) for row in rows for column in columns]
                    out[b, k, i, j] = np.max(samples, axis=0)
    return out
