"""Building folders: past failures, in worker processes, with a report; and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import shapes
import trimesh

from dexjax.core.errors import DataError
from dexjax.objects import batch
from dexjax.objects.__main__ import main
from dexjax.objects.batch import build_assets
from dexjax.objects.build import AssetOptions
from dexjax.objects.scan import BuildItem, find_meshes, scan_folder

QUICK = AssetOptions(sdf=False)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six objects: three good, one broken, one flat, one in centimetres."""
    root = tmp_path / "objects"

    def put(name: str, mesh: trimesh.Trimesh, **meta) -> Path:
        (root / name).mkdir(parents=True)
        mesh.export(root / name / "mesh.obj")
        if meta:
            (root / name / "meta.json").write_text(json.dumps(meta))
        return root / name

    hammer = put("tools/hammer", shapes.box(), category="hammer", unit="m", mass_kg=0.4)
    (hammer / "parts").mkdir()
    shapes.box().export(hammer / "parts" / "head.obj")
    labels = (shapes.box().triangles_center[:, 2] > 0).astype(np.uint8)
    np.savez(hammer / "face_parts.npz", face_part=labels, part_names=np.array(["handle", "head"]))
    unit = shapes.box()
    unit.apply_scale(20)
    put("unit", unit, unit="normalised (multiply by scale in the grasp file)")
    shapes.capsule().export(root / "capsule.stl")
    (root / "broken.obj").write_text("v 0 0 0\nf 1 2 3\n")
    flat = shapes.box()
    flat.vertices[:, 1] = 0
    flat.export(root / "flat.ply")
    big = shapes.box()
    big.apply_scale(100)
    big.export(root / "big.off")
    return root


def test_scan_finds_one_object_per_mesh_and_reads_its_side_files(folder):
    items, refused = scan_folder(folder)
    assert refused == []
    found = {i.name: i for i in items}
    assert list(found) == ["big", "broken", "capsule", "flat", "tools/hammer", "unit"]
    hammer = found["tools/hammer"]
    assert (hammer.category, hammer.mass, hammer.scale) == ("hammer", 0.4, 1.0)
    assert hammer.part_names == ("handle", "head") and hammer.face_parts.sum() == 6
    assert found["unit"].scale == 0.1 and "normalised" in found["unit"].notes[0]
    assert scan_folder(folder, mesh_scale=2.0)[0][-1].scale == 2.0


def test_the_batch_goes_on_past_failures(folder, tmp_path):
    items, _ = scan_folder(folder)
    assets, report = build_assets(
        items, options=QUICK, workers=2, progress=False, cache_dir=tmp_path / "cache"
    )
    assert [a.name for a in assets] == ["capsule", "tools/hammer", "unit"]
    assert [r.name for r in report.rows] == [i.name for i in items]
    why = {r.name: r.why for r in report.refused}
    assert set(why) == {"big", "broken", "flat"}
    assert "--mesh-scale 0.01" in why["big"] and "flat" in why["flat"]
    assert all(str(folder) in text for text in why.values())
    assert assets[1].mass == 0.4 and assets[1].part_names == ("handle", "head")
    assert assets[2].box.half_extents[0] == pytest.approx(0.1)
    again, second = build_assets(
        items, options=QUICK, workers=2, progress=False, cache_dir=tmp_path / "cache"
    )
    assert [r.status for r in second.rows if r.status != "refused"] == ["cached"] * 3
    assert "3 cached, 3 refused" in second.summary()
    for a, b in zip(assets, again, strict=True):
        np.testing.assert_array_equal(a.stable_poses.quat, b.stable_poses.quat)


def test_a_cache_of_another_version_is_rebuilt_in_the_workers(tmp_path, monkeypatch):
    from dexjax.objects import cache

    items = [BuildItem("box", shapes.box())]
    monkeypatch.setattr(cache, "FORMAT", 0)
    build_assets(items, options=QUICK, workers=0, progress=False, cache_dir=tmp_path)
    monkeypatch.undo()
    _, report = build_assets(items, options=QUICK, workers=1, progress=False, cache_dir=tmp_path)
    assert report.rows[0].status.startswith("rebuilt: ") and "format 0" in report.rows[0].status
    assert "1 rebuilt" in report.summary()


