"""A photo → garments of a database: similar ones of a category, or what goes with a garment of the photo.

    fashionjax recommend look.jpg --database=garments --category=skirt --top=10 --out=page
    fashionjax recommend look.jpg --database=garments --complement=jacket --top=5
    fashionjax recommend --database=garments --queries=test_garments --out=report

One JSON object a line on standard output, best first: {"rank", "id", "pair_id", "category", "score"}, score
being the cosine similarity; with several photos each line has "image" too. Of each product (pair_id) the
nearest garment is listed. With --category the photo's best garment of that category is compared with the
database's; without it the photo's best garment, with those of its category. --complement takes the best
garment of another group (upper, lower, outer) than the wanted category's, looks for photos that show
something like it together with the wanted category, and lists what they show of that.

Without a photo the database is evaluated: every garment of --queries (or of the database itself, against the
other photos) asks for garments of its category; recall, hit and MRR at 1, 2, 5, 10 and 20 as published and
standard, in report.json and report.html of --out.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from fashionjax import cli, files, quirks, segment
from fashionjax.data import photo
from fashionjax.errors import UserError
from fashionjax.gallery import embed as gallery
from fashionjax.inference import photos, segmenter
from fashionjax.recommend import database as features
from fashionjax.recommend import evaluation, garments, page, response, rules
from fashionjax.recommend.database import Database
from fashionjax.runtime import parallel

NO_DETECTOR = "none"  # --detector


class Asked(NamedTuple):
    """What is wanted; groups of categories, the quirks that are on, whether features are whitened."""

    category: str
    complement: str
    color: str
    style: str
    top: int
    groups: Mapping[str, Sequence[str]]
    quirks: tuple[str, ...]
    whiten: bool


class Answer(NamedTuple):
    """A photo's lines, with what the page shows of it."""

    entry: garments.Entry
    asked: int  # the garment of the photo that was compared
    hits: list[rules.Hit]
    lines: list[dict[str, Any]]


def answer(
    entry: garments.Entry, asked: Asked, found: Database, embedding: np.ndarray, embedder: garments.Embedder
) -> Answer:
    """The photo's garments → what is recommended. `embedding` [g d] is what the garments of the database are
    compared by."""
    known = sorted({garment.category for garment in found.garments})
    own = [garment["category"] for garment in entry.objects]
    if asked.complement:
        target = rules.category_named(asked.complement, known)
        place = rules.query_of(own, target, asked.groups)
        query = query_features(entry, place, asked, found, embedder)
        hits = rules.complements(
            query,
            own[place],
            target,
            embedding,
            found.garments,
            asked.top,
            color=asked.color,
            style=asked.style,
            search_all="k6_complement_searches_all" in asked.quirks,
        )
    else:
        category = rules.category_named(asked.category, known) if asked.category else None
        place = query_place(entry, category)
        query = query_features(entry, place, asked, found, embedder)
        hits = rules.similar(query, embedding, found.garments, category or own[place] or None, asked.top)
        if not hits:
            raise UserError(f"the database has no garment of the category {own[place]!r}: {', '.join(known)}")
    lines = []
    for rank, hit in enumerate(hits, 1):
        shown = found.garments[hit.shown]
        lines.append({"rank": rank, "id": shown.id, "pair_id": shown.pair_id, "category": shown.category,
                      "score": round(hit.score, 6)})  # fmt: skip
    return Answer(entry, place, hits, lines)


def query_place(entry: garments.Entry, category: str | None) -> int:
    """The photo's best garment of a category, or its best; UserError that lists what it shows."""
    own = [garment["category"] for garment in entry.objects]
    if not own:
        raise UserError(f"{entry.image}: no garment was found; lower --score, or use a better detector")
    if category is None or own == [""]:
        return 0
    if category not in own:
        raise UserError(
            f"{entry.image}: shows {', '.join(dict.fromkeys(own))} and no {category}; "
            f"--complement={category} recommends what goes with it"
        )
    return own.index(category)


def query_features(entry, place: int, asked: Asked, found: Database, embedder) -> np.ndarray:
    """The garment's embedding [d], whitened where asked; under quirk K1 still its own, as upstream's."""
    (rows,) = garments.embedded([entry], embedder)
    if isinstance(rows, UserError):
        raise rows
    query = rows[place]
    if query.shape[0] != found.embedding.shape[1]:
        raise UserError(f"the model gives {query.shape[0]} values, the database {found.embedding.shape[1]}")
    return features.whitened(found, query[None])[0] if asked.whiten else query


def open_models(found: Database, args) -> tuple[garments.Embedder, Any]:
    """(embedder, detector or None) of the flags, else of the database: its photos and the queries are
    segmented alike."""
    checkpoint = args.checkpoint or found.origin["checkpoint"]
    embedder = garments.load(checkpoint, 1)
    if gallery.fingerprint(embedder.model) != found.origin["model"]:
        raise UserError(f"{checkpoint}: is not the model that embedded {found.folder}; name that one")
    if args.detector == NO_DETECTOR:
        return embedder, None
    if args.detector:
        return embedder, segmenter.load(args.detector)
    detector = garments.open_detector(found.folder, found.origin.get("detector", ""))
    if detector is None and not embedder.of_boxes:
        print(
            f"note: {found.folder} does not say which detector segmented it: each photo is one garment as a "
            "whole; --detector=DIR finds its garments",
            file=sys.stderr,
        )
    return embedder, detector


