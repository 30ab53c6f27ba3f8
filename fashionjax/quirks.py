"""The faithful switches: `config.faithful.<switch>` repeats one peculiarity of MMFashion that explains its
published numbers; c1 to c6 are those of its outfit compatibility. All are off by default; docs/faithful.md
says what differs and why it matters.

Switches S10, S12 and S13 change no number: their figures are always reported as `zoo/<name>` beside
`standard/<name>`, and the switch says which of the two a run is judged by.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.ops.landmark_pool import scramble_centres

# every one is a bool but s3, an int or None
SWITCHES = {
    "s1_random_crop_at_test": "pictures are cropped and flipped at random at evaluation too",
    "s2_landmark_not_moved": "landmarks stay where they were when the picture is cropped and flipped",
    "s3_roi_scramble_group": "landmark centres are mixed within groups of this many pictures",
    "s4_landmark_scaled_twice": "landmarks of retrieval are scaled to the 7 x 7 plane twice",
    "s5_align_corners": "landmark pooling samples as PyTorch did before 1.3",
    "s6_landmark_list_shifted": "in-shop landmarks are off by one triplet",
    "s7_pair_label_halved": "the training label of pair i is the item of pair i // 2",
    "s8_attribute_zero": "attribute targets are all zero",
    "s9_double_sigmoid": "the visibility loss takes a sigmoid of a sigmoid",
    "s10_invisible_counts": "judged by landmark metrics in which invisible points count as found",
    "s11_every_20th_batch": "the zoo's landmark metrics average batches 0, 20, 40, … only",
    "s12_best_50_attributes": "judged by the recall of the 50 best attributes",
    "s13_share_of_matches": "judged by the share of a query's matches that are found",
    "s14_mean_sigmoid_loss": "the attribute loss is the mean of the predicted probabilities",
    "s15_gallery_per_pair": "query and gallery hold a picture once per pair, not once",
    "c1_zoo_names": "models carry the zoo's names: learned metric is the Euclidean one",
    "c2_raw_masks": "masks are rectified in training only, not at evaluation",
    "c3_no_text": "no item has a text, so the terms of texts are inert",
    "c4_same_type_apart": "the image similarity term pushes items of one type apart",
    "c5_vse_weighted_twice": "the visual-semantic term has the text similarity's weight as well",
    "c6_tested_on_disjoint": "the nondisjoint row has the disjoint release's type spaces and test outfits",
}
METRIC_SWITCHES = (
    "s10_invisible_counts",
    "s11_every_20th_batch",
    "s12_best_50_attributes",
    "s13_share_of_matches",
)


def on(config: ConfigDict, switch: str):
    """The value of a switch: False or None when it is off, also for configs written before it existed."""
    if switch not in SWITCHES:
        raise KeyError(switch)
    return config.get("faithful", {}).get(switch, False)


def check(config: ConfigDict) -> None:
    """UserError for a switch that does not exist or a group that is no group."""
    unknown = set(config.get("faithful", {})) - set(SWITCHES)
    if unknown:
        raise UserError(f"config.faithful.{min(unknown)}: unknown switch; there are {', '.join(SWITCHES)}")
    group = on(config, "s3_roi_scramble_group")
    if group and group < 1:
        raise UserError(f"config.faithful.s3_roi_scramble_group={group}: a number of pictures, or None")


def names_on(config: ConfigDict) -> list[str]:
    """The switches that are on, in their order."""
    return [name for name in SWITCHES if on(config, name)]


def judged_by(config: ConfigDict) -> str:
    """The prefix of the metrics that a run is judged by: zoo/ or standard/."""
    return "zoo/" if any(on(config, name) for name in METRIC_SWITCHES) else "standard/"


def roi_landmark(config: ConfigDict, batch: dict, roles: int = 1) -> jax.Array:
    """landmark [b k 2] as the pooling layer gets them: the batch's, mixed by switch S3.

    A group is what one GPU of the original received; padding behind the last record is left out of it. Where
    examples take turns in `roles` (3 in triplets), each role is mixed within itself.
    """
    landmark, group = jnp.asarray(batch["landmark"]), on(config, "s3_roi_scramble_group")
    if not group:
        return landmark
    if roles > 1:
        by_role = rearrange(landmark, "(b t) k xy -> t b k xy", t=roles)
        mixed = jax.vmap(lambda points: scramble_centres(points, group))(by_role)
        return rearrange(mixed, "t b k xy -> (b t) k xy")
    count = jnp.sum(batch["index"] >= 0) if "index" in batch else None
    return scramble_centres(landmark, group, count)
