"""How well the garments on some photos go together, and what of a gallery would complete them.

    fashionjax outfit score    top.jpg shoes.jpg bag.jpg --checkpoint=runs/outfits
    fashionjax outfit complete top.jpg shoes.jpg --checkpoint=runs/outfits --gallery=photos --topk=5

`score` prints one JSON object, `complete` a JSON object a line, best first; both write a page beside it
(docs/outfits.md).
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from fashionjax import cli
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.inference import photos
from fashionjax.outfit import completion, typed_gallery
from fashionjax.outfit import items as outfit_items
from fashionjax.outfit import page as outfit_page
from fashionjax.outfit.items import Outfit
from fashionjax.outfit.page import Candidate, Item
from fashionjax.runtime import parallel
from fashionjax.tasks import compatibility

BATCH, FEW = 16, 8  # photos that go through the model together, with a folder as gallery and without
# flags that only `complete` reads
COMPLETE_FLAGS = ("gallery", "missing", "topk", "save_gallery", "gallery_types", "data_dir")


# ------------------------------------------------------------------------------ score
def score(outfit: Outfit, config: ConfigDict, params: Any) -> dict:
    """{"score", "pairs", "weakest", "types"}: the command's object, and under "distance" f64 [n n], lower is
    better; a single piece has no score (None) and no pairs.

    Of a set transformer the score is the probability of the whole set and the distance of a pair 1 - that of
    the two. a and b are paths; a_index and b_index are added where a path comes twice.
    """
    items, count = outfit.items, len(outfit.items)
    scorer = compatibility.make_scorer(config, params)
    first, second = np.triu_indices(count, 1)
    distance = np.zeros((count, count))
    value, pairs = None, []
    if count > 1:
        (value,) = scorer.outfits(outfit.embedding, outfit.category, [np.arange(count)]).double
        value = completion.probability(value) if config.model.kind == "set_transformer" else value
        found = scorer.pairs(outfit.embedding, outfit.category, first, second)
        distance[first, second] = distance[second, first] = found
        twice = len({item.path for item in items}) < count
        pairs = [_pair(items, i, j, found[n], twice) for n, (i, j) in enumerate(zip(first, second))]
    return {
        "score": None if value is None else round(float(value), 6),
        "pairs": pairs,
        "weakest": pairs[_weakest(distance)[2]] if pairs else None,
        "types": [_type(item) for item in items],
        "distance": distance,
    }


def _pair(items: Sequence[Item], i: int, j: int, distance: float, indices: bool) -> dict:
    pair = {"a": items[i].path, "b": items[j].path, "distance": round(float(distance), 6)}
    return pair | {"a_index": int(i), "b_index": int(j)} if indices else pair


def _weakest(distance: np.ndarray) -> tuple[int, int, int]:
    """(i, j, number among the pairs) of the largest distance, the first of equal ones."""
    first, second = np.triu_indices(len(distance), 1)
    number = int(np.argmax(distance[first, second]))
    return int(first[number]), int(second[number]), number


def _type(item: Item) -> dict:
    share = None if item.probability is None else round(item.probability, 6)
    return {"image": item.path, "type": item.type, "probability": share}


def in_words(outfit: Outfit, result: dict, config: ConfigDict) -> list[str]:
    """The score and the weakest pair as sentences."""
    if result["score"] is None:
        return ["A single piece has no pair to compare, so it has no score."]
    pairs, value = len(result["pairs"]), result["score"]
    spec = config.model
    if spec.kind == "set_transformer":
        told = f"The model takes this for an outfit with a probability of {value:.2f}."
        scale = "The distance of a pair is 1 minus the probability of the two alone."
    else:
        told = f"Compatibility {value:.3f}: 1 minus the mean distance of {pairs} pair{'s' * (pairs > 1)}."
        scale = "The model's distance has no fixed range: compare the score with other outfits of this model."
        if spec.projection == "mask" and not spec.metric:
            scale = "1 is the best there can be, and -1 the worst: pieces at opposite ends of every space."
    i, j, _ = _weakest(result["distance"])
    a, b = outfit.items[i], outfit.items[j]
    weakest = f"{a.type} ({a.path}) and {b.type} ({b.path}), {result['distance'][i, j]:.3f} apart"
    return [told, scale, f"The weakest pair: {weakest}." if pairs > 1 else f"The pair: {weakest}."]


# ------------------------------------------------------------------------------ complete
def complete(
    outfit: Outfit,
    found: typed_gallery.TypedGallery,
    rank: completion.Ranker,
    missing: Sequence[str],
    topk: int,
) -> tuple[dict[str, list[dict]], list[str]]:
    """{missing type: [{"type", "rank", "id", "score", "row"}], best first}, and the types the gallery lacks;
    `row` is the garment's in the gallery."""
    numbers = [found.types.index(name) for name in missing]
    candidates = completion.by_type(found.embedding, found.category, numbers)
    ranked, lacking = {}, []
    for name, number in zip(missing, numbers, strict=True):
        if number not in candidates:
            lacking.append(name)
            continue
        values, rows = rank(outfit.embedding, outfit.category, number, candidates[number], topk)
        ranked[name] = [
            {"type": name, "rank": n, "id": found.id[row], "score": round(float(value), 6), "row": int(row)}
            for n, (value, row) in enumerate(zip(values, rows, strict=True), 1)
        ]
    return ranked, lacking


