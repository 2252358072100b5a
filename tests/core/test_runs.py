"""Run folders and provenance."""

from __future__ import annotations

import json
import subprocess

import pytest

from dexjax.core import runs
from dexjax.core.errors import ConfigError, DataError


def test_default_folders_are_dated_and_distinct(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [runs.new_run_dir(None, "toy_quick_seed0") for _ in range(3)]
    assert len(set(made)) == 3
    assert all(p.parent.name == "runs" and "toy_quick_seed0" in p.name for p in made)


def test_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        runs.new_run_dir(tmp_path / "file", "x")
    runs.write_config(runs.new_run_dir(tmp_path / "run", "x"), {"a": 1})
    with pytest.raises(ConfigError, match="already holds a run"):
        runs.new_run_dir(tmp_path / "run", "x")


def test_config_round_trip_and_damage(tmp_path):
    runs.write_config(tmp_path, {"a": [1, 2.5, None]})
    assert runs.read_config(tmp_path) == {"a": [1, 2.5, None]}
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(DataError, match="config.json"):
        runs.read_config(tmp_path)
    with pytest.raises(DataError, match="no such run folder"):
        runs.read_config(tmp_path / "absent")


def test_provenance_grows_with_every_start(tmp_path):
    runs.record_start(tmp_path, "python -m dexjax.train", 3)
    runs.record_start(tmp_path, "python -m dexjax.train --resume x", 3)
    starts = json.loads((tmp_path / "provenance.json").read_text())["starts"]
    assert [s["command"].endswith("--resume x") for s in starts] == [False, True]
    assert starts[0]["seed"] == 3 and starts[0]["machine"]["cpu_count"] >= 1
    assert {"dexjax", "jax", "mujoco", "python"} <= set(starts[0]["versions"])
    assert "absent" not in starts[0]["versions"].values()


def test_git_revision_is_that_of_this_checkout(monkeypatch):
    root = runs.Path(runs.__file__).resolve().parents[2]
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    if head.returncode:
        pytest.skip("not a git checkout")
    assert runs.git_revision().removesuffix("-dirty") == head.stdout.strip()
    monkeypatch.setattr(runs, "__file__", "/usr/lib/python3/site-packages/dexjax/core/runs.py")
    assert runs.git_revision() == "unknown"


def test_interrupted_write_leaves_the_old_file(tmp_path):
    runs.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        runs.write_json(tmp_path / "a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
