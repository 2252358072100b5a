"""Frozen dataclasses to and from plain JSON values, checked field by field."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from dexjax.core.errors import DataError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples, enums and paths as dicts, lists and strings that JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return value


def from_plain(cls: type[T], plain: Any, where: str) -> T:
    """The dataclass `cls` from `to_plain`'s output; missing fields take their defaults.

    `where` names the source in messages. Raises DataError naming the first field that is unknown,
    missing without a default, or of the wrong type.
    """
    return _decode(cls, plain, where, "")


def first_difference(left: Any, right: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Dotted path and both values where two plain values first differ; None if they are equal."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(k for k in right if k not in left)]:
            inner = f"{path}.{key}" if path else str(key)
            found = first_difference(left.get(key), right.get(key), inner)
            if found:
                return found
        return None
    same = left == right or (left != left and right != right)  # NaN equals NaN here
    return None if same else (path, left, right)


def _decode(hint: Any, plain: Any, where: str, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _decode(args[0], plain, where, path)
    if hint is Any:
        return plain
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, plain, where, path)
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return _decode(option, plain, where, path)
            except DataError:
                continue
    elif origin is Literal:
        if plain in args:
            return plain
    elif origin is tuple and isinstance(plain, list):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_decode(args[0], v, where, f"{path}[{i}]") for i, v in enumerate(plain))
        if len(args) == len(plain):
            return tuple(
                _decode(a, v, where, f"{path}[{i}]")
                for i, (a, v) in enumerate(zip(args, plain, strict=True))
            )
    elif origin is list and isinstance(plain, list):
        return [_decode(args[0], v, where, f"{path}[{i}]") for i, v in enumerate(plain)]
    elif origin is dict and isinstance(plain, dict):
        return {k: _decode(args[1], v, where, f"{path}.{k}") for k, v in plain.items()}
    elif hint in (None, type(None)):
        if plain is None:
            return None
    elif hint is float and isinstance(plain, (int, float)) and not isinstance(plain, bool):
        return float(plain)
    elif hint is int and isinstance(plain, int) and not isinstance(plain, bool):
        return plain
    elif hint in (str, bool) and isinstance(plain, hint):
        return plain
    elif isinstance(hint, type) and issubclass(hint, Path) and isinstance(plain, str):
        return hint(plain)
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if plain in [e.value for e in hint]:
            return hint(plain)
    raise DataError(f"{where}: field {path or 'top level'}: {plain!r} is not a {_name(hint)}")


def _decode_dataclass(cls: type, plain: Any, where: str, path: str) -> Any:
    if not isinstance(plain, dict):
        raise DataError(f"{where}: field {path or 'top level'}: expected {cls.__name__} as a table")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in plain:
        if name not in fields:
            raise DataError(
                f"{where}: unknown field {_join(path, name)}; written by another version of dexjax?"
            )
    values = {}
    for name, field in fields.items():
        if name in plain:
            values[name] = _decode(hints[name], plain[name], where, _join(path, name))
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise DataError(f"{where}: field {_join(path, name)} is missing")
    return cls(**values)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
