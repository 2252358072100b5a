"""Fixtures and settings shared by all tests."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

# One profile for everything: shared machines are slow enough to break per-example deadlines, and
# the same commit must pass or fail alike; slow tests have more examples.
hypothesis.settings.register_profile(
    "dexjax",
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("dexjax")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; its files may not be redistributed."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data not found: {SHARED / 'data'}")
    return SHARED
