"""The recorded outputs of the type-aware compatibility models, MMFashion's and the original author's.

Losses go through the terms that training uses, with the weights and quirks of the experiment;
everything is in evaluation mode, as it was recorded. Roles are x (anchor), z (positive) and y (negative).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from ml_collections import ConfigDict

from experiments import compatibility as experiment
from fashionjax import quirks
from fashionjax.models.compatibility import TypeAware
from fashionjax.models.compatibility_keys import names_of_origin
from fashionjax.ops import type_spaces
from fashionjax.task import AXIS
from fashionjax.tasks import compatibility
from fashionjax.tasks.compatibility import type_aware

PREFIXES = {"x": "", "z": "pos_", "y": "neg_"}  # role → prefix of its inputs' names
SUFFIXES = {"x": ("a", "anchor"), "z": ("p", "pos"), "y": ("n", "neg")}  # of its outputs' names
ROWS = (5, 40)  # type spaces that are recorded in full, with the general embedding
# term → where the folder's model arguments have its weight
WEIGHTS = {
    "triplet": ("triplet_net", "loss_triplet"),
    "text_similarity": ("triplet_net", "loss_selective_margin"),
    "vse": ("triplet_net", "loss_vse"),
    "embedding_norm": ("loss_embed",),
    "space_norm": ("loss_mask",),
}


def outputs_of(shapes: dict, model_args: dict) -> Callable[[TypeAware, dict, tuple], dict]:
    """(model, variables, arguments) -> every output of a folder by its name."""
    return partial(outputs, config_of(shapes, model_args), names_of_origin(shapes))


def config_of(shapes: dict, model_args: dict) -> ConfigDict:
    """The experiment of a model, with the loss weights that the folder's own arguments name."""
    origin = names_of_origin(shapes)
    projection = "mask" if any(key.endswith("masks.weight") for key in shapes) else "fc"
    recipe = "origin" if origin else "zoo"
    config = experiment.get_config(f"recipe={recipe},projection={projection},types=false,faithful=zoo")
    for term, path in WEIGHTS.items():
        found = model_args
        for part in path:
            found = found.get(part) or {}
        config.loss[term] = float(found.get("loss_weight", config.loss[term]))
    return config


def arguments(inputs: dict) -> tuple:
    """The folder's inputs with a leading axis of roles."""

    def of(name: str) -> np.ndarray:
        return np.stack([inputs[prefix + name] for prefix in PREFIXES.values()])

    image = rearrange(of("image"), "t b c h w -> t b h w c")
    triplet = {"image": image, "text": of("text"), "has": of("has_text"), "space": inputs["condition"]}
    return (triplet,)


def init(model: TypeAware, triplet: dict):
    return model.init(jax.random.key(0), triplet["image"][0], text=triplet["text"][0])


def outputs(config: ConfigDict, origin: bool, model: TypeAware, variables: dict, arguments: tuple) -> dict:
    """Every output of a folder by its name."""

    def run(variables, triplet):
        embeddings, top = _embed(model, variables, triplet["image"])
        text = jnp.stack([model.apply(variables, t, method="encode_text") for t in triplet["text"]])
        # training rectifies masks; evaluation does not where quirk C2 is on
        trained = model.apply(variables, method="scoring")
        raw = model.apply(variables, not quirks.on(config, "c2_raw_masks"), method="scoring")
        projected = [type_spaces.project(trained, e, triplet["space"]) for e in embeddings]
        near, far = (type_spaces.distance(trained, projected[0], other) for other in projected[1:])
        every = type_spaces.project_all(raw, embeddings[0])
        every = jnp.concatenate([every, embeddings[0][:, None]], axis=1)
        view = type_aware.View(
            config,
            embeddings,
            text,
            triplet["has"],
            jnp.ones(len(triplet["space"])),
            triplet["space"],
            trained,
            None,
            None,
        )
        value = {name: type_aware.TERMS[name](view) for name in config.loss}
        found = {"type_embed_all": every, "text_anchor": text[0]}
        if origin:
            accuracy = jnp.mean(far > near)
            names = ("triplet", "space_norm", "embedding_norm", "vse", "text_similarity", "image_similarity")
            losses = jnp.stack([accuracy, *(value[name] for name in names)])
            return found | {"general": embeddings[0], "losses": losses}
        found |= {"backbone": rearrange(top, "b h w c -> b c h w"), "dist_pos": near, "dist_neg": far}
        rows = [int(row) for row in (*ROWS, every.shape[1] - 1) if row < every.shape[1]]
        found["type_embed_rows_" + "_".join(map(str, rows))] = every[:, jnp.asarray(rows)]
        for i, (short, long) in enumerate(SUFFIXES.values()):
            found |= {f"general_{long}": embeddings[i], f"train_embed_{short}": projected[i]}
            found[f"train_norms_{short}"] = _norms(view, i)
        return found | _weighted(config, value)

    # the terms average over the device axis, which has one device here
    one = jax.tree.map(lambda x: jnp.asarray(x)[None], arguments[0])
    mapped = jax.jit(jax.vmap(run, in_axes=(None, 0), axis_name=AXIS))
    return jax.tree.map(lambda x: x[0], mapped(variables, one))


def _embed(model: TypeAware, variables: dict, images):
    """images [t b h w c] → (embeddings [t b d], top map of the first [b h w c])."""
    found = []
    for image in images:
        returned, state = model.apply(
            variables,
            image,
            capture_intermediates=lambda module, _: module.name == "backbone",
            mutable=["intermediates"],
        )
        found.append((returned["embedding"], state["intermediates"]["backbone"]["__call__"][0][-1]))
    return jnp.stack([embedding for embedding, _ in found]), found[0][1]


def _norms(view: type_aware.View, role: int):
    """[sum of the triplets' space norms, Frobenius norm of one role's embeddings]: the means, undone."""
    one = view._replace(image=view.image[role : role + 1])
    b = len(view.space)
    spaces, embeddings = (type_aware.TERMS[name](one) for name in ("space_norm", "embedding_norm"))
    return jnp.stack([b * spaces, jnp.sqrt(float(b)) * embeddings])


def _weighted(config: ConfigDict, value: dict) -> dict:
    term = {name: compatibility.coefficient(config, name) * x for name, x in value.items()}
    similarity = term["text_similarity"] + term["image_similarity"]
    norms = term["embedding_norm"] + term["space_norm"]
    parts = ("triplet", "text_similarity", "vse", "image_similarity")
    return {
        "losses": jnp.stack([term["triplet"], similarity, norms, term["vse"]]),
        "triplet_parts": jnp.stack([term[name] for name in parts]),
    }
