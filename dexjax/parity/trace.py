"""Traces: what a simulator did, in one `.npz` that any other can be compared with.

Reading is strict: a file either holds what `schema` describes, in SI units, finite and in the named
order, or is refused with the field and the remedy. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dexjax.core.errors import DataError, unknown_name
from dexjax.core.safe_io import DEFAULT_MAX_BYTES, read_npz
from dexjax.parity import schema
from dexjax.parity.suspicion import check_plausible

_MAX_META_BYTES = 64 * 1024**2
_KINDS = {"bool": "b", "index": "iu"}  # of the dtype; all other units: floats


@dataclass(frozen=True)
class Trace:
    """Arrays by the names of `schema.ARRAYS`, quaternions wxyz, and the metadata."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]
    source: str = "trace"  # file, for messages

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise DataError(
                f"{self.source}: array {name!r} was not recorded (there are: "
                f"{', '.join(sorted(self.arrays))}); record it"
            )
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    @property
    def num_steps(self) -> int:
        """Recorded steps; there is one state more."""
        return int(self._sizes().get(schema.STATE, 1)) - 1

    @property
    def num_envs(self) -> int:
        """Episodes side by side."""
        return int(self._sizes().get(schema.ENV, 0))

    def after(self, name: str) -> np.ndarray:
        """A state array after each step (steps, ...): without the row before the first step."""
        array = self[name]
        return array if self.meta["arrays"][name]["axes"][0] == schema.STEP else array[1:]

    def names(self, axis: str) -> list[str]:
        """Names along an axis, in the order of the arrays. DataError if it has none."""
        if axis not in self.meta["axes"]:
            known = ", ".join(self.meta["axes"])
            raise DataError(f"{self.source}: axes[{axis!r}] is not recorded (there are: {known})")
        return list(self.meta["axes"][axis])

    def select(self, axis: str, names: Sequence[str]) -> Trace:
        """The trace with an axis cut to `names`, in their order: how orders are reconciled.

        Properties of the axis follow. Raises ConfigError for a name that is not in the trace.
        """
        have = self.names(axis)
        for name in names:
            if name not in have:
                raise unknown_name(axis, name, have)
        index = [have.index(n) for n in names]
        arrays = dict(self.arrays)
        for key, array in arrays.items():
            axes = self.meta["arrays"][key]["axes"]
            if axis in axes:
                arrays[key] = np.take(array, index, axes.index(axis))
        meta = dict(self.meta, axes={**self.meta["axes"], axis: list(names)})
        table = self.meta["properties"].get(axis, {})
        cut = {k: [v[i] for i in index] for k, v in table.items()}
        meta["properties"] = {**self.meta["properties"], axis: cut}
        if axis == "joint" and "joint_types" in meta:
            meta["joint_types"] = [meta["joint_types"][i] for i in index]
        return replace(self, meta=meta, arrays=arrays)

    def select_envs(self, index: Sequence[int] | np.ndarray) -> Trace:
        """The trace with the chosen episodes only."""
        arrays = dict(self.arrays)
        for key, array in arrays.items():
            axes = self.meta["arrays"][key]["axes"]
            if schema.ENV in axes:
                arrays[key] = np.take(array, index, axes.index(schema.ENV))
        return replace(self, arrays=arrays)

    def property(self, axis: str, name: str) -> np.ndarray:
        """A property read back from the simulator, one entry per name along `axis`."""
        table = self.meta["properties"].get(axis, {})
        if name not in table:
            raise DataError(
                f"{self.source}: properties[{axis!r}][{name!r}] was not recorded (there are: "
                f"{', '.join(table) or 'none'})"
            )
        return np.array(table[name], float)  # None: nan

    def digest(self) -> str:
        """SHA-256 of metadata and contents, for caches; independent of the file's compression."""
        hasher = hashlib.sha256(_dump(self.meta))
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            hasher.update(f"{name} {array.dtype.str} {array.shape}".encode())
            hasher.update(array.tobytes())
        return hasher.hexdigest()

    def _sizes(self) -> dict[str, int]:
        return _sizes(self.meta, self.arrays, self.source)


