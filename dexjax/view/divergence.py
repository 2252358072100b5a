"""Dumped states of simulations that diverged: each with the physics steps that followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from dexjax.core.errors import DataError, DexjaxError
from dexjax.core.safe_io import read_npz
from dexjax.metrics.episodes import Episode, ObjectReference
from dexjax.objects.select import select_objects
from dexjax.rl.trained import read_settings
from dexjax.sim.divergence import MAX_POSITION, MAX_SPEED
from dexjax.sim.followers import followers
from dexjax.sim.physics import physics_preset
from dexjax.sim.scene import SceneConfig, build_scene

_FIELDS = ("object_id", "qpos", "qvel", "ctrl")


def read_divergences(path: Path) -> tuple[list[Episode], list[str]]:
    """Each dumped state as a short episode of physics steps, and what was wrong with it.

    The run's config.json beside the file names hand, objects and physics. Raises DataError where
    the file is no dump or there is no config.json.
    """
    arrays = read_npz(path)
    missing = [k for k in _FIELDS if k not in arrays]
    if missing:
        raise DataError(f"{path}: field {missing[0]} is missing, so it is no dump of divergences")
    _, settings = read_settings(path.parent)
    config = getattr(settings.task, "scene", None)
    if not isinstance(config, SceneConfig):
        raise DataError(f"{path.parent}: its environment {settings.env!r} has no scene to show")
    try:
        assets = select_objects(settings.train.objects).assets
    except DexjaxError as error:
        raise DataError(f"{path}: the objects of its run cannot be had: {error}") from error
    episodes, notes = [], []
    for i, object_id in enumerate(arrays["object_id"]):
        if not 0 <= object_id < len(assets):
            raise DataError(
                f"{path}: object_id[{i}] is {object_id}, the run's objects are {len(assets)} now"
            )
        asset = assets[int(object_id)]
        row = {k: np.asarray(arrays[k][i], float) for k in ("qpos", "qvel", "ctrl")}
        scene = build_scene([asset], config)
        sizes = {"qpos": scene.model.nq, "qvel": scene.model.nv, "ctrl": scene.model.nu}
        for name, size in sizes.items():
            if row[name].shape != (size,):
                raise DataError(f"{path}: {name}[{i}] has {row[name].shape}, not ({size},)")
        path_qpos, note, dt = _follow(scene.model, settings.task, **row)
        notes.append(f"{asset.name}: {note}")
        reference = ObjectReference.of(asset)
        episodes.append(Episode(config, reference, dt, path_qpos, {"diverged": True}, {}))
    return episodes, notes


def _follow(
    model: mujoco.MjModel, task: Any, qpos: np.ndarray, qvel: np.ndarray, ctrl: np.ndarray
) -> tuple[np.ndarray, str, float]:
    """Positions (T, nq) of the steps of one control period from the dumped state, what was found
    wrong, and the time step. The wrench base's wrench is not dumped; it and its drag are left out.
    """
    physics = physics_preset(getattr(task, "physics", "reference"))
    physics = physics.in_period(getattr(task, "control_dt", physics.control_dt))
    one_way = followers(model) if physics.tendon == "physx" and model.ntendon else None
    physics.apply(model)
    data = mujoco.MjData(model)
    broken = [n for n, v in (("qpos", qpos), ("qvel", qvel), ("ctrl", ctrl)) if not _finite(v)]
    if broken:
        rest = np.where(np.isfinite(qpos), qpos, model.qpos0)
        said = f"not finite at the start: {', '.join(broken)}; such numbers are drawn at rest"
        return np.stack([rest, rest]), said, physics.timestep
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, ctrl
    rows, fastest, depth = [qpos], float(np.abs(qvel).max()), 0.0
    for _ in range(physics.substeps):
        if one_way is not None:
            data.qfrc_applied[one_way.dof[:, 0]] = one_way.force(data.qpos, data.qvel)
        mujoco.mj_step(model, data)
        depth = min([depth, *data.contact.dist])
        sound = _finite(data.qpos) and np.abs(data.qpos).max() < MAX_POSITION
        if not sound or not np.abs(data.qvel).max() < MAX_SPEED:
            break
        fastest = max(fastest, float(np.abs(data.qvel).max()))
        rows.append(data.qpos.copy())
    rows.append(rows[-1])  # a timeline needs two
    what = "diverges again" if len(rows) < physics.substeps + 2 else "does not diverge here"
    said = (
        f"{what} within {physics.substeps} steps; fastest coordinate {fastest:.3g} per second, "
        f"deepest contact {-1000 * depth:.2f} mm"
    )
    return np.stack(rows), said, physics.timestep


def _finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())
