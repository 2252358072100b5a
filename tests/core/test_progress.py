"""Intervals, stored metrics and what is shown."""

from __future__ import annotations

import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import binomtest

from dexjax.core.progress import MetricsLog, ProgressDisplay, plain_line, wilson_interval

SCALARS = {
    "time/progress": 0.25,
    "time/elapsed_seconds": 61.0,
    "time/eta_seconds": 3723.0,
    "time/env_steps": 2_500_000.0,
    "time/steps_per_second": 4321.0,
    "time/update_seconds": 1.9,
    "time/simulation_fraction": 0.81,
    "time/inference_fraction": 0.04,
    "time/learning_fraction": 0.15,
    "episode/count": 1000.0,
    "episode/window": 500.0,
    "episode/return": 3.25,
    "episode/success_held": 0.9,
    "reward/total": 0.5,
    "reward/reach": 0.125,
    "loss/kl": 0.031,
    "loss/value": 0.02,
    "policy/learning_rate": 3e-4,
    "policy/std_mean": 0.33,
    "guard/nonfinite_samples": 7.0,
    "guard/skipped_updates": 2.0,
}


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_equals_scipy(case):
    successes, count = case
    low, high = wilson_interval(successes, count, z=1.959963984540054)
    reference = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(reference.low, abs=1e-12)
    assert high == pytest.approx(reference.high, abs=1e-12)


def test_wilson_interval_without_data():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def read_events(folder):
    """(step, tag, value) of all event files, with tensorboardX's own message definitions."""
    import struct

    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    points = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            body, (check,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length :][:4])
            crc = crc32c(body)
            assert check == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
            event = Event.FromString(body)
            points += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            data = data[16 + length :]
    return points


def test_metrics_are_stored_twice_and_cut_on_resume(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for i in (1, 2, 3):
        log.append(i, 100 * i, {"loss/kl": 0.5 * i, "episode/return": math.nan})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"iteration": 4, "env_st')  # killed while writing
    log = MetricsLog(tmp_path, 2)  # resumed from checkpoint 2
    log.append(3, 300, {"loss/kl": 9.0})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["iteration"], r["env_steps"], r["loss/kl"]) for r in rows] == [
        (1, 100, 0.5),
        (2, 200, 1.0),
        (3, 300, 9.0),
    ]
    assert rows[0]["episode/return"] is None  # JSON has no NaN
    points = [p for p in read_events(tmp_path / "tensorboard") if p[1] == "loss/kl"]
    assert points == [(100, "loss/kl", 0.5), (200, "loss/kl", 1.0), (300, "loss/kl", 1.5),
                      (300, "loss/kl", 9.0)]  # fmt: skip


def test_plain_output_has_the_important_values():
    line = plain_line(SCALARS)
    for text in ("25 %", "1:01", "1:02:03", "2.50M", "4321/s", "0.900 [0.87, 0.92]", "kl 0.031"):
        assert text in line
    assert "non-finite 7" in line
    assert "\n" not in line
    console = Console(file=io.StringIO(), width=40)
    with ProgressDisplay("toy", console) as display:
        for _ in range(5):
            display.update(SCALARS)
        display.message("[not markup] " + "x" * 100)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2  # one line per ten seconds; long lines are not wrapped
    assert lines[1].startswith("[not markup]")


def test_live_table_on_a_terminal():
    console = Console(file=io.StringIO(), width=140, height=40, force_terminal=True)
    with ProgressDisplay("toy", console) as display:
        display.update({**SCALARS, "episode/success_held": math.nan})
        display.update(SCALARS, last=True)
    text = console.file.getvalue()
    for part in ("success held", "0.900", "reward/reach", "simulation 81 %", "7 samples"):
        assert part in text
