"""DeepFashion Consumer-to-shop Clothes Retrieval Benchmark (Liu et al., CVPR 2016).

Splits: `train` (both views of the training pairs), `val` (both views), `query` and `gallery`; the feature
`pair_id` holds the 0-based rows of the partition's pairs that an image belongs to. Configs:

- `original`: query and gallery are the consumers' and the shop's images of the test pairs, each image
once.
- `val_test`: MMFashion's protocol on the released lists: pairs of val and test merged, one query and one
gallery record per pair, so images of several pairs repeat (their image_id ends in `#pair`); no `val` split.
- `mmfashion`: the same from the lists that MMFashion's prepare script writes.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders import annotations, derived, labels
from tfds_builders.annotations import Boxes, Partition, Placed
from tfds_builders.benchmark import (
    BenchmarkBuilder,
    Frame,
    PicturesConfig,
    Records,
    Vocabulary,
    attribute_feature,
    garment_type_feature,
    image_features,
    picture_folder,
)
from tfds_builders.deepfashion_consumer2shop.pairs import (
    CONSUMER,
    SHOP,
    Entries,
    Pairs,
    paired_entries,
    picture_list,
    read_derived_pairs,
    read_pairs,
    rows_of,
    unique_entries,
)
from tfds_builders.release import Release, TextFile, find_text, require_text

ITEMS = ("list_item_consumer2shop.txt", "list_items_consumer2shop.txt")
FRAME = Frame(300, padded=False)  # of the small images, which the annotations refer to
SOURCES = {1: SHOP, 2: CONSUMER}  # the code before a box


class Builder(BenchmarkBuilder):
    """Consumers' photos and the shop's images of the same items."""

    DESCRIPTION = (
        "DeepFashion Consumer-to-shop Clothes Retrieval Benchmark: pairs, item identity, box, landmarks."
    )
    BUILDER_CONFIGS: ClassVar = [
        PicturesConfig(name="original", description="Query and gallery of the test pairs, each image once."),
        PicturesConfig(
            name="val_test", description="Query and gallery of val and test, one record per pair."
        ),
        PicturesConfig(name="mmfashion", description="The lists written by MMFashion's prepare script."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Ask for the Consumer-to-shop Clothes Retrieval Benchmark at
https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/Consumer2ShopRetrieval.html (non-commercial research only)
and put its files, unpacked or as the zip archives, into manual_dir:
  Img/img/…                                    the images (or Img/img.zip), and/or
  Img/img_highres/…                            the large ones
  Eval/list_eval_partition.txt                 consumer image, shop image, item, train / val / test
  Anno/list_item_consumer2shop.txt             item ids (list_items_consumer2shop.txt in some copies)
  Anno/list_bbox_consumer2shop.txt Anno/list_landmarks_consumer2shop.txt
  Anno/list_attr_cloth.txt Anno/list_attr_items.txt      optional: 303 attributes per item
  Anno/list_attr_type.txt                      optional: names of the attribute types
The config mmfashion reads instead of the partition, boxes and landmarks
  train_consumer2shop.txt train_id.txt consumer.txt consumer_id.txt shop.txt shop_id.txt
  list_bbox_{train,consumer,shop}.txt list_landmarks_{train,consumer,shop}.txt"""

    @property
    def derived_lists(self) -> bool:
        return self.builder_config.name == "mmfashion"

    @functools.cached_property
    def items(self) -> tuple[TextFile, dict[str, int]] | None:
        """The item list; None where MMFashion's lists come without it."""
        text = find_text(self.release, ITEMS, ("Anno",))
        if text is None and not self.derived_lists:
            require_text(self.release, ITEMS, ("Anno",))
        return (text, labels.read_items(text)) if text else None

    @property
    def item_rows(self) -> derived.ItemNames | None:
        """The item list by name and by row."""
        return derived.ItemNames(list(self.items[1]), self.items[1]) if self.items else None

    @functools.cached_property
    def pairs(self) -> dict[str, Pairs]:
        """The released pairs under "all", or MMFashion's under "train" and "test"."""
        if self.derived_lists:
            return read_derived_pairs(self.release, self.item_rows)
        return {"all": read_pairs(require_text(self.release, "list_eval_partition.txt", ("Eval", "Anno")))}

    def vocabulary(self, release: Release) -> Vocabulary:
        names = [name for pairs in self.pairs.values() for name in (*pairs.consumer, *pairs.shop)]
        category = sorted({labels.folder_category(name) for name in names})
        names_text = find_text(release, "list_attr_cloth.txt", ("Anno",))
        labels_text = find_text(release, "list_attr_items.txt", ("Anno",))
        if names_text is None or labels_text is None or self.items is None:
            return Vocabulary(category)
        attribute, kinds = labels.read_names(names_text, unique=False)
        return Vocabulary(category, attribute, [self._type_name(kind) for kind in kinds])

    @functools.cached_property
    def type_names(self) -> list[str]:
        """The names of the attribute types from type 1 on; [] where the release has no list of them."""
        text = find_text(self.release, "list_attr_type.txt", ("Anno",))
        return labels.read_type_names(text) if text else []

    def _type_name(self, kind: int) -> str:
        if 1 <= kind <= len(self.type_names):
            return self.type_names[kind - 1]
        return f"type {kind}" if kind else "attribute"

    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        features = image_features() | attribute_feature(vocabulary)
        features |= {
            "item_id": tfds.features.Text(),
            "view": tfds.features.ClassLabel(names=["shop", "consumer"]),
            "pair_id": tfds.features.Sequence(np.int64),
            "category": tfds.features.ClassLabel(names=vocabulary.category),
        }
        if not self.derived_lists:
            features |= garment_type_feature() | {"variation": tfds.features.Scalar(dtype=np.int32)}
        return features

    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        records = self._derived(release) if self.derived_lists else self._original(release)
        names = {name: i for i, name in enumerate(vocabulary.category)}
        columns = dict(records.columns)
        columns["category"] = np.array(
            [names[labels.folder_category(name)] for name in records.image], np.int32
        )
        notes = records.notes
        if vocabulary.attribute is None:
            notes += (
                "no attributes: list_attr_cloth.txt, list_attr_items.txt and the item list are not all there",
            )
        else:
            items_text, items = self.items
            text = require_text(release, "list_attr_items.txt", ("Anno",))
            table = labels.read_item_labels(text, items, items_text, len(vocabulary.attribute))
            columns["attribute"] = table[[items[item] for item in columns["item_id"]]]
            unnamed = sorted({group for group in vocabulary.attribute_group if group.startswith("type ")})
            if self.type_names and unnamed:
                notes += (f"list_attr_type.txt: {len(self.type_names)} types, without {', '.join(unnamed)}",)
        folder = picture_folder(release, self.builder_config.pictures)
        frame = FRAME if folder != "img" else None
        return records._replace(columns=columns, notes=notes, frame=frame, picture_folder=folder)

    def _original(self, release: Release) -> Records:
        pairs = self.pairs["all"]
        pictures = picture_list(pairs)
        items_text, items = self.items
        labels.check_items(pictures, items, items_text)
        boxes_text = require_text(release, "list_bbox_consumer2shop.txt", ("Anno",))
        marks_text = require_text(release, "list_landmarks_consumer2shop.txt", ("Anno",))
        box_rows, mark_rows = (
            Placed(text, pictures, merge=True, unlisted=True) for text in (boxes_text, marks_text)
        )
        boxes = annotations.read_boxes(boxes_text, box_rows, extra=2)
        marks = annotations.read_landmarks(marks_text, mark_rows)
        annotations.check_clothes_types(boxes, marks, pictures)
        columns = {
            "landmark": marks.landmark,
            "visibility": marks.visibility,
            "garment_type": marks.garment_type - 1,
            "variation": np.zeros(len(marks.garment_type), np.int32)
            if marks.variation is None
            else marks.variation,
        }
        splits = {"train": unique_entries(pairs, rows_of(pairs, "train"))}
        if self.builder_config.name == "original":
            splits["val"] = unique_entries(pairs, rows_of(pairs, "val"))
            splits["query"] = unique_entries(pairs, rows_of(pairs, "test"), (CONSUMER,))
            splits["gallery"] = unique_entries(pairs, rows_of(pairs, "test"), (SHOP,))
        else:
            splits["query"] = paired_entries(pairs, rows_of(pairs, "val", "test"), CONSUMER)
            splits["gallery"] = paired_entries(pairs, rows_of(pairs, "val", "test"), SHOP)
        parts = [make_part(split, entries, pictures, boxes, columns) for split, entries in splits.items()]
        notes = box_rows.notes() + mark_rows.notes() + _source_notes(boxes, pictures, splits)
        if pairs.merged:
            notes += (
                f"{pairs.lines.texts[0].label}: {pairs.merged} rows repeat earlier ones and were merged",
            )
        return derived.join(parts, unique=False, notes=notes, item_names=list(items))

    def _derived(self, release: Release) -> Records:
        parts = []
        for kind, pairs in self.pairs.items():
            every = range(len(pairs.consumer))
            if kind == "train":
                splits = {"train": ("train", unique_entries(pairs, every))}
            else:
                splits = {
                    "query": ("consumer", paired_entries(pairs, every, CONSUMER)),
                    "gallery": ("shop", paired_entries(pairs, every, SHOP)),
                }
            for split, (stem, entries) in splits.items():
                pictures = _named_pictures(pairs, entries)
                boxes_text = require_text(release, f"list_bbox_{stem}.txt", ("Anno",))
                boxes = derived.read_named_boxes(
                    boxes_text, Placed(boxes_text, pictures, merge=True, unlisted=True)
                )
                marks_text = require_text(release, f"list_landmarks_{stem}.txt", ("Anno",))
                placed = Placed(marks_text, pictures, merge=True, unlisted=True)
                landmark, visibility = derived.read_named_points(marks_text, placed)
                columns = {"landmark": landmark, "visibility": visibility}
                parts.append(make_part(split, entries, pictures, boxes, columns))
        ids = [item for part in parts for item in part.columns["item_id"]]
        return derived.join(parts, unique=False, item_names=derived.item_list(ids, self.item_rows))


