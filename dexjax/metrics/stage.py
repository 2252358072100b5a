"""Hand, object and table as meshes that can be posed: what pictures and the viewer draw."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np

from dexjax.core.errors import DataError, DexjaxError
from dexjax.hands import load_hand
from dexjax.metrics.episodes import OBJECT_QPOS, ObjectReference
from dexjax.objects.builtin import make_shape
from dexjax.objects.mesh import load_raw
from dexjax.render import RenderMesh, model_geometry, pose_geometry
from dexjax.sim.scene import OBJECT_BODY, SceneConfig, hand_spec

# One colour per part of an object, told apart by people with colour blindness (Okabe and Ito).
PART_COLOURS = (
    (0.90, 0.62, 0.10), (0.15, 0.45, 0.70), (0.80, 0.40, 0.65), (0.10, 0.62, 0.45),
    (0.84, 0.37, 0.10), (0.94, 0.89, 0.35), (0.35, 0.70, 0.90),
)  # fmt: skip
TABLE_COLOUR = (0.72, 0.66, 0.58)
Colour = np.ndarray | tuple[float, float, float]
_TABLE_HALF, _TABLE_THICKNESS = 0.5, 0.02  # m
_SAME_SHAPE = 0.02  # of the largest extent: a mesh file whose box differs by more is another one


class HandModel(NamedTuple):
    """A scene's hand as drawn: (body id, mesh in the body frame), and whose finger a body is."""

    model: mujoco.MjModel
    geometry: list[tuple[int, RenderMesh]]
    finger: dict[int, int]  # body id -> index into `finger_names`, -1: palm
    finger_names: tuple[str, ...]


@functools.lru_cache(maxsize=4)
def hand_model(config: SceneConfig, collision: bool = False) -> HandModel:
    """The hand of a scene without any object; collision: its collision shapes, as simulated."""
    hand = load_hand(config.hand)
    spec = hand_spec(config, hand, visual=True)
    body = spec.body(OBJECT_BODY)
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.001, 0, 0], mass=1.0)
    model = spec.compile()
    finger = {model.body(n).id: f for n, f in zip(hand.body_names, hand.body_finger, strict=True)}
    shown = model_geometry(model, (3,) if collision else (0, 1, 2), detail=2)
    geometry = [(b, mesh) for b, mesh in shown if b in finger]
    if collision:
        geometry = [(b, replace(mesh, colour=finger_colour(finger[b]))) for b, mesh in geometry]
    return HandModel(model, geometry, finger, hand.finger_names)


def finger_colour(finger: int) -> tuple[float, float, float]:
    """The colour of a finger in every picture, from the index finger on; -1: palm."""
    colours = (
        (0.90, 0.36, 0.30), (0.96, 0.65, 0.20), (0.35, 0.68, 0.40), (0.27, 0.55, 0.82),
        (0.58, 0.40, 0.74),
    )  # fmt: skip
    return (0.80, 0.81, 0.83) if finger < 0 else colours[finger % len(colours)]


class Stage:
    """A hand, an object and a table, posed by the position coordinates of a scene."""

    def __init__(self, config: SceneConfig, thing: RenderMesh, *, collision: bool = False) -> None:
        self.config, self.thing = config, thing
        self.hand = hand_model(config, collision)
        self._data = mujoco.MjData(self.hand.model)
        self.table = slab(config.table_height)

    def body_poses(self, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World positions (nbody, 3) and quaternions (nbody, 4) at qpos (nq,)."""
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self.hand.model, self._data)
        return self._data.xpos.copy(), self._data.xquat.copy()

    def meshes(self, qpos: np.ndarray) -> list[RenderMesh]:
        """The hand's meshes, then the object, then the table."""
        hand = pose_geometry(self.hand.geometry, *self.body_poses(qpos))
        pose = qpos[OBJECT_QPOS]
        return [*hand, self.thing.at(pose[:3], pose[3:]), self.table]


def object_mesh(reference: ObjectReference) -> tuple[RenderMesh, str | None]:
    """The object in its own frame, coloured by part; with why its convex pieces stand in, if so."""
    try:
        vertices, faces, colour = _referred(reference)
    except DexjaxError as error:
        if not reference.pieces:
            raise DataError(
                f"{error}; the recording has no convex pieces to draw instead"
            ) from None
        return pieces_mesh(reference.pieces), f"{error}; drawn as its convex pieces"
    return RenderMesh(vertices, faces, colour), None


def pieces_mesh(pieces: tuple[np.ndarray, ...]) -> RenderMesh:
    """Convex pieces (n, 3) as one mesh, each in a colour of its own."""
    import trimesh

    hulls = [trimesh.convex.convex_hull(np.asarray(p, float)) for p in pieces]
    colours = np.repeat(
        [PART_COLOURS[i % len(PART_COLOURS)] for i in range(len(hulls))],
        [len(h.faces) for h in hulls],
        axis=0,
    )
    starts = np.cumsum([0, *(len(h.vertices) for h in hulls[:-1])])
    faces = np.concatenate([h.faces + s for h, s in zip(hulls, starts, strict=True)])
    return RenderMesh(np.concatenate([h.vertices for h in hulls]), faces, colours)


def part_colours(face_parts: np.ndarray | None) -> Colour:
    """Colours (F, 3) of the parts of an object, or one where it has none."""
    if face_parts is None:
        return PART_COLOURS[0]
    return np.array(PART_COLOURS)[np.asarray(face_parts) % len(PART_COLOURS)]


def slab(top: float) -> RenderMesh:
    """The table: a square board centred at the origin."""
    half, bottom = _TABLE_HALF, top - _TABLE_THICKNESS
    corners = [(x, y, z) for z in (bottom, top) for y in (-half, half) for x in (-half, half)]
    faces = [
        (0, 2, 1), (1, 2, 3), (4, 5, 6), (5, 7, 6), (0, 1, 4), (1, 5, 4),
        (2, 6, 3), (3, 6, 7), (0, 4, 2), (2, 4, 6), (1, 3, 5), (3, 7, 5),
    ]  # fmt: skip
    return RenderMesh(np.array(corners, float), np.array(faces), TABLE_COLOUR)


def _referred(reference: ObjectReference) -> tuple[np.ndarray, np.ndarray, Colour]:
    """Vertices, faces and colours of the mesh that a reference names, moved into the object frame
    by its bounding box."""
    colour: Colour = PART_COLOURS[0]
    if reference.source == "builtin":
        match = re.fullmatch(r"(\w+)_(\d{3,})(@.*)?", reference.name)
        if match is None:
            raise DataError(f"object {reference.name!r}: no built-in object of this name")
        shape = make_shape(match[1], int(match[2]))
        vertices, faces = shape.vertices, shape.faces
        colour = part_colours(shape.face_parts)
    elif reference.source == "mesh":
        raise DataError(f"object {reference.name!r} was made in memory and has no mesh file")
    else:
        mesh = load_raw(Path(reference.source))
        vertices, faces = np.asarray(mesh.vertices, float), np.asarray(mesh.faces)
    used = vertices[np.unique(faces)]
    low, high = used.min(0), used.max(0)
    wanted = reference.bounds[1] - reference.bounds[0]
    scale = wanted.max() / (high - low).max()
    if np.abs(scale * (high - low) - wanted).max() > _SAME_SHAPE * wanted.max():
        raise DataError(
            f"{reference.source}: its proportions are not those of {reference.name!r} as recorded"
        )
    return scale * (vertices - 0.5 * (low + high)) + reference.bounds.mean(0), faces, colour
