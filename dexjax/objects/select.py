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
from dexjax.objects.scan import scan_folder

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
            assets += [scaled(a, f) for a in _builtin(names or "seen", sdf) for f in factors]
            continue
        if not Path(head).is_dir():
            raise ConfigError(
                f"objects {part!r}: no folder {head!r}; give builtin:{{{','.join(SPLITS)}}}, "
                "a folder of meshes, or FOLDER:name,name"
            )
        items, refused = scan_folder(head)
        if names and names != GRASPABLE:
            wanted, known = names.split(","), {i.name: i for i in items}
            for name in wanted:
                if name not in known:
                    raise unknown_name(f"object below {head}", name, known)
            items = [known[name] for name in wanted]
            refused = []
        built, report = build_assets(
            items, options=AssetOptions(sdf=sdf), workers=workers, progress=progress,
            auto_scale=True,
        )  # fmt: skip
        if names == GRASPABLE:
            left_out += [(a.name, why) for a in built if (why := why_not_graspable(a))]
            built = [a for a in built if not why_not_graspable(a)]
        assets += [scaled(a, f) for a in built for f in factors]
        left_out += refused + _refusals(report)
    if not assets:
        reasons = "; ".join(f"{n}: {why}" for n, why in left_out[:3])
        raise ConfigError(f"objects {text!r}: none can be used ({reasons})")
    return Selection(assets, left_out)


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


def _builtin(text: str, sdf: bool) -> list[ObjectAsset]:
    """Assets of SPLIT or SPLIT:name,name."""
    split, _, chosen = text.partition(":")
    if split not in SPLITS:
        raise unknown_name("built-in object split", split, SPLITS)
    if not chosen:
        return builtin_assets(split, sdf=sdf)
    known = {
        f"{category}_{i:03d}": (category, i)
        for category in SPLITS[split].categories
        for i in SPLITS[split].instances
    }
    for name in chosen.split(","):
        if name not in known:
            raise unknown_name(f"built-in object of {split}", name, known)
    return [builtin_asset(*known[name], sdf=sdf) for name in chosen.split(",")]


def _refusals(report: BuildReport) -> list[tuple[str, str]]:
    return [(row.name, row.why) for row in report.refused]
