"""Showing and storing how a run goes: live table or plain lines, JSONL and TensorBoard."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_PLAIN_INTERVAL = 10.0  # s between plain lines


def wilson_interval(successes: float, count: float, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a proportion (Wilson 1927); z = 1.96 gives 95 %. (0, 1) at count 0."""
    if count <= 0:
        return 0.0, 1.0
    p = successes / count
    centre = p + z * z / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds and half width of its 95 % interval (Student's t); NaN for a single one."""
    from scipy.special import stdtrit

    values = np.asarray(values, np.float64)
    count = len(values)
    if count < 2:
        return float(values.mean()), math.nan
    error = values.std(ddof=1) / math.sqrt(count)
    return float(values.mean()), float(stdtrit(count - 1, 0.975) * error)


class MetricsLog:
    """Appends every update's scalars to metrics.jsonl and a TensorBoard event file.

    Both are written in this thread, so that a full disk is an OSError here and not a stuck queue.
    """

    def __init__(self, run_dir: Path, iteration: int):
        """Open for appending after `iteration`; later lines (of a killed process) are dropped."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._jsonl: TextIO = _open_after(run_dir / "metrics.jsonl", iteration)
        folder = run_dir / "tensorboard"
        folder.mkdir(exist_ok=True)
        file = folder / f"events.out.tfevents.{time.time_ns()}.dexjax"
        self._events = RecordWriter(str(file))
        self._event = Event
        self._write_event(file_version="brain.Event:2")
        # Tells TensorBoard to forget points of an earlier process beyond this step.
        self._write_event(step=iteration + 1, session_log=SessionLog(status=SessionLog.START))

    def append(self, iteration: int, env_steps: int, scalars: Mapping[str, float]) -> None:
        """One update's scalars. TensorBoard's horizontal axis is environment steps."""
        from tensorboardX.proto.summary_pb2 import Summary

        row = {k: (v if math.isfinite(v) else None) for k, v in scalars.items()}
        line = {"iteration": iteration, "env_steps": env_steps, **row}
        self._jsonl.write(json.dumps(line) + "\n")
        self._jsonl.flush()
        values = [Summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]
        self._write_event(step=env_steps, summary=Summary(value=values))

    def close(self) -> None:
        """Flush and close both files."""
        self._jsonl.close()
        self._events.close()

    def _write_event(self, **fields: Any) -> None:
        self._events.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._events._writer.flush()


class ProgressDisplay:
    """A live table on a terminal, otherwise a plain line every ten seconds."""

    def __init__(self, title: str, console: Console | None = None):
        self.console = console or Console()
        self._title = title
        self._live: Live | None = None
        self._last_line = -math.inf

    def __enter__(self) -> ProgressDisplay:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def message(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def report(self, text: str) -> None:
        """Indented lines as tables on a terminal: cells are two or more spaces apart."""
        if self._live is None:
            self.message(text)
            return
        table = None
        for line in [*text.splitlines(), ""]:
            cells = re.split(r"\s{2,}", line.strip())
            if line.startswith("  "):
                table = table or Table(show_header=False, box=SIMPLE_HEAD, padding=(0, 1))
                table.add_row(*map(Text, cells))
                continue
            if table is not None:
                self.console.print(table)
                table = None
            if line:
                self.console.print(Text(line, style="bold"))

    def update(self, scalars: Mapping[str, float], *, last: bool = False) -> None:
        """Show the newest values; see `dexjax.train` for the names. `last` forces a line."""
        if self._live is not None:
            self._live.update(_table(self._title, scalars), refresh=last)
        elif last or time.monotonic() - self._last_line >= _PLAIN_INTERVAL:
            self._last_line = time.monotonic()
            self.message(plain_line(scalars))


def plain_line(scalars: Mapping[str, float]) -> str:
    """The most important values on one line."""
    parts = [
        f"{100 * scalars['time/progress']:3.0f} %",
        f"{_clock(scalars['time/elapsed_seconds'])} (left {_clock(scalars['time/eta_seconds'])})",
        f"{_count(scalars['time/env_steps'])} steps",
        f"{scalars['time/steps_per_second']:.0f}/s",
    ]
    parts += [f"{name} {text}" for name, text in _success(scalars)]
    parts += [
        f"reward {scalars['reward/total']:.3f}",
        f"kl {scalars['loss/kl']:.3f}",
        f"lr {scalars['policy/learning_rate']:.1e}",
        f"std {scalars['policy/std_mean']:.2f}",
    ]
    if math.isfinite(scalars.get("time/simulation_fraction", math.nan)):
        parts.append(_split(scalars))
    if scalars["guard/nonfinite_samples"]:
        parts.append(f"non-finite {scalars['guard/nonfinite_samples']:.0f}")
    return " | ".join(parts)


def _table(title: str, scalars: Mapping[str, float]) -> Group:
    """The live view: a progress bar above two columns of values."""
    head = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=1.0, completed=scalars["time/progress"], width=40)
    head.add_row(
        Text(title, style="bold"),
        bar,
        f"{100 * scalars['time/progress']:.0f} %",
        f"{_clock(scalars['time/elapsed_seconds'])} elapsed, "
        f"{_clock(scalars['time/eta_seconds'])} left",
    )
    left = Table(show_header=False, box=None, padding=(0, 1))
    for name, text in _success(scalars):
        left.add_row(name, text)
    rows = {
        "episodes": f"{scalars['episode/count']:.0f}",
        "return": f"{scalars.get('episode/return', math.nan):.2f}",
        "steps": f"{_count(scalars['time/env_steps'])}  {scalars['time/steps_per_second']:.0f}/s",
        "time": _split(scalars),
        "kl": f"{scalars['loss/kl']:.4f}",
        "learning rate": f"{scalars['policy/learning_rate']:.2e}",
        "noise std": f"{scalars['policy/std_mean']:.3f}",
        "value loss": f"{scalars['loss/value']:.4f}",
        "non-finite": f"{scalars['guard/nonfinite_samples']:.0f} samples, "
        f"{scalars['guard/skipped_updates']:.0f} updates",
    }
    for name, text in rows.items():
        left.add_row(name, text)
    right = Table(show_header=False, box=None, padding=(0, 1))
    for name, value in scalars.items():
        if name.startswith(("reward/", "env/")):
            right.add_row(name, f"{value:.4f}")
    body = Table.grid(padding=(0, 4))
    body.add_row(left, right)
    return Group(head, body)


def _success(scalars: Mapping[str, float]) -> list[tuple[str, str]]:
    """Running success rates with their 95 % interval."""
    count = scalars["episode/window"]
    rows = []
    for name, rate in scalars.items():
        if name.startswith("episode/success"):
            label = name.removeprefix("episode/").replace("success_", "success ")
            if count > 0 and math.isfinite(rate):
                low, high = wilson_interval(rate * count, count)
                half = scalars.get(f"interval/{name}", math.nan)
                if math.isfinite(half):  # of several seeds: interval of their mean
                    low, high = max(0.0, rate - half), min(1.0, rate + half)
                rows.append((label, f"{rate:.3f} [{low:.2f}, {high:.2f}]"))
            else:
                rows.append((label, "-"))
    return rows


def _split(scalars: Mapping[str, float]) -> str:
    """Where the time of an update goes, as far as it is measured."""
    sim = scalars.get("time/simulation_fraction", math.nan)
    if not math.isfinite(sim):
        return f"{scalars['time/update_seconds']:.2f} s per update"
    inference, learning = (scalars[f"time/{k}_fraction"] for k in ("inference", "learning"))
    return (
        f"simulation {100 * sim:.0f} %, inference {100 * inference:.0f} %, "
        f"learning {100 * learning:.0f} %"
    )


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _count(number: float) -> str:
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.2f}{unit}"
    return f"{number:.0f}"


def _open_after(file: Path, iteration: int) -> TextIO:
    """Open a JSONL file for appending, keeping only complete lines up to `iteration`."""
    if file.exists():
        kept = []
        for line in file.read_text().splitlines():
            try:
                if json.loads(line)["iteration"] <= iteration:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the half line of a killed process
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_text("".join(kept))
        temporary.replace(file)
    return file.open("a")
