"""Rotations, safe reading, run folders, checkpoints and errors shared by the whole library."""
