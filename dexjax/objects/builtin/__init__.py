"""Built-in objects: parametric everyday things with functional parts, no download.

`builtin_shapes(split)` gives meshes with part labels and exact convex pieces; `builtin_assets`
turns them into cached `ObjectAsset`s. Splits: `seen`, `unseen`, `unseen_category`.
"""

from dexjax.objects.builtin import kitchen, tools, vessels  # noqa: F401  (registers categories)
from dexjax.objects.builtin.assets import builtin_asset, builtin_assets
from dexjax.objects.builtin.catalogue import (
    AFFORDANCES,
    CATEGORIES,
    BuiltinShape,
    Category,
    find_category,
)
from dexjax.objects.builtin.splits import SPLITS, builtin_shapes, make_shape

__all__ = [
    "AFFORDANCES",
    "CATEGORIES",
    "SPLITS",
    "BuiltinShape",
    "Category",
    "builtin_asset",
    "builtin_assets",
    "builtin_shapes",
    "find_category",
    "make_shape",
]
