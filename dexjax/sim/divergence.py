"""What is remembered of simulations that diverged."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# Beyond these a state is called diverged: no hand or thrown object moves so fast.
MAX_SPEED = 1e3  # of any velocity coordinate, m/s or rad/s
MAX_POSITION = 1e2  # of any position coordinate, m or rad


@dataclass
class DivergenceLog:
    """The last states and controls that led to a non-finite simulation."""

    keep: int = 16
    count: int = 0
    entries: deque[dict[str, np.ndarray]] = field(default_factory=deque)

    def add(self, **arrays: np.ndarray) -> None:
        """Remember one divergence; the oldest is forgotten beyond `keep`."""
        self.count += 1
        self.entries.append({k: np.asarray(v).copy() for k, v in arrays.items()})
        while len(self.entries) > self.keep:
            self.entries.popleft()

    def save(self, path: Path) -> None:
        """Write all entries to one .npz (arrays stacked along the first axis)."""
        if self.entries:
            stacked = {k: np.stack([e[k] for e in self.entries]) for k in self.entries[0]}
            np.savez_compressed(path, count=self.count, **stacked)  # type: ignore[arg-type]
