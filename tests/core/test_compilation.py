"""The compilation cache between processes, and the clock of compilation."""

from __future__ import annotations

import subprocess
import sys
import time

import jax
import jax.numpy as jnp

from dexjax.core import compilation

PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from dexjax.core.compilation import CompileClock, use_cache
assert use_cache(Path(sys.argv[1])) == Path(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
with CompileClock() as clock:
    print(float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.arange(8.0))), clock.cache_hits)
"""


def test_second_process_reads_what_the_first_compiled(tmp_path):
    def run():
        argv = [sys.executable, "-c", PROGRAM, str(tmp_path / "xla")]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()

    (value, hits), (again, warm) = run(), run()
    assert (hits, value) == ("0", again) and int(warm) >= 1
    assert (tmp_path / "xla").stat().st_mode & 0o077 == 0  # programs are executed as they are
    # A process killed while writing leaves an entry without its access time.
    (entry,) = (p for p in (tmp_path / "xla").glob("jit__lambda*-cache"))
    entry.write_bytes(entry.read_bytes()[:100])
    entry.with_name(entry.name.removesuffix("-cache") + "-atime").unlink()
    assert run()[0] == value and entry.stat().st_size > 100


def test_unusable_folder_is_no_error(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert compilation.use_cache(file / "xla") is None


def test_clock_counts_each_moment_once():
    assert compilation._covered([(0, 4), (1, 2), (3, 5), (7, 8)]) == 6
    inner = jax.jit(lambda x: jnp.cos(x) * 2)
    began = time.monotonic()
    with compilation.CompileClock() as clock:
        jax.jit(lambda x: inner(x) + inner(x * 2))(jnp.ones(3)).block_until_ready()
    took, seconds = time.monotonic() - began, clock.seconds()
    assert all(v > 0 for v in seconds.values())
    assert sum(seconds.values()) <= took + 0.01
    before = dict(seconds)
    jax.jit(lambda x: x * 3)(jnp.ones(3))  # after its end it does not count
    assert clock.seconds() == before
