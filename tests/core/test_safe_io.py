"""The restricted readers: faithful on data, closed to code, clear on damage."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from dexjax.core.errors import DataError
from dexjax.core.safe_io import parse_pickle, read_npy, read_npz, read_pickle

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
KEYS = st.text(max_size=8) | st.integers() | st.binary(max_size=4) | st.tuples(st.integers())
DATA = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
    ),
    max_leaves=20,
)
ARRAYS = st_numpy.arrays(
    dtype=st.one_of(
        st_numpy.boolean_dtypes(),
        st_numpy.integer_dtypes(),
        st_numpy.unsigned_integer_dtypes(),
        st_numpy.floating_dtypes(),
        st_numpy.unicode_string_dtypes(min_len=1),
        st_numpy.byte_string_dtypes(min_len=1),
    ),
    shape=st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


# --- faithful -----------------------------------------------------------------------------------


@given(value=DATA, protocol=st.integers(0, 5))
def test_plain_data_equals_what_pickle_reads(value: Any, protocol: int) -> None:
    assert parse_pickle(pickle.dumps(value, protocol), "test") == value


@given(array=ARRAYS, protocol=st.integers(0, 5), fortran=st.booleans())
def test_arrays_equal_what_pickle_reads(array: np.ndarray, protocol: int, fortran: bool) -> None:
    dumped = pickle.dumps({"a": np.asarray(array, order="F" if fortran else "C")}, protocol)
    ours, reference = parse_pickle(dumped, "test")["a"], pickle.loads(dumped)["a"]
    assert ours.dtype == reference.dtype and ours.shape == reference.shape
    assert ours.tobytes() == reference.tobytes()  # bytes, so that NaN equals NaN


@pytest.mark.parametrize("protocol", range(6))
def test_containers_scalars_and_object_arrays(protocol: int) -> None:
    groups: defaultdict = defaultdict(list)
    groups["a"].append(1)
    value = {
        "scalar": np.float32(1.5),
        "flag": np.bool_(True),
        "ordered": OrderedDict(b=1, a=2),
        "groups": groups,
        "objects": np.array([{"q": 1.0}, None, "x"], dtype=object),
        "dtype": np.dtype(">i4"),
    }
    read = parse_pickle(pickle.dumps(value, protocol), "test")
    assert read["scalar"] == np.float32(1.5) and read["scalar"].dtype == np.float32
    assert read["flag"].dtype == np.bool_ and read["flag"]
    assert list(read["ordered"].items()) == [("b", 1), ("a", 2)]
    assert read["groups"] == {"a": [1]} and type(read["groups"]) is dict
    assert read["objects"].tolist() == [{"q": 1.0}, None, "x"]
    assert read["dtype"] == np.dtype(">i4")


def test_shared_and_cyclic_references_are_kept() -> None:
    inner: list = [1]
    cycle: list = [inner, inner]
    cycle.append(cycle)
    read = parse_pickle(pickle.dumps(cycle), "test")
    assert read[0] is read[1] and read[2] is read


def test_files_of_each_kind(tmp_path: Path) -> None:
    grasps = np.array([{"qpos": {"FFJ3": 0.5}, "scale": 0.06}], dtype=object)
    np.save(tmp_path / "grasps.npy", grasps, allow_pickle=True)
    np.save(tmp_path / "plain.npy", np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    np.savez_compressed(tmp_path / "both.npz", qpos=grasps[0], scale=np.float32(12.5))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": np.arange(3)}))

    assert read_npy(tmp_path / "grasps.npy")[0] == grasps[0]
    np.testing.assert_array_equal(read_npy(tmp_path / "plain.npy"), [[0, 1, 2], [3, 4, 5]])
    both = read_npz(tmp_path / "both.npz")
    assert both["qpos"].item() == grasps[0] and both["scale"] == 12.5
    np.testing.assert_array_equal(read_pickle(tmp_path / "x.pkl")["a"], [0, 1, 2])


def test_python_2_pickle_of_an_array() -> None:
    # What Python 2's protocol 2 (numpy.save's) wrote for np.array([1.0]): contents as a str.
    dumped = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x00\x00\x00\x00\x00\x00\xf0?tb."
    )
    np.testing.assert_array_equal(parse_pickle(dumped, "test"), [1.0])


# --- closed to code -----------------------------------------------------------------------------


class Calls:
    """Pickles to a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def _malicious(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> (pickle that would create `canary` or corrupt memory, what the error must name)."""
    import copyreg
    import functools

    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    argument = pickle.dumps(command, 0)[:-1]  # without STOP
    reconstruct = _global("numpy.core.multiarray", "_reconstruct")
    dtype_o = _global("numpy", "dtype") + b"(" + _short("O8") + b"tR"
    # A dtype whose flags claim that it holds no objects, then an array of raw 'pointers' of it.
    forged = dtype_o + b"(K\x03" + _short("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array_of = reconstruct + b"(" + _global("numpy", "ndarray") + b"(K\x00tC\x01btR"
    return {
        "os.system": (pickle.dumps(Calls(os.system, command)), "system"),
        "eval": (pickle.dumps(Calls(eval, code)), "builtins.eval"),
        "exec nested": (pickle.dumps({"qpos": [1, (Calls(exec, code),)]}), "builtins.exec"),
        "in an object array": (
            pickle.dumps(np.array([{"qpos": Calls(exec, code)}], dtype=object)),
            "builtins.exec",
        ),
        "partial": (pickle.dumps(Calls(functools.partial, os.system, command)), "partial"),
        "getattr": (_global("builtins", "getattr") + b"(" + argument + b"tR.", "builtins.getattr"),
        "numpy runstring": (
            _global("numpy.testing._private.utils", "runstring")
            + b"("
            + pickle.dumps(code, 0)[:-1]
            + b"}tR.",
            "runstring",
        ),
        "numpy f2py": (
            _global("numpy.f2py.crackfortran", "myeval") + b"(" + argument + b"tR.",
            "myeval",
        ),
        "numpy.load": (_global("numpy", "load") + b"(" + argument + b"tR.", "numpy.load"),
        "numpy attribute path": (
            b"\x80\x04" + _short("numpy") + _short("ctypeslib.ctypes.CDLL") + b"\x93.",
            "ctypeslib",
        ),
        "ctypes": (_global("ctypes", "CDLL") + b"(" + argument + b"tR.", "ctypes.CDLL"),
        "copyreg": (pickle.dumps(Calls(copyreg._reconstructor, Path, object, None)), "copyreg"),
        "add_extension": (
            _global("copyreg", "add_extension") + b"(" + argument + b"tR.",
            "add_extension",
        ),
        "INST": (b"(" + argument + b"ios\nsystem\n.", "INST"),
        "OBJ": (b"(" + _global("os", "system") + argument + b"o.", "os.system"),
        "NEWOBJ": (_global("numpy", "ndarray") + b"(K\x05t\x81.", "NEWOBJ"),
        "EXT1": (b"\x82\x01.", "EXT1"),
        "PERSID": (b"Pos.system\n.", "PERSID"),
        "class as value": (b"]" + _global("builtins", "int") + b"a.", "reference to int"),
        "class in a tuple": (_global("builtins", "int") + b"\x85\x85.", "reference to int"),
        "call of a container": (b"]" + b")R.", "call of a list"),
        "int called": (_global("builtins", "int") + b"(" + argument + b"tR.", "construction int"),
        "other codec": (
            _global("_codecs", "encode") + b"(" + argument + b"S'rot13'\ntR.",
            "construction encode",
        ),
        "huge array": (
            reconstruct + b"(" + _global("numpy", "ndarray") + b"(J\xff\xff\xff\x7ftC\x01btR.",
            "construction array",
        ),
        "other array type": (reconstruct + b"(" + dtype_o + b"(K\x00tC\x01btR.", "construction"),
        "forged dtype": (
            array_of + b"(K\x01(K\x01t" + forged + b"\x89C\x08" + b"A" * 8 + b"tb.",
            "size does not match",
        ),
        "object scalar": (
            _global("numpy.core.multiarray", "scalar") + b"(" + dtype_o + b"C\x08AAAAAAAAtR.",
            "size does not match",
        ),
        "array larger than its data": (
            array_of + b"(K\x01(J\xff\xff\xff\x7ft" + _global("numpy", "dtype")
            + b"(" + _short("f8") + b"tR\x89C\x08AAAAAAAAtb.",
            "size does not match",
        ),
        "state of a dict": (b"}}b.", "state of a dict"),
        "unhashable depth": (b"}" + b")" + b"\x85" * 300_000 + b"K\x01s.", "key"),
    }  # fmt: skip


NAMES = sorted(_malicious(Path("canary")))


@pytest.mark.parametrize("name", NAMES)
def test_malicious_pickles_are_refused_by_name(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    dumped, named = _malicious(canary)[name]
    path = tmp_path / "grasp.pkl"
    path.write_bytes(dumped)
    with pytest.raises(DataError, match=named) as caught:
        read_pickle(path)
    assert str(path) in str(caught.value) and "refused" in str(caught.value)

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    (tmp_path / "grasp.npy").write_bytes(header.getvalue() + dumped)
    with pytest.raises(DataError, match=named):
        read_npy(tmp_path / "grasp.npy")
    with zipfile.ZipFile(tmp_path / "grasp.npz", "w") as archive:
        archive.write(tmp_path / "grasp.npy", "qpos.npy")
    with pytest.raises(DataError, match=named):
        read_npz(tmp_path / "grasp.npz")
    assert not canary.exists()


def test_the_canary_would_have_been_written(tmp_path: Path) -> None:
    """The refused pickles are real: the unrestricted reader runs them."""
    for name in ("os.system", "eval", "exec nested", "in an object array", "INST"):
        canary = tmp_path / name.replace(" ", "_")
        pickle.loads(_malicious(canary)[name][0])
        assert canary.exists(), name


# --- bombs and damage ---------------------------------------------------------------------------


def test_instructions_that_allocate_ahead_of_data_cost_nothing() -> None:
    bytearray8 = b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"."
    memo = b"Nr\xff\xff\xff\xff."  # PUT at index 2**32 - 1: the C reader grows its memo table
    with pytest.raises(DataError, match="damaged"):
        parse_pickle(bytearray8, "bomb")
    assert parse_pickle(memo, "bomb") is None


def test_size_limits(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", zeros=np.zeros(1_000_000))
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    with pytest.raises(DataError, match="unpacks to"):
        read_npz(tmp_path / "bomb.npz", max_bytes=1_000_000)
    assert read_npz(tmp_path / "bomb.npz")["zeros"].shape == (1_000_000,)
    np.save(tmp_path / "big.npy", np.zeros(1000))
    with pytest.raises(DataError, match="over the limit"):
        read_npy(tmp_path / "big.npy", max_bytes=1000)


def test_header_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    )
    (tmp_path / "liar.npy").write_bytes(header.getvalue() + b"1" * 64)
    with pytest.raises(DataError, match=r"liar\.npy.*truncated"):
        read_npy(tmp_path / "liar.npy")


def _valid_files() -> dict[str, bytes]:
    grasps = np.array(
        [{"qpos": {"FFJ3": 0.5, "pose": np.arange(3.0)}, "scale": 0.06}], dtype=object
    )
    npy, npz, objects = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy, np.arange(6, dtype=np.float32).reshape(2, 3))
    np.save(objects, grasps, allow_pickle=True)
    np.savez_compressed(npz, qpos=grasps, plane=np.ones(4))
    return {
        "plain.npy": npy.getvalue(),
        "objects.npy": objects.getvalue(),
        "both.npz": npz.getvalue(),
        "data.pkl": pickle.dumps({"a": [1, 2.5, {"b": np.arange(3)}], "c": ("x", b"y")}),
    }


READERS = {".npy": read_npy, ".npz": read_npz, ".pkl": read_pickle}


@pytest.mark.parametrize("name", sorted(_valid_files()))
def test_every_truncation_is_a_data_error(name: str, tmp_path: Path) -> None:
    content = _valid_files()[name]
    path = tmp_path / name
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=name):
            READERS[path.suffix](path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("not an array")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"absent\.npy: no such file"):
        read_npy(tmp_path / "absent.npy")
    with pytest.raises(DataError, match=r"text\.npy: the file is damaged"):
        read_npy(tmp_path / "text.npy")
    with pytest.raises(DataError, match=r"readme\.txt"):
        read_npz(tmp_path / "text.npz")


# --- fuzzing ------------------------------------------------------------------------------------

PLAIN = (dict, list, tuple, set, frozenset, bytearray, np.ndarray, np.generic, np.dtype)
PLAIN += (str, bytes, int, float, bool, type(None))  # type: ignore[assignment]


def _damage(content: bytes, edits: list[tuple[int, int]]) -> bytes:
    damaged = bytearray(content)
    for position, value in edits:
        damaged[position % len(damaged)] = value
    return bytes(damaged)


def _read_or_refuse(path: Path, content: bytes) -> None:
    """Any content at all gives plain data or a DataError, nothing else."""
    path.write_bytes(content)
    try:
        value = READERS[path.suffix](path, max_bytes=1_000_000)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(value, PLAIN)


EDITS = st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=8)
OPCODES = st.lists(
    st.sampled_from([bytes([code]) for code in b"(.0122FGIJKLMNRSTUVXabcdeghijlopqrstu)]}\x8c\x93"])
    | st.sampled_from([bytes([code]) for code in range(0x80, 0x99)])
    | st.sampled_from([_global(*key) for key in [("numpy", "dtype"), ("numpy", "ndarray")]])
    | st.binary(max_size=4),
    max_size=60,
).map(b"".join)


@pytest.mark.parametrize("name", sorted(_valid_files()))
@given(edits=EDITS)
@settings(max_examples=50)
def test_damaged_files(name: str, edits: list[tuple[int, int]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged-{name}"
    _read_or_refuse(path, _damage(_valid_files()[name], edits))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_valid_files()))
@given(edits=EDITS)
@settings(max_examples=1000)
def test_damaged_files_1000(name: str, edits: list, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged-{name}"
    _read_or_refuse(path, _damage(_valid_files()[name], edits))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pkl"])
@given(content=st.binary(max_size=300))
@settings(max_examples=1000)
def test_random_bytes_1000(suffix: str, content: bytes, tmp_path_factory: Any) -> None:
    prefix = {".npy": b"\x93NUMPY\x01\x00", ".npz": b"PK\x03\x04", ".pkl": b"\x80\x04"}[suffix]
    for start in (b"", prefix):
        path = tmp_path_factory.getbasetemp() / f"random{suffix}"
        _read_or_refuse(path, start + content)


@pytest.mark.slow
@given(program=OPCODES)
@settings(max_examples=2000)
def test_random_pickle_programs_2000(program: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "program.pkl"
    _read_or_refuse(path, program + b".")
