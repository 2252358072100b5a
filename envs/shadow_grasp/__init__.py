"""Reach for an object on a table with a Shadow Hand, grasp it, lift it and hold it at a goal."""

from envs.shadow_grasp.make import make, spec

__all__ = ["make", "spec"]
