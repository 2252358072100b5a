"""An evaluation as one HTML file: figures, charts and pictures inside, no script, no network."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dexjax.metrics.episodes import Episode
from dexjax.metrics.replay import EpisodeStage
from dexjax.metrics.svg import interval_bars, line_chart, stacked_bar
from dexjax.render import grid

_ENDS = 4  # pictures of best and of worst objects
_MOMENTS = (0.0, 0.45, 1.0)  # of an episode
_TILE = 200  # pixels
_OPEN_ROWS = 12  # objects that are shown before one asks for more
_TERMS = 7  # reward terms in the chart

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;background:#fff;max-width:1040px;
margin:2em auto;padding:0 1em}h1{font-size:1.5em}h2{font-size:1.2em;border-bottom:1px solid #ddd;
margin-top:2em}h3{font-size:1em;margin-bottom:.3em}table{border-collapse:collapse;margin:.6em 0}
td,th{padding:.15em .8em .15em 0;text-align:left;border-bottom:1px solid #eee;
font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:#444}svg text.on{fill:#fff;font-weight:600}
.grid{stroke:#e6e6e6}.whisker{stroke:#222;stroke-width:1.2;fill:none}.legend span{
display:inline-block;margin-right:1em;font-size:13px}.legend i{display:inline-block;width:.8em;
height:.8em;margin-right:.35em}.charts{display:flex;flex-wrap:wrap;gap:1em 2em}.charts>div{
flex:0 1 460px}.charts>figure{flex:0 1 490px}
figure{margin:0 0 1em}figcaption{font-size:13px;color:#555}img{max-width:100%}
pre{background:#f6f6f6;padding:1em;overflow:auto;font-size:12px}summary{cursor:pointer;color:#0057a0}
"""


def write_report(
    path: Path,
    title: str,
    result: Mapping[str, Any],
    episodes: Sequence[Episode],
    run_dir: Path | None = None,
) -> None:
    """Write the report of what `evaluation.json` holds. run_dir: the run, for its learning curves;
    episodes: the recorded ones to draw, none for a report without pictures."""
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        _summary(result),
        _pictures(result, episodes),
        _objects(result),
        _learning(run_dir),
        _settings(result),
    ]
    body = "\n".join(s for s in sections if s)
    path.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>{body}</body></html>\n",
        encoding="utf-8",
    )


# --- sections ------------------------------------------------------------------------------------


def _summary(result: Mapping[str, Any]) -> str:
    splits = result["splits"]
    names = list(next(iter(splits.values()))["success"])
    rows = "".join(
        f"<tr><td>{html.escape(split)}</td><td>{s['episodes']}</td>"
        + "".join(f"<td>{_with_interval(s['success'][k])}</td>" for k in names)
        + "</tr>"
        for split, s in splits.items()
    )
    head = "".join(f"<th>{html.escape(k)}</th>" for k in names)
    parts = [
        "<h2>Success</h2>",
        f"<table><tr><th>objects</th><th>episodes</th>{head}</tr>{rows}</table>",
        "<p>In brackets: 95 % Wilson interval.</p>",
        _seeds(splits),
    ]
    endings = {k: s["endings"] for k, s in splits.items() if s.get("endings")}
    if endings:
        order = list(dict.fromkeys(["success", *(e for s in endings.values() for e in s)]))
        parts.append("<h3>How the episodes ended</h3>")
        for split, counts in endings.items():
            shares = {k: counts.get(k, 0) for k in order}
            parts += [f"<p>{html.escape(split)}</p>", stacked_bar(shares)]
    return "\n".join(parts)


def _seeds(splits: Mapping[str, Any]) -> str:
    """Of a run with several seeds: each one's success, and the mean with its interval."""
    rows = "".join(
        f"<tr><td>{html.escape(split)}</td><td>{html.escape(name)}</td>"
        f"<td>{' '.join(f'{v:.3f}' for v in found['each'])}</td>"
        f"<td>{_with_interval(found)}</td></tr>"
        for split, summary in splits.items()
        for name, found in summary.get("seeds", {}).items()
    )
    head = "<tr><th>objects</th><th>success</th><th>each seed</th><th>mean over seeds</th></tr>"
    return f"<table>{head}{rows}</table>" if rows else ""


def _objects(result: Mapping[str, Any]) -> str:
    parts = []
    for split, summary in result["splits"].items():
        objects = summary.get("per_object")
        if not objects:
            continue
        strict = list(next(iter(objects.values()))["success"])[-1]
        rows = [
            (name, o["success"][strict]["mean"], *o["success"][strict]["ci95"])
            for name, o in objects.items()
        ]
        first, rest = rows[:_OPEN_ROWS], rows[_OPEN_ROWS:]
        parts.append(f"<h3>{html.escape(split)}: {html.escape(strict)}, worst first</h3>")
        parts.append(interval_bars(first))
        if rest:
            parts.append(
                f"<details><summary>{len(rest)} more</summary>{interval_bars(rest)}</details>"
            )
        for name, why in summary.get("left_out", ()):
            parts.append(f"<p>left out {html.escape(name)}: {html.escape(why)}</p>")
    return "\n".join(["<h2>Success per object</h2>", *parts]) if parts else ""


