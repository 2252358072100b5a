"""The tendon law of PhysX: a joint without a motor follows its leader and does not load it.

A fixed tendon of MuJoCo pulls both of its joints, equal and opposite. PhysX moves the joint at the
end of the tendon and leaves the other alone (measured: docs/parity.md, "Tendon").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from dexjax.core.errors import ConfigError

# Limit spring and damper of UniDexGrasp's task file, in units of the tendon's length (m).
STIFFNESS, DAMPING = 30.0, 0.1


@dataclass(frozen=True)
class Followers:
    """The tendons of a model, one row each."""

    qpos: np.ndarray  # (n, 2) index of follower and leader in qpos
    dof: np.ndarray  # (n, 2) and in qvel
    coefficient: np.ndarray  # (n, 2) m/rad
    limit: np.ndarray  # (n, 2) lower and upper length, m

    def force(self, qpos: Any, qvel: Any) -> Any:
        """(..., n) torque on the followers at (..., nq), (..., nv); NumPy or JAX, N m."""
        c = self.coefficient
        length = (c * qpos[..., self.qpos]).sum(-1)
        speed = (c * qvel[..., self.dof]).sum(-1)
        beyond = (length - self.limit[:, 1]).clip(min=0) + (length - self.limit[:, 0]).clip(max=0)
        return (-STIFFNESS * beyond - DAMPING * speed) / c[:, 0]


def followers(model: mujoco.MjModel) -> Followers:
    """The model's fixed tendons over two hinges, one of them without an actuator.

    Raises ConfigError for other tendons.
    """
    driven = set(model.actuator_trnid[model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT, 0])
    joints, coefficients = [], []
    for t in range(model.ntendon):
        wraps = range(model.tendon_adr[t], model.tendon_adr[t] + model.tendon_num[t])
        pairs = sorted(
            (model.wrap_objid[w] in driven, int(model.wrap_objid[w]), model.wrap_prm[w])
            for w in wraps
        )
        if [p[0] for p in pairs] != [False, True]:
            raise ConfigError(
                f"tendon {model.tendon(t).name!r} does not lead one joint by one driven joint; "
                "use tendon law 'mujoco'"
            )
        joints.append([p[1] for p in pairs])
        coefficients.append([p[2] for p in pairs])
    index = np.array(joints, int).reshape(-1, 2)
    return Followers(
        qpos=model.jnt_qposadr[index],
        dof=model.jnt_dofadr[index],
        coefficient=np.array(coefficients, float).reshape(-1, 2),
        limit=model.tendon_range.copy(),
    )
