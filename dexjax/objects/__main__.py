"""`python -m dexjax.objects build DIR`: build all meshes of a folder and say what happened."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console

from dexjax.core.errors import ConfigError, DexjaxError
from dexjax.objects.batch import BuildReport, BuildRow, build_assets
from dexjax.objects.build import DENSITY, AssetOptions
from dexjax.objects.cache import default_cache_dir
from dexjax.objects.scan import scan_folder


@dataclass(frozen=True)
class Build:
    """Build the assets of all meshes below a folder into the cache and show a table."""

    folder: tyro.conf.Positional[Path]
    """Searched with all folders below it; one holding `mesh.obj` is one object."""
    mesh_scale: float | None = None
    """Factor to metres for all meshes (default: `unit` of meta.json, else 1)."""
    auto_scale: bool = False
    """Scale meshes of an unlikely size as the refusal would propose, instead of refusing."""
    workers: int = 2
    """Processes."""
    json: Path | None = None
    """Also write the table here."""
    cache_dir: Path | None = None
    """Where assets are kept (default: the user's cache folder)."""
    density: float = DENSITY
    """kg/m^3 of objects whose meta.json gives no mass."""


def run_build(args: Build) -> BuildReport:
    """The command; returns its report."""
    if args.mesh_scale is not None and not args.mesh_scale > 0:
        raise ConfigError(f"--mesh-scale {args.mesh_scale} must be a positive number")
    items, broken = scan_folder(args.folder, mesh_scale=args.mesh_scale)
    options = AssetOptions(mesh_scale=args.mesh_scale or 1.0, density=args.density)
    _, report = build_assets(
        items,
        options=options,
        workers=args.workers,
        cache_dir=args.cache_dir,
        auto_scale=args.auto_scale,
    )
    rows = (*report.rows, *(BuildRow(name, "refused", why=why) for name, why in broken))
    return replace(report, rows=rows)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: all built; 1: some refused; 2: nothing could be done."""
    args = tyro.extras.subcommand_cli_from_dict(
        {"build": Build}, prog="python -m dexjax.objects", args=argv
    )
    console = Console()
    try:
        report = run_build(args)
        console.print(report.table())
        console.print(f"cache: {args.cache_dir or default_cache_dir()}", highlight=False)
        if args.json:
            report.write_json(args.json)
    except (DexjaxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if report.refused else 0


if __name__ == "__main__":
    sys.exit(main())
