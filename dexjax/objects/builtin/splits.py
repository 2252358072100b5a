"""The three splits of the built-in objects, fixed by a seed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from dexjax.core.errors import unknown_name
from dexjax.objects.builtin.catalogue import BuiltinShape, find_category

# Trained on. Every grasp type of the unseen categories occurs here in another object: loop handle
# (mug), bar handle (hammer, pan, screwdriver, knife), wide body (bottle, box, can, cup), pistol
# grip (drill, spray bottle).
SEEN_CATEGORIES = (
    "mug", "bottle", "hammer", "screwdriver", "knife", "pan", "spray_bottle", "drill", "banana",
    "flashlight", "box", "can", "cup",
)  # fmt: skip

# Never trained on. Each asks for a skill that a seen category teaches, on a new shape: teapot (loop
# handle, but a hot wide body), scissors (two loops, flat), spoon and brush (bar handles with a head
# to avoid).
UNSEEN_CATEGORIES = ("teapot", "scissors", "spoon", "brush")


@dataclass(frozen=True)
class Split:
    """Categories and instance numbers; instance numbers never overlap within a category."""

    categories: tuple[str, ...]
    instances: range


SPLITS = {
    "seen": Split(SEEN_CATEGORIES, range(0, 8)),
    "unseen": Split(SEEN_CATEGORIES, range(100, 103)),
    "unseen_category": Split(UNSEEN_CATEGORIES, range(0, 4)),
}


def make_shape(category: str, instance: int, seed: int = 0) -> BuiltinShape:
    """Instance number `instance` of a category; the same arguments give the same shape."""
    build = find_category(category)
    # The category's name seeds the stream, so adding a category changes no other object.
    rng = np.random.default_rng([seed, zlib.crc32(category.encode()), instance])
    return build(rng, f"{category}_{instance:03d}")


def builtin_shapes(split: str, seed: int = 0) -> list[BuiltinShape]:
    """All shapes of a split, ordered by category, then instance."""
    if split not in SPLITS:
        raise unknown_name("built-in object split", split, SPLITS)
    chosen = SPLITS[split]
    return [make_shape(c, i, seed) for c in chosen.categories for i in chosen.instances]