def _pictures(result: Mapping[str, Any], episodes: Sequence[Episode]) -> str:
    """Best and worst objects, and one episode of each kind of failure."""
    if not episodes:
        return ""
    rank: dict[str, float] = {}  # within its split: 0 the worst, 1 the best
    for summary in result["splits"].values():
        names = list(summary.get("per_object", {}))
        for i, name in enumerate(names):
            rank.setdefault(name, i / max(len(names) - 1, 1))
    good = [e for e in episodes if e.good]
    bad = [e for e in episodes if not e.good]
    best = sorted(good, key=lambda e: -rank.get(e.object.name, 0))
    worst = sorted(bad, key=lambda e: rank.get(e.object.name, 0))
    best, worst = _one_per_object(best)[:_ENDS], _one_per_object(worst)[:_ENDS]
    kinds: dict[str, Episode] = {}
    for e in sorted(bad, key=lambda e: e in worst):  # others than those shown, where there are any
        kinds.setdefault(e.ending, e)
    command = f"python -m dexjax.view {result.get('run') or 'FILE.episodes.npz'}"
    parts = ["<h2>Episodes</h2>", f"<p>In motion: <code>{html.escape(command)}</code></p>"]
    for heading, chosen in (
        ("Best objects", best),
        ("Worst objects", worst),
        ("Typical failures", list(kinds.values())),
    ):
        if chosen:
            parts.append(f"<h3>{heading}</h3>")
            parts.append(f'<div class="charts">{"".join(map(_figure, chosen))}</div>')
    return "\n".join(parts)


def _learning(run_dir: Path | None) -> str:
    rows = [] if run_dir is None else read_metrics(run_dir / "metrics.jsonl")
    if run_dir is None or len(rows) < 2:
        return ""

    def column(name: str) -> np.ndarray:
        return np.array([_number(r.get(name)) for r in rows])

    minutes = column("time/elapsed_seconds") / 60
    names = list(rows[-1])
    success = [n for n in names if n.startswith("episode/success")]
    terms = [n for n in names if n.startswith("reward/") and n != "reward/total"]
    sizes = {n: float(np.nanmean(np.abs(column(n)))) for n in terms if np.isfinite(column(n)).any()}
    largest = sorted(sizes, key=lambda n: -sizes[n])[:_TERMS]
    charts = [
        ("success in training (with exploration noise)", success, 0.0, 1.0),
        ("return of an episode", ["episode/return"], None, None),
        ("reward terms per step", largest, None, None),
        ("KL of an update", ["loss/kl"], 0.0, None),
        ("learning rate", ["policy/learning_rate"], 0.0, None),
        ("steps per second", ["time/steps_per_second"], 0.0, None),
    ]
    drawn = [
        f"<div><h3>{heading}</h3>"
        + line_chart(
            minutes,
            {n.partition("/")[2].replace("_", " "): column(n) for n in wanted},
            "minutes", low=low, high=high,
        )
        + "</div>"
        for heading, wanted, low, high in charts
        if wanted
    ]  # fmt: skip
    parts = ["<h2>Learning</h2>", f'<div class="charts">{"".join(drawn)}</div>']
    split = {k: column(f"time/{k}_fraction") for k in ("simulation", "inference", "learning")}
    if all(np.isfinite(v).any() for v in split.values()):
        parts.append("<h3>Where the time of an update goes</h3>")
        parts.append(stacked_bar({k: float(np.nanmean(v)) for k, v in split.items()}))
    starts = _starts(run_dir / "stages.json")
    if starts:
        names = [k for k in starts[0] if k != "cache_hits"]
        head = "".join(f"<th>{html.escape(n.replace('_', ' '))}</th>" for n in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{_number(s.get(n)):.1f}</td>" for n in names) + "</tr>"
            for s in starts
        )
        parts.append(f"<h3>Seconds of each start</h3><table><tr>{head}</tr>{body}</table>")
    return "\n".join(parts)


def _settings(result: Mapping[str, Any]) -> str:
    what = {
        k: result.get(k)
        for k in ("run", "agent", "checkpoint", "seed", "seconds", "engine", "physics")
    }
    rows = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>"
        for k, v in result["versions"].items()
    )
    return (
        "<h2>Settings</h2>"
        f"<h3>This evaluation</h3><pre>{html.escape(json.dumps(what, indent=1))}</pre>"
        f"<h3>Versions</h3><table>{rows}</table>"
        "<details><summary>Resolved configuration of the run</summary>"
        f"<pre>{html.escape(json.dumps(result.get('config'), indent=1))}</pre></details>"
    )


# --- parts ---------------------------------------------------------------------------------------


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; none where it is missing, without what is no complete row."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the half line of a killed process
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _starts(file: Path) -> list[dict[str, Any]]:
    try:
        starts = json.loads(file.read_text())["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [s for s in starts if isinstance(s, dict)]


def _figure(episode: Episode) -> str:
    """Three moments of an episode side by side."""
    stage = EpisodeStage(episode)
    last = len(episode.qpos) - 1
    tiles = [stage.image(int(round(m * last)), _TILE) for m in _MOMENTS]
    buffer = io.BytesIO()
    Image.fromarray(grid(tiles, len(tiles))).save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    caption = html.escape(episode.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _one_per_object(episodes: Sequence[Episode]) -> list[Episode]:
    found: dict[str, Episode] = {}
    for e in episodes:
        found.setdefault(e.object.name, e)
    return list(found.values())


def _with_interval(e: Mapping[str, Any]) -> str:
    return f"{e['mean']:.3f} [{e['ci95'][0]:.3f}, {e['ci95'][1]:.3f}]"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")
