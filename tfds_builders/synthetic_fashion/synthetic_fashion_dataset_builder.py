"""TFDS builder of the procedural fashion world; see docs/datasets/synthetic_fashion.md.

Configs: `attributes` (category, attributes, landmarks, box and identity of one worn garment), `landmarks`,
`in_shop` (train / query / gallery, identities of query and gallery unseen in training), `consumer_to_shop`
(the same with val and the pairs of consumers' and shop's images), `instances` (one or two people, a mask
per garment), `outfits` (product images of pieces that go together, with texts and questions),
`fine_grained` (six small details of a top, each with a value and a box). Sizes are fields of the config:
`dataclasses.replace(BUILDER_CONFIGS[0], train=2000, size=96)`.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders import fine_split
from tfds_builders.annotations import landmark_metadata
from tfds_builders.instances import instance_features
from tfds_builders.local_info import LocalInfo
from tfds_builders.release import ReleaseError
from tfds_builders.synthetic_fashion import fine_details, fine_grained, outfits, product, records
from tfds_builders.synthetic_fashion.wardrobe import TYPES, VOCABULARY, Taste, text_vector
from tfds_builders.synthetic_fashion.world import (
    ATTRIBUTE_GROUPS,
    ATTRIBUTE_NAMES,
    CATEGORY_NAMES,
    GARMENT_TYPES,
    item_id,
)

COUNTS = {  # fields that must be at least 1
    *("train", "val", "test", "per_item", "size"),
    *("train_items", "val_items", "test_items", "shop_views", "consumer_views"),
}
SHARES = {"cluttered", "freedom", "queries"}


@dataclasses.dataclass(eq=False, kw_only=True)
class LabelledConfig(tfds.core.BuilderConfig):
    """Images of one garment each. train, val, test count images; an item has `per_item` of them, all in
    one split.

    size: side of the image in pixels. cluttered: share of consumer views. freedom: how much place, size and
    turn of the garment vary, 1 the full range, 0 always filling the frame. processes: 0 = all cores (does not
    change the bytes).
    """

    train: int = 6000
    val: int = 1000
    test: int = 1000
    per_item: int = 2
    cluttered: float = 0.25
    freedom: float = 1.0
    size: int = 128
    seed: int = 0
    processes: int | None = None
    progress: bool = False


@dataclasses.dataclass(eq=False, kw_only=True)
class InShopConfig(tfds.core.BuilderConfig):
    """Several views of each item. train_items and test_items count identities; query has the consumer views
    of the test items, gallery their shop views, train both views of the training items.
    """

    train_items: int = 1200
    test_items: int = 400
    shop_views: int = 3
    consumer_views: int = 2
    size: int = 128
    seed: int = 0
    processes: int | None = None
    progress: bool = False


@dataclasses.dataclass(eq=False, kw_only=True)
class ConsumerToShopConfig(InShopConfig):
    """As InShopConfig, with `val_items` of validation in both views; a record lists the pairs it is in."""

    train_items: int = 1000
    val_items: int = 150
    test_items: int = 350


@dataclasses.dataclass(eq=False, kw_only=True)
class InstancesConfig(tfds.core.BuilderConfig):
    """One or two dressed people per image. train, val, test count images; cluttered: share of consumer
    views. pairs: sets of clothes that the images of all splits show in turns, each with one `pair_id`; 0: no
    two images show the same clothes.
    """

    train: int = 3000
    val: int = 500
    test: int = 500
    cluttered: float = 0.5
    pairs: int = 0
    size: int = 192
    seed: int = 0
    processes: int | None = None
    progress: bool = False


@dataclasses.dataclass(eq=False, kw_only=True)
class OutfitsConfig(tfds.core.BuilderConfig):
    """Outfits of three to six pieces that share palette and style. train, val, test count outfits.

    shared: share of the pieces that are in two outfits of their split. palettes (up to 12), styles (up to
    5), jitter (spread of a colour, levels of 255), off_palette (share of pieces in another hue): how hard it
    is to see what goes together.
    """

    train: int = 1500
    val: int = 150
    test: int = 300
    shared: float = 0.2
    palettes: int = Taste().palettes
    styles: int = Taste().styles
    jitter: float = Taste().jitter
    off_palette: float = Taste().off_palette
    size: int = 96
    seed: int = 0
    processes: int | None = None
    progress: bool = False


@dataclasses.dataclass(eq=False, kw_only=True)
class FineGrainedConfig(tfds.core.BuilderConfig):
    """Tops with six small details. train, val, test count images; every image has a value of each attribute.

    queries: share of the images of val and test that are queries, the others are candidates. cluttered: share
    of consumer views. size: side of the image, at least twice what a model of whole images is given.
    """

    train: int = 3000
    val: int = 300
    test: int = 600
    queries: float = 0.2
    cluttered: float = 0.3
    size: int = 192
    seed: int = 0
    processes: int | None = None
    progress: bool = False


BUILDER_CONFIGS = [
    LabelledConfig(name="attributes", description="Category, attributes and landmarks of one worn garment."),
    LabelledConfig(name="landmarks", description="Landmarks with visibility of one worn garment."),
    InShopConfig(name="in_shop", description="Item identity across shop and consumer views."),
    ConsumerToShopConfig(name="consumer_to_shop", description="Pairs of consumers' and shop's images."),
    InstancesConfig(name="instances", description="Masks and boxes of all garments of one or two people."),
    OutfitsConfig(name="outfits", description="Pieces that go together, with texts and questions."),
    FineGrainedConfig(name="fine_grained", description="Six small details of a top, each with its value."),
]


def check_config(config: tfds.core.BuilderConfig) -> None:
    """ReleaseError for a number that no config can have."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in COUNTS and value < 1:
            raise ReleaseError(f"{field.name}={value}: must be at least 1")
        if field.name in SHARES and not 0 <= value <= 1:
            raise ReleaseError(f"{field.name}={value}: must be between 0 and 1")
        if field.name in ("seed", "pairs") and value < 0:
            raise ReleaseError(f"{field.name}={value}: must not be negative")
        if config.name == "fine_grained" and field.name in ("val", "test") and value < 2:
            raise ReleaseError(f"{field.name}={value}: must be at least 2, a query and a candidate")


