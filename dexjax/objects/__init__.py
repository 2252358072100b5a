"""Meshes to simulation-ready objects: assets, banks, samplers, built-in objects."""
