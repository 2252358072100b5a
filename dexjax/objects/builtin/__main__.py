"""`python -m dexjax.objects.builtin sheet OUT.png`: a picture of all categories, parts coloured."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from dexjax.core.errors import DexjaxError
from dexjax.objects.builtin.catalogue import CATEGORIES, BuiltinShape
from dexjax.objects.builtin.splits import SEEN_CATEGORIES, make_shape
from dexjax.render import RenderMesh, frame_camera, grid, render, write_png

# Colour families by the first affordance of a part that they name.
FAMILIES = (
    ("hold", (0.33, 0.66, 0.42)),
    ("press", (0.95, 0.72, 0.25)),
    ("open", (0.42, 0.60, 0.86)),
    ("contain", (0.74, 0.72, 0.80)),
    ("avoid", (0.86, 0.36, 0.32)),
    ("strike", (0.50, 0.46, 0.60)),
    ("pour", (0.38, 0.62, 0.82)),
)
NEUTRAL = (0.62, 0.63, 0.66)


def part_colours(shape: BuiltinShape) -> np.ndarray:
    """(F, 3): green to hold, red not to touch, yellow to press, blue to open or pour, else grey."""
    table = []
    for name in shape.part_names:
        labels = shape.part_affordances[name]
        family: tuple[float, ...] | None = next(
            (c for key, c in FAMILIES if key in labels and "avoid" not in labels), None
        )
        if "avoid" in labels:
            family = dict(FAMILIES)["avoid"]
            # Parts that must not be touched keep apart by tint: insides are paler.
            if "contain" in labels:
                family = tuple(0.55 * c + 0.42 for c in family)
        table.append(family or NEUTRAL)
    return np.array(table)[shape.face_parts]


def sheet(size: int = 240, instance: int = 0, columns: int = 6) -> np.ndarray:
    """All categories in a labelled grid, (H, W, 3) uint8; unseen categories are marked with *."""
    images, names = [], []
    ordered = [*SEEN_CATEGORIES, *(c for c in CATEGORIES if c not in SEEN_CATEGORIES)]
    for category in ordered:
        shape = make_shape(category, instance)
        mesh = RenderMesh(shape.vertices, shape.faces, part_colours(shape))
        flat = np.ptp(shape.vertices, axis=0)[2] < 0.075  # tools that lie: look from above
        azimuth, elevation = (-40.0, 52.0) if flat else (-65.0, 24.0)
        camera = frame_camera([mesh], azimuth, elevation, margin=1.16)
        ground = float(shape.vertices[:, 2].min())
        images.append(render([mesh], camera, size, size, ground=ground))
        names.append(category.replace("_", " ") + ("" if category in SEEN_CATEGORIES else " *"))
    return grid(images, columns, names)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m dexjax.objects.builtin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    draw = commands.add_parser("sheet", help="draw all categories into one PNG")
    draw.add_argument("out")
    draw.add_argument("--size", type=int, default=240, help="pixels per object")
    draw.add_argument("--instance", type=int, default=0, help="instance number to draw")
    options = parser.parse_args(argv)
    try:
        write_png(options.out, sheet(options.size, options.instance))
    except DexjaxError as error:
        raise SystemExit(_fail(error)) from None
    print(options.out)


def _fail(error: DexjaxError) -> int:
    print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
