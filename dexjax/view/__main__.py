"""`python -m dexjax.view TARGET`, or `... --record out.mp4` without any browser."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from dexjax.core.errors import ConfigError, DexjaxError
from dexjax.metrics.replay import write_video
from dexjax.view.targets import Options, episodes_of, find_kind
from dexjax.view.viewer import DEFAULT_PORT, Viewer


@dataclass(frozen=True)
class Command:
    """Show runs, episodes, objects and hands in a browser; or write a video of episodes."""

    target: tyro.conf.Positional[str]
    """A run folder, a file of recorded episodes, a mesh or a folder of meshes,
    builtin:SPLIT[:NAME], a built object (.npz), diverged.npz of a run, or a hand (its name, or an
    MJCF file)."""
    record: Path | None = None
    """Write the recorded episodes of TARGET side by side into this .mp4 and end."""
    live: bool = False
    """Run folder: play its policy now instead of showing recorded episodes."""
    objects: str | None = None
    """Objects to play on (same texts as in dexjax.train); default: those of the run."""
    host: str = "127.0.0.1"
    """Address to serve at; 0.0.0.0 lets other machines in."""
    port: int = DEFAULT_PORT
    """Port to serve at; the next free one if it is in use."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code (2: unusable input)."""
    args = tyro.cli(Command, args=argv, prog="python -m dexjax.view")
    try:
        if args.record is not None:
            _record(args.target, args.record)
            return 0
        kind = find_kind(args.target)
        title = f"{kind.name} {Path(args.target).name}"
        viewer = Viewer(title, args.host, args.port)
        try:
            kind.show(viewer, args.target, Options(args.live, args.objects))
        except BaseException:
            viewer.stop()
            raise
        print(f"{kind.name} {args.target}: open {viewer.address} (Ctrl-C ends)", flush=True)
        viewer.run()
    except DexjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


def _record(target: str, path: Path) -> None:
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"--record {path}: the video must be named .mp4")
    if not path.parent.is_dir():
        raise ConfigError(f"--record {path}: no such folder {path.parent}")
    episodes = episodes_of(target)
    path = write_video(episodes, path)
    good = sum(e.good for e in episodes)
    print(f"{path}: {len(episodes)} episodes, {good} of them successes")


if __name__ == "__main__":
    sys.exit(main())
