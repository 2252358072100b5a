"""The `mjx` engine: MuJoCo's dynamics in JAX, end to end inside XLA, thousands of objects at once.

MJX computes kinematics, inertia, forces and the integration. Contacts come from signed distance
grids (`dexjax.sim.contact`), so that an object is an index and not a compiled mesh; the constraint
problem is MuJoCo's, solved by `dexjax.sim.newton`.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct

from dexjax.core.errors import ConfigError
from dexjax.sim import _mjx_layout as layout
from dexjax.sim.chain import chain, kinematics
from dexjax.sim.contact import Contacts, find_contacts, hand_shape
from dexjax.sim.divergence import MAX_POSITION, MAX_SPEED, DivergenceLog
from dexjax.sim.followers import followers
from dexjax.sim.mjx_scene import MjxScene
from dexjax.sim.newton import Problem, contact_force, residuals, solve
from dexjax.sim.physics import PhysicsConfig
from dexjax.sim.scene import OBJECT_BODY, Scene
from dexjax.sim.types import Control, SimState

SLOTS = (16, 6, 4)  # contacts kept: hand with object, hand with table, object with table
TOLERANCE = 1e-6  # of the solver: Newton's last step lands far below what it was expected to gain
_MIN = 1e-15  # mjMINVAL


@struct.dataclass
class MjxState(SimState):
    """`SimState`, and what this engine counts."""

    contacts_dropped: jax.Array  # (B,) contacts beyond the slots in the last physics step
    solver_steps: jax.Array  # (B,) Newton steps of the last physics step
    divergences: jax.Array  # (B,) int32 since `init`
    last_diverged: dict[str, jax.Array]  # start and control of each environment's last divergence


@struct.dataclass
class _Object:
    """One environment's rows of the model."""

    body_mass: jax.Array
    body_inertia: jax.Array
    body_iquat: jax.Array
    body_invweight0: jax.Array
    dof_invweight0: jax.Array


