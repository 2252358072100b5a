"""The whole command in its quick form: report, exit code, resuming, and that it can fail."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dexjax.parity.__main__ import main
from dexjax.parity.physx import why_unavailable

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def run(folder: Path, *physics: str) -> int:
    return main(["run", "--out", str(folder / "out"), "--quick", "--physics", *physics])


def test_physx_preset_passes_and_resumes(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(folder, "physx") == 0
    first = capsys.readouterr().out
    assert "kept" not in first
    summary = json.loads((folder / "out" / "parity.json").read_text())
    assert summary["failed"] == [] and summary["rows"][0]["name"] == "native physx"
    matrix = {g["name"]: g["rows"]["native physx"]["ok"] for g in summary["gates"]}
    # Twelve grasps are too few for a verdict about grasping.
    assert matrix == {**dict.fromkeys(["G0", "G1", "G2", "G3", "G4", "G5"], True),
                      "G6": None, "G8": None, "G8b": None}  # fmt: skip
    page = (folder / "out" / "index.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing is loaded from elsewhere
    assert page.count("data:image/png") == 8

    # A stop in between: one of our recordings and one of the reference's are lost, one is cut off.
    kept = sorted((folder / "out" / "recordings").glob("*.npz"))
    kept[0].unlink()
    kept[1].write_bytes(kept[1].read_bytes()[:1000])
    next((folder / "cache" / "dexjax" / "parity").glob("P5*.npz")).unlink()
    assert run(folder, "physx") == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("[")]
    assert sum("kept" not in x for x in lines) == 3


def test_uncalibrated_physics_fails(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """Before calibration joint steps and the tendon are off by far, so the exit code is 1."""
    assert run(folder, "reference") == 1
    assert "required gates failed: G1, G2" in capsys.readouterr().out
