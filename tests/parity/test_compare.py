"""Comparison of two traces: differences that were put in come out; other episodes are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trace_examples import turning

from dexjax.core.errors import DataError
from dexjax.parity import schema
from dexjax.parity.__main__ import main
from dexjax.parity.compare import compare_traces, report
from dexjax.parity.trace import Trace, write_trace

STEPS, ENVS, DT = 120, 8, 1 / 60


def episodes(**change: Any) -> Trace:
    """Eight episodes of two seconds; `change` maps arrays to functions of (array, time)."""
    time = DT * np.arange(STEPS + 1)
    rng = np.random.default_rng(0)
    spin = rng.normal(size=(ENVS, 3))
    quat = turning(spin, time)
    place = np.broadcast_to(rng.normal(size=(1, ENVS, 3)), (STEPS + 1, ENVS, 3))
    arrays: dict[str, np.ndarray] = {
        "time": time,
        "joint_pos": np.broadcast_to(rng.normal(size=(1, ENVS, 3)), (STEPS + 1, ENVS, 3)),
        "root_pos": place,
        "root_quat": quat,
        "object_pos": place[:, :, None] + [0, 0, 0.1],
        "object_quat": quat[:, :, None],
        "success": np.tile((time[1:] > 1.5)[:, None] & (np.arange(ENVS) % 2 == 0), 1),
    }
    for name, function in change.items():
        arrays[name] = function(arrays[name], time)
    arrays = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    meta = schema.new_meta(
        "policy_episode",
        simulator="none",
        version="1",
        dt=DT,
        substeps=2,
        axes={"joint": ["a", "b", "c"], "object": ["object"]},
        arrays={
            k: {"axes": list(schema.ARRAYS[k][0]), "unit": schema.ARRAYS[k][1]} for k in arrays
        },
    )
    return Trace(meta, arrays, "made up")


def test_equal_traces_do_not_differ() -> None:
    found = compare_traces(episodes(), episodes())
    assert len(found.curves) == 5
    for median, high in found.curves.values():
        assert max(median.max(), high.max()) < 1e-3
    assert found.rates == (0.5, 0.5) and found.outcome is not None
    assert found.outcome.difference == 0 and not found.equivalent  # of eight starts


def test_differences_come_out_in_their_units() -> None:
    """Object 3 mm/s away, rotation 0.2 rad/s about its own axis, one joint of three 0.3 rad/s."""

    def turned(quat: np.ndarray, time: np.ndarray) -> np.ndarray:
        half = 0.1 * time[:, None, None]
        w, x, y, z = np.moveaxis(quat, -1, 0)
        c, s = np.cos(half), np.sin(half)
        return np.stack([w * c - z * s, x * c + y * s, y * c - x * s, z * c + w * s], -1)

    moved = episodes(
        object_pos=lambda p, t: p + 0.003 * t[:, None, None, None] * [1, 0, 0],
        object_quat=turned,
        joint_pos=lambda q, t: q + 0.3 * t[:, None, None] * [0, 1, 0],
        success=lambda s, t: s & (np.arange(ENVS) != 0),
    )
    found = compare_traces(episodes(), moved)
    # Float32 positions of a metre: 1e-4 mm and 1e-3 mrad.
    expected = {
        "object position, mm": 3 * found.time,
        "object rotation, mrad": 200 * found.time,
        "joints, mrad": 300 * found.time / np.sqrt(3),
        "hand position, mm": 0 * found.time,
        "hand rotation, mrad": 0 * found.time,
    }
    assert set(found.curves) == set(expected)
    for name, line in expected.items():
        for curve in found.curves[name]:
            np.testing.assert_allclose(curve, line, atol=2e-3 + 1e-3 * line.max(), err_msg=name)
    assert found.rates == (0.5, 0.375) and found.outcome is not None
    assert found.outcome.discordant == 1 / 8
    text, plain, _ = report(episodes(), moved)
    assert "success 50.0 % and 37.5 %" in text and "1.00 s" in text
    json.dumps(plain, allow_nan=False)


def test_longer_traces_and_other_joint_orders_are_reconciled() -> None:
    short = episodes()
    cut = {k: v[:31] if k != "success" else v[:30] for k, v in short.arrays.items()}
    short = replace(short, arrays=cut).select("joint", ["c", "a"])
    found = compare_traces(episodes(), short)
    assert len(found.time) == 31 and found.curves["joints, mrad"][0].max() < 1e-3


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (episodes(object_pos=lambda p, t: p + [0.002, 0, 0]), "object position"),
        (episodes(joint_pos=lambda q, t: q + 0.02), "joints"),
        (episodes().select_envs([0, 1]), "episodes"),
        (replace(episodes(), meta=episodes().meta | {"interval": 1 / 30}), "seconds per step"),
    ],
)
def test_other_episodes_are_refused(other: Trace, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare_traces(episodes(), other)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    trace = episodes()
    for name in ("a", "b"):
        write_trace(tmp_path / f"{name}.npz", trace.meta, trace.arrays)
    files = [str(tmp_path / f"{n}.npz") for n in ("a", "b")]
    out = tmp_path / "out" / "comparison"
    assert main(["compare", *files, "--out", str(out)]) == 1  # eight starts show nothing
    assert "not shown to be within 5 points" in capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 5000
    assert json.loads(out.with_suffix(".json").read_text())["episodes"] == ENVS
    assert main(["compare", *files, "--margin", "60"]) == 0
