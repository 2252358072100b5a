"""Published tables beside evaluations: the right figures, nothing invented, wrong files refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexjax.core.errors import ConfigError, DataError
from dexjax.core.progress import wilson_interval
from dexjax.metrics.equivalence import Equivalence
from dexjax.metrics.statistics import outcomes
from dexjax.parity.__main__ import main
from dexjax.parity.measured import read_run
from dexjax.parity.published import SUCCESS, published_tables
from dexjax.parity.tables import compare_published, compare_runs, parse_splits, report

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def evaluation(successes: int, count: int, **more: Any) -> dict[str, Any]:
    """A minimal evaluation.json: one split with this many successes, the last ones failing."""
    rate = successes / count
    bits = "1" * successes + "0" * (count - successes)
    summary = {
        "episodes": count,
        "success": {"any": {"mean": rate, "ci95": list(wilson_interval(successes, count))}},
        "outcomes": {"object_id": " ".join(map(str, range(count))), "success_any": bits},
    }
    return {
        "splits": {"builtin:seen": summary, "ycb": summary},
        "agent": "policy",
        "checkpoint": {"env_steps": 2_000_000, "elapsed_seconds": 600.0},
        "config": {
            "task": {"variant": "servo", "episode_length": 90, "scene": {"base": "servo"}},
            "ppo": {"actor_obs": ["policy"]},
            "train": {"engine": "native", "objects": "builtin:seen"},
        },
        "physics": {"timestep": 1 / 120, "substeps": 4, "cone": "elliptic"},
        "seed": 0,
        **more,
    }


def stored(folder: Path, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(content))
    return folder


def test_tables_hold_the_collected_figures() -> None:
    """Every collected number is in a table under its method, split and metric, and no other.

    One is left out on purpose: it was written down from memory."""
    facts = SHARED / "facts"
    if not facts.is_dir():
        pytest.skip("the collected figures are not beside the repository")
    collected: dict[str, list[str]] = {}
    with open(facts / "published_results.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["provenance"] != "memory_unverified":
                collected.setdefault(row["method"], []).append(row["value"])
    with open(facts / "published_generation.csv", newline="") as file:
        for row in csv.DictReader(file):
            by_class = row["table"] in ("Tab7", "Tab8") and "AffordPose/" in row["dataset"]
            method = row["dataset"].removeprefix("AffordPose/") if by_class else row["method"]
            if row["value"]:
                collected.setdefault(method, []).append(row["value"])
    shipped: dict[str, list[str]] = {}
    for table in published_tables()[0]:
        for (method, _), values in table.values.items():
            shipped.setdefault(method, []).extend(map(str, values.values()))

    def canonical(found: dict[str, list[str]]) -> dict[str, list[str]]:
        text = {k: [f"{float(x):g}" if x[0] != ">" else x for x in v] for k, v in found.items()}
        return {k: sorted(v) for k, v in text.items()}

    assert canonical(shipped) == canonical(collected)


def test_tables_are_complete_and_say_where_they_come_from() -> None:
    tables, papers = published_tables()
    assert len({t.id for t in tables}) == len(tables) == 33
    for table in tables:
        assert table.origin and table.title and table.columns and table.values
        assert len(set(table.columns)) == len(table.columns)
        for values in table.values.values():
            assert set(values) <= set(table.columns)
            for (_, metric), value in values.items():
                if metric == SUCCESS and isinstance(value, float):
                    assert 0 <= value <= 100
    by_id = {t.id: t for t in tables}
    first = by_id["afforddex-1"].values
    # Spot checks against the printed table.
    assert first["AffordDex", "state"]["seen", "Succ"] == 89.2
    assert first["UniDexGrasp++", "vision"]["unseen_obj_unseen_cat", "AS"] == 28
    assert ("seen", "HLS") not in first["PPO", "state"]
    assert any("0 to 5" in c for c in by_id["afforddex-1"].conflicts)
    assert by_id["afforddex-1"].own_row("vision") == ("AffordDex", "vision")
    assert by_id["afforddex-2"].own_row("state") is None  # ablations: no whole method
    assert papers["AffordDex"].steps == 200


def test_nothing_measured_is_said_and_nothing_filled_in() -> None:
    text, plain = report([])
    tables, _ = published_tables()
    assert text.count("Measured beside it: nothing.") == len(tables)
    assert all(not t["measured"] for t in plain["tables"].values())
    assert "89.2" in text and "80.08" in text


def test_a_run_stands_beside_its_split_only(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", evaluation(450, 500))
    text, plain = report([run])
    (found,) = plain["tables"]["afforddex-1"]["measured"]
    assert found["beside"] == ["AffordDex", "state", "seen", "Succ"]
    assert found["difference"] == pytest.approx(90 - 89.2)
    low, high = wilson_interval(450, 500, 1.645)
    assert found["ci90"] == pytest.approx([100 * low - 89.2, 100 * high - 89.2])
    assert found["verdict"] == "same"
    assert any("Isaac Gym" in line for line in found["what_differs"])
    assert any("30 Hz, 90 steps; theirs 60 Hz, 200" in line for line in found["what_differs"])
    assert any("variant servo" in line for line in found["what_differs"])
    # Released results name the splits otherwise; ablations and generation have no such row.
    assert len(plain["tables"]["unidexgrasp++-released"]["measured"]) == 1
    for table in ("afforddex-2", "affordgrasp-10", "demograsp-abstract"):
        assert plain["tables"][table]["measured"] == []
    assert "2 M steps, 10.0 min" in text
    assert "Measured, beside nothing above" in text and "ycb | 90.0 [" in text


def test_seeds_are_shown_with_the_interval_of_their_mean(tmp_path: Path) -> None:
    content = evaluation(450, 500)
    content["splits"]["builtin:seen"]["seeds"] = {
        "any": {"each": [0.88, 0.9, 0.92], "mean": 0.9, "ci95": [0.85, 0.95]}
    }
    text, _ = report([stored(tmp_path / "run", content)], only=["afforddex-1"])
    assert "seeds 88.0, 90.0, 92.0; 95 % interval of their mean [85.0, 95.0]" in text


def test_what_stands_beside_can_be_chosen(tmp_path: Path) -> None:
    content = evaluation(450, 500)
    content["config"]["ppo"]["actor_obs"] = ["points"]
    run = stored(tmp_path / "run", content)
    _, plain = report(
        [run], only=["afforddex-1"], splits=parse_splits(["ycb=oakink2"]), beside="UniDexGrasp++"
    )
    found = {tuple(f["beside"]): f["published"] for f in plain["tables"]["afforddex-1"]["measured"]}
    assert found == {
        ("UniDexGrasp++", "vision", "seen", "Succ"): 85.4,
        ("UniDexGrasp++", "vision", "oakink2", "Succ"): 74.4,
    }
    with pytest.raises(ConfigError, match="afforddex-1"):
        report([], only=["afforddex1"])
    with pytest.raises(DataError, match="OURS=THEIRS"):
        parse_splits(["ycb"])


@pytest.mark.parametrize(
    ("successes", "count", "verdict"),
    [(45, 50, "open"), (900, 1000, "same"), (600, 1000, "other"), (840, 1000, "open")],
)
def test_verdicts(successes: int, count: int, verdict: str, tmp_path: Path) -> None:
    """50 episodes at 90 % show nothing, 1000 do; 60 % is another rate; 84 % is at the margin."""
    run = stored(tmp_path / "run", evaluation(successes, count))
    measured = read_run(run)[0]
    assert compare_published(measured, 89.2)["verdict"] == verdict


def test_runs_on_the_same_starts_are_paired(tmp_path: Path) -> None:
    first = stored(tmp_path / "a", evaluation(450, 500))
    second = stored(tmp_path / "b", evaluation(448, 500))
    text, plain = report([first, second], only=["afforddex-1"])
    pair = plain["pairs"][0]
    assert pair["difference"] == pytest.approx(0.004) and pair["discordant"] == 0.004
    assert pair["equivalent"] and pair["count"] == 500
    assert "b minus" in text and "-0.4" in text

    def other(**change: Any) -> str | Equivalence:
        run = stored(tmp_path / "c", evaluation(450, 500) | change)
        return compare_runs(read_run(first)[0], read_run(run)[0])

    assert isinstance(other(), Equivalence)
    assert "seed" in str(other(seed=1))
    content = evaluation(450, 500)
    content["splits"]["builtin:seen"]["outcomes"]["object_id"] = "0 " * 500
    assert "objects" in str(other(splits=content["splits"]))
    del content["splits"]["builtin:seen"]["outcomes"]
    assert "evaluate again" in str(other(splits=content["splits"]))
    assert "other count" in str(other(splits=evaluation(90, 100)["splits"]))


def test_outcomes_are_those_of_the_episodes() -> None:
    episodes = {
        "success_any": np.array([1.0, 0.0, 1.0]),
        "success_end": np.array([0.0, 0.0, 1.0]),
        "return": np.array([3.0, 2.0, 1.0]),
        "object_id": np.array([4, 0, 12], np.int32),
    }
    assert outcomes(episodes) == {
        "success_any": "101", "success_end": "001", "object_id": "4 0 12",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no valid JSON"),
        ("[]", "no evaluation"),
        ('{"splits": {"a": {"episodes": 3}}}', "'success'"),
        (json.dumps(evaluation(1, 2)).replace('"mean": 0.5', '"mean": 1.5'), "success of 1.5"),
    ],
)
def test_wrong_files_are_refused(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path)
    assert main(["tables", str(tmp_path)]) == 2
    assert "evaluation.json" in capsys.readouterr().err
    with pytest.raises(DataError, match="python -m dexjax.evaluate"):
        read_run(tmp_path / "nowhere")


def test_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stored(tmp_path / "run", evaluation(450, 500))
    out = tmp_path / "new" / "tables"
    assert main(["tables", str(run), "--only", "afforddex-1", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "new" / "tables.md").read_text() == text
    plain = json.loads((tmp_path / "new" / "tables.json").read_text())
    assert list(plain["tables"]) == ["afforddex-1"]
