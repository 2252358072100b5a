"""Compiled programs: large arrays kept out of them, kept on disk, and how long compiling took."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import filelock
import jax
import jax.monitoring
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Sharding

from dexjax.core.folders import user_cache_dir

_LIMIT = 4 * 1024**3  # bytes; the least recently used programs beyond it are deleted
_LARGE = 2**16  # bytes of an array that is passed to a program rather than written into it
_PREFIX = "/jax/core/compile/"
_STAGES = {
    f"{_PREFIX}jaxpr_trace_duration": "trace",
    f"{_PREFIX}jaxpr_to_mlir_module_duration": "lower",
    f"{_PREFIX}backend_compile_duration": "compile",
}


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/dexjax/xla, else ~/.cache/dexjax/xla; read at each call."""
    return user_cache_dir("xla")


def jit_with_large(
    fn: Callable[..., Any], *examples: Any, place: Sharding | None = None, **options: Any
) -> Callable[..., Any]:
    """`jax.jit(fn, **options)` for arguments like `examples` (arrays or their shapes).

    `jit` writes arrays that `fn` closes over into the program, where the distance grids of 3,200
    objects (1.6 GB) would be copied at each stage of compiling, and no program may pass 2 GB. Here
    the large ones become arguments; place: where they are put, the same on every process. Arrays
    that an inner `jit` closes over stay in the program.
    """
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*examples)
    tree = jax.tree.structure(shapes)
    large, constants = [], list(closed.consts)
    for i, x in enumerate(constants):
        if not isinstance(x, jax.Array) or jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            continue
        if x.nbytes >= _LARGE:
            large.append(i)
        if place is not None:  # an array that is tied to one device would not fit to the others
            constants[i] = np.asarray(x)
    passed = [constants[i] if place is None else jax.device_put(constants[i], place) for i in large]
    for i in large:
        constants[i] = None

    def run(passed: list[Any], *args: Any) -> Any:
        everything = list(constants)
        for i, x in zip(large, passed, strict=True):
            everything[i] = x
        flat = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, everything))(*jax.tree.leaves(args))
        return jax.tree.unflatten(tree, flat)

    compiled = jax.jit(run, **options)
    return lambda *args: compiled(passed, *args)


def use_cache(directory: Path | None = None) -> Path | None:
    """Keep compiled programs in `directory` (default: this user's) from now on.

    A folder chosen through JAX's own settings wins. Returns the folder, None if it cannot be
    written. JAX does not store programs with host callbacks (the `native` engine's).
    """
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if chosen is not None:
        return Path(chosen)
    folder = directory or default_cache_dir()
    try:
        # Cached programs are executed as they are: nobody else may write here.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_torn(folder)
    except (OSError, filelock.Timeout):
        return None
    # With a size limit JAX locks the folder for each access; without, it would not.
    jax.config.update("jax_compilation_cache_max_size", _LIMIT)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _remove_torn(folder: Path) -> None:
    """Entries of processes killed while writing: their access time, written last, is missing."""
    with filelock.FileLock(folder / ".lockfile", timeout=10):  # the lock that JAX takes
        for entry in folder.glob("*-cache"):
            if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
                entry.unlink(missing_ok=True)


class CompileClock:
    """Counts seconds of tracing, lowering and compiling, and programs read from the cache."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[float, float]]] = {k: [] for k in _STAGES.values()}
        self.cache_hits = 0

    def __enter__(self) -> CompileClock:
        jax.monitoring.register_event_time_span_listener(self._span)
        jax.monitoring.register_event_listener(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_time_span_listener(self._span)
        jax.monitoring.unregister_event_listener(self._event)

    def seconds(self) -> dict[str, float]:
        """trace, lower, compile: seconds so far, each moment counted once."""
        trace, lower = self._spans["trace"], self._spans["lower"]
        traced = _covered(trace)
        return {
            "trace": traced,  # nested functions are traced within their callers
            "lower": _covered([*trace, *lower]) - traced,
            "compile": _covered(self._spans["compile"]),
        }

    def _span(self, event: str, start_time: float, end_time: float, **_: object) -> None:
        if event in _STAGES:
            self._spans[_STAGES[event]].append((start_time, end_time))

    def _event(self, event: str, **_: object) -> None:
        self.cache_hits += event == "/jax/compilation_cache/cache_hits"


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
