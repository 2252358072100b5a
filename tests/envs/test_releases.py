"""Every release of UniDexGrasp's task, recomputed from traced states by plain NumPy to 1e-4.

The environment computes observations and rewards inside its compiled step; `dexjax.parity.task` has
the formulas again, without a line in common, and sees only the trace.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from dexjax.core.errors import ConfigError, DataError
from dexjax.data.records import Grasp, RestPose
from dexjax.objects.asset import ObjectAsset
from dexjax.objects.bank import ObjectBank
from dexjax.objects.build import AssetOptions, build_asset
from dexjax.objects.sampler import UniformSampler
from dexjax.parity.__main__ import main
from dexjax.parity.task import RELEASES, TOLERANCE, find_release, recompute, task_errors
from dexjax.parity.trace import Trace, read_trace, write_trace
from dexjax.rl.env import EnvState
from dexjax.sim.native import NativeEngine
from dexjax.sim.physics import physics_preset
from dexjax.sim.scene import build_scene
from envs.shadow_grasp.config import ReleaseConfig
from envs.shadow_grasp.env import ShadowGrasp
from envs.shadow_grasp.make import spec
from envs.shadow_grasp.released import HAND_POINTS, REWARDS
from envs.shadow_grasp.targets import read_targets, write_targets
from envs.shadow_grasp.trace import record_trace, replay_trace
from envs.shadow_grasp.unidexgrasp import unidexgrasp_config

NUM, STEPS, EVERY = 6, 60, 4
FEATURES = np.random.default_rng(0).normal(scale=30, size=(2, 64)).astype(np.float32)
CONFIGS = {
    "unidexgrasp++": ReleaseConfig(),
    "afforddex": ReleaseConfig(align_yaw=True),
    "unidexgrasp": ReleaseConfig(align_yaw=True, observe_target=True),
    "unidexgrasp-goal": ReleaseConfig(align_yaw=True, observe_target=True, reward="unidexgrasp"),
    "unigrasptransformer": ReleaseConfig(reward="unigrasptransformer"),
    "unigrasptransformer-universal": ReleaseConfig(
        reward="unigrasptransformer", hold_distances=(0.3, 0.06)
    ),
}
FAST = ("unidexgrasp-goal", "unigrasptransformer")  # together they use every switch


@pytest.fixture(scope="module")
def assets() -> list[ObjectAsset]:
    """A box with its origin beside its middle, and a prism with one at a corner."""
    box = trimesh.creation.box(extents=[0.05, 0.07, 0.09])
    box.apply_translation([0.01, -0.015, 0.02])
    corners = np.array([[0, 0], [0.09, 0], [0, 0.09]])
    prism = trimesh.convex.convex_hull(np.array([[*c, z] for c in corners for z in (0, 0.06)]))
    options = AssetOptions(max_pieces=1, sdf=False)
    return [build_asset(m, name=n, options=options) for m, n in ((box, "box"), (prism, "prism"))]


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three grasps of the box and one of the prism, near the poses that the test jumps to."""
    rng = np.random.default_rng(2)
    grasps: dict[str, list[Grasp]] = {"prism": [], "box": []}
    for name, count in (("prism", 1), ("box", 3)):
        for i in range(count):
            tilt = np.array([np.cos(0.4 * i), np.sin(0.4 * i), 0, 0])
            grasps[name].append(
                Grasp(
                    hand="shadow_hand",
                    object_code=f"core/{name}",
                    object_scale=0.1,
                    base_pos=rng.normal(scale=0.05, size=3),
                    base_quat=_unit(np.array([0.7, 0.7, 0, 0]) + rng.normal(scale=0.15, size=4)),
                    qpos=rng.uniform(0, 0.3, 22),
                    source=f"{name}[{i}]",
                    rest=RestPose(tilt, 0.03 + 0.01 * i),
                )
            )
    path = tmp_path_factory.mktemp("targets") / "targets.npz"
    write_targets(path, grasps)
    return path


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def make(assets: list[ObjectAsset], release: ReleaseConfig, targets: Path) -> ShadowGrasp:
    wants = release.align_yaw or release.observe_target
    config = dataclasses.replace(unidexgrasp_config(), release=release)
    physics = physics_preset(config.physics)
    scene = build_scene(assets, config.scene)
    return ShadowGrasp(
        config,
        scene,
        ObjectBank.from_assets(assets),
        UniformSampler(len(assets)),
        NativeEngine(scene, NUM, physics, threads=1),
        control_dt=physics.control_dt,
        stagger=False,
        object_features=FEATURES,
        target_grasps=read_targets(targets, [a.name for a in assets]) if wants else None,
    )


