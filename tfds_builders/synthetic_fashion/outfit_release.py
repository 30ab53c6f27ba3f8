"""The outfits of the synthetic world in the layout of Polyvore Outfits, with that release's oddities.

Both ways of splitting are written: `disjoint` as drawn, `nondisjoint` with the same outfits split at random,
so that its splits share pieces. Titles have commas, newlines, letters that are not ASCII, or are empty with
only a url_name; the metadata misspells a key; the order of the type spaces follows no rule; categories.csv
has CRLF line ends, trailing blanks, an id without type, and ids with several names.

The forms are the copies that there are: `folder` and `zip` (images/ or images.zip beside the tables),
`parquet` (images in a file per split), `hub` (the public copy: data/<version>/<split>.parquet, a third folder
without outfits, and no text features) and `versions` (each version's folder holds its own text
features, metadata, titles and categories).
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tfds_builders.release import ReleaseError
from tfds_builders.synthetic_fashion import outfits
from tfds_builders.synthetic_fashion.product import products
from tfds_builders.synthetic_fashion.wardrobe import KINDS, VOCABULARY, Piece, Taste
from tfds_builders.synthetic_fashion.world import rng_of

WIDTH = 6000  # numbers of a text feature
SIZE = 300  # side of the release's images
SHARED = 0.35
NAMES = {"train": "train", "val": "valid", "test": "test"}  # split → its name in the files
SHARES = {"train": 0.55, "val": 0.2, "test": 0.25}
PIECES_PER_OUTFIT = 3.3  # about, after sharing
FINE = {shape: str(2 + number) for number, shape in enumerate(s for k in KINDS.values() for s in k.shapes)}
FORMS = ("folder", "zip", "parquet", "hub", "versions")
FEATURES = "train_hglmm_pca6000.txt"
PROTOCOL = {"disjoint": 0, "nondisjoint": 2}


class Parts(NamedTuple):
    """One way of splitting. pieces of each split in order of first appearance, tables as in `outfits`."""

    pieces: dict[str, list[Piece]]
    tables: dict[str, dict[str, list[Any]]]


class World(NamedTuple):
    """Everything that is written: the splits of both folders, and the order of their type spaces."""

    parts: dict[str, Parts]
    spaces: dict[str, list[tuple[str, str]]]


def make_world(images: int, seed: int) -> World:
    """About `images` pieces in outfits. ReleaseError when they are too few to ask questions of."""
    total = images / PIECES_PER_OUTFIT
    counts = {split: max(1, round(total * share)) for split, share in SHARES.items()}
    drawn = {split: outfits.draw(seed, split, count, Taste(), SHARED) for split, count in counts.items()}
    together = [[part.pieces[row] for row in rows] for part in drawn.values() for rows in part.outfit]
    order = rng_of(seed, 35).permutation(len(together)).tolist()
    ends = np.cumsum(list(counts.values())).tolist()
    mixed = {
        split: [together[i] for i in order[end - counts[split] : end]] for split, end in zip(counts, ends)
    }
    apart = {split: [[p.pieces[row] for row in rows] for rows in p.outfit] for split, p in drawn.items()}
    try:
        parts = {"disjoint": _parts(seed, apart, 36), "nondisjoint": _parts(seed, mixed, 37)}
    except ReleaseError as error:
        raise ReleaseError(
            f"--images={images}: too few for questions of {outfits.CHOICES} answers"
        ) from error
    return World(parts, {name: _spaces(seed, stream) for stream, name in enumerate(parts, start=38)})


def _parts(seed: int, found: dict[str, list[list[Piece]]], stream: int) -> Parts:
    pieces, tables = {}, {}
    for split, together in found.items():
        row_of: dict[int, int] = {}
        pieces[split] = []
        for piece in (piece for rows in together for piece in rows):
            if piece.item.number not in row_of:
                row_of[piece.item.number] = len(pieces[split])
                pieces[split].append(piece)
        rows = [[row_of[piece.item.number] for piece in outfit] for outfit in together]
        tables[split] = outfits.tables(seed, split, [piece.kind for piece in pieces[split]], rows, stream)
        first = 210_000_000 + outfits.SPLITS.index(split) * 1_000_000
        tables[split]["outfit_id"] = [str(first + 7 * n) for n in range(len(rows))]
    return Parts(pieces, tables)


def _spaces(seed: int, stream: int) -> list[tuple[str, str]]:
    rng = rng_of(seed, stream)
    pairs = [outfits.TYPE_SPACES[i] for i in rng.permutation(len(outfits.TYPE_SPACES))]
    return [pair[::-1] if rng.random() < 0.5 else pair for pair in pairs]


# ------------------------------------------------------------------------------ items
def release_id(piece: Piece) -> str:
    return str(154_000_000 + piece.item.number)


def spelled(piece: Piece) -> tuple[str, str]:
    """Title and url_name as the metadata has them."""
    title, kind = piece.title, piece.item.number % 8
    if kind == 0 and title:
        return f"{title.title()}, Café Édition", ""
    if kind == 1:
        return "", title
    if kind == 2:
        return f" {title.upper()} ", "no matter"
    if kind == 3 and title:
        return f"{title.title()}\n, for you – and me", ""
    return title.title(), title.replace(" ", "-")


def label(piece: Piece) -> str:
    """The text that the feature file knows the piece by."""
    title, url_name = spelled(piece)
    kept = [letter for letter in (title or url_name) if ord(letter) < 128 and letter != "\n"]
    return "".join(kept).strip().lower()


def text_features(pieces: Iterable[Piece], version: str | None = None) -> dict[str, str]:
    """label → its 6000 numbers as written, for every text of the pieces that has a feature. The numbers of a
    `version` of its own are others, as those of a PCA of other training texts.
    """
    stream = 3 if version is None else 4 + list(PROTOCOL).index(version)
    words = rng_of(20170, stream).standard_normal((len(VOCABULARY), WIDTH))
    found: dict[str, str] = {}
    for piece in pieces:
        name = label(piece)
        if not piece.has_text or not name or name in found:
            continue
        vector = sum((words[VOCABULARY.index(w)] for w in name.replace(",", " ").split() if w in VOCABULARY),
                     np.zeros(WIDTH))  # fmt: skip
        vector = vector / max(np.linalg.norm(vector), 1e-12)
        found[name] = ",".join(f"{value:.5f}" for value in vector)
    return found


def _metadata(piece: Piece) -> dict[str, Any]:
    title, url_name = spelled(piece)
    return {
        "url_name": url_name,
        "description": "",
        "catgeories": ["Women's Fashion", piece.kind],
        "title": title,
        "related": [],
        "category_id": FINE[piece.item.category],
        "semantic_category": piece.kind,
    }


# ------------------------------------------------------------------------------ files
def _write_split(folder: Path, split: str, pieces: list[Piece], tables: dict[str, list[Any]]) -> None:
    """The three files of a split."""
    name, ids = NAMES[split], tables["outfit_id"]
    ref: dict[int, str] = {}  # a reference to each row, by the first outfit that has it
    for set_id, rows in zip(ids, tables["outfit"]):
        for index, row in enumerate(rows, start=1):
            ref.setdefault(row, f"{set_id}_{index}")
    own = [[f"{set_id}_{i}" for i in range(1, len(rows) + 1)] for set_id, rows in zip(ids, tables["outfit"])]
    sets = [
        {
            "set_id": set_id,
            "items": [{"item_id": release_id(pieces[r]), "index": i} for i, r in enumerate(rows, start=1)],
        }
        for set_id, rows in zip(ids, tables["outfit"])
    ]
    (folder / f"{name}.json").write_text(json.dumps(sets))
    lines = []
    for number, (is_real, rows) in enumerate(zip(tables["compatibility_label"], tables["compatibility"])):
        refs = own[number // 2] if is_real else [ref[row] for row in rows]
        lines.append(f"{is_real} " + " ".join(refs) + " \n")
    (folder / f"compatibility_{name}.txt").write_text("".join(lines))
    questions = []
    for number, (answers, right, blank) in enumerate(
        zip(tables["answer"], tables["correct"], tables["blank"])
    ):
        mine = own[number]
        questions.append(
            {
                "question": mine[: blank - 1] + mine[blank:],
                "blank_position": blank,
                "answers": [mine[blank - 1] if yes else ref[row] for row, yes in zip(answers, right)],
            }
        )
    (folder / f"fill_in_blank_{name}.json").write_text(json.dumps(questions))


def _write_tables(root: Path, world: World, form: str) -> None:
    for name, part in world.parts.items():
        folder = root / name
        folder.mkdir()
        (folder / "typespaces.p").write_bytes(pickle.dumps(world.spaces[name], PROTOCOL[name]))
        for split, found in part.pieces.items():
            _write_split(folder, split, found, part.tables[split])
        if form == "versions":
            _write_shared(folder, [part])
            _write_features(folder, text_features(part.pieces["train"], name))
    if form != "versions":
        _write_shared(root, world.parts.values())
        if form != "hub":
            trained = [piece for part in world.parts.values() for piece in part.pieces["train"]]
            _write_features(root, text_features(trained))


def _write_shared(folder: Path, parts: Iterable[Parts]) -> None:
    """Metadata, titles and categories of all items and outfits of `parts`."""
    parts = list(parts)
    pieces = {p.item.number: p for part in parts for found in part.pieces.values() for p in found}
    metadata = {release_id(piece): _metadata(piece) for piece in pieces.values()}
    (folder / "polyvore_item_metadata.json").write_text(json.dumps(metadata))
    sets = dict.fromkeys(s for part in parts for t in part.tables.values() for s in t["outfit_id"])
    titles = {set_id: {"url_name": "", "title": f"Outfit no. {n}"} for n, set_id in enumerate(sets)}
    (folder / "polyvore_outfit_titles.json").write_text(json.dumps(titles))
    rows = ["1,unnamed,"]
    for kind, rules in KINDS.items():
        for number, (shape, name) in enumerate(rules.shapes.items()):
            rows.append(f"{FINE[shape]},{name},{kind}")
            if number == 1:  # the same id under another name
                rows.append(f"{FINE[shape]},other {name},{kind} ")
    (folder / "categories.csv").write_bytes("\r\n".join(rows).encode())


def _write_features(folder: Path, features: dict[str, str]) -> None:
    with (folder / FEATURES).open("w") as file:
        for name, numbers in features.items():
            file.write(f"{name},{numbers}\n")


def _write_hub_pictures(root: Path, world: World, pictures: dict[str, bytes]) -> None:
    """A parquet file per version and split, of {bytes, path} records, and questions of a third version whose
    outfits are not there."""
    import pyarrow
    from pyarrow import parquet

    for name, part in world.parts.items():
        folder = root / "data" / name
        folder.mkdir(parents=True)
        for split, pieces in part.pieces.items():
            ids = [release_id(piece) for piece in pieces]
            rows = [{"bytes": pictures[item], "path": f"{item}.jpg"} for item in ids]
            file = "validation" if split == "val" else split
            parquet.write_table(pyarrow.table({"item_id": ids, "image": rows}), folder / f"{file}.parquet")
    third = root / "maryland_polyvore_hardneg"
    third.mkdir()
    for split in NAMES.values():
        (third / f"compatibility_{split}.txt").write_text("1 9_1 9_2\n0 8_1 9_2\n")


def _write_parquet(root: Path, rows: dict[str, list[tuple[str, bytes]]]) -> None:
    """A file per split of the disjoint version, with plain bytes."""
    import pyarrow
    from pyarrow import parquet

    for split, pictures in rows.items():
        table = {"item_id": [item for item, _ in pictures], "image": [data for _, data in pictures]}
        parquet.write_table(
            pyarrow.table(table), root / f"{NAMES[split]}-00000-of-00001.parquet", row_group_size=64
        )


def write_outfits(
    root: Path, images: int, seed: int, size: int | None, form: str = "folder", processes: int = 1
) -> dict[str, Any]:
    """Write the release into the folder `root`, in one of FORMS → what was written."""
    world = make_world(images, seed)
    root.mkdir(parents=True, exist_ok=True)
    _write_tables(root, world, form)
    apart = world.parts["disjoint"].pieces
    pieces = [piece for found in apart.values() for piece in found]
    pictures = products(seed, [piece.item for piece in pieces], size or SIZE, processes)
    shown = tqdm(pictures, "rendering", len(pieces), unit="img", disable=None)  # None: only on a terminal
    named = ((release_id(piece), data) for piece, data in zip(pieces, shown))
    if form == "parquet":
        _write_parquet(root, {split: [next(named) for _ in found] for split, found in apart.items()})
    elif form == "hub":
        _write_hub_pictures(root, world, dict(named))
    elif form == "zip":
        with zipfile.ZipFile(root / "images.zip", "w", zipfile.ZIP_STORED) as archive:
            for name, data in named:  # a fixed date, so that the same seed gives the same archive
                archive.writestr(zipfile.ZipInfo(f"images/{name}.jpg"), data)
    else:
        (root / "images").mkdir()
        for name, data in named:
            (root / "images" / f"{name}.jpg").write_bytes(data)
    splits = {
        name: {split: len(found) for split, found in part.pieces.items()}
        for name, part in world.parts.items()
    }
    return {"release": "polyvore_outfits", "dir": str(root), "images": len(pieces), "splits": splits}
