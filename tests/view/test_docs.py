"""The documentation's Python does what it says, and its notebook is sound."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dexjax.metrics.episodes import SUFFIX, write_episodes

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCKS = [
    pytest.param(block, id=f"{page}-{i}")
    for page in ("viewer.md", "add_objects.md", "add_hand.md")
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S))
]


@pytest.mark.parametrize("block", _BLOCKS)
def test_python_in_the_docs_runs(block, episodes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "quick"
    run.mkdir(parents=True)
    write_episodes(run / f"evaluation{SUFFIX}", episodes)
    exec(compile(block, "docs", "exec"), {})
    assert capsys.readouterr().out or (tmp_path / "six.png").stat().st_size > 1000


def test_notebook_is_clean_python():
    """No outputs are stored, and every code cell parses; CI runs it from top to bottom."""
    notebook = json.loads((DOCS / "quick_start.ipynb").read_text())
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(code) >= 6
    for cell in code:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        compile("".join(cell["source"]), "notebook", "exec")
