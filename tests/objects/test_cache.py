"""The asset cache: same bytes back, atomic, many processes, other versions and damage."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st

import dexjax
from dexjax.core.errors import DataError
from dexjax.objects.build import AssetOptions, build_asset
from dexjax.objects.cache import (
    FORMAT,
    content_key,
    default_cache_dir,
    load_or_build,
    read_asset,
    write_asset,
)

QUICK = AssetOptions(sdf=False)


def same(a, b) -> bool:
    """Field by field, arrays bitwise."""
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, tuple) and a and isinstance(a[0], np.ndarray):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def full_asset():
    mesh = shapes.box()
    return build_asset(
        mesh, name="brick", category="box", part_names=("a", "b"),
        face_parts=(mesh.triangles_center[:, 2] > 0).astype(int),
        part_affordances={"a": ("hold", "cut")}, options=AssetOptions(sdf=True),
    )  # fmt: skip


def test_an_asset_comes_back_bitwise(tmp_path, full_asset):
    file = tmp_path / "x.npz"
    write_asset(full_asset, file)
    assert same(read_asset(file), full_asset)
    assert list(tmp_path.iterdir()) == [file]


def test_second_time_is_cached_and_equal(tmp_path):
    first = load_or_build(shapes.box(), name="one", options=QUICK, cache_dir=tmp_path)
    second = load_or_build(shapes.box(), name="one", options=QUICK, cache_dir=tmp_path)
    assert (first.status, second.status) == ("built", "cached")
    assert same(first.asset, second.asset)
    renamed = load_or_build(
        shapes.box(), name="two", category="b", options=QUICK, cache_dir=tmp_path
    )
    assert renamed.status == "cached"
    assert (renamed.asset.name, renamed.asset.category) == ("two", "b")


def test_the_key_depends_on_all_that_changes_the_asset(tmp_path):
    box = shapes.box()
    moved = box.copy()
    moved.vertices[0, 0] += 1e-9
    path = tmp_path / "a.obj"
    box.export(path)
    other = tmp_path / "b.obj"
    other.write_bytes(path.read_bytes())
    keys = [
        content_key(box, QUICK),
        content_key(moved, QUICK),
        content_key(box, AssetOptions(sdf=False, density=501)),
        content_key(box, QUICK, mass=0.1),
        content_key(box, QUICK, pieces=[box.vertices]),
        content_key(box, QUICK, pieces=[box.vertices[:4], box.vertices[4:]]),
        content_key(box, QUICK, face_parts=np.zeros(12, int)),
        content_key(path, QUICK),
    ]
    assert len(set(keys)) == len(keys)
    assert content_key(other, QUICK) == keys[-1]
    assert content_key(box.copy(), QUICK) == keys[0]


def test_the_default_folder_is_read_at_each_call(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "dexjax" / "objects"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")  # XDG base directory rule
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "dexjax" / "objects"


def test_the_distance_grid_is_added_to_the_file_when_asked_for(tmp_path):
    """One file serves both: asking for the grid does not build the object again."""

    def load(sdf: bool):
        return load_or_build(shapes.box(), options=AssetOptions(sdf=sdf), cache_dir=tmp_path)

    plain, full, again, bare = load(False), load(True), load(True), load(False)
    assert [x.status for x in (plain, full, again, bare)] == ["built"] + ["cached"] * 3
    assert plain.asset.sdf is None and bare.asset.sdf is None
    assert same(full.asset.sdf, again.asset.sdf) and len(list(tmp_path.iterdir())) == 1
    assert same(full.asset.sdf, build_asset(shapes.box(), options=AssetOptions(sdf=True)).sdf)


def cache_file(folder: Path) -> Path:
    (file,) = folder.glob("*.npz")
    return file


def damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    if how == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "bits":
        changed = bytearray(data)
        for i in range(len(data) // 4, len(data), 997):
            changed[i] ^= 0x55
        file.write_bytes(bytes(changed))
    else:
        with np.load(file) as loaded:
            arrays = {k: loaded[k] for k in loaded.files}
        if how == "version":
            meta = json.loads(arrays["meta"].tobytes()) | {"format": FORMAT + 1}
            arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        elif how == "field":
            del arrays["inertia"]
        elif how == "nan":
            arrays["vertices"] = arrays["vertices"] * np.nan
        elif how == "pickle":
            arrays["inertia"] = np.array([{"a": 1}], dtype=object)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        file.write_bytes(buffer.getvalue())


@pytest.mark.parametrize("how", ["cut", "empty", "bits", "version", "field", "nan", "pickle"])
def test_a_bad_cache_file_is_rebuilt_and_reported(tmp_path, how):
    good = load_or_build(shapes.box(), name="b", options=QUICK, cache_dir=tmp_path).asset
    file = cache_file(tmp_path)
    damage(file, how)
    with pytest.raises(DataError, match=str(file)):
        read_asset(file)
    again = load_or_build(shapes.box(), name="b", options=QUICK, cache_dir=tmp_path)
    assert again.status.startswith("rebuilt: ") and same(again.asset, good)
    assert ("format" in again.status) == (how == "version")
    last = load_or_build(shapes.box(), name="b", options=QUICK, cache_dir=tmp_path)
    assert last.status == "cached"


def test_an_unwritable_folder_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(DataError, match="cache cannot be written"):
        load_or_build(shapes.box(), options=QUICK, cache_dir=blocked / "below")


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, full_asset):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(DataError, match="No space left"):
        write_asset(full_asset, tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


RACER = """
import sys, time
sys.path.insert(0, sys.argv[3])
import shapes
from dexjax.objects.build import AssetOptions
from dexjax.objects.cache import load_or_build
while time.time() < float(sys.argv[2]): pass
for n in range(6):
    loaded = load_or_build(shapes.box(), options=AssetOptions(sdf=False), cache_dir=sys.argv[1])
    print(loaded.status, loaded.asset.mass)
assert "jax" not in sys.modules
"""


def test_four_processes_build_the_same_object(tmp_path):
    """All start at once on an empty cache; nobody reads half a file or leaves one."""
    import time

    root = str(Path(dexjax.__file__).resolve().parents[1])
    command = [sys.executable, "-c", RACER, str(tmp_path), str(time.time() + 4),
               str(Path(__file__).parent)]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": root}
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
              for _ in range(4)]  # fmt: skip
    lines = []
    for racer in racers:
        out, _ = racer.communicate(timeout=120)
        assert racer.returncode == 0
        lines += out.split("\n")[:-1]
    assert len(lines) == 24
    assert {line.split()[0] for line in lines} <= {"built", "cached"}
    assert len({line.split()[1] for line in lines}) == 1
    assert [p.suffix for p in tmp_path.iterdir()] == [".npz"]


@pytest.mark.slow
@settings(max_examples=1000)
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1))
def test_fuzzed_cache_files_end_in_an_asset_or_a_data_error(tmp_path_factory, edits):
    folder = tmp_path_factory.getbasetemp() / "fuzzcache"
    good = folder / "good.npz"
    if not good.exists():
        write_asset(build_asset(shapes.box(), options=QUICK), good)
    data = bytearray(good.read_bytes())
    for place, patch in edits:
        at = int(place * len(data))
        data[at : at + len(patch)] = patch
    (folder / "bad.npz").write_bytes(bytes(data))
    try:
        asset = read_asset(folder / "bad.npz")
    except DataError as error:
        assert "bad.npz" in str(error)
    else:
        assert np.isfinite(asset.vertices).all()
