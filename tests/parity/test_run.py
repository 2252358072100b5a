"""The whole command in its quick form: report, exit code, resuming, and that it can fail."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dexjax.parity.__main__ import main
from dexjax.parity.physx import PhysxSimulator, why_unavailable
from dexjax.parity.recorded import record_traces
from dexjax.parity.run import gate_probes

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
    # Twelve grasps and eight episodes are too few for a verdict about grasping.
    assert matrix == {**dict.fromkeys(["G0", "G1", "G2", "G3", "G4", "G5"], True),
                      "G6": None, "G8": None, "G8b": None, "G9": None}  # fmt: skip
    page = (folder / "out" / "index.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing is loaded from elsewhere
    assert page.count("data:image/png") == 9

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
    assert run(folder, "reference", "--objects", "builtin:seen:can_000") == 1
    assert "required gates failed: G1, G2" in capsys.readouterr().out
    summary = json.loads((folder / "out" / "parity.json").read_text())
    given = next(g for g in summary["gates"] if g["name"] == "G8m")
    assert given["rows"]["native reference"]["figures"]["trials"] == 1


def test_what_cannot_be_asked_is_said(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(folder) == 2
    assert "--physics: name at least one" in capsys.readouterr().err
    arguments = ["run", "--out", str(folder / "out"), "--reference", str(folder)]
    assert main([*arguments, "--objects", "builtin:seen:can_000"]) == 2
    assert "leave them away" in capsys.readouterr().err
    assert main(["run", "--out", str(folder / "out"), "--policy", str(folder)]) == 2
    assert "config.json" in capsys.readouterr().err


@pytest.mark.slow
def test_recorded_reference(folder: Path) -> None:
    """Traces instead of PhysX: here PhysX's own, which it then meets without a difference beyond
    float32 and the velocities' change of point."""
    traces = folder / "traces"
    for probe in gate_probes(True).values():
        record_traces(PhysxSimulator(), probe, traces)
    out = folder / "recorded"
    arguments = ["run", "--out", str(out), "--quick", "--physics", "physx", "--reference"]
    assert main([*arguments, str(traces)]) == 0
    summary = json.loads((out / "parity.json").read_text())
    gates = {g["name"]: g["rows"]["physx"]["figures"] for g in summary["gates"]}
    assert gates["G0"]["position"] < 1e-6 and gates["G1"]["max"] < 1e-3
    assert gates["G2"]["follower"] < 1e-3 and gates["G3"]["position"] < 1e-3
    assert gates["G5"]["slide"] == 0 and gates["G8"]["agree"] == gates["G8b"]["agree"] == 100
    # Windows start PhysX again in the middle, without what its solver remembers.
    assert gates["G6"]["holding"] < 1.0
    assert main([*arguments, str(folder / "nowhere")]) == 2
