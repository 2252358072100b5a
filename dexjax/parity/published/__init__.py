"""What the papers print: figures, their origin and known conflicts, as TOML beside this file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

SUCCESS = "Succ"
"""The metric that our `success.any` is: at the goal at some step, in percent."""


@dataclass(frozen=True)
class Paper:
    """Circumstances under which a paper's policies were measured; empty where not known."""

    simulator: str = ""
    compute: str = ""
    objects: str = ""
    variant: str = ""
    control_hz: float = 0
    steps: int = 0


@dataclass(frozen=True)
class PublishedTable:
    """One printed table: `values[method, observations][split or data set, metric]`."""

    id: str
    paper: str
    label: str
    title: str
    origin: str
    columns: tuple[tuple[str, str], ...]
    values: dict[tuple[str, str], dict[tuple[str, str], float | str]]
    conflicts: tuple[str, ...] = ()

    def own_row(self, observations: str) -> tuple[str, str] | None:
        """The paper's own, whole method with these observations; None if the table has none."""
        for method, seen in self.values:
            if seen == observations and method.partition(" (")[0] == self.paper:
                return method, seen
        return None


def published_tables() -> tuple[list[PublishedTable], dict[str, Paper]]:
    """All tables, policies first, and what is known of the papers' experiments."""
    tables: list[PublishedTable] = []
    papers: dict[str, Paper] = {}
    for name in ("policies.toml", "generation.toml"):
        content = tomllib.loads(resources.files(__package__).joinpath(name).read_text("utf-8"))
        papers |= {k: Paper(**v) for k, v in content.get("paper", {}).items()}
        tables += [_table(entry) for entry in content["table"]]
    return tables, papers


def _table(entry: dict[str, Any]) -> PublishedTable:
    columns = tuple((split, metric) for split, metric in entry["columns"])
    values = {}
    for method, observations, *numbers in entry["rows"]:
        pairs = zip(columns, numbers, strict=True)
        values[method, observations] = {c: v for c, v in pairs if v != ""}
    return PublishedTable(
        **{k: entry[k] for k in ("id", "paper", "label", "title", "origin")},
        columns=columns,
        values=values,
        conflicts=tuple(entry.get("conflicts", ())),
    )
