"""Reading other people's .npy, .npz and .pkl files without running any of their code.

`pickle` executes what a file says. Here a pickle is decoded as data instead: a small stack machine
builds numbers, strings, plain containers and numpy arrays, and anything else in the file is
refused by name. NumPy's own state setters are only ever given dtypes made by this module, since a
forged dtype can turn raw bytes into object pointers.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dexjax.core.errors import DataError

DEFAULT_MAX_BYTES = 2 * 1024**3
"""Largest file, and largest unpacked archive, that is read unless the caller says otherwise."""

_MALFORMED = (
    ValueError,  # includes UnicodeError
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    AttributeError,
    SyntaxError,  # a header that is no Python literal
    tokenize.TokenError,
    RecursionError,
    MemoryError,
    NotImplementedError,  # zip features that the standard library lacks
    RuntimeError,  # encrypted archive members
    OSError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


def read_npy(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> np.ndarray:
    """The array of a .npy file; object arrays hold numbers, strings, arrays and plain containers.

    Raises DataError naming the file where it is missing, truncated, larger than `max_bytes`, or
    contains anything but data.
    """
    return _guarded(str(path), lambda: _npy(_contents(Path(path), max_bytes), str(path)))


def read_npz(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> dict[str, np.ndarray]:
    """All arrays of a .npz file by name. `max_bytes` bounds the unpacked size of all members.

    Raises DataError as `read_npy` does.
    """
    return _guarded(str(path), lambda: _npz(_contents(Path(path), max_bytes), str(path), max_bytes))


def read_pickle(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Any:
    """The data of a pickle: numbers, strings, bytes, lists, tuples, dicts, sets, numpy arrays.

    Ordered and default dicts come back as plain dicts. Raises DataError as `read_npy` does; a
    reference to any other class or function is refused by name, and nothing is ever called.
    """
    return _guarded(str(path), lambda: parse_pickle(_contents(Path(path), max_bytes), str(path)))


def parse_pickle(data: bytes, source: str) -> Any:
    """`read_pickle` for bytes in memory; `source` names them in errors."""
    return _guarded(source, lambda: _PickleReader(source).read(data))


def _guarded(source: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except DataError:
        raise
    except _MALFORMED as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise DataError(
            f"{source}: the file is damaged or of another format ({reason}); fetch it again"
        ) from error


def _contents(path: Path, max_bytes: int) -> bytes:
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    size = path.stat().st_size
    if size > max_bytes:
        raise DataError(f"{path}: {size} bytes, over the limit of {max_bytes}; raise max_bytes")
    return path.read_bytes()


def _npz(data: bytes, source: str, max_bytes: int) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        # zipfile never yields more than the declared size, so the declared sizes can be trusted.
        total = sum(member.file_size for member in members)
        if total > max_bytes:
            raise DataError(
                f"{source}: unpacks to {total} bytes, over the limit of {max_bytes}; "
                "a zip bomb, or raise max_bytes"
            )
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in arrays:
                raise DataError(
                    f"{source}: member {member.filename!r} is "
                    f"{'repeated' if name in arrays else 'no .npy array'}; fetch the file again"
                )
            arrays[name] = _npy(archive.read(member), f"{source}[{name}]")
    return arrays


def _npy(data: bytes, source: str) -> np.ndarray:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise DataError(f"{source}: .npy version {version} is not read; save it again with numpy")
    shape, fortran, dtype = readers[version](stream)
    payload = data[stream.tell() :]
    if dtype == np.dtype(object):
        array = _PickleReader(source).read(payload)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            raise DataError(f"{source}: header and contents disagree; fetch the file again")
        return array
    if dtype.hasobject or dtype.itemsize == 0:
        raise DataError(f"{source}: dtype {dtype} is not read; save plain arrays")
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed > len(payload):
        raise DataError(
            f"{source}: truncated: shape {shape} of {dtype} needs {needed} bytes, "
            f"{len(payload)} are there; fetch the file again"
        )
    flat = np.frombuffer(payload[:needed], dtype=dtype).copy()
    return flat.reshape(shape, order="F" if fortran else "C")


# What a pickle may refer to, by every module path that NumPy 1 and 2, Python 2 and 3 write.
_GLOBALS: dict[tuple[str, str], str] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # bytes as written by protocols 0 to 2
    ("collections", "OrderedDict"): "dict",
    ("collections", "defaultdict"): "defaultdict",
    **{
        (f"numpy.{core}.{module}", name): kind
        for core in ("core", "_core")
        for module, name, kind in (
            ("multiarray", "_reconstruct", "array"),
            ("multiarray", "scalar", "scalar"),
            ("numeric", "_frombuffer", "frombuffer"),
        )
    },
    **{
        (module, name): name
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "bytes", "list", "dict", "int", "float", "str")
    },
}
_DTYPE = re.compile(r"[|<>=]?([biufcSUO]\d{1,9}|[?O])")
_LEAVES = (str, bytes, int, float, complex, bool, type(None), np.generic, np.dtype)


class _Global:
    """A permitted reference inside a pickle; means something only as part of a construction."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _PickleReader:
    """One decoding of one pickle: value stack, marks and memo of the pickle machine."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        # pickletools only decodes instructions; it neither imports nor allocates ahead of the data.
        for opcode, argument, position in pickletools.genops(data):
            name = opcode.name
            if name in _PUSH_ARGUMENT:
                self.stack.append(argument)
            elif name in _PUSH_NEW:
                self.stack.append(_PUSH_NEW[name]())
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name == "STOP":
                value = self.stack.pop()
                self.require_plain(value)
                return value
            elif name not in ("PROTO", "FRAME"):
                what = f"instruction {name} {argument or ''}".rstrip()
                raise self.refusal(f"{what} at byte {position}")
        raise DataError(f"{self.source}: the pickled data ends early; fetch the file again")

    def refusal(self, what: str) -> DataError:
        return DataError(
            f"{self.source}: refused {what} in pickled data: only numpy arrays, numbers, strings "
            "and plain containers are read. The file may be malicious; do not unpickle it"
        )

    def find_global(self, module: str, name: str) -> None:
        kind = _GLOBALS.get((module, name))
        if kind is None:
            raise self.refusal(f"global {str(module)[:100]}.{str(name)[:100]}")
        self.stack.append(_Global(kind))

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def key(self, value: Any) -> Any:
        """A dict key or set member. Nested tuples are refused: hashing deep ones can crash."""
        parts = value if type(value) is tuple else (value,)
        if not all(isinstance(part, _LEAVES) for part in parts):
            raise self.refusal(f"key or set member of type {type(value).__name__}")
        return value

    def target(self, kind: type) -> Any:
        """The container on top of the stack that the instruction fills."""
        container = self.stack[-1]
        if type(container) is not kind:
            raise self.refusal(f"filling a {type(container).__name__} as a {kind.__name__}")
        return container

    def update_dict(self, target: dict, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("odd number of dict items")
        for index in range(0, len(items), 2):
            target[self.key(items[index])] = items[index + 1]

    def reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        if type(function) is not _Global or type(arguments) is not tuple:
            raise self.refusal(f"call of a {type(function).__name__}")
        self.stack.append(self.construct(function.kind, arguments))

    def construct(self, kind: str, arguments: tuple) -> Any:
        """The value of a permitted construction, its arguments checked one by one."""
        match kind, arguments:
            case "array", (_Global(kind="ndarray"), (0,), str() | bytes()):
                return np.empty(0, dtype=np.int8)  # filled by the BUILD that follows
            case "dtype", (str() as spec, *_) if _DTYPE.fullmatch(spec):
                return np.dtype(spec, copy=True)  # a copy: `build` replaces it by identity
            case "scalar", (np.dtype() as dtype, str() | bytes() as raw):
                return self.from_buffer(dtype, (), _raw(raw))[()]
            case "frombuffer", (bytes() | bytearray() as raw, np.dtype() as dtype, shape, order):
                return self.from_buffer(dtype, shape, bytes(raw), "F" if order == "F" else "C")
            case "encode", (str() as text, "latin1" | "latin-1"):
                return text.encode("latin-1")
            case "bytes", ():
                return b""
            case "set" | "frozenset", (list() | tuple() as items,):
                return (set if kind == "set" else frozenset)(self.key(item) for item in items)
            case "set" | "frozenset", ():
                return set() if kind == "set" else frozenset()
            case ("dict", ()) | ("defaultdict", () | (None,) | (_Global(),)):
                return {}
            case "dict", (list() as pairs,):  # Python 2's OrderedDict
                return {self.key(key): value for key, value in pairs}
        described = ", ".join(type(argument).__name__ for argument in arguments)
        raise self.refusal(f"construction {kind}({described})")

    def from_buffer(self, dtype: np.dtype, shape: Any, raw: bytes, order: Any = "C") -> np.ndarray:
        if dtype.hasobject or not _matches(shape, dtype.itemsize, len(raw)):
            raise self.refusal(f"array of {dtype} whose size does not match its data")
        return np.frombuffer(raw, dtype=dtype).copy().reshape(shape, order=order)

    def build(self) -> None:
        """State of an array or dtype: the only two that may have any."""
        state = self.stack.pop()
        match self.stack[-1], state:
            case np.dtype() as dtype, (_, "<" | ">" | "|" | "=" as order, None, None, None, *_):
                # Only the byte order is taken: flags and sizes of the file are never applied.
                swapped = dtype.newbyteorder(order) if order in "<>" else dtype
                self.stack[-1] = swapped
                if swapped is not dtype:
                    for index, value in self.memo.items():
                        if value is dtype:
                            self.memo[index] = swapped
            case np.ndarray() as array, (_, shape, np.dtype() as dtype, fortran, raw):
                if dtype.hasobject:
                    good = type(raw) is list and _matches(shape, 1, len(raw))
                else:
                    raw = _raw(raw)
                    good = _matches(shape, dtype.itemsize, len(raw))
                if not good:
                    raise self.refusal(f"array of {dtype} whose size does not match its data")
                # NumPy's stub asks for its own bool, its code for Python's.
                array.__setstate__((1, shape, dtype, bool(fortran), raw))  # type: ignore[arg-type]
            case target, _:
                raise self.refusal(f"state of a {type(target).__name__}")

    def require_plain(self, root: Any) -> None:
        """Refuse references to classes or functions left inside the result."""
        seen: set[int] = set()
        pending = [root]
        while pending:
            value = pending.pop()
            if isinstance(value, _LEAVES) or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, dict):
                pending.extend(value.values())  # keys are leaves or flat tuples already
            elif isinstance(value, (list, tuple, set, frozenset)):
                pending.extend(value)
            elif isinstance(value, np.ndarray):
                if value.dtype.hasobject:
                    pending.extend(value.ravel().tolist())
            elif isinstance(value, _Global):
                raise self.refusal(f"reference to {value.kind} as a value")
            elif not isinstance(value, bytearray):
                raise self.refusal(f"value of type {type(value).__name__}")


def _raw(data: Any) -> bytes:
    """Array contents; Python 2 wrote them as a string."""
    if isinstance(data, str):
        return data.encode("latin-1")
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    raise TypeError(f"array contents of type {type(data).__name__}")


def _matches(shape: Any, itemsize: int, size: int) -> bool:
    return (
        type(shape) is tuple
        and all(type(n) is int and n >= 0 for n in shape)
        and itemsize > 0
        and math.prod(shape) * itemsize == size
    )


_PUSH_ARGUMENT = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}


def _tuple(count: int) -> Callable[[_PickleReader, Any], None]:
    def build_tuple(reader: _PickleReader, _: Any) -> None:
        if len(reader.stack) < count:
            raise IndexError("tuple from an empty stack")
        reader.stack[-count:] = [tuple(reader.stack[-count:])]

    return build_tuple


def _append(r: _PickleReader, _: Any) -> None:
    value = r.stack.pop()
    r.target(list).append(value)


def _appends(r: _PickleReader, _: Any) -> None:
    items = r.pop_mark()
    r.target(list).extend(items)


def _set_item(r: _PickleReader, _: Any) -> None:
    value, key = r.stack.pop(), r.stack.pop()
    r.update_dict(r.target(dict), [key, value])


def _set_items(r: _PickleReader, _: Any) -> None:
    items = r.pop_mark()
    r.update_dict(r.target(dict), items)


def _add_items(r: _PickleReader, _: Any) -> None:
    items = r.pop_mark()
    r.target(set).update(r.key(item) for item in items)


def _dict(r: _PickleReader, _: Any) -> None:
    target: dict = {}
    r.update_dict(target, r.pop_mark())
    r.stack.append(target)


def _get(r: _PickleReader, index: Any) -> None:
    r.stack.append(r.memo[int(index)])


def _put(r: _PickleReader, index: Any) -> None:
    r.memo[int(index)] = r.stack[-1]


def _stack_global(r: _PickleReader, _: Any) -> None:
    name, module = r.stack.pop(), r.stack.pop()
    r.find_global(module, name)


_ACTIONS: dict[str, Callable[[_PickleReader, Any], Any]] = {
    "MARK": lambda r, _: r.marks.append(len(r.stack)),
    "POP_MARK": lambda r, _: r.pop_mark(),
    "POP": lambda r, _: r.stack.pop(),
    "DUP": lambda r, _: r.stack.append(r.stack[-1]),
    "APPEND": _append,
    "APPENDS": _appends,
    "LIST": lambda r, _: r.stack.append(r.pop_mark()),
    "TUPLE": lambda r, _: r.stack.append(tuple(r.pop_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "DICT": _dict,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "ADDITEMS": _add_items,
    "FROZENSET": lambda r, _: r.stack.append(frozenset(r.key(item) for item in r.pop_mark())),
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": lambda r, _: r.memo.__setitem__(len(r.memo), r.stack[-1]),
    "GLOBAL": lambda r, name: r.find_global(*name.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda r, _: r.reduce(),
    "BUILD": lambda r, _: r.build(),
}
