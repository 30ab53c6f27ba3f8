"""DeepFashion In-shop Clothes Retrieval Benchmark (Liu et al., CVPR 2016): splits train, query, gallery.

Configs: `original` (the lists as released) and `mmfashion` (`<split>_{img,labels,id,bbox,landmarks}.txt` of
MMFashion's prepare script, whose landmarks are shifted by one triplet: read as they are).
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders import annotations, derived, labels
from tfds_builders.annotations import Partition, Placed
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
    rows_by_split,
)
from tfds_builders.release import Release, TextFile, find_text, require_text

SPLITS = ("train", "query", "gallery")
SIZES = {"train": 25_882, "query": 14_218, "gallery": 12_612}
FRAME = Frame(256, padded=True)  # of the small images, which the annotations refer to
ITEMS = ("list_item_inshop.txt", "list_items_inshop.txt")


class Builder(BenchmarkBuilder):
    """Shop images of items from several sides."""

    DESCRIPTION = (
        "DeepFashion In-shop Clothes Retrieval Benchmark: item identity, attributes, box, landmarks."
    )
    BUILDER_CONFIGS: ClassVar = [
        PicturesConfig(name="original", description="The lists as released."),
        PicturesConfig(
            name="mmfashion", description="The split lists written by MMFashion's prepare script."
        ),
    ]
    PUBLISHED: ClassVar = {"original": SIZES, "mmfashion": SIZES}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Ask for the In-shop Clothes Retrieval Benchmark at
https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html (non-commercial research only) and
put its files, unpacked or as the zip archives, into manual_dir:
  Img/img/…                          the 256-pixel images (or Img/img.zip), and/or
  Img/img_highres/…                  the large ones; their archive has a password that comes with the
                                     agreement: unpack it
  Eval/list_eval_partition.txt       image, item, train / query / gallery
  Anno/list_item_inshop.txt          item ids
  Anno/list_bbox_inshop.txt Anno/list_landmarks_inshop.txt
  Anno/list_attr_cloth.txt Anno/list_attr_items.txt     optional: 463 attributes per item
The config mmfashion reads instead {train,query,gallery}_{img,labels,id,bbox,landmarks}.txt and, where they
are there, Anno/list_item_inshop.txt and Anno/list_attr_cloth.txt for the names"""

    @property
    def derived_lists(self) -> bool:
        return self.builder_config.name == "mmfashion"

    @functools.cached_property
    def partition(self) -> Partition:
        """The images of the release with item and split."""
        text = require_text(self.release, "list_eval_partition.txt", ("Eval", "Anno"))
        return annotations.read_partition(text, SPLITS, items=True, merge=True)

    @functools.cached_property
    def lists(self) -> dict[str, tuple[TextFile, list[str], list[int]]]:
        """MMFashion's image lists: split → (file, images, lines)."""
        found = {split: require_text(self.release, f"{split}_img.txt", ("Anno",)) for split in SPLITS}
        return {s: (text, *derived.read_pictures(text, unique=False)) for s, text in found.items()}

    def vocabulary(self, release: Release) -> Vocabulary:
        if self.derived_lists:
            pictures = [name for _, names, _ in self.lists.values() for name in names]
        else:
            pictures = self.partition.image
        category = sorted({labels.folder_category(name) for name in pictures})
        return Vocabulary(category, *self._attribute_names(release))

    def _attribute_names(self, release: Release) -> tuple[list[str], list[str]] | tuple[None, None]:
        names_text = find_text(release, "list_attr_cloth.txt", ("Anno",))
        if self.derived_lists:
            if names_text is None:
                split = next(iter(self.lists))
                row = derived.read_plain(require_text(release, f"{split}_labels.txt", ("Anno",)))[0]
                names = [f"attribute {i}" for i in range(len(row.fields))]
                return names, ["attribute"] * len(names)
        elif names_text is None or find_text(release, "list_attr_items.txt", ("Anno",)) is None:
            return None, None
        names, kinds = labels.read_names(names_text, unique=False)
        return names, [f"type {kind}" if kind else "attribute" for kind in kinds]

    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        features = image_features() | attribute_feature(vocabulary)
        features |= {
            "item_id": tfds.features.Text(),
            "category": tfds.features.ClassLabel(names=vocabulary.category),
        }
        if not self.derived_lists:
            features |= garment_type_feature()
            features |= {name: tfds.features.Scalar(dtype=np.int32) for name in ("variation", "pose")}
        return features

    def landmark_metadata(self) -> dict[str, list]:
        """MMFashion's lists are shifted and closed up: a slot is another point in every image."""
        return annotations.landmark_metadata(paired=not self.derived_lists)

    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        records = (self._derived if self.derived_lists else self._original)(release, vocabulary)
        check_protocol(records)
        folder = picture_folder(release, self.builder_config.pictures)
        names = {name: i for i, name in enumerate(vocabulary.category)}
        category = np.array([names[labels.folder_category(name)] for name in records.image], np.int32)
        return records._replace(
            columns=records.columns | {"category": category},
            frame=FRAME if folder != "img" else None,
            picture_folder=folder,
        )

    def _original(self, release: Release, vocabulary: Vocabulary) -> Records:
        partition = self.partition
        items_text = require_text(release, ITEMS, ("Anno",))
        items = labels.read_items(items_text)
        labels.check_items(partition, items, items_text)
        boxes_text = require_text(release, "list_bbox_inshop.txt", ("Anno",))
        marks_text = require_text(release, "list_landmarks_inshop.txt", ("Anno",))
        box_rows, mark_rows = (Placed(text, partition, merge=True) for text in (boxes_text, marks_text))
        boxes = annotations.read_boxes(boxes_text, box_rows, extra=2)
        marks = annotations.read_landmarks(marks_text, mark_rows)
        annotations.check_clothes_types(boxes, marks, partition)
        notes = box_rows.notes() + mark_rows.notes()
        if partition.merged:
            notes += (f"{partition.text.label}: {partition.merged} rows repeat earlier ones and were merged",)
        columns = {
            "item_id": partition.item,
            "landmark": marks.landmark,
            "visibility": marks.visibility,
            "garment_type": marks.garment_type - 1,
            "variation": np.zeros(len(partition.image), np.int32)
            if marks.variation is None
            else marks.variation,
            "pose": boxes.code,
        }
        if vocabulary.attribute is None:
            notes += ("no attributes: list_attr_cloth.txt and list_attr_items.txt are not both there",)
        else:
            text = require_text(release, "list_attr_items.txt", ("Anno",))
            table = labels.read_item_labels(text, items, items_text, len(vocabulary.attribute))
            columns["attribute"] = table[[items[item] for item in partition.item]]
        return Records(
            lines=annotations.lines_of(partition.text, partition.line),
            image=partition.image,
            split=rows_by_split(partition.split, SPLITS),
            columns=columns,
            boxes=boxes,
            notes=notes,
            item_names=list(items),
        )

    def _derived(self, release: Release, vocabulary: Vocabulary) -> Records:
        items_text = find_text(release, ITEMS, ("Anno",))
        rows = labels.read_items(items_text) if items_text else None
        items = derived.ItemNames(list(rows), rows) if rows else None
        parts, notes = [], []
        for split, (text, image, lines) in self.lists.items():
            n = len(image)
            files = {
                key: require_text(release, f"{split}_{key}.txt", ("Anno",))
                for key in ("labels", "id", "bbox", "landmarks")
            }
            ids = derived.read_aligned_items(files["id"], text, n, items)
            pairs = derived.read_aligned_values(files["landmarks"], text, n, 16, "x and y of 8 landmarks")
            landmark, visibility = derived.points_of_pairs(pairs)
            attribute = derived.read_aligned_labels(files["labels"], text, n, len(vocabulary.attribute))
            columns = {"item_id": ids, "attribute": attribute, "landmark": landmark, "visibility": visibility}
            boxes = derived.read_aligned_boxes(files["bbox"], text, n)
            part = derived.Part(split, annotations.lines_of(text, lines), image, boxes, columns)
            merged = derived.merge_repeats(part)
            if len(merged.image) < n:
                notes.append(
                    f"{text.label}: {n - len(merged.image)} rows repeat earlier ones and were merged"
                )
            parts.append(merged)
        ids = [item for part in parts for item in part.columns["item_id"]]
        return derived.join(parts, notes=tuple(notes), item_names=derived.item_list(ids, items))


def check_protocol(records: Records) -> None:
    """Items of query and gallery are unseen in training, and every query has something to find."""
    item = records.columns["item_id"]
    seen = {split: {item[row] for row in rows} for split, rows in records.split.items()}
    for split in ("query", "gallery"):
        for row in records.split[split]:
            if item[row] in seen["train"]:
                raise records.lines.error(row, f"item {item[row]} of split {split} is in train too")
            if item[row] not in seen["gallery"]:
                raise records.lines.error(row, f"item {item[row]} has a query but no image in the gallery")
