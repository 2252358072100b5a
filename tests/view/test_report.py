"""The HTML report: complete, self-contained, and shown by a real browser from the disk."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dexjax.metrics.report import read_metrics, write_report
from dexjax.metrics.statistics import per_object, summarise


@pytest.fixture(scope="module")
def report(episodes, tmp_path_factory):
    """A report of two splits, with a run's metrics of which the last line is torn."""
    run = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(20), 10)
    held = (rng.random(200) < 0.7).astype(float)
    results = {
        "object_id": ids,
        "success_any": held,
        "success_held": held,
        "return": rng.random(200),
    }
    names = ["mug_000", "box_000", *(f"thing_{i:03d}" for i in range(18))]
    summary = summarise(results) | {"per_object": per_object(results, names)}
    summary["left_out"] = [["bad <mesh>", "is not closed"]]
    summary["seeds"] = {"held": {"each": [0.5, 0.75], "mean": 0.625, "ci95": [0.1, 1.0]}}
    summary["endings"] = {"success": 140, "missed": 40, "slipped": 15, "knocked over": 5}
    result = {
        "splits": {"seen": summary, "unseen": summary},
        "run": str(run),
        "agent": "policy",
        "checkpoint": {"name": "00000001"},
        "seed": 3,
        "seconds": 1.5,
        "physics": {"cone": "elliptic"},
        "versions": {"dexjax": "0.0.0", "jax": "0.9.2"},
        "config": {"train": {"seed": 3}, "note": "</pre><script>alert(1)</script>"},
    }
    with (run / "metrics.jsonl").open("w") as file:
        for i in range(50):
            row = {
                "time/elapsed_seconds": 12.0 * i,
                "episode/success_held": i / 50,
                "episode/return": float(i),
                "reward/reach": 0.1,
                "reward/lift": None if i < 10 else 0.01 * i,
                "loss/kl": 0.01,
                "policy/learning_rate": 1e-3,
                "time/steps_per_second": 1000.0,
                "time/simulation_fraction": 0.6,
                "time/inference_fraction": 0.1,
                "time/learning_fraction": 0.3,
            }
            file.write(json.dumps(row) + "\n")
        file.write('{"time/elapsed_sec')
    starts = {"starts": [{"import": 3.0, "compile": 11.25, "cache_hits": 2}]}
    (run / "stages.json").write_text(json.dumps(starts))
    path = run / "evaluation.html"
    write_report(path, "Evaluation: a <run>", result, episodes, run)
    return path, summary


def test_report_holds_the_figures_and_nothing_from_elsewhere(report):
    path, summary = report
    text = path.read_text()
    e = summary["success"]["held"]
    assert f"{e['mean']:.3f} [{e['ci95'][0]:.3f}, {e['ci95'][1]:.3f}]" in text
    for name, row in summary["per_object"].items():
        assert name in text
        assert f"{row['success']['held']['mean']:.2f} [" in text
    assert "0.500 0.750" in text and "0.625 [0.100, 1.000]" in text
    assert "bad &lt;mesh&gt;" in text and "11.2" in text and "0.9.2" in text
    assert "<script" not in text and "http://" not in text and "https://" not in text
    assert "src=" not in text.replace('src="data:image/jpeg;base64,', "")
    assert "mug_000: success" in text and "box_000: missed" in text


def test_report_without_run_or_pictures(tmp_path, report):
    _, summary = report
    result = {"splits": {"a": summary}, "versions": {}, "config": None}
    write_report(tmp_path / "r.html", "none", result, [], None)
    text = (tmp_path / "r.html").read_text()
    assert "Learning" not in text and "<img" not in text and "Success per object" in text
    assert read_metrics(tmp_path / "nothing.jsonl") == []


def test_report_in_a_browser(browser, report):
    path, _ = report
    browser.log.clear()
    browser.goto(path.as_uri())
    assert browser.value("document.title") == "Evaluation: a <run>"
    sizes = browser.value("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert len(sizes) == 3 and min(sizes) >= 600  # best, worst, missed: three moments each
    # Every chart is there, as wide as meant; rows beyond the first twelve open on a click.
    assert browser.value("document.querySelectorAll('svg').length") == 2 + 4 + 6 + 1
    assert browser.value("document.querySelectorAll('details').length") == 2 + 1
    browser.click("document.querySelector('details summary')")
    assert browser.value("document.querySelector('details').open")
    assert not [line for line in browser.log if "exception" in line or "http" in line]
    image = browser.screenshot()
    assert image.std() > 20
