"""A browser, and recorded episodes that need no training."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import NAMES, Browser, find_chromium  # noqa: E402

from dexjax.metrics.episodes import Episode, ObjectReference, with_contacts  # noqa: E402
from dexjax.objects.builtin import builtin_asset  # noqa: E402
from dexjax.sim.scene import SceneConfig  # noqa: E402

STEPS = 12


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium with software WebGL."""
    if find_chromium() is None:
        pytest.skip(f"no browser ({', '.join(NAMES)}): apt-get install chromium")
    pytest.importorskip("websockets", reason="the DevTools client needs websockets (viser has it)")
    with Browser(960, 600) as found:  # small: software rendering is slow
        yield found


@pytest.fixture(scope="session")
def episodes() -> list[Episode]:
    """A hand that comes down onto a mug and rises with it; and one beside a box that stays."""
    made = []
    for category, good in (("mug", True), ("box", False)):
        asset = builtin_asset(category, 0)
        reference = ObjectReference.of(asset)
        qpos = np.zeros((STEPS, 6 + 22 + 7))
        rest = -reference.bounds[0, 2]
        rise = 0.03 * np.arange(STEPS) * good
        qpos[:, 2] = 0.10 + rise
        qpos[:, 1] = 0.0 if good else 0.15
        qpos[:, 6:28] = np.linspace(0, 0.3, STEPS)[:, None]
        qpos[:, -5] = rest + rise
        qpos[:, -4] = 1.0
        force = np.zeros((STEPS, 5, 3))
        force[STEPS // 2 :, :, 2] = 10.0
        episode = Episode(
            scene=SceneConfig(),
            object=reference,
            control_dt=1 / 30,
            qpos=qpos,
            outcome={"success_any": good, "success_held": good, "lifted": good},
            terms={"reach": np.linspace(0, 1, STEPS), "lift": 2.0 * rise},
            success={"success_any": (rise > 0.2).astype(float)},
            goal=np.array([0.0, 0.0, 0.35]),
            finger_force=force,
            table_force=np.zeros(STEPS),
        )
        made.append(with_contacts(episode, asset))
    return made
