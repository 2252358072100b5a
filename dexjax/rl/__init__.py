"""Reinforcement learning on batched functional environments."""
