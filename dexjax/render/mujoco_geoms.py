"""What a compiled MuJoCo model looks like, as meshes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mujoco
import numpy as np
import trimesh

from dexjax.render.scene import RenderMesh, rotation_matrix


def model_geometry(
    model: mujoco.MjModel, groups: Iterable[int] = (0, 1, 2), *, detail: int = 3
) -> list[tuple[int, RenderMesh]]:
    """(body id, mesh in the body frame) of every visible geom in `groups`; planes are left out.

    detail: 3, or 2 for a quarter of the triangles on round shapes (small pictures, videos).
    """
    wanted, out = set(groups), []
    for g in range(model.ngeom):
        rgba = model.geom_rgba[g]
        if model.geom_matid[g] >= 0 and np.allclose(rgba, (0.5, 0.5, 0.5, 1.0)):
            rgba = model.mat_rgba[model.geom_matid[g]]  # MuJoCo's rule: the geom's own colour wins
        if int(model.geom_group[g]) not in wanted or rgba[3] == 0:
            continue
        shape = _geom_mesh(model, g, detail)
        if shape is None:
            continue
        vertices = shape[0] @ rotation_matrix(model.geom_quat[g]).T + model.geom_pos[g]
        mesh = RenderMesh(vertices, shape[1], tuple(float(c) for c in rgba[:3]))
        out.append((int(model.geom_bodyid[g]), mesh))
    return out


def pose_geometry(
    geometry: Sequence[tuple[int, RenderMesh]], xpos: np.ndarray, xquat: np.ndarray
) -> list[RenderMesh]:
    """`model_geometry` at body poses xpos (nbody, 3), xquat (nbody, 4), as recorded per frame."""
    return [mesh.at(xpos[body], xquat[body]) for body, mesh in geometry]


def scene_meshes(
    model: mujoco.MjModel, xpos: np.ndarray, xquat: np.ndarray, groups: Iterable[int] = (0, 1, 2)
) -> list[RenderMesh]:
    """Visual geoms of a model at body poses; for many frames use `model_geometry` once."""
    return pose_geometry(model_geometry(model, groups), xpos, xquat)


def _geom_mesh(model: mujoco.MjModel, g: int, detail: int) -> tuple[np.ndarray, np.ndarray] | None:
    kind, size = mujoco.mjtGeom(model.geom_type[g]), model.geom_size[g]
    create = trimesh.creation
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        mesh = create.icosphere(detail, size[0])
    elif kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
        mesh = create.icosphere(detail).apply_scale(size)
    elif kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        mesh = create.capsule(2 * size[1], size[0], count=[2 << detail, 3 << detail])
        mesh.vertices[:, 2] -= mesh.bounds.mean(0)[2]
    elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        mesh = create.cylinder(size[0], 2 * size[1], sections=32)
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        mesh = create.box(2 * size)
    elif kind in (mujoco.mjtGeom.mjGEOM_MESH, mujoco.mjtGeom.mjGEOM_SDF):
        m = model.geom_dataid[g]
        if m < 0:
            return None
        v, f = model.mesh_vertadr[m], model.mesh_faceadr[m]
        return (
            model.mesh_vert[v : v + model.mesh_vertnum[m]].astype(float),
            model.mesh_face[f : f + model.mesh_facenum[m]],
        )
    else:
        return None
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)