class Jumping:
    """The environment, whose hand and object are now and then put close together, at heights from
    the table to beyond the goal and with bent fingers, so that every branch of a reward is met."""

    def __init__(self, env: ShadowGrasp) -> None:
        self._env = env
        rng = np.random.default_rng(5)
        count = STEPS // EVERY + 1
        centre = np.concatenate(
            [rng.uniform(-0.02, 0.02, (count, NUM, 2)), rng.uniform(0.66, 0.98, (count, NUM, 1))],
            -1,
        )
        centre[1::3, :, :2], centre[1::3, :, 2] = 0.0, 0.93  # at the goal
        self._centre = jnp.asarray(centre, jnp.float32)
        self._below = jnp.asarray(rng.uniform(-0.02, 0.05, (count, NUM)), jnp.float32)
        bend = np.where(np.arange(count) % 2, 1.0, 0.2)[:, None, None]  # also near the targets
        self._fingers = jnp.asarray(bend * rng.uniform(0, 1, (count, NUM, 22)), jnp.float32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, state: EnvState, action: jax.Array) -> EnvState:
        env, t = self._env, state.task.step[0]
        scene = env.scene
        k = t // EVERY
        centre, variant = self._centre[k], env.variant
        low, high = variant.lower, variant.upper
        qpos = state.sim.qpos
        at = scene.object_qpos
        # Palm down at any yaw: the grasp centre is 8 cm along the fingers and 2 cm below.
        yaw = state.task.task.yaw
        along = jnp.stack([-jnp.sin(yaw), jnp.cos(yaw), jnp.zeros(NUM)], 1)
        new = qpos.at[:, :3].set(centre + 0.08 * along + jnp.array([0, 0, 0.02]))
        new = new.at[:, scene.finger_qpos].set(low + self._fingers[k] * (high - low))
        new = new.at[:, at : at + 3].set(centre - self._below[k][:, None] * jnp.array([0, 0, 1.0]))
        jump = (t % EVERY == 1) & (jnp.arange(NUM) > 0)  # the first is left alone
        sim = state.sim.replace(
            qpos=jnp.where(jump[:, None], new, qpos),
            qvel=jnp.where(jump[:, None], 0.0, state.sim.qvel),
        )
        return env.step(state.replace(sim=sim), action)


def act(state: EnvState, key: jax.Array) -> jax.Array:
    return jax.random.uniform(key, (NUM, 24), minval=-1.2, maxval=1.2)


def trace_of(name: str, assets: list[ObjectAsset], targets: Path) -> Trace:
    env = make(assets, CONFIGS[name], targets)
    return record_trace(Jumping(env), act, jax.random.PRNGKey(3), STEPS)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def traces(assets, targets) -> dict[str, Trace]:
    return {name: trace_of(name, assets, targets) for name in FAST}


def assert_parity(trace: Trace, name: str) -> None:
    """Every recorded quantity within 1e-4: float32 against double on numbers up to 5."""
    errors = task_errors(trace, find_release(name))
    worst = max(errors, key=lambda k: errors[k])
    assert errors[worst] <= TOLERANCE, (worst, errors[worst])
    assert {"reward", "success", "action: joint targets"} <= set(errors)
    # Nothing was compared with nothing: each term varies, and success came and stayed.
    terms = dict(zip(trace.names("term"), np.moveaxis(trace["reward_terms"], -1, 0), strict=True))
    assert all(np.ptp(v) > 0.01 for v in terms.values()), {k: np.ptp(v) for k, v in terms.items()}
    assert trace["success"].any() and not trace["success"][:2].any()


@pytest.mark.parametrize("name", FAST)
def test_release_matches_its_formulas(name: str, traces: dict[str, Trace]) -> None:
    assert_parity(traces[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in CONFIGS if n not in FAST])
def test_other_releases_match_their_formulas(name: str, assets, targets) -> None:
    assert_parity(trace_of(name, assets, targets), name)


