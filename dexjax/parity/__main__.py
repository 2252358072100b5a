"""`python -m dexjax.parity`: how far our physics, task and results are from the papers'."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from dexjax.core.errors import DexjaxError

app = tyro.extras.SubcommandApp()
trace_app = tyro.extras.SubcommandApp()
app.command(trace_app, name="trace", help="Look at recorded traces.")


@trace_app.command(name="info")
def trace_info(file: tyro.conf.Positional[Path]) -> int:
    """Check a trace strictly and print what it holds."""
    from dexjax.parity.trace import describe, read_trace

    print(describe(read_trace(file)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code (2: unusable input)."""
    try:
        return int(app.cli(args=argv, prog="python -m dexjax.parity") or 0)
    except DexjaxError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
