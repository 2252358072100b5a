"""The trace format: what is written comes back; every kind of wrong file is refused by name."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_examples import DT, ENVS, JOINTS, STEPS, example

from dexjax.core.errors import ConfigError, DataError
from dexjax.parity import schema
from dexjax.parity.__main__ import main
from dexjax.parity.describe import describe
from dexjax.parity.trace import Trace, read_trace, write_trace


@pytest.fixture
def written(tmp_path: Path) -> Path:
    meta, arrays = example()
    write_trace(tmp_path / "t.npz", meta, arrays)
    return tmp_path / "t.npz"


def raw_write(path: Path, meta: Any, arrays: dict[str, np.ndarray]) -> Path:
    """As a foreign recorder would: nothing is checked."""
    text = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    np.savez(path, __meta__=np.frombuffer(text, np.uint8), **arrays)  # type: ignore[arg-type]
    return path


def declared(meta: dict, arrays: dict) -> dict:
    """Metadata with all arrays named, as a foreign recorder has to write it."""
    meta = copy.deepcopy(meta)
    known = {k: v for k, v in schema.ARRAYS.items() if k in arrays}
    meta.setdefault("arrays", {}).update(
        {k: {"axes": list(axes), "unit": unit} for k, (axes, unit) in known.items()}
    )
    return meta


def test_what_is_written_comes_back(written: Path) -> None:
    meta, arrays = example()
    trace = read_trace(written)
    assert set(trace.arrays) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(trace[name], array)
        assert trace[name].dtype == array.dtype
    assert {k: v for k, v in trace.meta.items() if k != "arrays"} == {
        k: v for k, v in meta.items() if k != "arrays"
    }
    assert (trace.num_steps, trace.num_envs) == (STEPS, ENVS)
    np.testing.assert_array_equal(trace.property("joint", "upper"), [0.4, 0.4, 0.4, np.nan])
    assert not list(written.parent.glob("*.partial"))


def test_digest_is_of_the_contents(written: Path, tmp_path: Path) -> None:
    trace = read_trace(written)
    again = raw_write(tmp_path / "plain.npz", trace.meta, trace.arrays)
    assert read_trace(again).digest() == trace.digest()
    arrays = dict(trace.arrays, object_pos=trace["object_pos"] + np.float32(1e-3))
    assert Trace(trace.meta, arrays).digest() != trace.digest()


def test_quaternions_are_turned_to_wxyz(tmp_path: Path) -> None:
    for order in ("wxyz", "xyzw"):
        meta, arrays = example(order)
        write_trace(tmp_path / f"{order}.npz", meta, arrays)
    first, second = (read_trace(tmp_path / f"{order}.npz") for order in ("wxyz", "xyzw"))
    np.testing.assert_array_equal(first["object_quat"], second["object_quat"])
    assert second.meta["quaternion"] == "wxyz"


def test_orders_are_reconciled_by_name(written: Path) -> None:
    trace = read_trace(written)
    wanted = [JOINTS[3], JOINTS[0]]
    cut = trace.select("joint", wanted)
    np.testing.assert_array_equal(cut["joint_pos"], trace["joint_pos"][..., [3, 0]])
    assert cut.names("joint") == wanted
    assert cut.meta["joint_types"] == ["slide", "hinge"]
    np.testing.assert_array_equal(cut.property("joint", "upper"), [np.nan, 0.4])
    np.testing.assert_array_equal(cut["action"], trace["action"])
    assert trace.names("joint") == JOINTS  # untouched
    with pytest.raises(ConfigError, match="FFJ3"):
        trace.select("joint", ["FFJ33"])
    with pytest.raises(DataError, match="tip"):
        trace.names("tip")
    one = trace.select_envs([2])
    assert one.num_envs == 1
    np.testing.assert_array_equal(one["joint_pos"][:, 0], trace["joint_pos"][:, 2])
    np.testing.assert_array_equal(one["object_id"], [2])


def test_states_may_begin_after_the_first_step(tmp_path: Path) -> None:
    meta, arrays = example()
    arrays["object_pos"] = arrays["object_pos"][1:]
    meta["arrays"]["object_pos"] = {"axes": ["step", "env", "object", 3]}
    trace = write_trace(tmp_path / "t.npz", meta, arrays)
    np.testing.assert_array_equal(trace.after("object_pos"), arrays["object_pos"])
    np.testing.assert_array_equal(trace.after("joint_pos"), arrays["joint_pos"][1:])
    assert read_trace(tmp_path / "t.npz").num_steps == STEPS


def set_meta(**fields: Any):
    return lambda meta, arrays: meta.update(fields)


def drop_meta(field: str):
    return lambda meta, arrays: meta.pop(field)


def set_array(name: str, change):
    return lambda meta, arrays: arrays.update({name: change(arrays[name])})


def unit(name: str, text: str):
    return lambda meta, arrays: meta["arrays"][name].update(unit=text)


def put(array: np.ndarray, index: tuple, value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


WRONG = {
    "another format": (set_meta(format="rollout"), "meta.format"),
    "another version": (set_meta(version=2), "meta.version"),
    "version as text": (set_meta(version="1"), "meta.version"),
    "missing field": (drop_meta("quaternion"), "meta.quaternion is missing"),
    "field of another type": (set_meta(substeps=2.5), "meta.substeps"),
    "bool for a number": (set_meta(dt=True), "meta.dt"),
    "unknown field": (set_meta(dtt=0.1), "meta.dtt"),
    "unknown quaternion order": (set_meta(quaternion="wzyx"), "wxyz, xyzw"),
    "no simulator": (set_meta(source={"version": "1", "pipeline": "cpu"}), "source.simulator"),
    "degrees declared": (set_meta(units={**schema.UNITS, "angle": "deg"}), "'deg'"),
    "unit left out": (set_meta(units={"length": "m"}), "lacks"),
    "milliseconds": (set_meta(dt=16.7, interval=16.7), "meta.dt"),
    "interval that is no substep": (set_meta(interval=DT / 3), "meta.interval"),
    "gravity in two numbers": (set_meta(gravity=[0, -9.81]), "meta.gravity"),
    "array in millimetres": (unit("object_pos", "mm"), "object_pos.*'mm'.*'m'"),
    "axes in another order": (
        lambda m, a: m["arrays"]["joint_pos"].update(axes=["env", "state", "joint"]),
        r"joint_pos.*axes",
    ),
    "array without a declaration": (lambda m, a: m["arrays"].pop("action"), "action"),
    "array declared and not there": (lambda m, a: a.pop("action"), "action.*not in the file"),
    "array of another name": (
        lambda m, a: a.update(jointpos=a["joint_pos"]),
        "jointpos.*no array of a trace",
    ),
    "no time": (lambda m, a: (a.pop("time"), m["arrays"].pop("time")), r"\[time\]: missing"),
    "one joint too few": (set_array("joint_pos", lambda x: x[..., :3]), "joint_pos.*3 along"),
    "one state too few": (set_array("joint_pos", lambda x: x[:-1]), "joint_pos.*'state'"),
    "as many steps as states": (
        set_array("action", lambda x: np.concatenate([x, x[:1]])),
        "action.*one fewer than states",
    ),
    "another number of episodes": (set_array("success", lambda x: x[:, :2]), "success.*'env'"),
    "batch axis missing": (set_array("joint_pos", lambda x: x[:, 0]), "joint_pos.*axes"),
    "vectors of two": (set_array("object_pos", lambda x: x[..., :2]), "object_pos.*2 along 3"),
    "names left out": (lambda m, a: m["axes"].pop("term"), "meta.axes.term is missing"),
    "name twice": (
        lambda m, a: m["axes"].update(joint=["FFJ3", "FFJ3", "FFJ1", "slide_z"]),
        "'FFJ3' more than once",
    ),
    "unknown axis": (lambda m, a: m["axes"].update(finger=["FF"]), "axes.finger"),
    "property too short": (
        lambda m, a: m["properties"]["joint"].update(lower=[0.0]),
        "properties.joint.lower",
    ),
    "limits swapped": (
        lambda m, a: m["properties"]["joint"].update(lower=[0.5] * 4),
        "lower limit of 'FFJ3' is above",
    ),
    "limits nested": (
        lambda m, a: m["properties"]["joint"].update(
            lower=[[0.0, 1.0]] * 4, upper=[[0.0, 1.0]] * 4
        ),
        "lower, upper: .*one of each per joint",
    ),
    "type of each joint": (set_meta(joint_types=["hinge"]), "joint_types has 1"),
    "NaN": (set_array("joint_pos", lambda x: put(x, (4, 1, 2), np.nan)), "state=4, env=1, joint=2"),
    "infinity": (set_array("reward_terms", lambda x: put(x, (0, 0, 1), np.inf)), "not finite"),
    "half precision": (set_array("joint_pos", lambda x: x.astype(np.float16)), "float16"),
    "integers for metres": (set_array("object_pos", lambda x: x.astype(np.int32)), "int32"),
    "numbers for flags": (set_array("success", lambda x: x.astype(np.float32)), "bool"),
    "quaternion not unit": (set_array("object_quat", lambda x: 1.01 * x), "norm"),
    "time backwards": (set_array("time", lambda x: x[::-1]), r"\[time\]"),
    "time in milliseconds": (set_array("time", lambda x: 1000 * x), r"\[time\]"),
    "angles in degrees": (set_array("joint_pos", np.rad2deg), "degrees"),
    "speeds in degrees": (set_array("joint_vel", np.rad2deg), "joint_vel is in degrees"),
    "velocities in another order": (
        set_array("joint_vel", lambda x: x[..., [1, 0, 2, 3]]),
        "different orders.*'FFJ3'.*'FFJ2'",
    ),
    "wxyz that is xyzw": (set_array("object_quat", lambda x: np.roll(x, -1, -1)), "as xyzw"),
    "xyzw that is wxyz": (set_meta(quaternion="xyzw"), "as wxyz, not as xyzw"),
    "parameter with unknown axes": (
        lambda m, a: m["arrays"]["param_friction"].update(axes=["trial"]),
        "param_friction",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_contents_are_refused(case: str, tmp_path: Path) -> None:
    change, message = WRONG[case]
    meta, arrays = example()
    meta = declared(meta, arrays)
    raw_write(tmp_path / "good.npz", meta, arrays)
    read_trace(tmp_path / "good.npz")  # it is the change that is refused
    change(meta, arrays)
    path = raw_write(tmp_path / "bad.npz", meta, arrays)
    with pytest.raises(DataError, match=message) as caught:
        read_trace(path)
    assert "bad.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_degrees_are_refused_without_velocities_by_the_limits(tmp_path: Path) -> None:
    meta, arrays = example()
    del arrays["joint_vel"]
    arrays["joint_pos"] = np.rad2deg(arrays["joint_pos"])
    with pytest.raises(DataError, match="its limits are -0.4 and 0.4: degrees"):
        write_trace(tmp_path / "t.npz", meta, arrays)
    assert not list(tmp_path.iterdir())


def test_noisy_velocities_raise_no_alarm(tmp_path: Path) -> None:
    """Velocities that are merely bad (contacts, filters, a frame late) are not called degrees."""
    meta, arrays = example()
    rng = np.random.default_rng(0)
    for change in (
        lambda x: np.zeros_like(x),
        lambda x: x + rng.normal(size=x.shape).astype(np.float32),
        lambda x: np.roll(x, 3, 0),
        lambda x: -x,
    ):
        bad = change(arrays["joint_vel"])
        write_trace(tmp_path / "t.npz", meta, dict(arrays, joint_vel=bad))
        np.testing.assert_array_equal(read_trace(tmp_path / "t.npz")["joint_vel"], bad)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no valid JSON"),
        (b"\xff\xfe", "no valid JSON"),
        (b"[1]", "a list"),
        (b'{"format": "dexjax.trace", "format": "x"}', "repeated"),
        (b'{"dt": NaN}', "NaN is no JSON number"),
        (b'{"dt": -Infinity}', "Infinity"),
        (b"[" * 200_000, "no valid JSON"),
    ],
)
def test_wrong_metadata_bytes(text: bytes, message: str, tmp_path: Path) -> None:
    path = raw_write(tmp_path / "bad.npz", text, example()[1])
    with pytest.raises(DataError, match=message):
        read_trace(path)


def test_metadata_as_text_and_files_without_any(tmp_path: Path) -> None:
    meta, arrays = example()
    np.savez(tmp_path / "a.npz", __meta__=np.array(json.dumps(meta)), **arrays)
    with pytest.raises(DataError, match="uint8"):
        read_trace(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="this .npz is no trace"):
        read_trace(tmp_path / "b.npz")
    with pytest.raises(DataError, match="no such file"):
        read_trace(tmp_path / "c.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "attacked",))

    meta, arrays = example()
    path = tmp_path / "t.npz"
    bad = dict(arrays, joint_pos=np.full(arrays["joint_pos"].shape, Attack(), object))
    np.savez(path, __meta__=np.frombuffer(json.dumps(meta).encode(), np.uint8), **bad)
    with pytest.raises(DataError, match="refused"):
        read_trace(path)
    with pytest.raises(DataError, match="object"):
        write_trace(path, meta, bad)
    assert not (tmp_path / "attacked").exists()


@given(cut=st.floats(0, 0.999))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_truncated_files_are_refused(cut: float, written: Path) -> None:
    data = written.read_bytes()
    short = written.with_name("short.npz")
    short.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(DataError, match="short.npz"):
        read_trace(short)


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_flipped_bytes_are_refused_or_harmless(data: st.DataObject, written: Path) -> None:
    """Any byte changed: DataError, or a trace that passes every check again. Nothing else."""
    content = bytearray(written.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = written.with_name("flipped.npz")
    path.write_bytes(bytes(content))
    try:
        trace = read_trace(path)
    except DataError as error:
        assert "flipped.npz" in str(error)
    else:
        assert all(np.isfinite(a).all() for a in trace.arrays.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(data=st.data())
@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_metadata_is_read_or_refused(data: st.DataObject, written: Path) -> None:
    """A field, or a field of a field, replaced by any JSON: DataError or a trace, never a crash."""
    trace = read_trace(written)
    meta = copy.deepcopy(trace.meta)
    table: Any = meta
    while True:
        key = data.draw(st.sampled_from(sorted(table)))
        if isinstance(table[key], dict) and table[key] and data.draw(st.booleans()):
            table = table[key]
            continue
        if data.draw(st.integers(0, 5)) == 0:
            del table[key]
        else:
            table[key] = data.draw(JSON)
        break
    path = raw_write(written.with_name("meta.npz"), meta, trace.arrays)
    try:
        describe(read_trace(path))
    except DataError as error:
        assert "meta.npz" in str(error)


def test_bombs_are_refused(written: Path) -> None:
    with pytest.raises(DataError, match="over the limit"):
        read_trace(written, max_bytes=5_000)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(1))
    with zipfile.ZipFile(written, "a") as archive:
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("joint_pos.npy", buffer.getvalue())
    with pytest.raises(DataError, match="repeated"):
        read_trace(written)


def test_info(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "info", str(written)]) == 0
    text = capsys.readouterr().out
    assert "3 episodes x 30 steps" in text and "joint_pos" in text and "rad or m" in text
    written.write_bytes(written.read_bytes()[:1000])
    assert main(["trace", "info", str(written)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