def read_trace(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Trace:
    """Read and check a trace; quaternions come back wxyz, whatever the file has.

    Raises DataError naming file, field and remedy: damaged file, another format or version, missing
    or unknown fields, shapes that do not fit the axes, other units, numbers that are not finite,
    quaternions that are not unit, joints in degrees or in another order than their velocities.
    """
    source = str(path)
    arrays = read_npz(path, max_bytes=max_bytes)
    meta = _load_meta(arrays.pop(schema.META_KEY, None), source)
    check_trace(meta, arrays, source)
    if meta["quaternion"] == "xyzw":
        for name in schema.QUATERNIONS:
            if name in arrays:
                arrays[name] = np.roll(arrays[name], 1, axis=-1)
        meta["quaternion"] = "wxyz"
    return Trace(meta, arrays, source)


def write_trace(
    path: str | Path, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Trace:
    """Check and write a trace in one move; returns it. Floats are stored as float32 or float64.

    meta: see `schema.new_meta`; `arrays` in it is needed only for the probe's own parameters:
    {"param_x": {"axes": ["env"], "unit": "m"}}. Raises DataError as `read_trace` does.
    """
    path = Path(path)
    meta = dict(meta)
    declared = dict(meta.get("arrays", {}))
    for name in arrays:
        if name in schema.ARRAYS:
            axes, unit = schema.ARRAYS[name]
            declared[name] = {"axes": list(axes), "unit": unit, **declared.get(name, {})}
    meta["arrays"] = declared
    plain = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    raw = _dump(meta)
    check_trace(_load_meta(np.frombuffer(raw, np.uint8), str(path)), plain, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        # Compression is no argument of savez's contents: arrays may have any name.
        np.savez_compressed(
            file, allow_pickle=False, __meta__=np.frombuffer(raw, np.uint8), **plain
        )
    os.replace(partial, path)
    return Trace(meta, plain, str(path))


def check_trace(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Raise DataError unless metadata and arrays are a trace as `schema` describes it."""
    _check_meta(meta, source)
    _check_declared(meta, arrays, source)
    sizes = _sizes(meta, arrays, source)
    for name, array in arrays.items():
        _check_values(name, array, meta, sizes, source)
    check_plausible(meta, arrays, source)


# --- metadata ------------------------------------------------------------------------------------


def _dump(meta: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(meta, allow_nan=False, sort_keys=True).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"trace metadata is no plain JSON: {error}") from error


def _load_meta(raw: np.ndarray | None, source: str) -> dict[str, Any]:
    where = f"{source}[{schema.META_KEY}]"
    if raw is None:
        raise DataError(f"{where}: missing: this .npz is no trace")
    if raw.dtype != np.uint8 or raw.ndim != 1 or raw.size > _MAX_META_BYTES:
        raise DataError(f"{where}: {raw.dtype} {raw.shape}; JSON as one row of uint8 is needed")
    try:
        meta = json.loads(
            raw.tobytes().decode(), parse_constant=_no_constant, object_pairs_hook=_no_repeats
        )
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no valid JSON ({error}); record the trace again") from error
    if not isinstance(meta, dict):
        raise DataError(f"{where}: a {type(meta).__name__}; an object is needed")
    return meta


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number; write null for what is unlimited or unknown")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found


def _check_meta(meta: Mapping[str, Any], source: str) -> None:
    def fail(field: str, what: str) -> DataError:
        return DataError(f"{source}: meta.{field} {what}")

    if meta.get("format") != schema.FORMAT:
        raise fail("format", f"is {meta.get('format')!r}, not {schema.FORMAT!r}: this is no trace")
    if meta.get("version") != schema.VERSION:
        raise fail(
            "version",
            f"is {meta.get('version')!r}, and {schema.VERSION} is read; use the recorder and the "
            "reader of one dexjax version",
        )
    for field, (types, required) in schema.META.items():
        if field not in meta:
            if required:
                raise fail(field, "is missing")
        elif not isinstance(meta[field], types) or isinstance(meta[field], bool):
            raise fail(field, f"is {_brief(meta[field])}, not {types[0].__name__}")
    unknown = sorted(set(meta) - set(schema.META))
    if unknown:
        raise fail(unknown[0], "is no field of a trace; put what is your own under meta.extra")
    for field, choices in schema.CHOICES.items():
        if field in meta and meta[field] not in choices:
            raise fail(field, f"is {_brief(meta[field])}; one of {', '.join(choices)} is needed")
    for field in schema.SOURCE_FIELDS:
        if not isinstance(meta["source"].get(field), str):
            raise fail(f"source.{field}", "is missing or no text")
    if meta["units"] != schema.UNITS:
        wrong = {k: v for k, v in meta["units"].items() if schema.UNITS.get(k) != v}
        missing = sorted(set(schema.UNITS) - set(meta["units"]))
        what = f"has {_brief(wrong)}" if wrong else f"lacks {', '.join(missing)}"
        raise fail("units", f"{what}; traces are in {schema.UNITS}: convert where you record")
    for field in ("dt", "interval"):
        if not 0 < meta[field] < 10 or not math.isfinite(meta[field]):
            raise fail(field, f"is {meta[field]!r}; seconds between 0 and 10 are needed")
    if not 1 <= meta["substeps"] <= 10_000:
        raise fail("substeps", f"is {meta['substeps']}; between 1 and 10000 is needed")
    allowed = (meta["dt"], meta["dt"] / meta["substeps"])
    if not any(math.isclose(meta["interval"], a, rel_tol=1e-6) for a in allowed):
        raise fail("interval", f"is {meta['interval']}; dt or dt / substeps ({allowed}) is needed")
    if len(meta["gravity"]) != 3 or not all(_is_number(g) for g in meta["gravity"]):
        raise fail("gravity", f"is {_brief(meta['gravity'])}; three numbers (m/s^2) are needed")
    if meta["repeat"] < 0:
        raise fail("repeat", f"is {meta['repeat']}; count from 0")
    _check_axes(meta, fail)


def _check_axes(meta: Mapping[str, Any], fail: Any) -> None:
    for axis, names in meta["axes"].items():
        if axis not in (*schema.NAMED_AXES, *schema.PROPERTY_AXES):
            raise fail(f"axes.{axis[:40]}", f"is no axis; known: {', '.join(schema.NAMED_AXES)}")
        if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
            raise fail(f"axes.{axis}", "is no list of names")
        if len(set(names)) != len(names):
            repeated = next(n for i, n in enumerate(names) if n in names[:i])
            raise fail(f"axes.{axis}", f"names {repeated!r} more than once")
    if "joint_types" in meta:
        types = meta["joint_types"]
        if len(types) != len(meta["axes"].get("joint", ())):
            raise fail("joint_types", f"has {len(types)} entries; one per joint is needed")
        if not all(t in ("hinge", "slide") for t in types):
            raise fail("joint_types", f"holds {_brief(types)}; 'hinge' or 'slide' are needed")
    for axis, table in meta["properties"].items():
        if axis not in schema.PROPERTY_AXES:
            raise fail(f"properties.{axis[:40]}", f"is none of {', '.join(schema.PROPERTY_AXES)}")
        if not isinstance(table, dict):
            raise fail(f"properties.{axis}", "is no object of lists")
        if table and axis not in meta["axes"]:
            raise fail(f"axes.{axis}", f"is missing: properties.{axis} needs its names")
        for name, values in table.items():
            size = len(meta["axes"][axis])
            if not isinstance(values, list) or len(values) != size:
                raise fail(f"properties.{axis}.{name}", f"is no list of {size}: one per {axis}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# --- arrays --------------------------------------------------------------------------------------


def _check_declared(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], source: str) -> None:
    for name in arrays:
        entry = meta["arrays"].get(name)
        where = f"{source}: meta.arrays[{name[:60]!r}]"
        if name not in schema.ARRAYS and not name.startswith(schema.PARAMETER):
            near = ", ".join(sorted(schema.ARRAYS))
            raise DataError(
                f"{source}[{name[:60]}]: no array of a trace; a probe's own numbers are named "
                f"{schema.PARAMETER}..., all others are: {near}"
            )
        if not isinstance(entry, dict) or not {"axes", "unit"} <= set(entry):
            raise DataError(f"{where} is missing or lacks axes and unit")
        axes, unit = entry["axes"], entry["unit"]
        if not isinstance(unit, str) or not isinstance(axes, list):
            raise DataError(f"{where} has axes {_brief(axes)} and unit {_brief(unit)}")
        if name in schema.ARRAYS:
            known_axes, known_unit = schema.ARRAYS[name]
            if unit != known_unit:
                raise DataError(
                    f"{where}.unit is {unit!r}, and traces hold it in {known_unit!r}; convert it "
                    "where you record"
                )
            if axes not in (list(known_axes), schema.after_steps(known_axes)):
                raise DataError(f"{where}.axes is {_brief(axes)}, not {list(known_axes)}")
        elif axes[:1] != [schema.ENV] or not all(_is_size(a) for a in axes[1:]):
            raise DataError(f"{where}.axes is {_brief(axes)}; ['env', sizes ...] is needed")
    missing = sorted(set(meta["arrays"]) - set(arrays))
    if missing:
        raise DataError(
            f"{source}: meta.arrays names {missing[0]!r}, which is not in the file; it is "
            "incomplete: record it again"
        )
    if "time" not in arrays:
        raise DataError(f"{source}[time]: missing; the time of every state (s) is needed")


def _is_size(axis: Any) -> bool:
    return isinstance(axis, int) and not isinstance(axis, bool) and 0 < axis < 10_000


def _sizes(
    meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], source: str
) -> dict[str, int]:
    """Size of every axis; DataError where two arrays, or an array and its names, disagree."""
    sizes: dict[str, int] = {axis: len(names) for axis, names in meta["axes"].items()}
    origin = {axis: f"meta.axes.{axis}" for axis in sizes}
    for name in sorted(arrays, key=lambda n: n != "time"):
        array, axes = arrays[name], meta["arrays"][name]["axes"]
        if array.ndim != len(axes):
            raise DataError(f"{source}[{name}]: shape {array.shape}; axes {axes} are needed")
        for axis, size in zip(axes, array.shape, strict=True):
            if isinstance(axis, int):
                wanted, why = axis, "always"
            else:
                if axis in schema.NAMED_AXES and axis not in sizes:
                    raise DataError(f"{source}: meta.axes.{axis} is missing; {name} needs it")
                if axis == schema.STEP:  # counted by the states
                    wanted, why = sizes.get(schema.STATE, 1) - 1, "one fewer than states"
                else:
                    wanted = sizes.setdefault(axis, size)
                    why = f"as in {origin.setdefault(axis, name)}"
            if size != wanted:
                raise DataError(
                    f"{source}[{name}]: shape {array.shape} has {size} along {axis!r}; "
                    f"{wanted} ({why}) is needed"
                )
    return sizes


def _check_values(
    name: str,
    array: np.ndarray,
    meta: Mapping[str, Any],
    sizes: Mapping[str, int],
    source: str,
) -> None:
    where = f"{source}[{name}]"
    entry = meta["arrays"][name]
    kinds = _KINDS.get(entry["unit"], "f")
    if array.dtype.kind not in kinds or (kinds == "f" and array.dtype.itemsize not in (4, 8)):
        needed = {"b": "bool", "iu": "an integer", "f": "float32 or float64"}[kinds]
        raise DataError(f"{where}: dtype {array.dtype}; {needed} is needed for {entry['unit']!r}")
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        at = ", ".join(f"{a}={i}" for a, i in zip(entry["axes"], np.argwhere(bad)[0], strict=True))
        raise DataError(
            f"{where}: {int(bad.sum())} of {array.size} numbers are not finite, first at {at}: "
            "the simulation diverged; cut or leave out that episode"
        )
    if name in schema.QUATERNIONS and array.size:
        norm = np.linalg.norm(array.astype(float), axis=-1)
        worst = float(np.abs(norm - 1).max())
        if worst > 1e-3:
            raise DataError(f"{where}: a quaternion's norm is off 1 by {worst:.3g}; normalise it")
    if name == "time":
        # Float32 seconds of a long recording: 1e-4 of an interval and 1e-5 s.
        interval = meta["interval"]
        off = np.abs(np.diff(array.astype(float)) - interval)
        if off.size and off.max() > 1e-3 * interval + 1e-5:
            raise DataError(
                f"{where}: steps between {np.diff(array).min():.6g} and {np.diff(array).max():.6g} "
                f"s; each must be meta.interval = {interval:.6g} s"
            )
