"""Hands and scenes as MJCF files. `path` finds them in a checkout and in an installed wheel."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def path(name: str) -> Path:
    """Path of a file of this folder, e.g. `path("shadow_hand.xml")`.

    Raises FileNotFoundError with the files that exist. The package must be unpacked on disk
    (pip does that); MuJoCo reads MJCF by path.
    """
    folder = Path(str(files(__name__)))
    found = folder / name
    if not found.is_file():
        known = sorted(p.name for p in folder.iterdir() if p.suffix in (".xml", ".toml"))
        raise FileNotFoundError(f"no {name!r} in {folder}; there are: {', '.join(known)}")
    return found
