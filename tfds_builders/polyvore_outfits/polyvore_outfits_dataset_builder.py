"""Polyvore Outfits (Vasileva et al., ECCV 2018): items with text, outfits, and what is asked about them.

Configs: `disjoint` and `nondisjoint`, the two ways the release splits its outfits. Splits train, val (the
release's `valid`), test; a record per item of the split. Outfits, compatibility lines and fill-in-the-blank
questions are tables of record numbers in the metadata (docs/datasets/polyvore_outfits.md).
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.benchmark import BenchmarkBuilder, BenchmarkConfig, Records, Vocabulary
from tfds_builders.polyvore_outfits import files, tables, texts, type_spaces
from tfds_builders.release import Release, ReleaseError, TextFile

SPLITS = {"train": "train", "val": "valid", "test": "test"}  # split → its name in the release
OUTFITS = {  # as the literature counts them
    "disjoint": {"train": 16_995, "val": 3_000, "test": 15_145},
    "nondisjoint": {"train": 53_306, "val": 5_000, "test": 10_000},
}
PLACES = {"nondisjoint": {"train": 284_767, "val": 26_781, "test": 53_506}}  # items, counted per outfit
FEATURES = "train_hglmm_pca6000.txt"
TITLES = "polyvore_outfit_titles.json"


class Where(NamedTuple):
    """Where each record comes from, as `annotations.Lines`."""

    text: list[TextFile]
    number: list[int]

    def error(self, i: int, message: str) -> ReleaseError:
        return self.text[i].error(None, f"record {self.number[i]}: {message}")


class Builder(BenchmarkBuilder):
    """Items of outfits with images, types and texts."""

    HOMEPAGE = "https://github.com/mvasil/fashion-compatibility"
    DESCRIPTION = "Polyvore Outfits: items with image, type and text, outfits, and questions about them."
    BUILDER_CONFIGS: ClassVar = [
        BenchmarkConfig(name="disjoint", description="No item of a split is in another one."),
        BenchmarkConfig(name="nondisjoint", description="Outfits of different splits may share items."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Fetch Polyvore Outfits (https://github.com/mvasil/fashion-compatibility links to it; research only) and put
its files, unpacked or as zip archives, into manual_dir:
  images/<item_id>.jpg                    the images, or parquet files with the columns item_id and image
  polyvore_item_metadata.json             type, title and url_name of every item
  polyvore_outfit_titles.json             optional: titles of the outfits, which are checked and not used
  categories.csv                          optional: names of the fine categories
  train_hglmm_pca6000.txt                 optional: text features
  {disjoint,nondisjoint}/typespaces.p     the type pairs, whose order published weights need
  {disjoint,nondisjoint}/{train,valid,test}.json
  {disjoint,nondisjoint}/compatibility_{train,valid,test}.txt
  {disjoint,nondisjoint}/fill_in_blank_{train,valid,test}.json
A config reads its own folder only; the files above the folders may lie in each of them instead"""

    @functools.cached_property
    def release(self) -> Release:
        if not self.builder_config.manual_dir:
            raise ReleaseError(
                "the builder config needs manual_dir, the folder with the benchmark's files. "
                + self.MANUAL_DOWNLOAD_INSTRUCTIONS
            )
        return files.open_outfits(self.builder_config.manual_dir, self.builder_config.name)

    @functools.cached_property
    def spaces(self) -> list[tuple[str, str]]:
        """The type pairs, in their order."""
        return type_spaces.read(self._own("typespaces.p"))

    def _own(self, name: str) -> TextFile:
        return files.own_table(self.release, name, self.builder_config.name)

    @functools.cached_property
    def features_file(self) -> TextFile | None:
        """The text features, which some copies have not."""
        return files.find_shared(self.release, FEATURES, self.builder_config.name)

    def vocabulary(self, release: Release) -> Vocabulary:
        return Vocabulary(sorted({name for pair in self.spaces for name in pair}))

    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        names = ("image_id", "item_id", "title", "fine_category")
        features = {name: tfds.features.Text() for name in names} | {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "category": tfds.features.ClassLabel(names=vocabulary.category),
            "has_text": np.uint8,
        }
        if self.features_file is not None:
            features["text"] = tfds.features.Tensor(shape=(texts.WIDTH,), dtype=np.float32)
        return features

    def _info(self) -> tfds.core.DatasetInfo:
        info = super()._info()
        info.metadata["type_spaces"] = [list(pair) for pair in self.spaces]
        return info

    # -------------------------------------------------------------------------- tables
    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        splits = {split: tables.read_split(self._own(f"{name}.json")) for split, name in SPLITS.items()}
        version = self.builder_config.name
        metadata = files.shared_table(release, "polyvore_item_metadata.json", version)
        wanted = dict.fromkeys(item for split in splits.values() for item in split.item)
        items = tables.read_items(metadata, wanted, vocabulary.category)
        for split in splits.values():
            tables.check_items(split, items, metadata)
        self.tables = {name: self._asked(name, split, items) for name, split in splits.items()}
        self.items = {name: split.item for name, split in splits.items()}
        notes = self._counts(splits)
        titles = files.find_shared(release, TITLES, version)
        if titles is None:
            notes.append(f"{TITLES} is not there; records have nothing of it")
        else:
            tables.check_titles(titles)
        scratch = self._scratch()
        notes += files.spool(release, files.missing(release, wanted), scratch, version)
        where = Where(
            [split.text for split in splits.values() for _ in split.item],
            [number for split in splits.values() for number in split.first],
        )
        order = [item for split in splits.values() for item in split.item]
        lost = set(files.missing(release, wanted))
        for row, item in enumerate(order):
            if item in lost:
                raise where.error(row, f"image images/{item}.jpg is missing from {release.root}")
        columns, found = self._columns(release, [items[item] for item in order], scratch)
        notes += found
        ends = np.cumsum([len(split.item) for split in splits.values()])
        return Records(
            lines=where,
            image=[f"images/{item}.jpg" for item in order],
            split=dict(zip(splits, np.split(np.arange(len(order)), ends[:-1]))),
            columns={"item_id": order} | columns,
            picture_folder="img",
            notes=tuple(notes),
        )

    def _asked(self, name: str, split: tables.Split, items: dict[str, tables.Item]) -> dict[str, list]:
        """The tables of a split."""
        lines = self._own(f"compatibility_{SPLITS[name]}.txt")
        questions = self._own(f"fill_in_blank_{SPLITS[name]}.json")
        asked = tables.read_compatibility(lines, split) | tables.read_questions(questions, split)
        kinds = [items[item].kind for item in split.item]
        label = self._own("typespaces.p").label
        tables.check_spaces(self.spaces, label, split, kinds, lines, questions, asked)
        return {"outfit": split.outfit, "outfit_id": split.outfit_id} | asked

    def _columns(
        self, release: Release, items: list[tables.Item], scratch: Path
    ) -> tuple[dict[str, list], list[str]]:
        """Everything but images and text features of the records, and notes."""
        categories = files.find_shared(release, "categories.csv", self.builder_config.name)
        if categories is None:
            fine = tables.FineCategories({}, ["categories.csv is not there: fine_category is empty"])
        else:
            fine = tables.read_fine_categories(categories)
        notes = list(fine.notes)
        self.titles = [texts.clean(item.title, item.url_name) for item in items]
        self.text_features, place = None, {}
        if self.features_file is None:
            notes.append(f"{FEATURES} is not there: records have no text features (has_text is 0)")
        else:
            unpacked = files.unpacked(self.features_file, scratch)
            self.text_features = texts.scan(unpacked, self.builder_config.progress)
            place, merged = self.text_features.place, self.text_features.merged
            if merged:
                notes.append(f"{FEATURES}: {merged} lines repeat earlier ones and were merged")
        has_text = [np.uint8(title in place) for title in self.titles]
        notes.append(f"{sum(map(int, has_text)):,} of {len(items):,} records have a text feature")
        columns = {
            "category": [item.kind for item in items],
            "title": self.titles,
            "fine_category": [fine.names.get(item.category_id, "") for item in items],
            "has_text": has_text,
        }
        return columns, notes

    def _counts(self, splits: dict[str, tables.Split]) -> list[str]:
        """What every split has, beside the published sizes."""
        notes = []
        for name, split in splits.items():
            asked = self.tables[name]
            outfits, places = len(split.outfit), sum(map(len, split.outfit))
            published = OUTFITS[self.builder_config.name][name]
            of_places = PLACES.get(self.builder_config.name, {}).get(name)
            notes.append(
                f"{name}: {outfits:,} outfits (published {published:,}) of {places:,} items"
                + (f" (published {of_places:,})" if of_places else "")
                + f", {len(split.item):,} of them different; {len(asked['compatibility']):,} compatibility "
                f"lines, {len(asked['question']):,} questions"
            )
            repeated = sum(len(set(rows)) < len(rows) for rows in split.outfit)
            if repeated:
                notes.append(f"{name}: {repeated} outfits hold an item twice")
        return notes

    # -------------------------------------------------------------------------- writing
    def _scratch(self) -> Path:
        """A folder of this build, gone at its end."""
        os.makedirs(self._data_dir_root, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".unpacked-", dir=self._data_dir_root)
        return Path(self._stack.enter_context(folder))

    def _write(self, *args: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        if self.text_features is None:
            yield from super()._write(*args)
            return
        nothing = np.zeros(texts.WIDTH, np.float32)
        for row, record in super()._write(*args):
            has = bool(record["has_text"])
            yield row, record | {"text": self.text_features.vector(self.titles[row]) if has else nothing}

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        super()._download_and_prepare(*args, **kwargs)
        if self.skipped:
            self._leave_out({entry["id"] for entry in self.skipped})
        self.info.metadata["tables"] = self.tables

    def _leave_out(self, pictures: set[str]) -> None:
        """Take the items of damaged images out of the tables."""
        for name, items in self.items.items():
            gone = {row for row, item in enumerate(items) if f"images/{item}.jpg" in pictures}
            self.tables[name], lost = tables.without(self.tables[name], gone, len(items))
            if gone:
                self.notes.append(
                    f"{name}: without {len(gone)} items of damaged images; with them went {lost['outfit']} "
                    f"outfits, {lost['compatibility']} compatibility lines and {lost['question']} questions"
                )
