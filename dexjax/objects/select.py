"""Objects by a short text, as on the command line: built-in splits, folders of meshes, or both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dexjax.core.errors import ConfigError, unknown_name
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.batch import BuildReport, build_assets
from dexjax.objects.build import AssetOptions
from dexjax.objects.builtin import SPLITS, builtin_asset, builtin_assets
from dexjax.objects.graspable import why_not_graspable
from dexjax.objects.scale import scaled
from dexjax.objects.scan import BuildItem, scan_folder

BUILTIN = "builtin"
GRASPABLE = "graspable"


@dataclass(frozen=True)
class Selection:
    """Objects of one selection, and what was left out with the reason."""

    assets: list[ObjectAsset]
    left_out: list[tuple[str, str]]


def select_objects(
    text: str, *, sdf: bool = False, workers: int = 2, progress: bool = True
) -> Selection:
    """Load or build objects.

    text: parts joined by "+", each `builtin:SPLIT`, `builtin:SPLIT:name,name`, `FOLDER` or
    `FOLDER:name,name` (names below the folder, as in the build table), or `FOLDER:graspable` (what
    the rule of `dexjax.objects.graspable` lets pass; the others are left out). A part may end in
    `@FACTOR,FACTOR`: each of its objects in these sizes. Raises ConfigError for unknown splits,
    names and factors, DataError for a folder without meshes, and ConfigError when nothing is left.
    """
    assets: list[ObjectAsset] = []
    left_out: list[tuple[str, str]] = []
    for part in text.split("+"):
        part, factors = _factors(part)
        head, _, names = part.partition(":")
        if head == BUILTIN:
            split, chosen = _builtin(names)
            built = (
                builtin_assets(split, sdf=sdf)
                if chosen is None
                else [builtin_asset(*c, sdf=sdf) for c in chosen]
            )
        else:
            items, refused = _items(head, names)
            built, report = build_assets(
                items, options=AssetOptions(sdf=sdf), workers=workers, progress=progress,
                auto_scale=True,
            )  # fmt: skip
            left_out += refused + _refusals(report)
        if names == GRASPABLE:
            judged = [(a, why_not_graspable(a)) for a in built]
            left_out += [(a.name, why) for a, why in judged if why is not None]
            built = [a for a, why in judged if why is None]
        assets += [scaled(a, f) for a in built for f in factors]
    if not assets:
        reasons = "; ".join(f"{n}: {why}" for n, why in left_out[:3])
        raise ConfigError(f"objects {text!r}: none can be used ({reasons})")
    return Selection(assets, left_out)


def check_objects(text: str) -> None:
    """Raise what `select_objects` raises for unknown folders, splits and names; builds nothing."""
    for part in text.split("+"):
        head, _, names = _factors(part)[0].partition(":")
        if head == BUILTIN:
            _builtin(names)
        else:
            _items(head, names)


def _factors(part: str) -> tuple[str, list[float]]:
    """`PART@0.8,1` as PART and its scale factors; no suffix: the size as it is."""
    head, at, numbers = part.rpartition("@")
    if not at or Path(part).is_dir():
        return part, [1.0]
    try:
        return head, [float(n) for n in numbers.split(",")]
    except ValueError:
        raise ConfigError(
            f"objects {part!r}: {numbers!r} after @ must be scale factors, as in @0.8,1,1.2"
        ) from None


def _builtin(text: str) -> tuple[str, list[tuple[str, int]] | None]:
    """Split of SPLIT or SPLIT:name,name, and (category, instance) of the names, None: all."""
    split, _, chosen = (text or "seen").partition(":")
    if split not in SPLITS:
        raise unknown_name("built-in object split", split, SPLITS)
    if not chosen:
        return split, None
    known = {
        f"{category}_{i:03d}": (category, i)
        for category in SPLITS[split].categories
        for i in SPLITS[split].instances
    }
    for name in chosen.split(","):
        if name not in known:
            raise unknown_name(f"built-in object of {split}", name, known)
    return split, [known[name] for name in chosen.split(",")]


def _items(folder: str, names: str) -> tuple[list[BuildItem], list[tuple[str, str]]]:
    """Meshes of a folder, all or those named, and (name, reason) of what could not be read."""
    if not Path(folder).is_dir():
        raise ConfigError(
            f"objects {folder!r}: no such folder; give builtin:{{{','.join(SPLITS)}}}, "
            "a folder of meshes, or FOLDER:name,name"
        )
    items, refused = scan_folder(folder)
    if not names or names == GRASPABLE:
        return items, refused
    known = {i.name: i for i in items}
    for name in names.split(","):
        if name not in known:
            raise unknown_name(f"object below {folder}", name, known)
    return [known[name] for name in names.split(",")], []


def _refusals(report: BuildReport) -> list[tuple[str, str]]:
    return [(row.name, row.why) for row in report.refused]
