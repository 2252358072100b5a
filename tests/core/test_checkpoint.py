"""Checkpoints: bitwise, atomic, and clear about what does not fit."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from dexjax.core import checkpoint
from dexjax.core.errors import DataError


@struct.dataclass
class State:
    params: dict
    key: jax.Array
    count: jax.Array


def state(seed: int = 0, width: int = 4) -> State:
    odd = jnp.array([jnp.nan, -0.0, jnp.inf, 1e-42], jnp.float32)  # NaN, signed zero, subnormal
    return State(
        params={
            "w": jax.random.normal(jax.random.key(seed), (3, width)),
            "odd": odd,
            "flag": jnp.array([True, False]),
        },
        key=jax.random.key(seed + 1),
        count=jnp.int32(seed),
    )


def like(tree):
    return jax.eval_shape(lambda: tree)


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_round_trip_is_bitwise(tmp_path):
    path = checkpoint.save(tmp_path, 7, state(), metadata={"hand": "shadow"}, score=0.5)
    assert path.name == "00000007"
    assert_same_bits(checkpoint.restore(path, like(state())), state())
    metadata = checkpoint.read_metadata(path)
    assert metadata["hand"] == "shadow" and metadata["step"] == 7 and metadata["score"] == 0.5


def test_part_of_the_state(tmp_path):
    path = checkpoint.save(tmp_path, 1, state(), metadata={})
    part = checkpoint.restore(path, {"params": like(state()).params})
    assert_same_bits(part["params"], state().params)


def test_keeps_last_and_best(tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: 0.3, 4: None, 5: 0.2, 6: 0.4}
    for step, score in scores.items():
        checkpoint.save(tmp_path, step, state(step), metadata={}, score=score, keep=2)
    assert [int(p.name) for p in checkpoint.all_checkpoints(tmp_path)] == [2, 5, 6]
    assert checkpoint.latest(tmp_path).name == "00000006"
    assert checkpoint.best(tmp_path).name == "00000002"


def test_same_step_again_replaces(tmp_path):
    checkpoint.save(tmp_path, 1, state(1), metadata={})
    path = checkpoint.save(tmp_path, 1, state(2), metadata={})
    assert_same_bits(checkpoint.restore(path, like(state())), state(2))
    assert len(list(tmp_path.iterdir())) == 1


def test_unfinished_writes_are_ignored_and_removed(tmp_path):
    checkpoint.save(tmp_path, 1, state(), metadata={})
    half = tmp_path / "tmp-00000002-99999"
    half.mkdir()
    (half / "metadata.json").write_text("{")
    assert checkpoint.latest(tmp_path).name == "00000001"
    checkpoint.save(tmp_path, 3, state(), metadata={})
    assert not half.exists()


def test_other_shape_dtype_or_field_is_named(tmp_path):
    path = checkpoint.save(tmp_path, 1, state(), metadata={})
    with pytest.raises(DataError, match=r"params\.w has shape \[3, 4\]"):
        checkpoint.restore(path, like(state(width=5)))
    with pytest.raises(DataError, match="count"):
        checkpoint.restore(path, like(state().replace(count=jnp.float32(0))))
    with pytest.raises(DataError, match=r"params\.extra"):
        checkpoint.restore(path, {"params": {"extra": jnp.zeros(1)}})


def test_damaged_metadata(tmp_path):
    path = checkpoint.save(tmp_path, 1, state(), metadata={})
    file = path / "metadata.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(DataError, match="format is 99"):
        checkpoint.read_metadata(path)
    for broken in ("", "{", "[1]", "\x00"):
        file.write_text(broken)
        with pytest.raises(DataError, match="metadata.json"):
            checkpoint.restore(path, like(state()))
    file.unlink()
    with pytest.raises(DataError, match="missing"):
        checkpoint.read_metadata(path)


@pytest.mark.parametrize("damage", ["remove", "cut", "flip"])
def test_damaged_arrays_are_refused(tmp_path, damage):
    """Any file of the checkpoint removed, cut or with one byte changed is named."""
    path = checkpoint.save(tmp_path, 1, state(), metadata={})
    files = [p for p in (path / "state").rglob("*") if p.stat().st_size > 0 and p.is_file()]
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        if damage == "remove":
            file.unlink()
        elif damage == "cut":
            file.write_bytes(content[: len(content) // 2])
        else:
            middle = len(content) // 2
            file.write_bytes(
                content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            )
        with pytest.raises(DataError, match=file.name):
            checkpoint.restore(path, like(state()))
        file.write_bytes(content)
    assert_same_bits(checkpoint.restore(path, like(state())), state())


def test_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    first = checkpoint.save(tmp_path, 1, state(1), metadata={})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ocp, "save", full)
    with pytest.raises(checkpoint.StorageError, match="No space left on device.*00000001"):
        checkpoint.save(tmp_path, 2, state(2), metadata={})
    assert checkpoint.all_checkpoints(tmp_path) == [first]
    assert list(tmp_path.iterdir()) == [first]  # nothing half-written stays
    assert_same_bits(checkpoint.restore(first, like(state())), state(1))


_LIMITED = """
import resource, sys
from pathlib import Path
import jax.numpy as jnp, numpy as np
from dexjax.core import checkpoint
folder = Path(sys.argv[1])
checkpoint.save(folder, 1, {"x": jnp.zeros(10)}, metadata={})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
noise = np.random.default_rng(0).normal(size=1_000_000).astype(np.float32)
try:
    checkpoint.save(folder, 2, {"x": jnp.asarray(noise)}, metadata={})
except checkpoint.StorageError as e:
    print(e)
"""


def test_file_size_limit_in_the_storage_library(tmp_path):
    """A real write failure inside the storage library's own threads, not a simulated one."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=200
    )
    assert "cannot write in" in done.stdout, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]
    restored = checkpoint.restore(Path(tmp_path) / "00000001", {"x": jnp.zeros(10)})
    assert (restored["x"] == 0).all()
