"""A run's policy playing live: the numbers that the page shows are those of the simulation."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from dexjax.train import main as train
from dexjax.view.live import NUM_ENVS, LivePlayer
from dexjax.view.viewer import Viewer

pytest.importorskip("viser", reason="pip install 'dexjax[view]'")


@pytest.mark.slow
def test_live_run(tmp_path):
    run = tmp_path / "run"
    objects = "builtin:seen:mug_000,box_000"
    options = ["--num-envs", "4", "--max-steps", "64", "--no-evaluate", "--objects", objects]
    assert train(["--env", "shadow_grasp", "--run-dir", str(run), *options]) == 0
    viewer = Viewer("live", port=8700)
    live = LivePlayer(viewer, run)
    serving = threading.Thread(target=viewer.run, daemon=True)
    serving.start()
    player = live.player

    def wait(holds, seconds=120.0):
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.05)

    # Steps are shown as they become known, and the page never runs ahead of the simulation.
    wait(lambda: player._known is not None and player._known > 5)
    assert player.episode.ending == "running"
    assert player.timeline.slider.value < player._known + 1
    wait(lambda: player._known is None and player.episode.outcome)
    assert len(player.episodes) == NUM_ENVS
    for episode in player.episodes:
        assert np.isfinite(episode.qpos).all() and len(episode.qpos) == 90
        assert np.isfinite(episode.finger_force).all()
        assert all(np.isfinite(v).all() for v in episode.terms.values())
        assert episode.contact_point is not None
        assert np.abs(np.diff(episode.qpos[:, :3], axis=0)).max() > 0  # the hand moves
    # An object asked for by name is the next one in every environment.
    live.choice.value = "box_000"
    live.request()
    wait(lambda: {e.object.name for e in player.episodes} == {"box_000"})
    viewer.end()
    serving.join(90)
    assert not serving.is_alive() and not live.thread.is_alive()
