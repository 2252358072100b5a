"""A package of a third party registers an environment and trains it from the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "plugin_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package as an installer would leave it: the module and its metadata. Needs no network."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    shutil.copy(PACKAGE / "reach_line.py", site)
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    lines = [f"Name: {project['name']}", f"Version: {project['version']}"]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
    points = [
        f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in entries.items()) + "\n"
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points))
    return site


def test_it_keeps_the_contract_and_trains(installed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    from dexjax.rl.registry import find_env
    from dexjax.testing import check_env

    spec = find_env("reach_line")
    check_env(spec.make(spec.presets["quick"].env, num_envs=4))

    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "dexjax.train", "--env", "reach_line"]
    command += ["--max-steps", "1024", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "reach_line" in json.dumps([p.read_text() for p in (tmp_path / "run").glob("*.json")])
    assert any((tmp_path / "run" / "checkpoints").iterdir())
