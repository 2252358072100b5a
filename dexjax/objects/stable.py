"""Resting poses of an object on a plane: statics of the hull, checked by dropping in MuJoCo."""

from __future__ import annotations

import mujoco
import numpy as np
from scipy.spatial import ConvexHull

from dexjax.objects.asset import StablePoses

MAX_POSES = 8
SAME_POSE = np.cos(np.deg2rad(10.0))  # up directions closer than this are one pose
SAME_HEIGHT = 1e-3  # m: resting poses of one height are sides of one round body
DROP_HEIGHT = 0.003  # m
TIMESTEP = 1 / 240  # s
MAX_SECONDS = 3.0  # per drop; what still rolls or slides then is not a resting pose
ROCKING = np.cos(np.deg2rad(3.0))  # turned by less in the last half second: trembling, at rest


def stable_poses(
    pieces: list[np.ndarray], mass: float, inertia: np.ndarray, max_poses: int = MAX_POSES
) -> tuple[StablePoses, tuple[str, ...]]:
    """Up to `max_poses` resting poses of a body of convex pieces (centre of mass at the origin).

    Candidates are the hull's faces that hold the centre of mass; each is dropped 3 mm in MuJoCo
    and kept where it settles. Most probable first, yaw removed. At least one is returned: if no
    candidate settles, random drops are tried, and last the lowest face, with a note.
    """
    points = np.concatenate(pieces)
    ups, weight = resting_directions(points)
    ups, weight = _merge(ups, weight)
    ups, weight = _representatives(points, ups, weight, max_poses)
    drop = _Dropper(pieces, mass, inertia)
    notes: tuple[str, ...] = ()
    settled, settled_weight = drop.settle(ups, weight)
    if len(settled) == 0:
        rng = np.random.default_rng(0)
        random = rng.normal(size=(8, 3))
        random /= np.linalg.norm(random, axis=1, keepdims=True)
        settled, settled_weight = drop.settle(random, np.full(8, 1 / 8), seconds=6.0)
        notes = ("stable poses from random drops",)
    if len(settled) == 0:
        settled, settled_weight = ups[:1], np.ones(1)
        notes = ("no pose came to rest when dropped: the lowest face is used",)
    settled, settled_weight = _merge(settled, settled_weight)
    order = np.argsort(-settled_weight, kind="stable")
    settled, settled_weight = settled[order], settled_weight[order]
    return (
        StablePoses(
            quat=np.stack([upright_quat(up) for up in settled]),
            height=np.array([-(points @ up).min() for up in settled]),
            probability=settled_weight / settled_weight.sum(),
        ),
        notes,
    )


def _representatives(
    points: np.ndarray, ups: np.ndarray, weight: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most `count` poses that stand for all: one of each height first, then by probability.

    A round body rests on each of its many sides at one height; by probability alone these would
    crowd out its standing poses. The weight of poses left out goes to those of the same height.
    """
    height = -(points @ ups.T).min(axis=0)
    by_height = np.argsort(height, kind="stable")
    group = np.empty(len(ups), int)
    group[by_height] = np.cumsum(np.diff(height[by_height], prepend=height.min()) > SAME_HEIGHT)
    by_weight = np.argsort(-weight, kind="stable")
    _, first = np.unique(group[by_weight], return_index=True)
    order = np.concatenate([by_weight[np.sort(first)], np.delete(by_weight, first)])
    keep = np.sort(order[:count])
    total = np.bincount(group, weight)
    kept = np.bincount(group[keep], weight[keep], minlength=len(total))
    return ups[keep], weight[keep] * total[group[keep]] / kept[group[keep]]


def resting_directions(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Up directions (P, 3) in which a hull can stand, and their probability (P,).

    Quasi-static model (Goldberg et al. 1999): a face is reached with the solid angle it spans at
    the centre of mass; if that lies outside the face, the body rolls over the edge it lies
    beyond, on to the neighbour. Centre of mass at the origin.
    """
    hull = ConvexHull(points)
    normal, offset = hull.equations[:, :3], hull.equations[:, 3]
    corner = hull.points[hull.simplices]  # (F, 3, 3)
    foot = -offset[:, None] * normal  # projection of the centre of mass on each face's plane
    # Height of the foot inside each edge; neighbours[:, k] lies across the edge opposite to k.
    inside = np.empty((len(corner), 3))
    for k in range(3):
        a, b = corner[:, (k + 1) % 3], corner[:, (k + 2) % 3]
        across = np.cross(b - a, normal)
        across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-30)
        side = np.einsum("ij,ij->i", corner[:, k] - a, across)
        inside[:, k] = np.einsum("ij,ij->i", foot - a, across) * np.sign(side)
    worst = inside.argmin(axis=1)
    size = np.ptp(points, axis=0).max()
    rolls = inside[np.arange(len(corner)), worst] < -1e-9 * size
    target = np.where(rolls, hull.neighbors[np.arange(len(corner)), worst], np.arange(len(corner)))
    # A roll lowers the centre of mass; where it would not (numerical ties), the face stands.
    height = -offset
    target = np.where(height[target] < height + 1e-12 * size, target, np.arange(len(corner)))
    tie = (target != np.arange(len(corner))) & (target[target] == np.arange(len(corner)))
    target = np.where(tie & (np.arange(len(corner)) < target), np.arange(len(corner)), target)
    for _ in range(int(np.ceil(np.log2(len(corner)))) + 1):
        target = target[target]
    a, b, c = corner.transpose(1, 0, 2)
    la, lb, lc = (np.linalg.norm(x, axis=1) for x in (a, b, c))
    dot = lambda p, q: np.einsum("ij,ij->i", p, q)  # noqa: E731
    solid_angle = 2 * np.arctan2(
        np.abs(dot(a, np.cross(b, c))),
        la * lb * lc + dot(a, b) * lc + dot(b, c) * la + dot(c, a) * lb,
    )
    total = np.bincount(target, solid_angle, minlength=len(corner))
    sinks = np.flatnonzero(total > 0)
    return -normal[sinks], total[sinks] / total.sum()


