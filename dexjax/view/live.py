"""A run's policy playing now, on the native engine, in a few environments at once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dexjax.core.errors import DataError
from dexjax.metrics.episodes import Episode, ObjectReference, with_contacts
from dexjax.rl.episodes import OUTCOME_NUMBERS, check_fits, policy_agent
from dexjax.rl.trained import load_policy, read_settings
from dexjax.view.episodes import EpisodePlayer
from dexjax.view.text import plain
from dexjax.view.viewer import Viewer

NUM_ENVS = 4
_ANY = "a new choice"
_PLOT_EVERY = 15  # steps
_CLOSE_SECONDS = 60.0  # a step may still be compiling


class LivePlayer:
    """Simulates episodes in a thread of its own; the page shows each step once it is known."""

    def __init__(self, viewer: Viewer, run_dir: Path, objects: str | None = None) -> None:
        """Raises DataError for a run that has no usable checkpoint."""
        self.viewer = viewer
        spec, settings = read_settings(run_dir)
        policy = load_policy(run_dir)
        made: Any = spec.make(
            settings.task, num_envs=NUM_ENVS, engine="native",
            objects=objects or settings.train.objects, seed=0, evaluation=True,
        )  # fmt: skip
        self.env = made  # with what only some environments have
        check_fits(policy, made)
        if not hasattr(made, "scene"):
            raise DataError(f"{run_dir}: environment {settings.env!r} has no scene to show")
        self._agent = policy_agent(policy)
        self._step = jax.jit(
            lambda state, key: self.env.step(state, self._agent.act(self._agent.params, state, key))
        )
        self._reset = jax.jit(self.env.reset)
        self._random = np.random.default_rng(0)
        self._request = threading.Event()
        self._ended = threading.Event()
        self._wanted: str = _ANY
        first, _ = self._begin()
        self.player = EpisodePlayer(viewer, first)
        gui = viewer.server.gui
        with gui.add_folder("Policy", order=0.5):
            self._status: Any = gui.add_markdown("compiling ...")
            self.choice: Any = gui.add_dropdown("next object", (_ANY, *self.env.objects))
            self.again: Any = gui.add_button("New episodes", icon="refresh")
        self.again.on_click(lambda _: self.request())
        self.request()
        self.thread = threading.Thread(target=self._work, daemon=True)
        viewer.at_end(self.close)
        self.thread.start()

    def request(self) -> None:
        """Ask for new episodes, of the object that the page's dropdown names."""
        self._wanted = self.choice.value
        self._request.set()

    def close(self) -> None:
        """End the thread after the step it is in."""
        self._ended.set()
        self._request.set()
        self.thread.join(_CLOSE_SECONDS)

    def _work(self) -> None:
        while not self._ended.is_set():
            self._request.wait()
            self._request.clear()
            if not self._ended.is_set():
                try:
                    self._simulate()
                except Exception as error:  # nobody waits for this thread: the page must say it
                    self._status.content = f"stopped: {plain(error)}"
                    raise

    def _begin(self) -> tuple[list[Episode], Any]:
        """Fresh episodes whose rows all hold the initial state, and that state."""
        names = list(self.env.objects)
        if self._wanted in names:
            ids = np.full(NUM_ENVS, names.index(self._wanted))
        else:
            ids = self._random.choice(len(names), NUM_ENVS, replace=len(names) < NUM_ENVS)
        key = jax.random.key(int(self._random.integers(2**31)))
        state = self._reset(key, jnp.asarray(ids, jnp.int32))
        steps = self.env.episode_length
        qpos = np.asarray(state.sim.qpos, float)
        goals = np.asarray(self.env.goal(state)) if hasattr(self.env, "goal") else None
        nothing = np.full(steps, np.nan)
        fingers = state.sim.finger_force.shape[1]
        episodes = [
            Episode(
                scene=self.env.scene.config,
                object=ObjectReference.of(self.env.assets[int(ids[b])]),
                control_dt=self.env.control_dt,
                qpos=np.tile(qpos[b], (steps, 1)),
                outcome={},
                terms={k: nothing.copy() for k in state.terms},
                success={k: nothing.copy() for k in state.episode if k.startswith("success_")},
                goal=None if goals is None else goals[b],
                finger_force=np.full((steps, fingers, 3), np.nan),
            )
            for b in range(NUM_ENVS)
        ]
        return episodes, state

    def _simulate(self) -> None:
        """One episode in every environment, drawn while it is computed."""
        episodes, state = self._begin()
        player = self.player
        player.replace(episodes, available=1)
        player.timeline.set_playing(True)
        over = np.zeros(NUM_ENVS, bool)
        for t in range(self.env.episode_length):
            if self._ended.is_set() or self._request.is_set():
                return
            after = self._step(state, jax.random.key(t))
            qpos, force = np.asarray(state.sim.qpos), np.asarray(state.sim.finger_force)
            terms = {k: np.asarray(v) for k, v in after.terms.items()}
            done = np.asarray(after.done) & ~over
            result = {k: np.asarray(v) for k, v in after.episode.items()}
            with self.viewer.lock:
                for b in np.flatnonzero(~over):
                    episode = episodes[b]
                    episode.qpos[t:] = qpos[b]
                    assert episode.finger_force is not None
                    episode.finger_force[t] = force[b]
                    for k, v in terms.items():
                        episode.terms[k][t] = v[b]
                    for k, line in episode.success.items():
                        line[t] = result[k][b]
                    if done[b]:
                        outcome = {
                            k: bool(v[b] > 0.5)
                            for k, v in result.items()
                            if k not in OUTCOME_NUMBERS
                        }
                        episodes[b] = replace(episode, outcome=outcome)
                over |= done
                player.reveal(t + 1)
                if t % _PLOT_EVERY == 0:
                    player.refresh_plots()
                    self._status.content = f"simulating, step {t} of {self.env.episode_length}"
            state = after
            if over.all():
                break
        ids = np.asarray(result["object_id"])
        done_ones = [
            with_contacts(e, self.env.assets[int(i)]) for e, i in zip(episodes, ids, strict=True)
        ]
        good = sum(e.good for e in done_ones)
        with self.viewer.lock:
            player.update(done_ones)
            self._status.content = f"{good} of {NUM_ENVS} succeeded"