class MjxEngine:
    """`num_envs` simulations of one scene; see `dexjax.sim.types.Engine`.

    slots: contacts kept of the hand with the object, the hand with the table and the object with
    the table. Raises ConfigError for a scene without distance grids, a pyramidal cone, and versions
    of MJX whose private layout is unknown.
    """

    def __init__(
        self,
        scene: Scene,
        num_envs: int,
        physics: PhysicsConfig,
        *,
        slots: tuple[int, int, int] = SLOTS,
    ) -> None:
        if not isinstance(scene, MjxScene):
            raise ConfigError(
                "engine 'mjx' needs a scene with distance grids: "
                "dexjax.sim.mjx_scene.build_mjx_scene(assets, config), assets built with sdf=True"
            )
        if physics.cone != "elliptic":
            raise ConfigError(
                f"engine 'mjx' has no {physics.cone} friction cone; use cone 'elliptic' or "
                "--engine native"
            )
        self.scene = scene
        self.num_envs = num_envs
        self.physics = physics
        self.divergences = DivergenceLog()
        self.seconds = 0.0  # not measurable inside a jitted program
        model = scene.model.__copy__()
        physics.apply(model)
        model.opt.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
        self.model = model
        self._chain = chain(model)
        self._mjx = layout.put_model(model)
        self._data = layout.make_data(self._mjx)
        self._num_loss = layout.num_friction_rows(self._mjx)
        self._several = layout.tendon_rows(self._mjx)
        self._shape = hand_shape(scene.hand, scene.body_ids.tolist())
        self.slots = slots
        self._object = model.body(OBJECT_BODY).id
        self._fields = {n: jnp.asarray(v, jnp.float32) for n, v in scene.object_fields.items()}
        self._dof_mask = _dof_mask(model)
        self._dof_root = model.body_rootid[model.dof_bodyid]
        self._solref, self._solimp = _contact_softness(model)
        self._friction = 1.0
        hand = scene.hand
        finger = np.full(model.nbody, -1)
        finger[scene.body_ids[:-1]] = hand.body_finger
        tip = np.full(model.nbody, -1)
        tips = scene.body_ids[list(hand.fingertip_body)]
        tip[tips] = np.arange(len(tips))
        self._body_finger, self._body_tip, self._tips = finger, tip, tips
        self._palm = int(scene.body_ids[hand.palm_body])
        hand_dof = np.ones(model.nv, bool)
        hand_dof[scene.object_qvel : scene.object_qvel + 6] = False
        self._hand_dof = hand_dof
        self._wrench_base = scene.config.base == "wrench"
        if self._wrench_base:
            self._drag = physics.link_drag()
        self._followers = followers(model) if physics.tendon == "physx" and model.ntendon else None

    # --- contract ---------------------------------------------------------------------------

    def init(
        self, object_id: jax.Array, qpos: jax.Array, qvel: jax.Array, object_params: jax.Array
    ) -> MjxState:
        """State of all environments at the given positions, derived quantities computed."""
        num, fingers = object_id.shape[0], len(self.scene.hand.finger_names)
        pose = jax.vmap(self._pose)(self._rows(object_id, object_params), qpos, qvel)
        zeros = jnp.zeros(num)
        return MjxState(
            object_id,
            object_params,
            qpos,
            qvel,
            jnp.zeros_like(qvel),
            *pose,
            finger_force=jnp.zeros((num, fingers, 3)),
            tip_wrench=jnp.zeros((num, fingers, 6)),
            table_force=zeros,
            joint_force=jnp.zeros((num, len(self.scene.finger_qvel))),
            finite=jnp.ones(num, bool),
            contacts_dropped=zeros,
            solver_steps=zeros,
            divergences=jnp.zeros(num, jnp.int32),
            last_diverged={
                "object_id": jnp.zeros(num, jnp.int32),
                "qpos": jnp.zeros_like(qpos),
                "qvel": jnp.zeros_like(qvel),
                "ctrl": jnp.zeros((num, self.model.nu)),
            },
        )

    def step(self, state: SimState, control: Control) -> MjxState:
        """One control period: `physics.substeps` steps, compiled once each."""
        assert isinstance(state, MjxState)
        rows = self._rows(state.object_id, state.object_params)
        qpos, qvel, warm, out = jax.vmap(self._steps)(
            rows,
            state.object_id,
            state.object_params[:, 1],
            state.qpos,
            state.qvel,
            state.warmstart,
            control.ctrl,
            control.wrench,
        )
        finite = jnp.isfinite(warm).all(1)
        finite &= (jnp.abs(qvel) < MAX_SPEED).all(1) & (jnp.abs(qpos) < MAX_POSITION).all(1)
        for x in jax.tree.leaves(out):
            finite &= jnp.isfinite(x).reshape(x.shape[0], -1).all(1)

        def keep(good: jax.Array, bad: jax.Array) -> jax.Array:
            return jnp.where(finite.reshape(-1, *[1] * (good.ndim - 1)), good, bad)

        # A diverged environment rests where the step began, or at the initial position if that was
        # not finite either, until it is reset.
        sound = (jnp.abs(state.qpos) < MAX_POSITION).all(1)
        rest = jnp.where(sound[:, None], state.qpos, jnp.asarray(self.model.qpos0, qpos.dtype))
        qpos, qvel, warm = (
            keep(qpos, rest),
            keep(qvel, 0 * rest[:, :1]),
            keep(warm, 0 * rest[:, :1]),
        )
        forces = {k: keep(v, jnp.zeros_like(v)) for k, v in out.items()}
        pose = jax.vmap(self._pose)(rows, qpos, qvel)
        start = {
            "object_id": state.object_id, "qpos": state.qpos, "qvel": state.qvel,
            "ctrl": control.ctrl,
        }  # fmt: skip
        start = jax.tree.map(lambda x: jnp.nan_to_num(x) if x.dtype == jnp.float32 else x, start)
        return MjxState(
            state.object_id,
            state.object_params,
            qpos,
            qvel,
            warm,
            *pose,
            finite=finite,
            divergences=state.divergences + ~finite,
            last_diverged=jax.tree.map(keep, state.last_diverged, start),
            **forces,
        )

    def reset_where(
        self,
        state: SimState,
        mask: jax.Array,
        object_id: jax.Array,
        qpos: jax.Array,
        qvel: jax.Array,
        object_params: jax.Array,
    ) -> MjxState:
        """`init` for the environments in `mask`; divergences stay counted."""
        assert isinstance(state, MjxState)

        def pick(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        new = self.init(object_id, qpos, qvel, object_params)
        new = new.replace(divergences=state.divergences, last_diverged=state.last_diverged)
        return jax.tree.map(pick, new, state)

    def save_divergences(self, state: SimState, path: Path) -> None:
        """Write the last divergence of every environment that ever diverged to an .npz.

        Arrays may have leading axes before that of the environments (seeds).
        """
        assert isinstance(state, MjxState)
        count = np.asarray(state.divergences)
        log = DivergenceLog(keep=count.size)
        start = {k: np.asarray(v) for k, v in state.last_diverged.items()}
        rows = {k: v.reshape(count.size, *v.shape[count.ndim :]) for k, v in start.items()}
        for i in np.flatnonzero(count):
            log.add(**{k: v[i] for k, v in rows.items()})
        log.count = int(count.sum())
        log.save(path)

    # --- one environment --------------------------------------------------------------------

    def _rows(self, object_id: jax.Array, params: jax.Array) -> _Object:
        """Model rows of each environment's object, its mass and inertia times the mass factor."""
        rows = {n: v[object_id] for n, v in self._fields.items()}
        mass, at = params[:, 0], self._object
        dof = slice(self.scene.object_qvel, self.scene.object_qvel + 6)
        rows["body_mass"] = rows["body_mass"].at[:, at].multiply(mass)
        rows["body_inertia"] = rows["body_inertia"].at[:, at].multiply(mass[:, None])
        rows["body_invweight0"] = rows["body_invweight0"].at[:, at].divide(mass[:, None])
        rows["dof_invweight0"] = rows["dof_invweight0"].at[:, dof].divide(mass[:, None])
        return _Object(**rows)

    def _pose(
        self, row: _Object, qpos: jax.Array, qvel: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Positions, quaternions, linear and angular velocities of the scene's bodies."""
        model = self._mjx.replace(**vars(row))
        data = self._data.replace(qpos=qpos, qvel=qvel)
        data = layout.pose_stage(model, data, self._kinematics(row.body_iquat, qpos))
        ids = self.scene.body_ids
        cvel = data.cvel[ids]
        arm = data.xpos[ids] - data.subtree_com[self.model.body_rootid[ids]]
        linear = cvel[:, 3:] + jnp.cross(cvel[:, :3], arm)
        return data.xpos[ids], data.xquat[ids], linear, cvel[:, :3]

    def _kinematics(self, body_iquat: jax.Array, qpos: jax.Array) -> dict[str, jax.Array]:
        return kinematics(self.model, self._chain, qpos, body_iquat)

    def _steps(
        self,
        row: _Object,
        object_id: jax.Array,
        friction: jax.Array,
        qpos: jax.Array,
        qvel: jax.Array,
        warm: jax.Array,
        ctrl: jax.Array,
        wrench: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array, dict[str, jax.Array]]:
        """All substeps of one environment; forces are those of the last one."""
        model = self._mjx.replace(**vars(row))

        def substep(carry, k):
            data = self._data.replace(
                qpos=carry[0], qvel=carry[1], qacc_warmstart=carry[2], ctrl=ctrl
            )
            data, out = self._substep(model, data, object_id, friction, wrench, k)
            return (data.qpos, data.qvel, data.qacc_warmstart), out

        steps = jnp.arange(self.physics.substeps)
        state, out = jax.lax.scan(substep, (qpos, qvel, warm), steps)
        return *state, jax.tree.map(lambda x: x[-1], out)

    def _substep(self, model, data, object_id, friction, wrench, k):
        poses = self._kinematics(model.body_iquat, data.qpos)
        data = layout.position_stage(model, data, poses)
        contacts, dropped = find_contacts(
            self._shape,
            self.scene.table,
            object_id,
            data.xpos,
            data.xmat,
            self._object,
            self.scene.config.table_height,
            self.slots,
        )
        rows = layout.joint_rows(model, data)
        if self._wrench_base:
            pushed = self._damped_wrench(data, wrench) * (k % self._drag.every == 0)
            data = data.replace(qfrc_applied=pushed)
        if self._followers:
            torque = self._followers.force(data.qpos, data.qvel)
            applied = data.qfrc_applied.at[self._followers.dof[:, 0]].add(torque)
            data = data.replace(qfrc_applied=applied)
        data = layout.velocity_stage(model, data)
        problem, frame = self._problem(model, data, rows, contacts, friction)
        start = jnp.where(
            jnp.isfinite(data.qacc_warmstart).all(), data.qacc_warmstart, data.qacc_smooth
        )
        qacc, count = solve(
            problem,
            start,
            self.physics.iterations,
            self.physics.ls_iterations,
            max(self.physics.tolerance, TOLERANCE),
        )
        x, y = residuals(problem, qacc)
        local = contact_force(problem, y)
        pull = (
            problem.mass @ qacc - problem.force
        )  # what the constraints add: exact at the solution
        data = data.replace(qacc=qacc, qfrc_constraint=pull)
        out = self._forces(data, contacts, (local[:, :, None] * frame).sum(1))
        out |= {
            "contacts_dropped": dropped.astype(jnp.float32),
            "solver_steps": count.astype(jnp.float32),
        }
        return layout.integrate(model, data), out

    def _problem(self, model, data, rows, contacts: Contacts, friction: jax.Array):
        """The constraint problem, with MuJoCo's rows of the contacts (`mj_makeImpedance`)."""
        frame = _frames(contacts.normal)  # (c, 3, 3) rows: normal, two tangents
        mask = jnp.asarray(self._dof_mask)
        sign = mask[contacts.body2] - mask[contacts.body1]  # (c, nv)
        arm = contacts.pos[:, None] - data.subtree_com[self._dof_root][None]  # (c, nv, 3)
        moved = data.cdof[:, 3:] + jnp.cross(data.cdof[:, :3], arm)
        active = contacts.dist < 0
        jac = jnp.einsum("cik,cvk->civ", frame, moved * sign[..., None])
        jac = jac * active[:, None, None]
        depth = contacts.dist
        k, b, imp = jax.vmap(lambda d: layout.impedance(model, self._solref, self._solimp, d))(
            depth
        )
        weight = model.body_invweight0[:, 0]
        weight = weight[contacts.body1] + weight[contacts.body2]
        weight = weight[:, None] * jnp.array(
            [1.0, 1 / self.physics.impratio, 1 / self.physics.impratio]
        )
        regular = jnp.maximum(weight * ((1 - imp) / imp)[:, None], _MIN)
        reference = -b[:, None] * (jac @ data.qvel)
        reference = reference.at[:, 0].add(-k * imp * depth * active)
        of_object = (contacts.body1 == self._object) | (contacts.body2 == self._object)
        mu = jnp.where(of_object, friction, self._friction)  # the object's coefficient has priority
        problem = Problem(
            mass=layout.mass_matrix(data),
            force=data.qfrc_smooth,
            jac=rows.jacobian,
            stiffness=rows.stiffness,
            reference=rows.reference,
            loss=rows.friction_loss,
            contact_jac=jac,
            contact_stiffness=1 / regular,
            contact_reference=reference,
            friction=mu,
            cone=mu / np.sqrt(self.physics.impratio),
            num_loss=self._num_loss,
            several=self._several,
        )
        return problem, frame

    def _forces(self, data, contacts: Contacts, force: jax.Array) -> dict[str, jax.Array]:
        """Sums of contact forces (c, 3), world axes, on body 2 of each contact."""
        hand_body = jnp.where(contacts.body2 == self._object, contacts.body1, contacts.body2)
        on_hand = jnp.where((contacts.body2 == self._object)[:, None], -force, force)
        on_hand = jnp.where((hand_body == 0)[:, None], 0.0, on_hand)  # table with object
        table = contacts.body1 == 0
        finger = jnp.asarray(self._body_finger)[hand_body]
        fingers = len(self.scene.hand.finger_names)
        of_finger = (finger[None] == jnp.arange(fingers)[:, None]) & ~table[None]
        tip = jnp.asarray(self._body_tip)[hand_body]
        of_tip = tip[None] == jnp.arange(fingers)[:, None]
        arm = contacts.pos[None] - data.xpos[self._tips][:, None]
        torque = jnp.cross(arm, on_hand[None])
        of_tip = of_tip.astype(force.dtype)
        wrench = jnp.concatenate(
            [of_tip @ on_hand, jnp.einsum("fc,fck->fk", of_tip, torque)], axis=-1
        )
        total = (on_hand * table[:, None]).sum(0)
        square = (total**2).sum()
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        return {
            "finger_force": of_finger.astype(force.dtype) @ on_hand,
            "tip_wrench": wrench,
            "table_force": norm,
            "joint_force": data.qfrc_actuator[self.scene.finger_qvel],
        }

    def _damped_wrench(self, data, wrench: jax.Array) -> jax.Array:
        """(nv,) drag of PhysX link damping c on every link, -c m v, and the palm's wrench times
        1 - c dt, as in `native`. The drag of all links is -c (M - armature) qvel."""
        mass = layout.mass_matrix(data) - jnp.diag(
            jnp.asarray(self.model.dof_armature, jnp.float32)
        )
        drag = -self._drag.coefficient * (mass @ data.qvel) * self._hand_dof
        arm = data.xipos[self._palm] - data.subtree_com[self._dof_root]
        moved = data.cdof[:, 3:] + jnp.cross(data.cdof[:, :3], arm)
        push = moved @ wrench[:3] + data.cdof[:, :3] @ wrench[3:]
        return drag + self._drag.share * push * self._dof_mask[self._palm]


def _frames(normal: jax.Array) -> jax.Array:
    """(c, 3, 3) frames whose first row is the normal; MuJoCo's `mju_makeFrame`."""
    y, z = jnp.array([0.0, 1.0, 0.0]), jnp.array([0.0, 0.0, 1.0])
    other = jnp.where((jnp.abs(normal[:, 1]) < 0.5)[:, None], y, z)
    other = other - normal * (normal * other).sum(-1, keepdims=True)
    other = other / jnp.sqrt((other**2).sum(-1, keepdims=True))
    return jnp.stack([normal, other, jnp.cross(normal, other)], axis=1)


def _dof_mask(model: mujoco.MjModel) -> np.ndarray:
    """(nbody, nv) 1 where a degree of freedom moves a body."""
    mask = np.zeros((model.nbody, model.nv), np.float32)
    for body in range(1, model.nbody):
        mask[body] = mask[model.body_parentid[body]]
        start = model.body_dofadr[body]
        mask[body, start : start + model.body_dofnum[body]] = 1
    return mask


def _contact_softness(model: mujoco.MjModel) -> tuple[jax.Array, jax.Array]:
    """solref and solimp of all contacts. Raises ConfigError if geoms differ."""
    if (model.geom_solref != model.geom_solref[0]).any() or (
        model.geom_solimp != model.geom_solimp[0]
    ).any():
        raise ConfigError("engine 'mjx' needs the same solref and solimp in all geoms of the hand")
    if model.geom_margin.any():
        raise ConfigError("engine 'mjx' has no contact margins; remove `margin` from the hand")
    as_f32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return as_f32(model.geom_solref[0]), as_f32(model.geom_solimp[0])