def make_part(
    split: str, entries: Entries, pictures: Partition, boxes: Boxes, columns: dict[str, Any]
) -> derived.Part:
    """The records of a split from tables that have one row per image."""
    index = {name: i for i, name in enumerate(pictures.image)}
    rows = np.array([index[name] for name in entries.image])
    repeated = len(set(entries.image)) < len(entries)
    ids = [f"{name}#{pairs[0]}" if repeated else name for name, pairs in zip(entries.image, entries.pairs)]
    lines = annotations.lines_of(pictures.text, np.asarray(pictures.line)[rows])
    taken = {key: column[rows] for key, column in columns.items()}
    return derived.Part(
        split,
        lines,
        entries.image,
        Boxes(derived.take_lines(boxes.lines, rows), boxes.box[rows]),
        taken
        | {
            "image_id": ids,
            "item_id": entries.item,
            "view": np.array(entries.view, np.int32),
            "pair_id": entries.pairs,
        },
    )


def _named_pictures(pairs: Pairs, entries: Entries) -> Partition:
    """The images of some entries, each once."""
    first = {name: i for i, name in reversed(list(enumerate(entries.image)))}
    image = sorted(first, key=first.get)
    line = [int(pairs.lines.line[entries.pairs[first[name]][0]]) for name in image]
    item = [entries.item[first[name]] for name in image]
    return Partition(pairs.lines.texts[0], image, [""] * len(image), line, item)


def _source_notes(boxes: Boxes, pictures: Partition, splits: dict[str, Entries]) -> tuple[str, ...]:
    """How many boxes are marked with the other view than their pairs say, and images in several splits."""
    index = {name: i for i, name in enumerate(pictures.image)}
    view = np.zeros(len(pictures.image), np.int32)
    owners = np.zeros(len(pictures.image), np.int32)
    for entries in splits.values():
        rows = np.array([index[name] for name in entries.image])
        view[rows] = entries.view
        owners[np.unique(rows)] += 1
    unknown = ~np.isin(boxes.code, list(SOURCES))
    if unknown.any():
        i = int(np.flatnonzero(unknown)[0])
        raise boxes.lines.error(i, f"source {boxes.code[i]} is not 1 (shop) or 2 (consumer)")
    notes = []
    wrong = int((np.where(boxes.code == 1, SHOP, CONSUMER) != view).sum())
    if wrong:
        notes.append(
            f"{boxes.lines.texts[0].label}: {wrong} images have the other source than in their pairs"
        )
    if (owners > 1).any():
        notes.append(f"{int((owners > 1).sum())} images belong to pairs of several splits")
    return tuple(notes)