def test_every_row_and_term_is_looked_at(traces: dict[str, Trace]) -> None:
    """A change of any one recorded number, ten times the tolerance, is reported by its name."""
    trace = traces["unidexgrasp-goal"]
    release = find_release("unidexgrasp-goal")
    rng = np.random.default_rng(0)
    seen = set()
    for column in range(300):
        observation = trace["observation"].copy()
        inside = np.argwhere(np.abs(observation[..., column]) < 4)
        if not len(inside):  # a feature beyond the clip
            assert column >= 236
            continue
        t, b = inside[rng.integers(len(inside))]
        observation[t, b, column] += 1e-3
        changed = dataclasses.replace(trace, arrays={**trace.arrays, "observation": observation})
        failed = [k for k, v in task_errors(changed, release).items() if v > TOLERANCE]
        assert len(failed) == 1 and failed[0].startswith("observation"), column
        seen.add(failed[0])
    assert len(seen) == 13


@pytest.mark.parametrize(
    ("field", "change", "name"),
    [
        ("reward", lambda x: x + 1e-3, "reward"),
        ("reward_terms", lambda x: x + 1e-3 * np.eye(1, 6, 2)[0], "reward term: lift"),
        ("success", lambda x: ~x, "success"),
        ("applied_force", lambda x: 1.01 * x, "action: applied_force (relative)"),
        ("target", lambda x: x + 1e-3, "action: joint targets"),
    ],
)
def test_other_errors_are_named(field: str, change: Any, name: str, traces) -> None:
    trace = traces["unidexgrasp-goal"]
    arrays = {**trace.arrays, field: change(trace[field])}
    errors = task_errors(
        dataclasses.replace(trace, arrays=arrays), find_release("unidexgrasp-goal")
    )
    assert [k for k, v in errors.items() if v > TOLERANCE] == [name]


def test_frame_turns_with_the_target_grasp(traces: dict[str, Trace]) -> None:
    """The hand starts at the yaw of object times target grasp, and forces turn with it."""
    trace = traces["unidexgrasp-goal"]
    yaw = trace["param_z_theta"]
    assert np.ptp(yaw) > 1.0
    quat = trace["root_quat"][0].astype(float)
    expected = np.stack(
        [np.cos(0.785) * np.cos(yaw / 2), np.sin(0.785) * np.cos(yaw / 2)], -1
    )  # Rz(yaw) Rx(1.57): w and x
    np.testing.assert_allclose(quat[:, :2], expected, atol=1e-5)
    action = np.clip(trace["action_raw"], -1, 1)
    unturned = 833.3333 * action[..., :3]
    force = trace["applied_force"]
    np.testing.assert_allclose(force[..., 2], unturned[..., 2], rtol=1e-4, atol=1e-2)
    turned = np.stack(
        [
            np.cos(yaw) * unturned[..., 0] - np.sin(yaw) * unturned[..., 1],
            np.sin(yaw) * unturned[..., 0] + np.cos(yaw) * unturned[..., 1],
        ],
        -1,
    )
    np.testing.assert_allclose(force[..., :2], turned, rtol=1e-4, atol=0.05)
    # The object tilts as it lay with the drawn grasp: about x, by 0.8 rad for every 1 cm.
    lay = 0.8 * np.round(100 * (trace["param_object_init_z"] - 0.03))
    up = trace["object_quat"][0, :, 0].astype(float)
    tilt = np.arccos(np.clip(1 - 2 * (up[:, 1] ** 2 + up[:, 2] ** 2), -1, 1))
    np.testing.assert_allclose(tilt, lay, atol=2e-3)  # arccos near 1 in float32
    assert len(set(lay.tolist())) > 1


@pytest.fixture(scope="module")
def undisturbed(assets, targets) -> tuple[ShadowGrasp, Trace]:
    env = make(assets, CONFIGS["afforddex"], targets)
    return env, record_trace(env, act, jax.random.PRNGKey(4), 25)