def asked_types(text: str, known: Sequence[str]) -> list[str]:
    """`--missing` → types, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(","))) if text else []
    for name in names:
        outfit_items.check_type(name, known, "--missing")
    return names


def lacked_types(outfit: Outfit, found: typed_gallery.TypedGallery) -> list[str]:
    """Every type that the gallery has and the outfit has not."""
    offered = [found.types[number] for number in np.unique(found.category)]
    return completion.missing_types([item.type for item in outfit.items], offered)


# ------------------------------------------------------------------------------ the command
def _run_score(outfit: Outfit, model: inference.Model, params: Any, out: Path, command: str) -> None:
    result = score(outfit, model.config, params)
    distance = result.pop("distance")
    print(json.dumps(result), flush=True)
    words = in_words(outfit, result | {"distance": distance}, model.config)
    weakest = matrix = None
    if result["score"] is None:
        print(words[0], file=sys.stderr)
    else:
        weakest = _weakest(distance)[:2]
        matrix = outfit_page.png(outfit_page.matrix(outfit.items, distance, weakest))
        print(f"matrix: {photos.write_new(matrix, out, 'matrix', 'png')}", file=sys.stderr)
    page = outfit_page.render(outfit.items, words, weakest=weakest, matrix_png=matrix, command=command)
    _write_page(page, out, "score")


def _run_complete(
    outfit: Outfit,
    found: typed_gallery.TypedGallery,
    model: inference.Model,
    params: Any,
    missing: Sequence[str],
    topk: int,
    out: Path,
    command: str,
) -> None:
    rank = completion.make_ranker(model.config, params)
    ranked, lacking = complete(outfit, found, rank, missing, topk)
    notes = [f"The gallery has no {name}." for name in lacking]
    if not missing:
        notes.append("Nothing is missing: the outfit has every type that the gallery has.")
    for line in notes:
        print(line, file=sys.stderr)
    picture, shown = typed_gallery.pictures(found), []
    for name, entries in ranked.items():
        for entry in entries:
            print(json.dumps({key: entry[key] for key in ("type", "rank", "id", "score")}), flush=True)
        rows = [(entry["rank"], entry["id"], entry["score"], picture(entry["row"])) for entry in entries]
        shown.append((name, [Candidate(*row) for row in rows]))
    words = in_words(outfit, score(outfit, model.config, params), model.config)[:2]
    words.append(
        f"Ranked: {len(found.id):,} garments of the gallery. Each score is {_meaning(model.config)}."
    )
    page = outfit_page.render(outfit.items, words, missing=shown, notes=notes, command=command)
    _write_page(page, out, "complete")


def _meaning(config: ConfigDict) -> str:
    if config.model.kind == "set_transformer":
        return "the probability of the outfit with the candidate"
    return "1 minus the candidate's mean distance to the pieces of the outfit"


def _write_page(page: str, out: Path, stem: str) -> None:
    text = page.encode("utf-8", "backslashreplace")  # names of files need not be UTF-8
    print(f"page: {photos.write_new(text, out, stem, 'html')}", file=sys.stderr)


def add_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "the --workdir of a training run")
    flags.DEFINE_string("types", "", "what is on each photo, TYPE,TYPE,… (empty entries: predicted)")
    flags.DEFINE_string("out", None, "folder for the page (default: CHECKPOINT/outfits)")
    flags.DEFINE_string("gallery", None, "complete: folder of photos, saved gallery, or dataset:NAME:SPLIT")
    flags.DEFINE_string("missing", "", "complete: types to look for (default: what the outfit has not)")
    flags.DEFINE_integer("topk", 5, "complete: candidates of each missing type", lower_bound=1)
    flags.DEFINE_string("save_gallery", None, "complete: file to keep the embedded gallery in")
    flags.DEFINE_string("gallery_types", None, "complete: CSV file id,type of the gallery's garments")
    flags.DEFINE_string("data_dir", "", "complete: of --gallery=dataset:…, where it is not the config's")
    flags.mark_flag_as_required("checkpoint")
    flags.FLAGS.set_gnu_getopt(True)  # photos may stand before the flags


def check_arguments(argv: Sequence[str], given: Sequence[str]) -> tuple[str, list[str]]:
    """The words after `outfit` and the names of the flags beside them → (score or complete, the photos)."""
    what = argv[0] if argv else ""
    if what not in ("score", "complete"):
        raise UserError(f"outfit {what}: write `outfit score IMG…` or `outfit complete IMG… --gallery=…`")
    paths = photos.expand(argv[1:])
    if not paths:
        raise UserError(f"no photo given; name the pieces of the outfit: outfit {what} IMG…")
    unread = [name for name in COMPLETE_FLAGS if name in given]
    if what == "score" and unread:
        raise UserError(f"--{unread[0]} belongs to `outfit complete`")
    if what == "complete" and "gallery" not in given:
        raise UserError(
            "outfit complete needs --gallery: a folder, a saved gallery or dataset:NAME/CONFIG:SPLIT"
        )
    return what, paths


def main(argv: list[str]) -> int:
    args = flags.FLAGS
    what, paths = check_arguments(argv[1:], [name for name in args if args[name].present])
    parallel.use_compilation_cache()
    model = outfit_items.load(args.checkpoint)
    types = outfit_items.given_types(args.types, paths, model.config)
    known = list(model.config.labels.category)
    asked = asked_types(args.missing, known)
    told = typed_gallery.read_types(args.gallery_types, known) if args.gallery_types else {}
    out = photos.out_folder(args.out, args.checkpoint, "outfits")
    many = what == "complete" and os.path.isdir(args.gallery)
    predictor = photos.predictor(model, BATCH if many else FEW)
    outfit = outfit_items.read(paths, types, model.config, predictor)
    if not isinstance(outfit, Outfit):
        for error in outfit:
            print(f"error: {error}", file=sys.stderr)
        return 1
    params = jax.device_get(model.params)
    command = shlex.join(["fashionjax", "outfit", *sys.argv[1:]])
    if what == "score":
        _run_score(outfit, model, params, out, command)
        return 0
    for entry in map(_type, outfit.items):
        share = "given" if entry["probability"] is None else f"predicted, {entry['probability']:.2f}"
        print(f"{entry['image']}: {entry['type']} ({share})", file=sys.stderr)
    found, unread = typed_gallery.open_typed_gallery(args.gallery, model, predictor, told, args.data_dir)
    if args.save_gallery:
        typed_gallery.save(found, args.save_gallery)
        print(f"gallery: {args.save_gallery} ({len(found.id):,} garments)", file=sys.stderr)
    missing = asked or lacked_types(outfit, found)
    _run_complete(outfit, found, model, params, missing, args.topk, out, command)
    return 1 if unread else 0


if __name__ == "__main__":
    cli.run(main, add_flags)
