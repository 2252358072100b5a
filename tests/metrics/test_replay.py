"""Which episodes are drawn, and that the pictures show them."""

from __future__ import annotations

from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dexjax.metrics import replay
from dexjax.metrics.episodes import Episode, ObjectReference
from dexjax.objects.select import select_objects
from dexjax.render import render
from dexjax.sim.scene import SceneConfig, build_scene


@given(
    st.lists(st.tuples(st.integers(0, 7), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 8),
)
def test_chosen_episodes_are_a_mix(pairs, count):
    ids = np.array([p[0] for p in pairs])
    good = np.array([p[1] for p in pairs], float)
    objects = sorted(set(ids), key=lambda o: good[ids == o].mean())
    chosen = replay.choose_episodes({"object_id": ids, "success_held": good}, objects, count)
    # At most one success and one failure of each object, none twice, as many as there are.
    kinds = [(ids[b], good[b]) for b in chosen]
    assert len(set(kinds)) == len(kinds) == min(count, len(set(zip(ids, good, strict=True))))
    if count > 1 and 0 < good.sum() < len(good):
        assert {k[1] for k in kinds} == {0.0, 1.0}
    failed = [k[0] for k in kinds if not k[1]]
    if failed:  # the worst object is among the failures shown
        assert failed[0] == next(o for o in objects if (good[ids == o] == 0).any())


@pytest.fixture(scope="module")
def episodes():
    """A box that rises by 3 cm per step beside a resting hand: once a success, once dropped."""
    asset = select_objects("builtin:seen:box_000").assets[0]
    scene = build_scene([asset], SceneConfig())
    qpos = np.zeros((4, scene.model.nq))
    qpos[:, 2] = 0.28
    at = scene.object_qpos
    qpos[:, at + 2] = 0.05 + 0.03 * np.arange(4)
    qpos[:, at + 3] = 1.0
    outcomes = ({"success_held": True}, {"success_held": False, "dropped": True})
    reference = ObjectReference.of(asset)
    return [Episode(SceneConfig(), reference, 1 / 30, qpos, o, {}) for o in outcomes]


def test_captions_say_how_it_ended(episodes):
    assert [e.caption for e in episodes] == ["box_000: success", "box_000: slipped"]


def test_stage_follows_the_recorded_positions(episodes):
    stage = replay.EpisodeStage(episodes[0])
    first, later = stage.meshes(0), stage.meshes(3)
    hand = slice(0, -2)  # then the object and the table
    for a, b in zip(first[hand], later[hand], strict=True):
        np.testing.assert_array_equal(a.world_vertices(), b.world_vertices())
    rise = later[-2].world_vertices() - first[-2].world_vertices()
    np.testing.assert_allclose(rise, np.broadcast_to([0, 0, 0.09], rise.shape), atol=1e-6)


def test_earlier_poses_are_not_overwritten_by_later_ones(episodes):
    moved = replace(episodes[0], qpos=episodes[0].qpos + 0.0)
    moved.qpos[3, 0] = 0.1  # hand x
    stage = replay.EpisodeStage(moved)
    first = stage.meshes(0)
    later = stage.meshes(3)
    shift = later[0].world_vertices() - first[0].world_vertices()
    np.testing.assert_allclose(shift, np.broadcast_to([0.1, 0, 0], shift.shape), atol=1e-6)


@pytest.mark.filterwarnings("ignore:os.fork")  # imageio reads videos through a forked ffmpeg
def test_pictures_have_all_episodes_in_their_frames(episodes, tmp_path):
    png, mp4 = replay.write_pictures(episodes, tmp_path / "evaluation")
    image = np.asarray(Image.open(png))
    size, gap = replay.STRIP_TILE, 4
    columns = len(replay.STRIP_MOMENTS)
    assert image.shape == (2 * size + gap, columns * (size + gap) - gap, 3)
    assert tuple(image[0, 0]) == replay._GOOD and tuple(image[-1, 0]) == replay._BAD
    video = iio.imread(mp4, plugin="FFMPEG")
    assert len(video) == 2  # four control steps, every second one drawn
    # The object moves, so frames differ by far more than the compression does.
    assert np.abs(video[0].astype(int) - video[1]).max() > 60


def test_object_is_in_the_middle_of_the_picture(episodes):
    """The camera sees the whole object: its colours are there, and not at the picture's edge."""
    stage = replay.EpisodeStage(episodes[0])
    only = [stage.meshes(0)[-2]]
    image = render(only, stage.camera, 120, 120, supersample=1).astype(int)
    seen = np.abs(image - image[0, 0]).sum(-1) > 60
    assert seen.sum() > 100
    assert not seen[0].any() and not seen[-1].any()
    assert not seen[:, 0].any() and not seen[:, -1].any()
