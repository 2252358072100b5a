"""Dataclasses to JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dexjax.core.config import first_difference, from_plain, to_plain
from dexjax.core.errors import DataError


@dataclass(frozen=True)
class Inner:
    gain: float = 1.0
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str = "a"
    std: float | tuple[float, ...] = 0.5
    limit: int | None = None
    mode: Literal["x", "y"] = "x"
    pair: tuple[int, str] = (1, "b")
    folder: Path = Path("runs")
    flag: bool = False
    inner: Inner = field(default_factory=Inner)


finite = st.floats(allow_nan=False, width=64)
outers = st.builds(
    Outer,
    name=st.text(),
    std=finite | st.lists(finite).map(tuple),
    limit=st.none() | st.integers(),
    mode=st.sampled_from(["x", "y"]),
    pair=st.tuples(st.integers(), st.text()),
    folder=st.sampled_from([Path("a/b"), Path("/c")]),
    flag=st.booleans(),
    inner=st.builds(Inner, gain=finite, sizes=st.lists(st.integers()).map(tuple)),
)


@given(outers)
def test_round_trip_through_json(config):
    plain = json.loads(json.dumps(to_plain(config)))
    back = from_plain(Outer, plain, "file")
    assert back == config
    hash(back)  # tuples, not lists
    assert first_difference(to_plain(back), plain) is None


@pytest.mark.parametrize(
    "plain, words",
    [
        ({"nmae": "a"}, "unknown field nmae"),
        ({"inner": {"gain": "fast"}}, "inner.gain"),
        ({"inner": 3}, "inner"),
        ({"mode": "z"}, "mode"),
        ({"limit": 1.5}, "limit"),
        ({"flag": 1}, "flag"),
        ({"std": [0.1, "b"]}, "std"),
        ({"pair": [1]}, "pair"),
        ([], "top level"),
        (None, "top level"),
    ],
)
def test_wrong_fields_are_named(plain, words):
    with pytest.raises(DataError, match=words):
        from_plain(Outer, plain, "config.json")


def test_missing_fields_take_defaults_or_are_named():
    @dataclass(frozen=True)
    class Required:
        size: int

    assert from_plain(Outer, {"name": "z"}, "file") == Outer(name="z")
    with pytest.raises(DataError, match="size is missing"):
        from_plain(Required, {}, "file")


def test_first_difference_names_the_path():
    left, right = to_plain(Outer()), to_plain(Outer(inner=Inner(gain=2.0)))
    assert first_difference(left, right) == ("inner.gain", 1.0, 2.0)
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == ("b", None, 2)
    assert first_difference({"a": float("nan")}, {"a": float("nan")}) is None
