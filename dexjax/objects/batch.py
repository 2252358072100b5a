"""Many meshes to assets on several cores, past failures, with a progress bar and a report."""

from __future__ import annotations

import json
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import dexjax
from dexjax.core.errors import DataError, DexjaxError
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.build import AssetOptions
from dexjax.objects.cache import (
    Loaded,
    content_key,
    default_cache_dir,
    is_current,
    load_or_build,
)
from dexjax.objects.mesh import load_raw, propose_scale
from dexjax.objects.scan import BuildItem

TIMEOUT = 600.0  # s per object; the slowest real mesh takes 30 s on an idle core


@dataclass(frozen=True)
class BuildRow:
    """What happened to one object."""

    name: str
    status: str  # "built", "cached", "rebuilt: <why>", "refused"
    notes: tuple[str, ...] = ()
    why: str = ""  # of a refusal
    pieces: int = 0
    mass: float = 0.0  # kg
    seconds: float = 0.0


@dataclass(frozen=True)
class BuildReport:
    """One row per object, in the order given."""

    rows: tuple[BuildRow, ...]
    seconds: float

    @property
    def refused(self) -> tuple[BuildRow, ...]:
        return tuple(r for r in self.rows if r.status == "refused")

    def summary(self) -> str:
        """One line: how many were read, repaired and refused, and the time."""
        count = {k: sum(r.status.split(":")[0] == k for r in self.rows)
                 for k in ("built", "cached", "rebuilt", "refused")}  # fmt: skip
        repaired = sum(bool(r.notes) for r in self.rows)
        parts = [f"{n} {k}" for k, n in count.items() if n]
        return f"{', '.join(parts)}; {repaired} with notes; {self.seconds:.1f} s"

    def table(self) -> Table:
        """The table that `python -m dexjax.objects build` prints."""
        table = Table(title=self.summary(), title_justify="left")
        table.add_column("object", overflow="fold", min_width=20)
        for column in ("status", "pieces", "mass kg", "s"):
            table.add_column(column)
        table.add_column("repairs and reasons", overflow="fold")
        for r in self.rows:
            refused = r.status == "refused"
            style = "red" if refused else ("yellow" if r.notes else "")
            numbers = ("", "", "") if refused else (
                str(r.pieces), f"{r.mass:.3f}", f"{r.seconds:.1f}"
            )  # fmt: skip
            said = r.why if refused else "; ".join(r.notes)
            # Plain text: file names may hold what looks like rich markup.
            table.add_row(*(_plain(t) for t in (r.name, r.status, *numbers, said)), style=style)
        return table

    def write_json(self, path: str | Path) -> None:
        """Rows and time as JSON."""
        data = {"seconds": self.seconds, "objects": [asdict(r) for r in self.rows]}
        Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def build_assets(
    items: Sequence[BuildItem],
    *,
    options: AssetOptions = AssetOptions(),  # noqa: B008  frozen
    workers: int = 2,
    progress: bool = True,
    cache_dir: str | Path | None = None,
    auto_scale: bool = False,
    timeout: float = TIMEOUT,
) -> tuple[list[ObjectAsset], BuildReport]:
    """Build or load all items; what fails is a row of the report and the rest goes on.

    workers: processes of their own (a crash in a native library costs one object); 0 builds in
    this process. auto_scale: a mesh of an unlikely size is scaled as proposed, with a note.
    Assets come in the items' order, refused ones left out.
    """
    start = time.perf_counter()
    directory = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    outcome: dict[int, Loaded | DexjaxError] = {}
    seconds: dict[int, float] = {}
    jobs = list(items)
    todo: list[int] = []
    bar = Progress(
        TextColumn("objects"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"), console=Console(stderr=True), disable=not progress,
        transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=len(jobs), now="")

        def finish(index: int, result: Loaded | DexjaxError, took: float) -> None:
            outcome[index], seconds[index] = result, took
            bar.update(task, advance=1, now=_plain(jobs[index].name))

        for i in range(len(jobs)):
            began = time.perf_counter()
            try:
                if auto_scale:
                    jobs[i] = _scaled(jobs[i], options)
                if workers > 0 and not _in_cache(jobs[i], options, directory):
                    todo.append(i)
                    continue
                finish(i, run_item(jobs[i], options, directory), time.perf_counter() - began)
            except DexjaxError as error:
                finish(i, error, time.perf_counter() - began)
        if todo:
            pool = _Pool(min(workers, len(todo)), timeout)
            try:
                for index, result, took in pool.run(
                    [(i, (jobs[i], options, directory)) for i in todo]
                ):
                    finish(index, result, took)
            finally:
                pool.close()

    rows, assets = [], []
    for i, item in enumerate(jobs):
        result = outcome[i]
        if isinstance(result, Loaded):
            asset = result.asset
            if item.notes:
                asset = replace(asset, notes=(*item.notes, *asset.notes))
            assets.append(asset)
            rows.append(BuildRow(item.name, result.status, asset.notes, "", len(asset.pieces),
                                 asset.mass, seconds[i]))  # fmt: skip
        else:
            rows.append(BuildRow(item.name, "refused", item.notes, str(result), 0, 0.0, seconds[i]))
    return assets, BuildReport(tuple(rows), time.perf_counter() - start)


def run_item(item: BuildItem, options: AssetOptions, cache_dir: Path) -> Loaded:
    """`load_or_build` for one item."""
    return load_or_build(
        item.mesh,
        name=item.name,
        category=item.category,
        options=_options(item, options),
        pieces=item.pieces,
        face_parts=item.face_parts,
        part_names=item.part_names,
        part_affordances=item.part_affordances,
        mass=item.mass,
        cache_dir=cache_dir,
    )


def _options(item: BuildItem, options: AssetOptions) -> AssetOptions:
    return options if item.scale is None else replace(options, mesh_scale=item.scale)


def _in_cache(item: BuildItem, options: AssetOptions, directory: Path) -> bool:
    key = content_key(
        item.mesh, _options(item, options),
        pieces=item.pieces, face_parts=item.face_parts, mass=item.mass,
    )  # fmt: skip
    return is_current(directory / f"{key}.npz")


def _scaled(item: BuildItem, options: AssetOptions) -> BuildItem:
    """The item with the proposed scale, if its size is no size for a hand."""
    mesh = load_raw(item.mesh) if isinstance(item.mesh, Path) else item.mesh
    scale = item.scale if item.scale is not None else options.mesh_scale
    longest = float(mesh.extents.max()) * scale if mesh.extents is not None else 0.0
    proposal = propose_scale(longest) if not 0.005 <= longest <= 1.0 else None
    if proposal is None:
        return item
    factor, unit = proposal
    note = f"longest side {longest:.3g} m: taken as {unit}, scaled by {factor:g}"
    return replace(item, scale=scale * factor, notes=(*item.notes, note))


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


class _Pool:
    """Worker processes that build items; each is fed by a thread over a pair of pipes.

    Not `multiprocessing`: its workers import the parent's main module (JAX and all), and one
    crash in native code breaks the whole pool.
    """

    def __init__(self, workers: int, timeout: float):
        self.timeout = timeout
        self.workers = workers
        self.processes: list[subprocess.Popen | None] = [None] * workers
        self.closed = False

    def run(self, jobs: list):
        """Yields (index, Loaded or DexjaxError, seconds) as they are done."""
        waiting: queue.Queue = queue.Queue()
        done: queue.Queue = queue.Queue()
        for job in jobs:
            waiting.put(job)
        for slot in range(self.workers):
            threading.Thread(target=self._feed, args=(slot, waiting, done), daemon=True).start()
        for _ in jobs:
            yield done.get()

    def close(self) -> None:
        self.closed = True
        for process in self.processes:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def _feed(self, slot: int, waiting: queue.Queue, done: queue.Queue) -> None:
        while not self.closed:
            try:
                index, job = waiting.get_nowait()
            except queue.Empty:
                return
            began = time.perf_counter()
            try:
                result = self._ask(slot, job)
            except Exception as error:  # never leave the caller waiting for this index
                result = DataError(f"{job[0].mesh}: worker failed: {type(error).__name__}: {error}")
            done.put((index, result, time.perf_counter() - began))

    def _ask(self, slot: int, job: tuple) -> Loaded | DexjaxError:
        process = self.processes[slot]
        if process is None or process.poll() is not None:
            process = self.processes[slot] = _start_worker()
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.timeout, stop)
        timer.start()
        try:
            send(process.stdin, job)
            reply = receive(process.stdout)
        except (OSError, EOFError):
            process.kill()
            code = process.wait()
            self.processes[slot] = None
            where = job[0].mesh if isinstance(job[0].mesh, Path) else job[0].name
            if late.is_set():
                return DataError(
                    f"{where}: not built within {self.timeout:.0f} s; simplify the mesh"
                )
            return DataError(
                f"{where}: the building process died (exit {code}): a fault in a native library "
                "or too little memory; simplify or repair the mesh"
            )
        finally:
            timer.cancel()
        return reply


def _start_worker() -> subprocess.Popen:
    package_root = str(Path(dexjax.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    # One thread each: the workers are the parallelism, and CoACD spins when threads outnumber
    # cores.
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "dexjax.objects._worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env,
    )  # fmt: skip


def send(pipe, message: object) -> None:
    """One length-prefixed message; both ends are processes of this library."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(struct.pack("<Q", len(data)) + data)
    pipe.flush()


def receive(pipe) -> Any:
    """The next message; EOFError if the other end is gone."""
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError
    (size,) = struct.unpack("<Q", head)
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)
