"""Fashion Landmark Detection Benchmark (FLD; Liu et al., ECCV 2016) from the files its users receive.

Configs: `original` (list_landmarks.txt, list_bbox.txt, Eval/list_eval_partition.txt) and `mmfashion` (the
`<split>.txt`, `<split>_bbox.txt`, `<split>_landmarks.txt` that MMFashion's prepare script writes).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders import annotations, derived
from tfds_builders.benchmark import (
    BenchmarkBuilder,
    BenchmarkConfig,
    Records,
    Vocabulary,
    garment_type_feature,
    image_features,
    rows_by_split,
)
from tfds_builders.release import Release, require_text

SPLITS = ("train", "val", "test")
SIZES = {"train": 83_033, "val": 19_992, "test": 19_991}


class Builder(BenchmarkBuilder):
    """Clothes crops with up to eight landmarks."""

    DESCRIPTION = "Fashion Landmark Detection Benchmark: images, boxes, up to eight landmarks per garment."
    BUILDER_CONFIGS: ClassVar = [
        BenchmarkConfig(name="original", description="The annotation files as released."),
        BenchmarkConfig(
            name="mmfashion", description="The split lists written by MMFashion's prepare script."
        ),
    ]
    PUBLISHED: ClassVar = {"original": SIZES, "mmfashion": SIZES}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Ask for the Fashion Landmark Detection Benchmark at
https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/LandmarkDetection.html (non-commercial research only) and
put its files, unpacked or as the zip archives, into manual_dir:
  Anno/list_landmarks.txt          landmarks with visibility
  Anno/list_bbox.txt               boxes
  Eval/list_eval_partition.txt     train / val / test
  Img/img/…                        the images (or Img/img.zip)
list_joints.txt is not used. The config mmfashion reads instead of the three lists
  {train,val,test}.txt, {train,val,test}_bbox.txt, {train,val,test}_landmarks.txt"""

    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        if self.builder_config.name == "mmfashion":
            return image_features()
        return image_features() | garment_type_feature() | {"variation": tfds.features.Scalar(dtype=np.int32)}

    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        return (_mmfashion if self.builder_config.name == "mmfashion" else _original)(release)


def _original(release: Release) -> Records:
    partition = annotations.read_partition(
        require_text(release, "list_eval_partition.txt", ("Eval", "Anno")), SPLITS
    )
    boxes_text = require_text(release, "list_bbox.txt", ("Anno",))
    marks_text = require_text(release, "list_landmarks.txt", ("Anno",))
    boxes = annotations.read_boxes(boxes_text, annotations.Placed(boxes_text, partition, merge=False))
    marks = annotations.read_landmarks(marks_text, annotations.Placed(marks_text, partition, merge=False))
    varied = marks.variation is not None
    return Records(
        lines=annotations.lines_of(partition.text, partition.line),
        image=partition.image,
        split=rows_by_split(partition.split, SPLITS),
        columns={
            "landmark": marks.landmark,
            "visibility": marks.visibility,
            "garment_type": marks.garment_type - 1,
            "variation": marks.variation if varied else np.zeros(len(partition.image), np.int32),
        },
        boxes=boxes,
    )


def _mmfashion(release: Release) -> Records:
    parts = []
    for split in SPLITS:
        text = require_text(release, f"{split}.txt", ("Anno",))
        names, lines = derived.read_pictures(text)
        boxes = derived.read_aligned_boxes(
            require_text(release, f"{split}_bbox.txt", ("Anno",)), text, len(names)
        )
        marks_text = require_text(release, f"{split}_landmarks.txt", ("Anno",))
        values = derived.read_aligned_values(
            marks_text, text, len(names), 24, "visibility, x and y of 8 landmarks"
        )
        landmark, visibility = derived.points_of_triplets(marks_text, boxes.lines.line, values)
        columns = {"landmark": landmark, "visibility": visibility}
        parts.append(derived.Part(split, annotations.lines_of(text, lines), names, boxes, columns))
    return derived.join(parts)
