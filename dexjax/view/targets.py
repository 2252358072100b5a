"""What can be viewed: each kind of target with how it is recognised and how it is shown.

A further kind is one more entry of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dexjax.core.errors import DataError
from dexjax.metrics.episodes import SUFFIX, Episode, read_episodes
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


def _show_episodes(viewer: Viewer, target: str, options: Options) -> None:
    from dexjax.view.episodes import EpisodePlayer

    EpisodePlayer(viewer, episodes_of(target))


KINDS: tuple[Kind, ...] = (
    Kind("episodes", lambda t: _has_field(t, "qpos", "meta"), _show_episodes),
)


def _has_field(target: str, *names: str) -> bool:
    """Whether the target is an .npz with all these members; reads its directory only."""
    import zipfile

    path = Path(target)
    if path.suffix != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{n}.npy" for n in names} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
