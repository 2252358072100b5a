"""Success against minutes: `python -m experiments.benchmarks.learning_curve RUN [RUN ...]`.

Lines: running success rates of training episodes, with exploration noise, in the training physics.
Dots: the final evaluation of each run, deterministic, in the reference physics.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

_NAMES = {"any": "at any step", "held": "held for the last second"}
_COLOURS = {"any": "#3b6fb6", "held": "#d1495b"}


def read_curve(run: Path) -> dict[str, np.ndarray]:
    """Minutes since the start of the process and running success rates, one entry per update."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "minutes": np.array([r["time/elapsed_seconds"] for r in rows]) / 60,
        "any": np.array([r["episode/success_any"] or np.nan for r in rows], float),
        "held": np.array([r["episode/success_held"] or np.nan for r in rows], float),
    }


def table(curves: list[dict[str, np.ndarray]]) -> str:
    """Markdown: mean over runs at whole minutes."""
    last = int(min(c["minutes"][-1] for c in curves))
    lines = ["| minute | " + " | ".join(_NAMES.values()) + " |", "|---|---|---|"]
    for minute in range(1, last + 1):
        cells = [
            f"{np.mean([np.interp(minute, c['minutes'], c[k]) for c in curves]):.2f}"
            for k in _NAMES
        ]
        lines.append(f"| {minute} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(runs: list[Path], curves: list[dict[str, np.ndarray]], out: Path) -> None:
    """One line per run and success definition, dots for the evaluations."""
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=110)
    for i, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        for k, name in _NAMES.items():
            label = f"training, {name}" if i == 0 else None
            axes.plot(curve["minutes"], curve[k], color=_COLOURS[k], lw=1.2, label=label)
        file = run / "evaluation.json"
        if file.exists():
            splits = json.loads(file.read_text())["splits"]
            for split, marker in zip(splits, "os^", strict=False):
                for k in _NAMES:
                    axes.plot(
                        [curve["minutes"][-1]],
                        [splits[split]["success"][k]["mean"]],
                        marker,
                        color=_COLOURS[k],
                        ms=6,
                        label=f"evaluation, {split}" if i == 0 and k == "any" else None,
                    )
    axes.set(xlabel="minutes since the start of the process", ylabel="success", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("learning_curve.png"))
    args = parser.parse_args()
    curves = [read_curve(run) for run in args.runs]
    print(table(curves))
    plot(args.runs, curves, args.out)


if __name__ == "__main__":
    main()