@pytest.mark.slow
def test_replay_of_our_own_trace_is_that_trace(undisturbed) -> None:
    """From a trace's start with its actions the environment does the same again.

    The start passes through float32 rotations: 1e-6 in the states, which contacts have not yet
    amplified after 20 steps, when the object lands."""
    env, trace = undisturbed
    replayed = replay_trace(env, trace, trace["object_id"])
    for name, tolerance in (
        ("root_pos", 1e-5), ("root_quat", 1e-5), ("joint_pos", 1e-4), ("object_pos", 1e-4),
        ("observation", 1e-2),
    ):  # fmt: skip
        difference = np.abs(replayed[name][:8] - trace[name][:8]).max()
        assert difference < tolerance, (name, difference)
    np.testing.assert_allclose(replayed["param_z_theta"], trace["param_z_theta"], atol=1e-5)
    pushed = np.abs(replayed["applied_force"] - trace["applied_force"])
    assert pushed.max() < 0.1  # N of 833
    assert np.ptp(trace["root_pos"], axis=0).max() > 0.005  # the hand moves
    assert np.abs(replayed["reward"][:8] - trace["reward"][:8]).max() < 1e-3


@pytest.mark.slow
def test_replays_that_cannot_be_are_refused(undisturbed) -> None:
    env, trace = undisturbed
    with pytest.raises(DataError, match="2 episodes"):
        replay_trace(env, trace.select_envs([0, 1]), [0, 0])
    with pytest.raises(DataError, match="action"):
        arrays = {k: v for k, v in trace.arrays.items() if "action" not in k}
        replay_trace(env, dataclasses.replace(trace, arrays=arrays), trace["object_id"])


def test_the_36_points_are_36() -> None:
    assert len(HAND_POINTS) == 36 == len(set(HAND_POINTS))
    assert set(REWARDS) == {c.reward for c in CONFIGS.values()}
    assert set(CONFIGS) == set(RELEASES)


def test_command(traces: dict[str, Trace], tmp_path: Path, capsys) -> None:
    trace = traces["unigrasptransformer"]
    path = tmp_path / "trace.npz"
    write_trace(path, trace.meta, trace.arrays)
    assert read_trace(path).digest() == trace.digest()
    assert main(["task", str(path), "--release", "unigrasptransformer"]) == 0
    text = capsys.readouterr().out
    assert "reward term: straight_tips" in text and "FAILS" not in text
    assert main(["task", str(path), "--release", "unigrasptransformer-universal"]) == 1
    assert "FAILS" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="unidexgrasp"):
        find_release("unidexgras")


def test_traces_that_lack_something_are_refused(traces: dict[str, Trace]) -> None:
    trace = traces["unigrasptransformer"]
    for name in ("joint_pos", "goal_pos", "param_object_points"):
        arrays = {k: v for k, v in trace.arrays.items() if k != name}
        with pytest.raises(DataError, match=name):
            recompute(dataclasses.replace(trace, arrays=arrays), RELEASES["unigrasptransformer"])


def test_targets_are_checked(assets, targets: Path, tmp_path: Path) -> None:
    found = read_targets(targets, ["box", "prism"])
    assert found.count.tolist() == [3, 1]
    drawn = found.draw(jax.random.PRNGKey(0), jnp.zeros(3000, jnp.int32))
    heights, counts = np.unique(np.asarray(drawn.rest_height), return_counts=True)
    np.testing.assert_allclose(heights, [0.03, 0.04, 0.05], atol=1e-6)
    assert (np.abs(counts - 1000) < 150).all()  # six standard deviations of a share of a third
    with pytest.raises(DataError, match="no grasp of 1 objects, first 'cup'"):
        read_targets(targets, ["box", "cup"])
    arrays = dict(np.load(targets))
    path = tmp_path / "bad.npz"
    for name, value, message in (
        ("qpos", arrays["qpos"][:, :5], "qpos"),
        ("hand_quat", 2 * arrays["hand_quat"], "unit"),
        ("object", arrays["object"] + 5, "beyond"),
        ("rest_height", np.full(4, np.nan, np.float32), "finite"),
    ):
        np.savez(path, **{**arrays, name: value})
        with pytest.raises(DataError, match=message):
            read_targets(path, ["box"])
    with pytest.raises(ConfigError, match="target_grasps"):
        make(assets, dataclasses.replace(CONFIGS["unidexgrasp++"], reward="unidexgrasp"), targets)
    servo = dataclasses.replace(
        spec.presets["quick"].env, release=ReleaseConfig(target_grasps=str(targets))
    )
    with pytest.raises(ConfigError, match="only the unidexgrasp variant"):
        spec.make(servo, num_envs=2, objects="builtin:seen:box_000")
