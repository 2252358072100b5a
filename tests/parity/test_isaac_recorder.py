"""The Isaac Gym recorder against a fake simulator with the same tensor API, and the way back.

Isaac Gym itself is not here. The fake's motion is known exactly (tests/parity/fake_isaac), so that
what is tested is the plan, the recorder, the trace and its reader: names, orders, frames, units.
With DEXJAX_TEST_PYTHONS (interpreters that have NumPy, separated like PATH) the recorder runs on
these too: Isaac Gym needs Python 3.6 to 3.8.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dexjax.core.errors import DataError
from dexjax.parity import isaac_recorder, schema
from dexjax.parity.gates import GATES, judge
from dexjax.parity.plan import write_plan
from dexjax.parity.probe import Probe
from dexjax.parity.probes import base_wrench, joint_steps, slopes, static_poses, tendon_steps
from dexjax.parity.recorded import RecordedSimulator
from dexjax.parity.trace import Trace, read_trace

FAKE = Path(__file__).parent / "fake_isaac"
SOURCE = Path(isaac_recorder.__file__)
OLD = [p for p in os.environ.get("DEXJAX_TEST_PYTHONS", "").split(os.pathsep) if p]
PYTHONS = [sys.executable, *OLD]


@pytest.fixture(scope="module")
def probes() -> dict[str, Probe]:
    few = {
        "static_servo": static_poses("gate", "servo").take(np.arange(3)),
        "static_wrench": static_poses("gate", "wrench").take(np.arange(3)),
        "steps": joint_steps("gate", "stiff").take(np.array([0, 12, 25])),
        "tendon": tendon_steps("gate").take(np.array([0, 5])),
        "wrench": base_wrench("gate").take(np.array([2, 6, 10])),
        "slopes": slopes("gate").take(np.array([0, 2, 5])),
    }
    short = {}
    for name, probe in few.items():
        frames = min(probe.num_frames, 5)
        short[name] = replace(
            probe, name=name, ctrl=probe.ctrl[:frames], wrench=probe.wrench[:frames]
        )
    return short


@pytest.fixture(scope="module")
def plan(probes: dict[str, Probe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    write_plan(list(probes.values()), folder)
    return folder


def run(python: str, *args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"PYTHONPATH": str(FAKE), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [python, *map(str, args)], env=env, cwd=cwd, capture_output=True, text=True, timeout=200
    )


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda p: "_".join(Path(p).parts[-3:]))
def recorded(request, plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces of all probes, one of them twice; the recorder alone in its folder, without dexjax."""
    folder = tmp_path_factory.mktemp("recorder")
    shutil.copy(SOURCE, folder)
    out = folder / "traces"
    for more in (("--repeats", 1), ("--repeats", 2, "--only", "slopes")):
        script = folder / SOURCE.name
        done = run(request.param, script, "probes", plan, "--out", out, "--cpu", *more)
        assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_source_is_python_3_6_and_needs_numpy_alone() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 6))
    imported = {
        (n.module if isinstance(n, ast.ImportFrom) else a.name).split(".")[0]
        for n in ast.walk(tree)
        if isinstance(n, (ast.Import, ast.ImportFrom))
        for a in n.names
    }
    standard = {"argparse", "json", "os", "runpy", "subprocess", "sys", "time", "pkg_resources"}
    assert imported - standard == {"numpy", "isaacgym", "torch", "tasks"}
    top = {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    assert top - standard == {"numpy"}  # the others where they are used


def test_arrays_are_those_of_the_schema() -> None:
    for name, (axes, unit) in isaac_recorder.ARRAYS.items():
        known, known_unit = schema.ARRAYS[name]
        assert unit == known_unit
        assert axes in (list(known), schema.after_steps(known))
    assert isaac_recorder.UNITS == schema.UNITS
    assert (isaac_recorder.FORMAT, isaac_recorder.VERSION) == (schema.FORMAT, schema.VERSION)


def test_written_hands_are_the_scene_s(plan: Path, probes) -> None:
    """MuJoCo reads the plan's hand back as the hand of the scene, shapes and tendons included."""
    for name in ("steps", "tendon", "wrench"):
        model = probes[name].scene.model
        meta, _ = isaac_recorder.read_plan(plan / f"{name}.npz")
        found = mujoco.MjModel.from_xml_path(str(plan / meta["hand"]))
        for body in probes[name].scene.body_names[:-1]:
            ours, theirs = model.body(body), found.body(body)
            np.testing.assert_allclose(theirs.mass, ours.mass, rtol=1e-6)
            np.testing.assert_allclose(theirs.ipos, ours.ipos, atol=1e-8)
            np.testing.assert_allclose(theirs.inertia, ours.inertia, rtol=1e-6)
            assert abs(abs(np.dot(theirs.iquat, ours.iquat)) - 1) < 1e-8
            shapes = [g for g in range(model.ngeom) if model.geom_bodyid[g] == ours.id
                      and (model.geom_contype[g] or model.geom_conaffinity[g])]  # fmt: skip
            assert found.body_geomnum[theirs.id] == len(shapes)
            for g, other in zip(shapes, range(*_geoms(found, theirs.id)), strict=True):
                np.testing.assert_allclose(found.geom_size[other], model.geom_size[g], atol=1e-8)
                np.testing.assert_allclose(found.geom_pos[other], model.geom_pos[g], atol=1e-8)
                assert abs(abs(found.geom_quat[other] @ model.geom_quat[g]) - 1) < 1e-8
        for joint in meta["joints"]:
            ours, theirs = model.joint(joint), found.joint(joint)
            np.testing.assert_allclose(theirs.axis, ours.axis, atol=1e-8)
            if model.jnt_limited[ours.id]:
                np.testing.assert_allclose(theirs.range, ours.range, atol=1e-8)
        assert found.ntendon == (4 if meta["tendon"] else 0)
        for t in range(found.ntendon):
            k = model.tendon(found.tendon(t).name).id
            np.testing.assert_allclose(found.tendon_range[t], model.tendon_range[k], atol=1e-8)


def _geoms(model: mujoco.MjModel, body: int) -> tuple[int, int]:
    first = model.body_geomadr[body]
    return first, first + model.body_geomnum[body]


def test_written_objects_weigh_what_the_trial_says(plan: Path, probes, tmp_path: Path) -> None:
    probe = probes["slopes"]
    scaled = replace(probe, name="scaled", object_params=probe.object_params * [[2.0, 1.0]])
    write_plan([scaled], tmp_path)
    for folder, name, factor in ((plan, "slopes", 1.0), (tmp_path, "scaled", 2.0)):
        meta, arrays = isaac_recorder.read_plan(folder / f"{name}.npz")
        assert set(arrays["object_index"].tolist()) == set(range(len(meta["objects"])))
        asset = probe.assets[0]
        urdf = folder / meta["objects"][0]
        keep = '<mujoco><compiler fusestatic="false"/></mujoco><link name="object">'
        kept = urdf.with_name("kept.urdf")
        kept.write_text(urdf.read_text().replace('<link name="object">', keep))
        model = mujoco.MjModel.from_xml_path(str(kept))
        assert model.body_mass.sum() == pytest.approx(factor * asset.mass, rel=1e-6)
        moments = np.linalg.eigvalsh(factor * np.asarray(asset.inertia))
        np.testing.assert_allclose(np.sort(model.body_inertia[1]), moments, rtol=1e-5)
        pieces = [np.asarray(p) for p in asset.pieces]
        assert model.nmesh == len(pieces)
        # MuJoCo turns and moves a mesh to its principal axes; the geom's pose brings it back.
        turn = Rotation.from_quat(model.geom_quat[0], scalar_first=True)
        corners = turn.apply(model.mesh_vert[: model.mesh_vertnum[0]]) + model.geom_pos[0]
        np.testing.assert_allclose(corners.min(0), pieces[0].min(0), atol=1e-6)
        np.testing.assert_allclose(corners.max(0), pieces[0].max(0), atol=1e-6)


def test_every_trace_passes_the_strict_reader(recorded: Path, probes) -> None:
    files = sorted(recorded.glob("*.npz"))
    # Three directions of gravity make three simulations.
    assert len(files) == len(probes) - 1 + 2 * 3
    for file in files:
        trace = read_trace(file)
        assert trace.meta["source"]["simulator"] == "isaacgym"
        assert trace.meta["solver"]["physx"]["num_position_iterations"] == 8
        assert trace.meta["solver"]["physx"]["contact_offset"] == 0.002
        assert trace.meta["quaternion"] == "wxyz"  # turned by the reader


def test_kinematics_by_way_of_the_plan_is_ours(recorded: Path, probes) -> None:
    """The fake has its own forward kinematics over the exported MJCF: bodies at recorded joints
    are ours within float32 at 1 m, for both kinds of base, in the axes that we mean."""
    simulator = RecordedSimulator(recorded)
    for name in ("static_servo", "static_wrench", "steps", "tendon"):
        probe = probes[name]
        recording = simulator.run(probe)
        gate = replace(GATES[0], probes=(name,), least_trials=1)
        ours = {name: _start(probe)}
        verdict = judge(gate, {name: probe}, {name: recording}, ours)
        assert verdict.figures["position"] < 1e-6, name
        assert verdict.figures["angle"] < 2e-3, name  # float32 quaternions near angle 0
        assert len(recording["qpos"]) == probe.num_frames + 1
        np.testing.assert_allclose(recording["qpos"][0], probe.qpos, atol=1e-6)


def _start(probe: Probe) -> dict[str, np.ndarray]:
    """Our own recording of the start, by MuJoCo's kinematics."""
    scene = probe.scene
    data = mujoco.MjData(scene.model)
    pos = np.zeros((1, probe.num_trials, len(scene.body_ids), 3))
    quat = np.zeros((*pos.shape[:3], 4))
    for i, qpos in enumerate(probe.qpos):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(scene.model, data)
        pos[0, i], quat[0, i] = data.xpos[scene.body_ids], data.xquat[scene.body_ids]
    return {"body_pos": pos, "body_quat": quat, "finite": np.ones(pos.shape[:2])}


def test_targets_reach_the_joints_of_their_names(recorded: Path, probes) -> None:
    """The fake's joints go a fifth of the way to their target in each frame."""
    probe = probes["steps"]
    scene = probe.scene
    recording = RecordedSimulator(recorded).run(probe)
    start = probe.qpos[:, scene.finger_qpos]
    joint_of = scene.model.actuator_trnid[:, 0]
    goal = np.zeros((probe.num_trials, scene.model.nq))
    goal[:, scene.model.jnt_qposadr[joint_of]] = probe.ctrl[0]
    goal = goal[:, scene.finger_qpos]
    assert (np.abs(goal - start) > 0.1).sum() == 3
    for t in range(probe.num_frames + 1):
        expected = goal + 0.8**t * (start - goal)
        np.testing.assert_allclose(recording["qpos"][t][:, scene.finger_qpos], expected, atol=1e-6)
    rate = np.diff(recording["qpos"][:, :, scene.finger_qpos], axis=0) * 60
    found = recording["qvel"][1:, :, scene.finger_qvel]
    np.testing.assert_allclose(found, rate, atol=2e-4)  # float32 differences times 60


def test_joints_without_a_drive_stay(recorded: Path, probes) -> None:
    """The tendon's followers have no stiffness in the plan: the fake leaves them where they are."""
    probe = probes["tendon"]
    recording = RecordedSimulator(recorded).run(probe)
    names = probe.scene.hand.joint_names
    moved = np.ptp(recording["qpos"][:, :, probe.scene.finger_qpos], axis=0) > 1e-3
    assert moved.any() and not moved[:, [i for i, n in enumerate(names) if n.endswith("FJ0")]].any()
    trace = read_trace(next(recorded.glob("tendon_g0_r0.npz")))
    assert set(trace.property("tendon", "limit_stiffness")) == {30.0}
    assert set(trace.property("tendon", "damping")) == {0.1}
    assert trace.names("tendon") == [f"T_{f}J1c" for f in ("FF", "MF", "RF", "LF")]


def test_wrenches_push_the_palm_in_world_axes(recorded: Path, probes) -> None:
    """The fake's free hand gains velocity by force over its whole mass."""
    probe = probes["wrench"]
    scene = probe.scene
    recording = RecordedSimulator(recorded).run(probe)
    body = scene.model.body_mass[scene.body_ids[:-1]].sum()
    for t in range(probe.num_frames):
        gained = recording["qvel"][t + 1, :, :3] - recording["qvel"][t, :, :3]
        expected = probe.wrench[t, :, :3] / body / 60
        np.testing.assert_allclose(gained, expected, rtol=1e-4, atol=1e-6)
    trace = read_trace(recorded / "wrench_g0_r0.npz")
    assert trace.meta["wrench_body"] == "palm"
    np.testing.assert_allclose(trace["applied_torque"], probe.wrench[..., 3:], atol=1e-4)


def test_gravity_friction_and_objects_are_the_trials_own(recorded: Path, probes) -> None:
    probe = probes["slopes"]
    recording = RecordedSimulator(recorded, repeat=1).run(probe)
    vat = probe.scene.object_qvel
    # One frame of the fake: velocity is gravity times 1/60, before anything touches.
    np.testing.assert_allclose(
        recording["qvel"][1, :, vat : vat + 2], probe.gravity[:, :2] / 60, rtol=1e-5, atol=1e-7
    )
    seen = {}
    for file in recorded.glob("slopes_g*_r1.npz"):
        trace = read_trace(file)
        for row, trial in enumerate(trace["param_trial"]):
            shapes = trace.meta["extra"]["objects"][row]["shape"]["friction"]
            seen[int(trial)] = set(np.round(shapes, 6))
            expected = probe.labels[int(trial)]
            assert trace.meta["extra"]["labels"][row] == expected
    assert seen == {i: {round(float(f), 6)} for i, f in enumerate(probe.object_params[:, 1])}


def test_forces_are_read_from_the_right_bodies(recorded: Path, probes) -> None:
    """The fake's contact force has the body's index in x and the environment's in y; a sensor has
    its body's index in the force."""
    trace = read_trace(recorded / "steps_g0_r0.npz")
    bodies = trace.names("body")
    expected = np.arange(len(bodies))
    np.testing.assert_array_equal(trace["contact_force"][0, 1, :, 0], expected)
    np.testing.assert_array_equal(trace["contact_force"][0, :, 0, 1], [0, 1, 2])
    np.testing.assert_array_equal(trace["object_contact_force"][:, :, 0, 0], len(bodies))
    tips = [bodies.index(t) for t in trace.names("tip")]
    np.testing.assert_array_equal(trace["tip_force"][0, 0, :, 0], tips)
    assert (trace["tip_torque"][..., 2] == 1).all()
    assert trace.names("tip") == ["ffdistal", "mfdistal", "rfdistal", "lfdistal", "thdistal"]


def test_drives_are_read_back(recorded: Path, probes) -> None:
    trace = read_trace(recorded / "steps_g0_r0.npz")
    model = probes["steps"].scene.model
    for name in ("FFJ2", "THJ0", "base_z"):
        k = trace.names("joint").index(name)
        actuator = model.actuator(f"A_{name}")
        assert trace.property("joint", "stiffness")[k] == pytest.approx(actuator.gainprm[0])
        assert trace.property("joint", "effort")[k] == pytest.approx(actuator.forcerange[1])
        dof = model.jnt_dofadr[model.joint(name).id]
        damping = model.dof_damping[dof] - actuator.biasprm[2]
        assert trace.property("joint", "damping")[k] == pytest.approx(damping)
    assert trace.meta["joint_types"][:3] == ["slide"] * 3


def test_recorded_files_are_kept(recorded: Path, plan: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in recorded.glob("*.npz")}
    removed = recorded / "steps_g0_r0.npz"
    removed.unlink()
    done = run(sys.executable, recorded.parent / SOURCE.name, "probes", plan, "--out", recorded,
               "--repeats", 1, "--cpu", "--only", "steps", "tendon")  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("kept") == 1
    after = {f: f.stat().st_mtime_ns for f in recorded.glob("*.npz")}
    assert {f for f in after if after[f] != before[f]} == {removed}


def test_wrong_plans_and_traces_are_refused(recorded: Path, plan: Path, probes, tmp_path) -> None:
    simulator = RecordedSimulator(recorded)
    steps = probes["steps"]
    other = replace(steps, ctrl=steps.ctrl + np.float32(0.01))
    with pytest.raises(DataError, match="another version of probe"):
        simulator.run(other)
    with pytest.raises(DataError, match="no trace of probe 'P9'"):
        simulator.run(replace(steps, name="P9"))
    slope = recorded / "slopes_g1_r0.npz"
    kept = slope.read_bytes()
    slope.unlink()
    with pytest.raises(DataError, match="each of 0 to 2 is needed once"):
        simulator.run(probes["slopes"])
    slope.write_bytes(kept)
    done = run(sys.executable, SOURCE, "probes", plan, "--out", tmp_path, "--only", "P77")
    assert done.returncode != 0 and "P77" in done.stderr


# --- policy episodes -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda p: "_".join(Path(p).parts[-3:]))
def episodes(request, plan: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    """Six episodes of a fake release's task, four environments, seven steps each."""
    folder = tmp_path_factory.mktemp("release")
    release = folder / "release"
    shutil.copytree(FAKE, release)
    shutil.copy(SOURCE, folder)
    written = [f.read_text() for f in plan.glob("hand_*.xml")]
    free = next(text for text in written if "base_x" not in text and "T_FFJ1c" in text)
    hand = re.sub(r'(body|joint|fixed) (name|joint)="', r'\1 \2="robot0:', free)
    (folder / "hand.xml").write_text(hand.replace("hand_mount", "hand mount"))
    done = run(request.param, folder / SOURCE.name, "policy", "--out", folder / "out",
               "--episodes", 6, "--", "train.py", folder / "hand.xml",
               next((plan / "objects").glob("*.urdf")), 4, 7, 100, cwd=release)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recorded 6 episodes" in done.stdout
    files = sorted((folder / "out").glob("*.npz"))
    assert [f.name for f in files] == ["policy_000.npz", "policy_001.npz"]
    return [read_trace(f) for f in files]


def test_episodes_begin_together_and_are_whole(episodes: list[Trace]) -> None:
    first, second = episodes
    assert [t.num_envs for t in episodes] == [4, 2]
    for trace in episodes:
        assert trace.num_steps == 7
        assert trace["reset"][-1].all() and not trace["reset"][:-1].any()
        # Latched from the third step on.
        np.testing.assert_array_equal(trace["success"].sum(1), trace.num_envs * (np.arange(7) > 1))
        np.testing.assert_allclose(trace["root_pos"][0], [[0, 0, 0.8]] * trace.num_envs)
        np.testing.assert_array_equal(trace["joint_pos"][0], 0)
        np.testing.assert_allclose(trace["object_pos"][0, :, 0, 2], 0.7, atol=1e-6)
    assert np.unique(first["object_pos"][0, :, 0, 0]).size > 0
    assert second["object_pos"][0, 0, 0, 0] != first["object_pos"][0, 0, 0, 0]


def test_actions_are_those_of_the_step_and_what_follows_is_after_it(episodes) -> None:
    draw = np.random.RandomState(1)  # as in the fake's train.py
    for trace in episodes:
        given = np.stack([draw.uniform(-1, 1, (4, 24)) for _ in range(7)]).astype(np.float32)
        given = given[:, : trace.num_envs]
        np.testing.assert_array_equal(trace["action_raw"], given)
        np.testing.assert_array_equal(trace["action"], given)  # the task's own copy is spoilt
        np.testing.assert_allclose(trace["applied_force"], given[..., :3] * 0.5e5 / 60, rtol=1e-5)
        np.testing.assert_allclose(trace["applied_torque"], given[..., 3:6] * 100 / 60, rtol=1e-5)
        np.testing.assert_allclose(trace["target"], 0.5 * (given[..., 6:] + 1), atol=1e-6)
        # The fake's observation is the object's position and the action; its reward -z.
        place = trace.after("object_pos")[:, :, 0]
        np.testing.assert_allclose(trace["observation"][..., :3], place, atol=1e-6)
        np.testing.assert_array_equal(trace["observation"][..., 3:12], given[..., :9])
        np.testing.assert_allclose(trace["reward"], -place[..., 2], atol=1e-6)
        driven = trace.select("joint", trace.names("actuator"))
        moved = driven["joint_pos"][1]
        np.testing.assert_allclose(moved, 0.2 * trace["target"][0], atol=1e-6)
        assert trace.meta["wrench_body"] == "palm" and len(trace.names("actuator")) == 18


def test_what_the_task_drew_is_kept(episodes: list[Trace]) -> None:
    first, second = episodes
    np.testing.assert_array_equal(second["object_id"], [0, 1])
    np.testing.assert_allclose(first["object_scale"], [0.06, 0.07, 0.08, 0.09], rtol=1e-6)
    assert first.meta["extra"]["object_codes"][2] == "core/mug-2"
    assert first.meta["extra"]["env"] == {"episodeLength": 7, "goal_cond": False}
    assert first["param_visual_feature"].shape == (4, 64)
    assert first["param_z_theta"].shape == (4,)
    assert first.names("tip")[0] == "ffdistal" and "hand_mount" in first.names("body")
