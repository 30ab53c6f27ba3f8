"""Weight files in the layouts of Keras, written by h5py alone."""

import h5py
import numpy as np

MODEL_ATTRIBUTES = {"keras_version": b"2.2.4", "backend": b"tensorflow"}
EMPTY = ("inp_a", "blue_pool1", "blue_flatten", "green_roi", "concate")  # layers without weights


def by_layer(weights: dict) -> dict[str, dict[str, np.ndarray]]:
    """{layer/part: array} → {layer: {part: array}}, in their order."""
    layers: dict = {}
    for name, array in weights.items():
        layer, part = name.split("/")
        layers.setdefault(layer, {})[part] = array
    return layers


def write_layers(group: h5py.Group, weights: dict, suffix: str = "", compression=None) -> None:
    """Groups with `weight_names`, as Keras 2 saves them; `suffix` is what building a model twice adds to the
    names of its variables."""
    layers = by_layer(weights) | {name: {} for name in EMPTY}
    group.attrs["layer_names"] = [name.encode() for name in layers]
    for key, value in MODEL_ATTRIBUTES.items():
        group.attrs[key] = value
    for layer, parts in layers.items():
        inner = group.create_group(layer)
        names = [f"{layer}{suffix}/{part}:0" for part in parts]
        inner.attrs["weight_names"] = (
            np.asarray([name.encode() for name in names], dtype="S") if names else []
        )
        for name, array in zip(names, parts.values(), strict=True):
            inner.create_dataset(name, data=array, compression=compression)


def write_model(path, weights: dict, suffix: str = "", compression=None) -> None:
    """`model.save('….h5')`: config, weights and the optimiser's state."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = b'{"class_name": "Model"}'
        write_layers(file.create_group("model_weights"), weights, suffix, compression)
        moments = file.create_group("optimizer_weights")
        moments.attrs["weight_names"] = [b"Adam/iterations:0"]
        moments.create_dataset("Adam/iterations:0", data=np.int64(7))


def write_weights(path, weights: dict) -> None:
    """`model.save_weights('….h5')` of Keras 2."""
    with h5py.File(path, "w") as file:
        write_layers(file, weights)


def write_keras3(path, weights: dict) -> None:
    """`model.save_weights('….weights.h5')` of Keras 3, in groups of its attributes."""
    with h5py.File(path, "w") as file:
        for number, (layer, parts) in enumerate(by_layer(weights).items()):
            inner = file.create_group(f"block/layers/conv2d_{number}/vars")
            inner.attrs["name"] = layer
            for i, array in enumerate(parts.values()):
                inner.create_dataset(str(i), data=array)
        file.create_group("optimizer/vars").create_dataset("0", data=np.int64(3))