def make_plan(config: tfds.core.BuilderConfig) -> records.Plan:
    """The numbers of a config of dressed figures that decide the bytes."""
    if config.name in ("in_shop", "consumer_to_shop"):
        views = config.shop_views, config.consumer_views
        sizes = {"train": config.train_items * sum(views)}
        if config.name == "consumer_to_shop":
            sizes["val"] = config.val_items * sum(views)
        sizes |= {"query": config.test_items * views[1], "gallery": config.test_items * views[0]}
        return records.Plan(
            config.name, sizes, config.size, config.seed, shop_views=views[0], consumer_views=views[1]
        )
    sizes = {"train": config.train, "val": config.val, "test": config.test}
    plan = records.Plan(config.name, sizes, config.size, config.seed, config.cluttered)
    if config.name == "instances":
        return plan._replace(pairs=config.pairs)
    return plan._replace(per_item=config.per_item, freedom=config.freedom)


def fine_plan(config: FineGrainedConfig) -> fine_grained.Plan:
    """The numbers of `fine_grained` that decide the bytes."""
    sizes = {split: getattr(config, split) for split in fine_grained.SPLITS}
    return fine_grained.Plan(sizes, config.size, config.seed, config.queries, config.cluttered)


def _labels() -> dict:
    return {
        "category": tfds.features.ClassLabel(names=list(CATEGORY_NAMES)),
        "garment_type": tfds.features.ClassLabel(names=list(GARMENT_TYPES)),
        "landmark": tfds.features.Tensor(shape=(8, 2), dtype=np.float32),
        "visibility": tfds.features.Tensor(shape=(8,), dtype=np.int32),
        "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        "item_id": tfds.features.Text(),
    }


def make_features(name: str) -> tfds.features.FeaturesDict:
    """The features of a config."""
    if name == "instances":
        labels = {key: feature for key, feature in _labels().items() if key not in ("category", "box")}
        pair = {"pair_id": tfds.features.Scalar(dtype=np.int64)}
        return tfds.features.FeaturesDict(instance_features(CATEGORY_NAMES, **labels) | pair)
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image_id": tfds.features.Text(),
    }
    features |= _labels() | {"view": tfds.features.ClassLabel(names=["shop", "consumer"])}
    if name == "consumer_to_shop":
        features["pair_id"] = tfds.features.Sequence(np.int64)
    if name != "landmarks":
        features["attribute"] = tfds.features.Tensor(shape=(len(ATTRIBUTE_NAMES),), dtype=np.uint8)
    return tfds.features.FeaturesDict(features)


def outfit_features() -> tfds.features.FeaturesDict:
    """The features of `outfits`, which are those of polyvore_outfits."""
    texts = {name: tfds.features.Text() for name in ("image_id", "item_id", "title", "fine_category")}
    return tfds.features.FeaturesDict(
        texts
        | {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "category": tfds.features.ClassLabel(names=list(TYPES)),
            "text": tfds.features.Tensor(shape=(len(VOCABULARY),), dtype=np.float32),
            "has_text": np.uint8,
        }
    )


def pair_features() -> tfds.features.FeaturesDict:
    """The features of `fine_grained`: those of attribute-specific retrieval and the boxes of the parts."""
    return tfds.features.FeaturesDict(
        fine_split.features() | {"part_box": tfds.features.Sequence(box_feature())}
    )


def box_feature() -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(4,), dtype=np.float32)