def test_workers_and_this_process_build_the_same(tmp_path):
    items = [BuildItem("torus", trimesh.creation.torus(0.05, 0.015, 32, 16)),
             BuildItem("box", shapes.box(), pieces=(shapes.box().vertices,))]  # fmt: skip
    here, _ = build_assets(
        items, options=QUICK, workers=0, progress=False, cache_dir=tmp_path / "a"
    )
    there, _ = build_assets(
        items, options=QUICK, workers=2, progress=False, cache_dir=tmp_path / "b"
    )
    for a, b in zip(here, there, strict=True):
        assert a.mass == b.mass and len(a.pieces) == len(b.pieces)
        for p, q in zip(a.pieces, b.pieces, strict=True):
            np.testing.assert_array_equal(p, q)
        np.testing.assert_array_equal(a.surface_points, b.surface_points)


def test_auto_scale_does_what_the_refusal_proposes(folder, tmp_path):
    items, _ = scan_folder(folder)
    assets, report = build_assets(
        [i for i in items if i.name == "big"], options=QUICK, workers=0, progress=False,
        cache_dir=tmp_path, auto_scale=True,
    )  # fmt: skip
    assert assets[0].box.half_extents * 2 == pytest.approx(sorted(shapes.BOX, reverse=True))
    assert "centimetres" in report.rows[0].notes[0]


def test_a_worker_that_dies_costs_one_object(tmp_path, monkeypatch):
    """The process is killed from outside while it builds, as a fault in native code would."""
    started = batch._start_worker
    first = threading.Event()

    def start():
        process = started()
        if not first.is_set():
            first.set()
            threading.Timer(0.1, lambda: os.kill(process.pid, signal.SIGSEGV)).start()
        return process

    monkeypatch.setattr(batch, "_start_worker", start)
    items = [BuildItem(f"b{i}", trimesh.creation.box(extents=[0.05, 0.06, 0.05 + 0.01 * i]))
             for i in range(3)]  # fmt: skip
    assets, report = build_assets(
        items, options=QUICK, workers=1, progress=False, cache_dir=tmp_path
    )
    assert [a.name for a in assets] == ["b1", "b2"]
    assert "died (exit -11)" in report.refused[0].why


def test_an_object_that_takes_too_long_is_refused(tmp_path):
    items = [BuildItem("box", shapes.box())]
    began = time.perf_counter()
    assets, report = build_assets(
        items, options=QUICK, workers=1, progress=False, cache_dir=tmp_path, timeout=0.05
    )
    assert assets == [] and "not built within" in report.rows[0].why
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("file", "data", "words"),
    [
        ("meta.json", b"{", "JSON"),
        ("meta.json", b"[1]", "object"),
        ("meta.json", b'{"unit": "furlong"}', "furlong"),
        ("meta.json", b'{"mass_kg": "heavy"}', "mass_kg"),
        ("face_parts.npz", b"PK", "face_parts.npz"),
    ],
)
def test_a_broken_side_file_refuses_its_object_only(folder, file, data, words):
    (folder / "unit" / file).write_bytes(data)
    items, refused = scan_folder(folder)
    assert len(items) == 5 and refused[0][0] == "unit" and words in refused[0][1]


def test_equal_names_are_refused_and_folders_without_meshes_named(folder, tmp_path):
    shapes.box().export(folder / "capsule.obj")
    items, refused = scan_folder(folder)
    assert len(items) == 6 and "same name" in refused[0][1]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no mesh"):
        find_meshes(empty)
    with pytest.raises(DataError, match="no such folder"):
        find_meshes(tmp_path / "gone")


def test_command_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["build", str(folder), "--cache-dir", str(tmp_path / "c"),
                 "--json", str(tmp_path / "r.json")]  # fmt: skip
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "3 built, 3 refused" in out and "tools/hammer" in out and "--mesh-scale 0.01" in out
    data = json.loads((tmp_path / "r.json").read_text())
    assert [o["name"] for o in data["objects"] if o["status"] == "refused"] == [
        "big", "broken", "flat",
    ]  # fmt: skip
    assert main(["build", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_workers_do_not_import_jax():
    code = "import sys, dexjax.objects._worker; sys.exit('jax' in sys.modules)"
    root = str(Path(batch.__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0