def upright_quat(up: np.ndarray) -> np.ndarray:
    """(4,) wxyz: the shortest rotation that turns the object-frame direction `up` to world +z."""
    up = np.asarray(up, np.float64) / np.linalg.norm(up)
    across = up[0] ** 2 + up[1] ** 2
    # 1 + z without cancellation near -z.
    w = across / (1.0 - up[2]) if up[2] < 0 else 1.0 + up[2]
    if across < 1e-30 and up[2] < 0:
        return np.array([0.0, 1.0, 0.0, 0.0])  # half a turn about x
    quat = np.array([w, up[1], -up[0], 0.0])
    return quat / np.linalg.norm(quat)


def _merge(ups: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join directions within 10 degrees of a more probable one, adding their weights."""
    order = np.argsort(-weight, kind="stable")
    kept: list[np.ndarray] = []
    total: list[float] = []
    for i in order:
        near = np.array(kept) @ ups[i] if kept else np.empty(0)
        if near.size and near.max() > SAME_POSE:
            total[int(near.argmax())] += float(weight[i])
        else:
            kept.append(ups[i])
            total.append(float(weight[i]))
    return np.array(kept), np.array(total)


class _Dropper:
    """A body of convex pieces above a plane, compiled once."""

    def __init__(self, pieces: list[np.ndarray], mass: float, inertia: np.ndarray):
        spec = mujoco.MjSpec()
        spec.option.timestep = TIMESTEP
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
        spec.option.impratio = 10
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1])
        body = spec.worldbody.add_body(name="object")
        body.add_freejoint()
        body.mass = mass
        body.ipos = np.zeros(3)
        body.fullinertia = inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
        body.explicitinertial = True
        for i, piece in enumerate(pieces):
            spec.add_mesh(name=f"p{i}", uservert=np.asarray(piece, np.float32).reshape(-1))
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"p{i}", conaffinity=0
            )  # fmt: skip
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.points = np.concatenate(pieces)
        self.size = float(np.linalg.norm(self.points, axis=1).max())

    def settle(
        self, ups: np.ndarray, weight: np.ndarray, seconds: float = MAX_SECONDS
    ) -> tuple[np.ndarray, np.ndarray]:
        """The up directions after dropping from each of `ups`; those still moving are left out."""
        rested = [(self._drop(up, seconds), w) for up, w in zip(ups, weight, strict=True)]
        rested = [(up, w) for up, w in rested if up is not None]
        if not rested:
            return np.empty((0, 3)), np.empty(0)
        return np.array([up for up, _ in rested]), np.array([w for _, w in rested])

    def _drop(self, up: np.ndarray, seconds: float) -> np.ndarray | None:
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        data.qpos[2] = DROP_HEIGHT - (self.points @ up).min()
        data.qpos[3:7] = upright_quat(up)
        still, steps = 0, int(seconds / TIMESTEP)
        before, place = up, data.qpos[:3].copy()
        for step in range(steps):
            mujoco.mj_step(model, data)
            if not np.isfinite(data.qpos).all() or abs(data.qpos[:3]).max() > 100 * self.size:
                return None
            # 5 mm/s anywhere on the body; the first tenth of a second is the fall.
            speed = np.linalg.norm(data.qvel[:3]) + self.size * np.linalg.norm(data.qvel[3:])
            still = still + 1 if speed < 0.005 and step > 0.1 / TIMESTEP else 0
            if still >= 12:
                after = self._up()
                return up if after @ up > SAME_POSE else after
            if step == steps - int(0.5 / TIMESTEP):
                before, place = self._up(), data.qpos[:3].copy()
        # Thin light things tremble on their contacts for ever (forks, knives).
        after = self._up()
        if after @ before < ROCKING or np.abs(data.qpos[:3] - place).max() > 0.002:
            return None
        return up if after @ up > SAME_POSE else after

    def _up(self) -> np.ndarray:
        """The world's up in the object frame: row z of the rotation."""
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, self.data.qpos[3:7])
        return rotation.reshape(3, 3)[2]
