"""What the splits of people's photos can measure: roles in retrieval, and notes on classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfds_builders.own_photos import table
from tfds_builders.own_photos.listing import SPLITS, Listing

QUERY, GALLERY, NEITHER = 0, 1, 2  # roles in retrieval


def disagreeing(listing: Listing, groups: Sequence[Sequence[int]]) -> list[str]:
    """A note on copies of one photo that are in different classes."""
    if listing.category is None:
        return []
    pairs = [rows for rows in groups if len({listing.category[i] for i in rows}) > 1]
    if not pairs:
        return []
    named = "; ".join(" = ".join(listing.image[i] for i in rows[:3]) for rows in pairs[:5])
    return [f"photos in two classes: {len(pairs)} ({named}{'; …' if len(pairs) > 5 else ''})"]


def class_notes(listing: Listing, split: Sequence[str]) -> list[str]:
    """What the splits cannot show of the classes."""
    if listing.category is None:
        return []
    notes, of = [], {name: set() for name in SPLITS}
    for name, category in zip(split, listing.category):
        of[name].add(category)
    if len(set(listing.category)) == 1:
        notes.append(f"one class ({listing.category[0]}): there is nothing to tell apart")
    for held in ("val", "test"):
        unmeasured = sorted(of["train"] - of[held])
        if of[held] and unmeasured:
            named = ", ".join(unmeasured[:10]) + (", …" if len(unmeasured) > 10 else "")
            notes.append(f"classes without a photo in split {held}: {len(unmeasured)} ({named})")
        unseen = sorted(of[held] - of["train"])
        if unseen:
            notes.append(f"split {held} has classes that train lacks: {', '.join(unseen[:10])}")
    return notes


def roles(listing: Listing, split: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """([n] query, gallery or neither; notes). As the table says; else consumer photos search among shop
    photos, and without views the first photo of an item searches among the others."""
    notes: list[str] = []
    if listing.role is not None:
        role = np.asarray([table.ROLES.index(name) for name in listing.role], np.int32)
        return role, notes
    role = np.full(len(split), GALLERY, np.int32)
    for held in ("val", "test"):
        rows = [i for i, name in enumerate(split) if name == held]
        items: dict[str, list[int]] = {}
        for i in rows:
            items.setdefault(listing.item[i], []).append(i)
        unmatched = 0
        for members in items.values():
            if listing.view is None:
                role[members[0]] = QUERY if len(members) > 1 else GALLERY
                continue
            consumer = [i for i in members if listing.view[i] == "consumer"]
            matched = len(consumer) < len(members)
            role[consumer] = QUERY if matched else NEITHER
            unmatched += 0 if matched else len(consumer)
        if unmatched:
            notes.append(f"split {held}: consumer photos without a shop photo of their item: {unmatched}")
        if rows and not (role[rows] == QUERY).any():
            notes.append(f"split {held}: no item has two photos, so retrieval cannot be measured on it")
    return role, notes