def show(answers: Sequence[Answer], found: Database, out: Path, words: list[str], notes: list[str]) -> None:
    """OUT/recommendations.html, and recommendations.json with the same lines."""
    image_of = functools.lru_cache(maxsize=64)(photo.read_photo)
    shown = []
    for each in answers:
        image = photo.read_photo(each.entry.image)
        pictures = [features.picture(found, image_of, found.garments[hit.shown]) for hit in each.hits]
        garment = garments.cut(image, each.entry.objects[each.asked])
        shown.append(page.Shown(each.entry.image, image, each.entry.objects, each.asked, garment, each.lines,
                                pictures))  # fmt: skip
    command = shlex.join(["fashionjax", "recommend", *sys.argv[1:]])
    files.write_text(out / "recommendations.html", page.render(shown, words, notes, command))
    twin = [{"image": each.entry.image, "query": each.entry.objects[each.asked]["category"],
             "matches": each.lines} for each in answers]  # fmt: skip
    files.write_text(out / "recommendations.json", json.dumps(twin, indent=1, ensure_ascii=False) + "\n")
    print(f"page: {out / 'recommendations.html'}", file=sys.stderr)


def add_flags() -> None:
    flags.DEFINE_string("database", None, "folder that `fashionjax embed` wrote features into")
    flags.DEFINE_string("category", "", "category of the garments that are searched")
    flags.DEFINE_string("complement", "", "category of garments that go with one of the photo")
    flags.DEFINE_string("color", "", "color that a complement must have (column of --pairs)")
    flags.DEFINE_string("style", "", "style that a complement must have")
    flags.DEFINE_integer("top", 10, "recommendations of each photo", lower_bound=1)
    flags.DEFINE_bool("pca", False, "compare features through the database's whitened PCA")
    flags.DEFINE_string("checkpoint", None, "model that embedded the database, where it has moved")
    flags.DEFINE_string(
        "detector",
        None,
        "checkpoint that finds the photo's garments; default: the one that segmented the database; none: the "
        "model's own, or the whole photo as one garment",
    )
    flags.DEFINE_float(
        "score", None, "least score of a garment of the photo; default: as the database's, else 0.5", 0.0, 1.0
    )
    flags.DEFINE_string("groups", None, "JSON file {group: [category, …]} in place of the built-in groups")
    flags.DEFINE_list("quirks", [], "upstream's peculiarities (docs/faithful.md) beside the database's own")
    flags.DEFINE_string("queries", None, "another database, whose garments are the queries of an evaluation")
    flags.DEFINE_string("response", None, "folder for JSON answers in the form of upstream's service")
    flags.DEFINE_string("out", None, "folder of the page, or of the report of an evaluation")
    flags.mark_flag_as_required("database")
    flags.FLAGS.set_gnu_getopt(True)  # photos may stand before the flags


def main(argv: list[str]) -> int:
    args = flags.FLAGS
    paths = photos.expand(argv[1:])
    if args.category and args.complement:
        raise UserError("give --category or --complement, not both")
    if (args.color or args.style) and not args.complement:
        raise UserError("--color and --style narrow a --complement")
    if not paths and not args.out:
        raise UserError("no photo given: recommend IMG… --database=DIR; an evaluation needs --out=DIR")
    found = features.read(args.database)
    embedding = features.whitened(found, found.embedding) if args.pca else found.embedding
    if not paths:
        return evaluation.run(found, embedding, args.queries, args.pca, cli.make_folder(args.out, "--out"))
    names = quirks.of_flag([*found.origin.get("quirks", ()), *args.quirks], "recommendation")
    groups = rules.read_groups(args.groups) if args.groups else rules.GROUPS
    asked = Asked(args.category, args.complement, args.color, args.style, args.top, groups, names, args.pca)
    parallel.use_compilation_cache()
    embedder, detector = open_models(found, args)
    score = segment.read_origin(found.folder).get("score", 0.5) if args.score is None else args.score
    answers, failed = [], []
    for path in paths:
        try:
            entry = garments.found_in(path, embedder, detector, score)
            each = answer(entry, asked, found, embedding, embedder)
        except UserError as error:
            failed.append(error)
            print(f"error: {path}: {error}".replace(f"{path}: {path}:", f"{path}:"), file=sys.stderr)
            if args.response:
                response.write(Path(args.response), path, error=error)
            continue
        answers.append(each)
        for line in each.lines:
            told = line if len(paths) == 1 else {"image": path} | line
            print(json.dumps(told, ensure_ascii=False), flush=True)
        if args.response:
            response.write(Path(args.response), path, lines=each.lines, root=found.folder)
    if args.out and answers:
        what = f"complements of the category {args.complement}" if args.complement else "similar garments"
        words = [f"{len(answers)} photos, {what}, among {len(found.garments):,} garments of {found.folder}: "
                 "cosine similarity, highest first, one garment of each product."]  # fmt: skip
        show(answers, found, cli.make_folder(args.out, "--out"), words, [str(error) for error in failed])
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main, add_flags)
