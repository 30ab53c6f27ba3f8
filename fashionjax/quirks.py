"""Quirks: `config.quirks` is a tuple of names, each of which repeats one peculiarity of an upstream system
that explains its published numbers. All are off by default; docs/faithful.md says what differs and why it
matters.

One table per upstream system, {name: what the quirk does}; a further system adds its own table to `SYSTEMS`.
Names are unique over all systems.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.ops.landmark_pool import scramble_centres

MMFASHION = {
    "s1_random_crop_at_test": "images are cropped and flipped at random at evaluation too",
    "s2_landmark_not_moved": "landmarks stay where they were when the image is cropped and flipped",
    "s3_roi_scramble_group": "landmark centres are mixed within groups of config.images_per_gpu images",
    "s4_landmark_scaled_twice": "landmarks of retrieval are scaled to the 7 x 7 plane twice",
    "s5_align_corners": "landmark pooling samples as PyTorch did before 1.3",
    "s6_landmark_list_shifted": "in-shop landmarks are off by one triplet",
    "s7_pair_label_halved": "the training label of pair i is the item of pair i // 2",
    "s8_attribute_zero": "attribute targets are all zero",
    "s9_double_sigmoid": "the visibility loss takes a sigmoid of a sigmoid",
    "s10_invisible_counts": "headline: landmark metrics in which invisible points count as found",
    "s11_every_20th_batch": "the zoo's landmark metrics average batches 0, 20, 40, … only",
    "s12_best_50_attributes": "headline: the recall of the 50 best attributes",
    "s13_share_of_matches": "headline: the share of a query's matches that are found",
    "s14_mean_sigmoid_loss": "the attribute loss is the mean of the predicted probabilities",
    "s15_gallery_per_pair": "query and gallery hold an image once per pair, not once",
}
MMFASHION_COMPATIBILITY = {
    "c1_zoo_names": "models carry the zoo's names: learned metric is the Euclidean one",
    "c2_raw_masks": "masks are rectified in training only, not at evaluation",
    "c3_no_text": "no item has a text, so the text terms are inert",
    "c4_same_type_apart": "the image similarity term pushes items of one type apart",
    "c5_vse_weighted_twice": "the visual-semantic term has the text similarity's weight as well",
    "c6_tested_on_disjoint": "the nondisjoint row has the disjoint release's type spaces and test outfits",
}
FASHIONNET = {
    "f1_rois_of_first_image": "RoIs are pooled on the map of the first image of the batch",
    "f2_roi_logits": "RoIs lie at the outputs before the sigmoid that the loss trains",
    "f3_roi_corner": "a landmark is the upper left corner of its RoI",
    "f4_roi_two_points": "a RoI is read at its four corners, not pooled",
    "f5_attribute_weights_swapped": "rare attributes weigh less in the loss, not more",
    "f6_categories_collapsed": "garments of women count under the men's category of the same name",
    "f7_absent_landmarks_visible": "landmarks that a garment does not have are trained as visible at (0, 0)",
    "f8_flip_keeps_sides": "a flip does not exchange left and right landmarks",
    "f9_outside_stays_visible": "landmarks that a crop cuts off keep their visibility",
    "f10_no_attribute_is_first": "an item without attributes has attribute 0",
    "f11_frozen_blue_uses_batch": "a frozen blue branch is normalised by the batch in training",
}
RPF = {  # by the number of the peculiarity in docs/fine_grained.md
    "r4_flipped_at_evaluation": "stage 1 mirrors images at random at evaluation too",
    "r6_negative_may_be_positive": "a triplet's negative may also have the anchor's value, or be the anchor",
    "r7_complement_not_projected": "the background descriptor leaves out the layer feature_fc",
    "r10_black_past_the_edge": "a crop that ends past the image at evaluation is filled with black",
    "r11_two_crop_offsets": "the region input's offset is rounded, that of the crop rounded down",
    "r13_class_token_unused": "of Google's ViT the class token is left out: it starts at zeros",
    "r15_other_attributes_are_negatives": "the contrast of foreground and background spans attributes",
    "r18_statistics_by_role": "batch statistics of anchors, positives and negatives are separate",
    "r21_zero_without_candidate": "headline: a query without a relevant candidate counts as precision 0",
}
RECOMMENDATION = {  # Donghwa-KIM/fashion-recommendation
    "k1_first_box_features": "every garment of an image has the features of the image's best box",
    "k2_no_positive_index0": "the first garment of a batch stands for a positive that does not exist",
    "k3_frozen_after_evaluation": "the head's normalisation keeps its statistics after the first evaluation",
    "k4_select_by_last_batch": "the checkpoint is chosen by the last validation batch's classification loss",
    "k5_randomised_pca": "whitening by the randomised solver of PCA",
    "k6_complement_searches_all": "complements are found through garments of any category",
}
SYSTEMS = {
    "mmfashion": MMFASHION,
    "mmfashion_compatibility": MMFASHION_COMPATIBILITY,
    "recommendation": RECOMMENDATION,
    "fashionnet": FASHIONNET,
    "rpf": RPF,
}
QUIRKS = {name: text for table in SYSTEMS.values() for name, text in table.items()}
# Quirks that select the headline metrics of a run, `zoo/…` in place of `standard/…` (both are always
# computed); S10, S12 and S13 do nothing else.
METRIC_QUIRKS = (
    "s10_invisible_counts",
    "s11_every_20th_batch",
    "s12_best_50_attributes",
    "s13_share_of_matches",
    "r21_zero_without_candidate",
)


def on(config: ConfigDict, name: str) -> bool:
    """Whether a quirk is on; KeyError for a name in no table."""
    if name not in QUIRKS:
        raise KeyError(name)
    return name in config.get("quirks", ())


def check(config: ConfigDict) -> None:
    """UserError for an unknown quirk, or for S3 without its group size."""
    names = config.get("quirks", ())
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise UserError(f"config.quirks={names!r}: expected a tuple of names (docs/faithful.md)")
    unknown = sorted(set(names) - set(QUIRKS))
    if unknown:
        raise UserError(
            f"config.quirks: unknown quirk {unknown[0]!r} (several: repeat --config.quirks); there are "
            f"{', '.join(QUIRKS)}"
        )
    size = config.get("images_per_gpu", 0)
    if on(config, "s3_roi_scramble_group") and size < 1:
        raise UserError(
            f"config.images_per_gpu={size}: s3_roi_scramble_group needs the images per GPU of the original, "
            "at least 1"
        )


def of_flag(names: Sequence[str], system: str) -> tuple[str, ...]:
    """The quirks that a command's --quirks=NAME,… turns on; UserError for one that is not `system`'s."""
    unknown = [name for name in names if name not in SYSTEMS[system]]
    if unknown:
        raise UserError(f"--quirks={unknown[0]}: unknown quirk; there are {', '.join(SYSTEMS[system])}")
    return tuple(names)


def names_on(config: ConfigDict) -> list[str]:
    """The quirks that are on, in the order of the tables."""
    return [name for name in QUIRKS if on(config, name)]


def headline_prefix(config: ConfigDict) -> str:
    """The prefix of a run's headline metrics: zoo/ or standard/."""
    return "zoo/" if any(on(config, name) for name in METRIC_QUIRKS) else "standard/"


def scramble_group(config: ConfigDict) -> int:
    """How many images S3 mixes the landmarks of; 1 while it is off."""
    return config.images_per_gpu if on(config, "s3_roi_scramble_group") else 1


def roi_landmark(config: ConfigDict, batch: dict, roles: int = 1) -> jax.Array:
    """landmark [b k 2] as the pooling layer gets them: the batch's, mixed by S3 where it is on.

    A group is what one GPU of the original received; padding behind the last record is left out of it. Where
    examples take turns in `roles` (3 in triplets), each role is mixed within itself.
    """
    landmark = jnp.asarray(batch["landmark"])
    if not on(config, "s3_roi_scramble_group"):
        return landmark
    group = scramble_group(config)
    if roles > 1:
        by_role = rearrange(landmark, "(b t) k xy -> t b k xy", t=roles)
        mixed = jax.vmap(lambda points: scramble_centres(points, group))(by_role)
        return rearrange(mixed, "t b k xy -> (b t) k xy")
    count = jnp.sum(batch["index"] >= 0) if "index" in batch else None
    return scramble_centres(landmark, group, count)
