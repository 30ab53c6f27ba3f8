"""What the builders of attribute-specific retrieval share: names, index files of three splits, images."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tfds_builders import fine_split
from tfds_builders.benchmark import BenchmarkBuilder, BenchmarkConfig, Records, Vocabulary
from tfds_builders.fine_split import Names
from tfds_builders.release import (
    Location,
    Release,
    check_readable,
    nested_archives,
    picture_location,
)

DATASETS = ("FashionAI", "DARN", "DeepFashion")  # the folders of ASEN++'s archive


class FineGrainedBuilder(BenchmarkBuilder, skip_registration=True):
    """Images with (attribute, value) pairs, of which those of val and test are queries or candidates.

    Subclasses name the dataset as ASEN++'s archive does (`dataset`), its attributes and values where
    `meta.json` is not there (`known`), and where the images lie.
    """

    BUILDER_CONFIGS: ClassVar = [BenchmarkConfig(name="published", description="The published splits.")]
    dataset: ClassVar[str]

    @property
    @abc.abstractmethod
    def known(self) -> Names:
        """Attributes and values as published."""

    @property
    def folders(self) -> tuple[str, ...]:
        """Where index files are looked for first."""
        return (self.dataset,)

    @property
    def others(self) -> tuple[str, ...]:
        """Folders whose index files are another dataset's."""
        return tuple(name for name in DATASETS if name != self.dataset)

    def attribute_names(self, release: Release) -> Names:
        """The names of `meta.json`, else those that are known. Values that the file only counts are named as
        known for an attribute of this name and count."""
        meta = fine_split.read_meta(release, self.dataset, self.folders, self.others)
        if meta is None:
            return self.known
        known = dict(zip(self.known.attribute, self.known.value, strict=True))
        value = [
            known[name] if of == fine_split.numbered(len(of)) and len(known.get(name, ())) == len(of) else of
            for name, of in zip(meta.attribute, meta.value, strict=True)
        ]
        return Names(meta.attribute, value)

    def vocabulary(self, release: Release) -> Vocabulary:
        self.pair_names = self.attribute_names(release)
        return Vocabulary()

    def metadata(self) -> dict[str, Any]:
        return {"attribute_names": self.pair_names.attribute, "attribute_values": self.pair_names.value}

    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        return fine_split.features()

    def numbers(self, release: Release) -> list[list[int]] | None:
        """Per attribute the numbers of its values among those of all, for the archive's unused label files;
        None where they are not read."""
        return None

    def listed_name(self, name: str) -> Sequence[str]:
        """What an image of the index files may be called in the release, first choice first."""
        return (name,)

    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        numbers = self.numbers(release)
        parts = {
            split: fine_split.read_split(release, split, self.pair_names, self.folders, self.others, numbers)
            for split in fine_split.SPLITS
        }
        lines, image, rows, columns = fine_split.join(parts)
        records = Records(
            lines=lines,
            image=image,
            split=rows,
            columns=columns,
            notes=tuple(note for part in parts.values() for note in part.notes),
        )
        return self.checked(release, records)

    def checked(self, release: Release, records: Records) -> Records:
        """The records after tests that the dataset's other files allow."""
        return records

    def locate(self, records: Records) -> dict[str, Location]:
        located: dict[str, Location] = {}
        for row, name in enumerate(records.image):
            if name in located:
                continue
            location = self.find(name)
            if location is None:
                raise records.lines.error(
                    row, f"image {name} is missing from {self.release.root}{nested_archives(self.release)}"
                )
            check_readable(location)
            located[name] = location
        return located

    def find(self, name: str) -> Location | None:
        """Where an image lies."""
        for listed in self.listed_name(name):
            location = picture_location(self.release, listed)
            if location is not None:
                return location
        return None

    def present(self, records: Records) -> tuple[Records, dict[str, int]]:
        """The records whose images are there, and how many of each split are not."""
        there = {name: self.find(name) is not None for name in dict.fromkeys(records.image)}
        kept, lost = {}, {}
        for split, rows in records.split.items():
            have = np.asarray([there[records.image[row]] for row in rows], bool)
            kept[split], lost[split] = rows[have], int((~have).sum())
            if not have.any():
                first = rows[0]
                raise records.lines.error(
                    first,
                    f"none of the {len(rows)} images of split {split} is below {self.release.root} "
                    f"({records.image[first]}, …){nested_archives(self.release)}",
                )
        order = np.concatenate(list(kept.values()))
        ends = np.cumsum([0, *map(len, kept.values())])
        return (
            records._replace(
                lines=records.lines._replace(text=records.lines.text[order], line=records.lines.line[order]),
                image=[records.image[row] for row in order],
                columns={name: [of[row] for row in order] for name, of in records.columns.items()},
                split={split: np.arange(ends[i], ends[i + 1]) for i, split in enumerate(kept)},
            ),
            lost,
        )


def evaluated(records: Records) -> dict[str, tuple[int, int]]:
    """Split → numbers of queries and candidates."""
    return {
        split: tuple(
            sum(int((records.columns["role"][row] == role).sum()) for row in rows)
            for role in (fine_split.QUERY, fine_split.CANDIDATE)
        )
        for split, rows in records.split.items()
    }
