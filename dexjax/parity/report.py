"""The report as one HTML page that needs nothing else: matrix of gates, figures, pictures."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from dexjax.parity.plots import draw_all
from dexjax.parity.run import Results

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.6rem 0}td,th{border:1px solid #ccc;padding:.25rem .6rem;
text-align:left;font-size:13px}.ok{background:#d8f0d8}.no{background:#f6d0d0}.none{color:#777}
td.n{text-align:right;font-variant-numeric:tabular-nums}h2{margin-top:2.2rem}img{max-width:100%}
code,pre{background:#f4f4f4;font-size:12px}code{overflow-wrap:anywhere}pre{padding:.6rem;overflow-x:auto}
"""
_NOTES = {
    "G3": "The reference at half its step fails here by nature: how fast PhysX's damped base moves "
    "is a matter of its step (docs/parity.md).",
    "G6": "Not required: it shows how fast the simulators part after they were made equal.",
    "G4": "No limit on the depth of the impact: in MuJoCo an object that falls 0.1 m sinks by "
    "millimetres for an instant, PhysX's contacts act before they are touched.",
    "G8m": "Meshes given with --objects; not required.",
    "G8": "Whole episodes in open loop; what is compared is only whether the object is held.",
    "G8b": "The same with UniDexGrasp's free base, soft gains and tendons.",
    "G9": "Not required. The policy sees what happens and can correct it, as on a task; success is "
    "that of the task at any step. The contact forces that it may observe lack friction in PhysX. "
    "Not run with shifted starts nor with converged PhysX.",
}


def write_report(out: Path, results: Results, summary: dict[str, Any]) -> Path:
    """Write plots, `parity.md` and `index.html` below `out`; returns the page's path."""
    pictures = draw_all(results)
    folder = out / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in pictures.items():
        (folder / f"{name}.png").write_bytes(png)
    (out / "parity.md").write_text(_markdown(summary), encoding="utf-8")
    page = out / "index.html"
    page.write_text(_page(summary, pictures), encoding="utf-8")
    return page


def _markdown(summary: dict[str, Any]) -> str:
    """The matrix with the figures that have limits; bold where one is not met."""
    rows = [r["name"] for r in summary["rows"]]
    lines = ["| gate | figure | limit | " + " | ".join(rows) + " |", "|---" * (len(rows) + 3) + "|"]
    for gate in summary["gates"]:
        title = f"{gate['name']} {gate['title']}"
        for limit in gate["limits"]:
            figure, sign = limit["figure"], ">=" if limit["least"] else "<="
            cells = [_cell(gate["rows"][r], figure) for r in rows]
            bound = f"{sign} {limit['bound']:g} {limit['unit']}".strip()
            lines.append(f"| {title} | {figure} | {bound} | {' | '.join(cells)} |")
            title = ""
    return "\n".join(lines) + "\n"


def _cell(result: dict[str, Any], figure: str) -> str:
    value = result["figures"].get(figure)
    text = "-" if value is None else f"{value:.3g}"
    return f"**{text}**" if result["passed"].get(figure) is False else text


def _page(summary: dict[str, Any], pictures: dict[str, bytes]) -> str:
    failed = summary["failed"]
    state = f"required gates failed: {', '.join(failed)}" if failed else "all required gates pass"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>dexjax against PhysX</title>",
        f"<style>{_STYLE}</style><h1>dexjax {summary['version']} against PhysX: {state}</h1>",
        f"<p><code>{html.escape(summary['command'])}</code>, {summary['seconds']:.0f} s. "
        "The reference is PhysX 5 on the CPU (SAPIEN), a stand-in for Isaac Gym. "
        "Rows of the reference against itself show how much of a difference means nothing.</p>",
        _matrix(summary),
    ]
    for gate in summary["gates"]:
        parts += [f"<h2>{gate['name']}: {html.escape(gate['title'])}</h2>", _figures(gate)]
        if gate["name"] in _NOTES:
            parts.append(f"<p>{_NOTES[gate['name']]}</p>")
        if gate["name"] == "G9":
            parts.append(f"<p>Policy: {html.escape(summary['policy'])}.</p>")
        if gate["name"] in pictures:
            parts.append(_image(pictures[gate["name"]]))
        if gate["name"] == "G8":
            parts.append(_converged(summary["converged"]))
        if gate["name"] == "G6":
            parts += ["<h2>G7: divergence of whole grasps (no limit)</h2>", _image(pictures["G7"])]
    settings = "".join(
        f"<h3>{html.escape(name)}</h3><pre>{html.escape(_lines(values))}</pre>"
        for name, values in summary["settings"].items()
    )
    parts.append(f"<h2>Settings</h2>{settings}</html>")
    return "\n".join(parts)


def _matrix(summary: dict[str, Any]) -> str:
    """Gates by rows, pass or fail."""
    required = summary["required"]
    head = ""
    for gate in summary["gates"]:
        info = "" if gate["name"] in required else " (info)"
        head += f"<th>{gate['name']} {html.escape(gate['title'])}{info}</th>"
    lines = []
    for row in summary["rows"]:
        cells = "".join(_verdict(g["rows"][row["name"]]["ok"]) for g in summary["gates"])
        name = html.escape(row["name"])
        name = f"<b>{name}</b>" if row["role"] == "tested" else name
        lines.append(
            f"<tr><td>{name}<br><small>{html.escape(row['about'])}</small></td>{cells}</tr>"
        )
    return f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _verdict(ok: bool | None) -> str:
    if ok is None:
        return "<td class=none>no verdict</td>"
    return "<td class=ok>pass</td>" if ok else "<td class=no>FAIL</td>"


def _figures(gate: dict[str, Any]) -> str:
    """Every figure of every row, those with a limit first."""
    limits = {x["figure"]: x for x in gate["limits"]}
    rows = gate["rows"]
    names = list(dict.fromkeys(n for r in rows.values() for n in r["figures"]))
    names = [*limits, *(n for n in names if n not in limits)]
    head, bounds = "", ""
    for name in names:
        limit = limits.get(name)
        unit = f" ({limit['unit']})" if limit and limit["unit"] else ""
        head += f"<th>{html.escape(name)}{unit}</th>"
        sign = "&ge;" if limit and limit["least"] else "&le;"
        bound = f"{sign} {limit['bound']:g}" if limit else ""
        bounds += f"<td class=n>{bound}</td>"
    lines = [f"<tr><th></th>{head}</tr>"]
    if limits:
        lines.append(f"<tr><td>limit</td>{bounds}</tr>")
    for row, result in rows.items():
        cells = ""
        for name in names:
            value = result["figures"].get(name)
            passed = result["passed"].get(name)
            style = "n" if passed is None else "n ok" if passed else "n no"
            text = "-" if value is None else f"{value:.4g}"
            cells += f'<td class="{style}">{text}</td>'
        lines.append(f"<tr><td>{html.escape(row)}</td>{cells}</tr>")
    why = "".join(f"<li>{html.escape(x['figure'] + ': ' + x['why'])}" for x in gate["limits"])
    return f"<table>{''.join(lines)}</table><ul>{why}</ul>"


def _converged(rows: dict[str, dict[str, float | None]]) -> str:
    """Agreement with the converged reference, no limits."""
    if not rows:
        return ""
    gate = {"limits": [], "rows": {n: {"figures": f, "passed": {}} for n, f in rows.items()}}
    return f"<h3>Against PhysX that has converged (no limit)</h3>{_figures(gate)}"


def _image(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _lines(values: dict[str, Any]) -> str:
    return "\n".join(f"{k}: {v}" for k, v in values.items())
