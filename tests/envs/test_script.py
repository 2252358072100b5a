"""Where the script takes hold of an object, and when it tries again."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from envs.shadow_grasp.features import Features, _core
from envs.shadow_grasp.script import ScriptConfig, next_step


def bar(start, end, width=0.02):
    """(300, 3) evenly spaced points of a bar from `start` to `end` in the plane."""
    start, way = np.asarray(start), np.asarray(end) - np.asarray(start)
    side = np.array([-way[1], way[0]]) / np.linalg.norm(way)
    along, across = np.meshgrid(np.linspace(0, 1, 60), np.linspace(-0.5, 0.5, 5) * width)
    points = start + along.reshape(-1, 1) * way + across.reshape(-1, 1) * side
    return np.pad(points, ((0, 0), (0, 1)))


def core(points):
    centre, axis = _core(jnp.asarray(points)[None], jnp.asarray(points.mean(0))[None])
    return np.asarray(centre[0]), np.asarray(axis[0])


def test_core_of_a_bent_object_lies_on_it():
    bent = np.concatenate([bar((0, 0), (0.2, 0)), bar((0, 0), (0, 0.14))])
    middle = bent.mean(0)
    apart = np.linalg.norm((bent - middle)[:, :2], axis=1).min()
    assert apart > 0.02  # the centre of mass is beside the object
    centre, _ = core(bent)
    assert np.linalg.norm((bent - centre)[:, :2], axis=1).min() < 0.5 * apart


@pytest.mark.parametrize("angle", [-1.4, -0.5, 0.0, 0.7, 1.5])
def test_core_direction_is_the_bars(angle):
    way = 0.1 * np.array([np.cos(angle), np.sin(angle)])
    centre, axis = core(bar(-way, way, width=0.01))
    assert np.linalg.norm(centre[:2]) < 1e-3
    # A uniform bar weighted by the 4 cm Gaussian spreads about 4 cm along and 3 mm across.
    assert np.linalg.norm(axis) > 0.95
    np.testing.assert_allclose(axis / np.linalg.norm(axis), [np.cos(2 * angle), np.sin(2 * angle)],
                               atol=1e-3)  # fmt: skip


def test_round_objects_have_no_direction():
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    ring = 0.03 * np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    assert np.linalg.norm(core(ring)[1]) < 1e-3 < ScriptConfig().core_direction


def test_an_attempt_is_given_up_only_when_the_object_was_left_behind():
    cfg = ScriptConfig()
    fields = {f.name: jnp.zeros((4, 6)) for f in dataclasses.fields(Features)}
    # Grip: thumb and another finger touch, palm near.
    grip = jnp.asarray([[0, 0, 0, 0, 0], [1.0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    features = Features(**{**fields, "force": grip})
    height = jnp.asarray([0.0, 0.0, 0.1, 0.0])
    step = jnp.asarray([60, 60, 60, cfg.give_up_step - 1])
    after = next_step(step, features, height, cfg)
    # In turn: left behind; in hand; on its way up; too early to tell.
    np.testing.assert_array_equal(after, [cfg.retry_step, 61, 61, cfg.give_up_step])
