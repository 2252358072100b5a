"""Episode files: what is written is read, damage is named, missing meshes have a stand-in."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from dexjax.core.errors import DataError
from dexjax.metrics import stage
from dexjax.metrics.episodes import (
    FIELDS,
    Episode,
    ObjectReference,
    ending,
    read_episodes,
    with_contacts,
    write_episodes,
)
from dexjax.metrics.replay import EpisodeStage
from dexjax.objects.build import build_asset
from dexjax.objects.builtin import builtin_asset
from dexjax.sim.scene import SceneConfig

NQ = 6 + 22 + 7


def _episode(reference, length=5, seed=0, **changes) -> Episode:
    rng = np.random.default_rng(seed)
    qpos = rng.normal(size=(length, NQ)).astype(np.float32) * 0.1
    qpos[:, -4:] = [1, 0, 0, 0]
    return Episode(
        scene=SceneConfig(),
        object=reference,
        control_dt=1 / 30,
        qpos=qpos,
        outcome={"success_any": True, "success_held": bool(seed % 2), "lifted": True},
        terms={"reach": rng.normal(size=length), "lift": rng.normal(size=length)},
        success={"success_any": np.arange(length) > 1, "success_held": np.zeros(length)},
        goal=np.array([0.0, 0.1, 0.2]),
        finger_force=rng.normal(size=(length, 5, 3)),
        table_force=rng.normal(size=length),
        **changes,
    )


@pytest.fixture(scope="module")
def mug():
    return builtin_asset("mug", 0)


def test_round_trip_of_episodes_of_different_length(tmp_path, mug):
    box = ObjectReference.of(builtin_asset("box", 0))
    written = [_episode(ObjectReference.of(mug), 5, 0), _episode(box, 3, 1)]
    written.append(_episode(ObjectReference.of(mug), 4, 2))
    points = [np.full((len(e.qpos), 2, 3), 0.25) for e in written]
    whose = [np.tile(np.array([0, -1], np.int8), (len(e.qpos), 1)) for e in written]
    written = [
        replace(e, contact_point=p, contact_finger=w)
        for e, p, w in zip(written, points, whose, strict=True)
    ]
    file = tmp_path / "a.episodes.npz"
    write_episodes(file, written)
    read = read_episodes(file)
    assert [e.object.name for e in read] == ["mug_000", "box_000", "mug_000"]
    assert [e.good for e in read] == [False, True, False]
    for a, b in zip(written, read, strict=True):
        assert a.scene == b.scene and a.control_dt == b.control_dt and a.outcome == b.outcome
        np.testing.assert_array_equal(a.qpos, b.qpos)
        for name in ("goal", "finger_force", "table_force", "contact_point", "contact_finger"):
            # Stored as float32: seven digits.
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-6)
        for name in a.terms:
            np.testing.assert_allclose(a.terms[name], b.terms[name], rtol=1e-6)
        for name in a.success:
            np.testing.assert_array_equal(a.success[name], b.success[name])
        assert len(a.object.pieces) == len(b.object.pieces)
        np.testing.assert_allclose(a.object.pieces[0], b.object.pieces[0], rtol=1e-6)
    # Plain arrays under the documented names, readable without pickle.
    with np.load(file, allow_pickle=False) as arrays:
        assert set(arrays.files) == set(FIELDS)
        assert len(json.loads(str(arrays["meta"]))["objects"]) == 2
        assert arrays["qpos"].shape == (3, 5, NQ) and np.isnan(arrays["qpos"][1, 3:]).all()


def test_damaged_files_are_named(tmp_path, mug):
    file = tmp_path / "a.npz"
    write_episodes(file, [_episode(ObjectReference.of(mug))])
    with np.load(file) as arrays:
        good = dict(arrays)

    def broken(message, **changes):
        bad = tmp_path / "bad.npz"
        np.savez(bad, **{k: v for k, v in (good | changes).items() if v is not None})
        with pytest.raises(DataError, match=message) as error:
            read_episodes(bad)
        assert "bad.npz" in str(error.value)

    meta = json.loads(str(good["meta"]))
    broken("no field 'meta'", meta=None)
    broken("meta is damaged", meta=np.array("{"))
    broken("format 99.*reads format 1.*evaluate the run again", meta=_text(meta, format=99))
    broken("length", length=None)
    broken("not finite", qpos=np.full_like(good["qpos"], np.nan))
    broken("SceneConfig|scene", meta=_text(meta, scene={"hand": 3}))
    broken("piece_size", piece_size=good["piece_size"] - 1)
    broken("does not fit meta", object=good["object"] + 5)
    broken("success of episode 0 do not fit", success=good["success"][..., :1])
    broken("do not fit meta", terms=good["terms"][..., :1])
    broken("qpos has shape .*, not \\(1, 5, 35\\)", qpos=good["qpos"][..., :-1])
    broken("finger_force has shape", finger_force=good["finger_force"][..., :4, :])
    broken("table_force has shape", table_force=good["table_force"][..., None])
    broken("table_force holds <U5", table_force=good["table_force"].astype("U5"))
    broken("bounds", meta=_text(meta, objects=[{**meta["objects"][0], "bounds": [[0, 0, 0]]}]))
    with pytest.raises(DataError, match="no such file"):
        read_episodes(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match="damaged or of another format"):
        read_episodes(tmp_path / "text.npz")
    with pytest.raises(DataError, match="no episodes"):
        write_episodes(file, [])


def test_damage_anywhere_is_an_error_and_not_a_crash(tmp_path, mug):
    """Bytes changed or cut off at random: refused by name, or (in unused bytes) read as it was."""
    good = tmp_path / "good.npz"
    write_episodes(good, [_episode(ObjectReference.of(mug))])
    data, bad = good.read_bytes(), tmp_path / "bad.npz"
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(80):
        torn = bytearray(data)
        if i % 2:
            torn = torn[: rng.integers(len(data))]
        else:
            for at in rng.integers(0, len(data), 3):
                torn[at] ^= int(rng.integers(1, 256))
        bad.write_bytes(torn)
        try:
            (read,) = read_episodes(bad)
        except DataError as error:
            assert "bad.npz" in str(error)
            refused += 1
        else:
            assert np.isfinite(read.qpos).all()
    assert refused > 60


def test_fields_of_another_kind_are_an_error_and_not_a_crash(tmp_path, mug):
    """Whole files whose arrays or metadata are not as written: refused by name, or they pose."""
    file, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    written = _episode(ObjectReference.of(mug))
    points = np.zeros((5, 2, 3))
    whose = np.zeros((5, 2), np.int8)
    write_episodes(file, [replace(written, contact_point=points, contact_finger=whose)])
    with np.load(file) as arrays:
        good = dict(arrays)
    meta = json.loads(str(good["meta"]))
    rng = np.random.default_rng(0)
    values = [None, -1, 10**9, 0.5, "x", [], [[1]], {}, True, "\x00"]
    changes = {
        "less": lambda a: a[..., :-1],
        "cut": lambda a: a[:-1],
        "more": lambda a: np.concatenate([a, a], -1),
        "nested": lambda a: a[None],
        "flat": lambda a: a.ravel(),
        "text": lambda a: a.astype("U3"),
        "complex": lambda a: a.astype(np.complex64),
        "huge": lambda a: (a.astype(float) + 1e30).astype(a.dtype),
        "negative": lambda a: (-1 - a.astype(float)).astype(a.dtype),
        "empty": lambda a: a[:0],
    }
    refused = 0

    def judge(arrays) -> None:
        nonlocal refused
        np.savez(bad, **arrays)
        try:
            read = read_episodes(bad)
        except DataError as error:
            assert "bad.npz" in str(error)
            refused += 1
            return
        for e in read:
            EpisodeStage(e).meshes(len(e.qpos) - 1)
            assert e.finger_force is None or e.finger_force.shape == (len(e.qpos), 5, 3)
            assert all(len(v) == len(e.qpos) for v in (*e.terms.values(), *e.success.values()))
            assert e.caption and e.goal is None or e.goal.shape == (3,)

    names = [n for n in good if n != "meta"]
    with np.errstate(all="ignore"):
        for name in names:
            for change in changes.values():
                judge(good | {name: change(good[name])})
    for key in meta:
        for value in values:
            judge(good | {"meta": _text(meta, **{key: value})})
    for _ in range(60):
        thing = dict(meta["objects"][0])
        thing[list(thing)[rng.integers(len(thing))]] = values[rng.integers(len(values))]
        judge(good | {"meta": _text(meta, objects=[thing])})
    assert refused > 150


def _text(meta, **changes):
    return np.array(json.dumps(meta | changes))


def test_objects_in_a_file_are_never_unpickled(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.array([print], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "evil.npz", "w") as archive:
        archive.writestr("meta.npy", stream.getvalue())
    with pytest.raises(DataError, match="refused global"):
        read_episodes(tmp_path / "evil.npz")


def test_mesh_of_a_builtin_object_is_the_asset(mug):
    mesh, note = stage.object_mesh(ObjectReference.of(mug))
    assert note is None
    points = trimesh.Trimesh(mug.vertices, mug.faces)
    distance = trimesh.proximity.closest_point(points, np.asarray(mesh.vertices)[::20])[1]
    assert distance.max() < 1e-6  # made again, moved by the bounding box
    assert len(np.unique(mesh.colour, axis=0)) == len(mug.part_names)


def test_mesh_file_is_found_in_any_unit_or_its_pieces_stand_in(tmp_path):
    shape = trimesh.creation.cylinder(0.04, 0.06)  # convex: nothing to decompose
    shape.apply_translation((0.5, 0.2, 0.1))
    file = tmp_path / "can.obj"
    shape.export(file)
    reference = ObjectReference.of(build_asset(file, name="can"))
    mesh, note = stage.object_mesh(reference)
    assert note is None
    np.testing.assert_allclose(np.ptp(mesh.vertices, 0), [0.08, 0.08, 0.06], rtol=1e-3)
    centre = 0.5 * (np.min(mesh.vertices, 0) + np.max(mesh.vertices, 0))
    np.testing.assert_allclose(centre, reference.bounds.mean(0), atol=1e-9)
    # The same mesh in millimetres.
    shape.apply_scale(1000).export(file)
    again, note = stage.object_mesh(reference)
    assert note is None
    np.testing.assert_allclose(np.ptp(again.vertices, 0), np.ptp(mesh.vertices, 0), rtol=1e-6)
    # Another mesh under this name, then none: the recorded pieces, and why.
    trimesh.creation.box((0.1, 0.02, 0.02)).export(file)
    pieces, note = stage.object_mesh(reference)
    assert "proportions" in note and "convex pieces" in note
    np.testing.assert_allclose(np.ptp(pieces.vertices, 0), [0.08, 0.08, 0.06], atol=0.004)
    file.unlink()
    _, note = stage.object_mesh(reference)
    assert "can.obj: cannot be read" in note
    with pytest.raises(DataError, match="no convex pieces"):
        stage.object_mesh(replace(reference, pieces=()))
    assert EpisodeStage(_episode(reference)).note is not None


def test_contact_points_lie_on_hand_and_object(mug):
    """A hand around a box: contacts on the box, none when the hand is away."""
    box = builtin_asset("box", 0)
    reference = ObjectReference.of(box)
    qpos = np.zeros((2, NQ))
    qpos[:, -4] = 1.0
    low, high = reference.bounds[:, 2]
    qpos[:, -5] = -low  # on the table
    qpos[0, 2], qpos[1, 2] = high - low - 0.02, 0.6  # grasp centre inside the box
    episode = Episode(SceneConfig(), reference, 1 / 30, qpos, {"success_any": False}, {})
    episode = with_contacts(episode, box)
    used = episode.contact_finger != -2
    assert used[0].sum() >= 3 and not used[1].any()
    points = episode.contact_point[0, used[0]]
    inside = (points > reference.bounds[0] - 0.01) & (points < reference.bounds[1] + 0.01)
    assert inside[:, :2].all()
    assert points[:, 2].min() > 0.3 * (high - low)
    assert set(episode.contact_finger[0]) <= {-2, -1, 0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("outcome", "last", "expected"),
    [
        ({"success_held": True, "dropped": True}, [0, 0, 0, 1, 0, 0, 0], "success"),
        ({"success_any": True, "success_held": False, "lifted": True}, None, "not held"),
        ({"success_any": False, "lifted": True}, None, "not at goal"),
        ({"success_any": False, "lifted": True, "dropped": True}, None, "slipped"),
        ({"success_any": False, "lifted": False, "diverged": True}, None, "diverged"),
        ({"success_any": False, "lifted": False}, None, "missed"),
        # Turned by 60 degrees about x; turning about the vertical is no fall.
        ({"success_any": False, "lifted": False}, [0, 0, 0, 0.866, 0.5, 0, 0], "knocked over"),
        ({"success_any": False, "lifted": False}, [0, 0, 0, 0.5, 0, 0, 0.866], "missed"),
        ({"success_any": False, "lifted": False}, [0.2, 0, 0, 1, 0, 0, 0], "pushed away"),
    ],
)
def test_endings(outcome, last, expected):
    first = np.array([0, 0, 0, 1.0, 0, 0, 0])
    assert ending(outcome, first, np.array(last or first, float)) == expected