def draw_outfits(config: OutfitsConfig) -> dict[str, outfits.Outfits]:
    """Pieces and outfits of every split of the config."""
    taste = Taste(config.palettes, config.styles, config.jitter, config.off_palette)
    sizes = {split: getattr(config, split) for split in outfits.SPLITS}
    outfits.check(sizes, taste, config.shared)
    return {
        split: outfits.draw(config.seed, split, count, taste, config.shared) for split, count in sizes.items()
    }


class Builder(tfds.core.GeneratorBasedBuilder):
    """The procedural fashion world."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    BUILDER_CONFIGS = BUILDER_CONFIGS

    def _create_builder_config(self, builder_config, version=None):
        """Accept a config with changed sizes under its own name, which TFDS would refuse."""
        if isinstance(builder_config, tfds.core.BuilderConfig):
            return builder_config
        return super()._create_builder_config(builder_config, version=version)

    def _info(self) -> tfds.core.DatasetInfo:
        check_config(self.builder_config)
        if self.builder_config.name == "outfits":
            return self._outfits_info()
        if self.builder_config.name == "fine_grained":
            return self._fine_grained_info()
        plan = make_plan(self.builder_config)
        more = {"category_ids": list(range(1, len(CATEGORY_NAMES) + 1))} if plan.kind == "instances" else {}
        return LocalInfo(
            builder=self,
            description="Dressed figures drawn from parametric garments, with exact labels.",
            features=make_features(plan.kind),
            metadata=tfds.core.MetadataDict(
                attribute_names=list(ATTRIBUTE_NAMES),
                attribute_groups=list(ATTRIBUTE_GROUPS),
                parameters=plan._asdict(),
                **more,
                **landmark_metadata(),
            ),
        )

    def _outfits_info(self) -> tfds.core.DatasetInfo:
        return LocalInfo(
            builder=self,
            description="Product images drawn from parametric outlines, in outfits, with questions.",
            features=outfit_features(),
            metadata=tfds.core.MetadataDict(
                type_spaces=[list(pair) for pair in outfits.TYPE_SPACES], vocabulary=list(VOCABULARY)
            ),
            disable_shuffling=True,  # the tables count the records
        )

    def _fine_grained_info(self) -> tfds.core.DatasetInfo:
        return LocalInfo(
            builder=self,
            description="Tops with six small details, each in a few values, drawn from parametric shapes.",
            features=pair_features(),
            metadata=tfds.core.MetadataDict(
                attribute_names=list(fine_details.ATTRIBUTES),
                attribute_values=[list(values) for values in fine_details.VALUES.values()],
                parameters=fine_plan(self.builder_config)._asdict(),
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        if self.builder_config.name == "fine_grained":
            return {split: self._generate_fine(split) for split in fine_grained.SPLITS}
        if self.builder_config.name == "outfits":
            drawn, seed = draw_outfits(self.builder_config), self.builder_config.seed
            self.info.metadata["tables"] = {
                split: outfits.tables(seed, split, [piece.kind for piece in pieces], rows)
                for split, (pieces, rows) in drawn.items()
            }
            return {split: self._generate_pieces(split, pieces) for split, (pieces, _) in drawn.items()}
        return {split: self._generate_examples(split) for split in make_plan(self.builder_config).sizes}

    def _generate_examples(self, split: str):
        config, plan = self.builder_config, make_plan(self.builder_config)
        rendered = records.records(plan, split, config.processes or os.cpu_count() or 1)
        bar = tqdm(rendered, f"rendering {split}", plan.sizes[split], disable=not config.progress, unit="img")
        for record in bar:
            yield record["image_id"], record

    def _generate_fine(self, split: str):
        config, plan = self.builder_config, fine_plan(self.builder_config)
        rendered = fine_grained.rendered(plan, split, config.processes or os.cpu_count() or 1)
        bar = tqdm(rendered, f"rendering {split}", plan.sizes[split], disable=not config.progress, unit="img")
        for record in bar:
            yield record["image_id"], record

    def _generate_pieces(self, split: str, pieces: list):
        config = self.builder_config
        pictures = product.products(
            config.seed,
            [piece.item for piece in pieces],
            config.size,
            config.processes or os.cpu_count() or 1,
        )
        bar = tqdm(pictures, f"rendering {split}", len(pieces), disable=not config.progress, unit="img")
        for row, (piece, picture) in enumerate(zip(pieces, bar)):
            name = item_id(piece.item)
            yield (
                row,
                {
                    "image": picture,
                    "image_id": f"{split}/{name}.jpg",
                    "item_id": name,
                    "category": piece.kind,
                    "title": piece.title,
                    "fine_category": piece.item.category,
                    "text": text_vector(piece.title if piece.has_text else ""),
                    "has_text": np.uint8(piece.has_text),
                },
            )
