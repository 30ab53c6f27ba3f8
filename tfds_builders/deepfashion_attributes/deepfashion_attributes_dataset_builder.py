"""DeepFashion Category and Attribute Prediction Benchmark (Liu et al., CVPR 2016).

Configs: `coarse` (1000 attributes; the raw lists of Anno_coarse, or Anno in older copies), `fine` (26
attributes; the split lists that Anno_fine ships), `coarse_mmfashion` (split lists that MMFashion's prepare
script derives from the coarse lists; they keep no visibility) and `fine_mmfashion` (MMFashion uses
Anno_fine as shipped: the same files).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders import annotations, derived, labels
from tfds_builders.benchmark import (
    BenchmarkBuilder,
    BenchmarkConfig,
    Records,
    Vocabulary,
    attribute_feature,
    garment_type_feature,
    image_features,
    rows_by_split,
)
from tfds_builders.release import Release, TextFile, read_table, require_text

SPLITS = ("train", "val", "test")
SIZES = {"train": 209_222, "val": 40_000, "test": 40_000}
FINE_SIZES = {"train": 14_000, "val": 2_000, "test": 4_000}
COARSE_FOLDERS = ("Anno_coarse", "Anno")


class Builder(BenchmarkBuilder):
    """Images with a category, attributes, a box and landmarks."""

    DESCRIPTION = (
        "DeepFashion Category and Attribute Prediction Benchmark: category, attributes, box, landmarks."
    )
    BUILDER_CONFIGS: ClassVar = [
        BenchmarkConfig(name="coarse", description="1000 attributes, from the lists as released."),
        BenchmarkConfig(name="fine", description="26 attributes, from the split lists as released."),
        BenchmarkConfig(
            name="coarse_mmfashion", description="1000 attributes, from MMFashion's split lists."
        ),
        BenchmarkConfig(
            name="fine_mmfashion", description="26 attributes, from the split lists as released."
        ),
    ]
    PUBLISHED: ClassVar = {
        "coarse": SIZES,
        "coarse_mmfashion": SIZES,
        "fine": FINE_SIZES,
        "fine_mmfashion": FINE_SIZES,
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Ask for the Category and Attribute Prediction Benchmark at
https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/AttributePrediction.html (non-commercial research only)
and put its files, unpacked or as the zip archives, into manual_dir:
  Img/img/…                                   the images (or Img/img.zip)
  config coarse, in Anno_coarse/ (or Anno/):
    list_attr_cloth.txt list_attr_img.txt     attribute names, and 1000 labels per image
    list_category_cloth.txt list_category_img.txt
    list_bbox.txt list_landmarks.txt
    and Eval/list_eval_partition.txt          train / val / test
  configs fine and fine_mmfashion, in Anno_fine/:
    list_attr_cloth.txt list_category_cloth.txt
    {train,val,test}.txt and {train,val,test}_{attr,cate,bbox,landmarks}.txt
  config coarse_mmfashion, in Anno_coarse/ or Anno/:
    the two name lists, and the same split lists as written by MMFashion"""

    @property
    def fine(self) -> bool:
        return self.builder_config.name.startswith("fine")

    def text(self, release: Release, name: str) -> TextFile:
        """An annotation file of this config's variant."""
        if self.fine:
            return require_text(release, name, ("Anno_fine",), only=True)
        return require_text(release, name, COARSE_FOLDERS, never=("Anno_fine",))

    def vocabulary(self, release: Release) -> Vocabulary:
        category, _ = labels.read_names(self.text(release, "list_category_cloth.txt"), typed=True)
        text = self.text(release, "list_attr_cloth.txt")
        attribute, kinds = labels.read_names(text, typed=True, unique=False)
        groups = labels.ATTRIBUTE_TYPES["fine" if self.fine else "coarse"]
        return Vocabulary(category, attribute, labels.type_names(text, kinds, groups))

    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        category = {"category": tfds.features.ClassLabel(names=vocabulary.category)}
        return image_features() | category | attribute_feature(vocabulary) | garment_type_feature()

    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        if self.builder_config.name == "coarse":
            return self._raw(release, vocabulary)
        return self._split_lists(release, vocabulary)

    def _raw(self, release: Release, vocabulary: Vocabulary) -> Records:
        partition = annotations.read_partition(
            require_text(release, "list_eval_partition.txt", ("Eval", *COARSE_FOLDERS), never=("Anno_fine",)),
            SPLITS,
        )
        texts = {name: self.text(release, f"list_{name}.txt") for name in ("bbox", "landmarks", "attr_img")}
        placed = {name: annotations.Placed(text, partition, merge=False) for name, text in texts.items()}
        boxes = annotations.read_boxes(texts["bbox"], placed["bbox"])
        marks = annotations.read_landmarks(texts["landmarks"], placed["landmarks"])
        category = labels.read_categories(
            self.text(release, "list_category_img.txt"), partition, len(vocabulary.category)
        )
        table = read_table(texts["attr_img"])
        attribute = labels.read_labels(
            table, len(vocabulary.attribute), placed["attr_img"].place, len(partition.image)
        )
        placed["attr_img"].finish()
        return Records(
            lines=annotations.lines_of(partition.text, partition.line),
            image=partition.image,
            split=rows_by_split(partition.split, SPLITS),
            columns={
                "category": category,
                "attribute": attribute,
                "garment_type": marks.garment_type - 1,
                "landmark": marks.landmark,
                "visibility": marks.visibility,
            },
            boxes=boxes,
        )

    def _split_lists(self, release: Release, vocabulary: Vocabulary) -> Records:
        names_text = self.text(release, "list_category_cloth.txt")
        _, kinds = labels.read_names(names_text, typed=True)
        labels.type_names(names_text, kinds, annotations.GARMENT_TYPES)
        parts = []
        for split in SPLITS:
            text = self.text(release, f"{split}.txt")
            image, lines = derived.read_pictures(text)
            n = len(image)
            files = {
                key: self.text(release, f"{split}_{key}.txt") for key in ("attr", "cate", "bbox", "landmarks")
            }
            category = derived.read_aligned_categories(files["cate"], text, n, len(vocabulary.category))
            pairs = derived.read_aligned_values(files["landmarks"], text, n, 16, "x and y of 8 landmarks")
            garment_type = np.asarray(kinds, np.int32)[category]
            landmark, visibility = derived.points_of_pairs(pairs, garment_type)
            columns = {
                "category": category,
                "attribute": derived.read_aligned_labels(files["attr"], text, n, len(vocabulary.attribute)),
                "garment_type": garment_type - 1,
                "landmark": landmark,
                "visibility": visibility,
            }
            boxes = derived.read_aligned_boxes(files["bbox"], text, n)
            parts.append(derived.Part(split, annotations.lines_of(text, lines), image, boxes, columns))
        return derived.join(parts)
