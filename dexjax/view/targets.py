"""What can be viewed: each kind of target with how it is recognised and how it is shown.

A further kind is one more entry of `KINDS`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dexjax.core.errors import DataError, DexjaxError
from dexjax.hands import hand_names
from dexjax.metrics.episodes import SUFFIX, Episode, read_episodes
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.cache import load_or_build, read_asset
from dexjax.objects.mesh import MESH_SUFFIXES, load_raw
from dexjax.objects.scan import find_meshes
from dexjax.objects.select import BUILTIN, select_objects
from dexjax.render import RenderMesh
from dexjax.view.objects import MeshEntry, ObjectViewer
from dexjax.view.viewer import Viewer


@dataclass(frozen=True)
class Options:
    """What the command line says beside the target."""

    live: bool = False
    objects: str | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of target. `matches` looks at names and headers only."""

    name: str
    matches: Callable[[str], bool]
    show: Callable[[Viewer, str, Options], None]


def find_kind(target: str) -> Kind:
    """The kind of a target. Raises DataError saying what can be viewed."""
    for kind in KINDS:
        if kind.matches(target):
            return kind
    path = Path(target)
    what = "unknown kind of file" if path.exists() else "no such file, hand or built-in object"
    raise DataError(
        f"{target}: {what}; view a run folder, a file of recorded episodes ({SUFFIX}), a mesh or a "
        "folder of meshes, builtin:SPLIT[:NAME], a built object or diverged.npz, or a hand's name"
    )


def episodes_of(target: str) -> list[Episode]:
    """The recorded episodes of a file or run folder. Raises DataError where there are none."""
    path = Path(target)
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"), key=lambda f: (f.stem != "evaluation.episodes", f))
        if not files:
            raise DataError(
                f"{path}: holds no recorded episodes; record some: python -m dexjax.evaluate {path}"
            )
        path = files[0]
    return read_episodes(path)


# --- kinds ---------------------------------------------------------------------------------------


def _show_run(viewer: Viewer, target: str, options: Options) -> None:
    """Its policy, playing now (--live, or without recorded episodes), else what was recorded."""
    from dexjax.view.live import LivePlayer

    folder = Path(target)
    if not options.live and options.objects is None:
        if any(folder.glob(f"*{SUFFIX}")):
            return _show_episodes(viewer, target, options)
        print(f"{folder}: no recorded episodes: playing its policy now")
    try:
        LivePlayer(viewer, folder, options.objects)
    except DexjaxError as error:
        if not any(folder.glob(f"*{SUFFIX}")) or options.objects is not None:
            raise
        print(f"{error}; showing recorded episodes instead")
        _show_episodes(viewer, target, options)


def _show_episodes(viewer: Viewer, target: str, options: Options) -> None:
    from dexjax.view.episodes import EpisodePlayer

    EpisodePlayer(viewer, episodes_of(target))


def _show_divergences(viewer: Viewer, target: str, options: Options) -> None:
    from dexjax.view.divergence import read_divergences
    from dexjax.view.episodes import EpisodePlayer

    EpisodePlayer(viewer, *read_divergences(Path(target)))


def _show_hand(viewer: Viewer, target: str, options: Options) -> None:
    from dexjax.view.hands import HandViewer

    HandViewer(viewer, target)


def _show_builtin(viewer: Viewer, target: str, options: Options) -> None:
    ObjectViewer(viewer, [_entry(a) for a in select_objects(target).assets], built=True)


def _show_asset(viewer: Viewer, target: str, options: Options) -> None:
    ObjectViewer(viewer, [_entry(read_asset(target))], built=True)


def _show_meshes(viewer: Viewer, target: str, options: Options) -> None:
    """The files' own meshes; what was made of them at the press of a button."""
    path = Path(target)
    files = find_meshes(path) if path.is_dir() else [path]
    if not path.is_dir():
        load_raw(path)  # one mesh that cannot be read is an error; one of many is not

    def entry(file: Path) -> MeshEntry:
        if path.is_dir():
            below = file.relative_to(path)
            name = str(below.parent if file.stem == "mesh" else below)
        else:
            name = file.name

        def read() -> RenderMesh:
            mesh = load_raw(file)
            return RenderMesh(np.asarray(mesh.vertices, float), np.asarray(mesh.faces))

        return MeshEntry(name, read, lambda: load_or_build(file, name=name).asset)

    ObjectViewer(viewer, [entry(f) for f in files], built=False)


def _entry(asset: ObjectAsset) -> MeshEntry:
    return MeshEntry(asset.name, lambda: RenderMesh(asset.vertices, asset.faces), lambda: asset)


def _is_run(target: str) -> bool:
    return (Path(target) / "config.json").is_file()


def _is_mesh(target: str) -> bool:
    path = Path(target)
    return path.is_dir() or (path.suffix.lower() in MESH_SUFFIXES and path.is_file())


KINDS: tuple[Kind, ...] = (
    Kind("hand", lambda t: t in hand_names() or t.endswith(".xml"), _show_hand),
    Kind("objects", lambda t: t.partition(":")[0] == BUILTIN, _show_builtin),
    Kind("run", _is_run, _show_run),
    Kind("mesh", _is_mesh, _show_meshes),
    Kind("asset", lambda t: _has_field(t, "surface_points", "meta"), _show_asset),
    Kind("divergences", lambda t: _has_field(t, "qpos", "object_id", "count"), _show_divergences),
    # Last of the .npz kinds: it says what is wrong with a file that is none of these.
    Kind("episodes", lambda t: Path(t).suffix == ".npz" and Path(t).is_file(), _show_episodes),
)


def _has_field(target: str, *names: str) -> bool:
    """Whether the target is an .npz with all these members; reads its directory only."""
    path = Path(target)
    if path.suffix != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{n}.npy" for n in names} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
