"""Checkpoints: a whole pytree of arrays on disk, written atomically, restored bit by bit.

A checkpoint is a folder named by its step, eight digits or more:

- `state/`: the arrays (orbax v1, which is used nowhere else)
- `metadata.json`: step, score, array table, hashes of all files, and what the caller adds

It is written beside its place, flushed to disk and then renamed, so that a folder with a plain
number is complete whatever happened to the process.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from dexjax.core.errors import DataError

FORMAT = 1  # of the folder layout; raised when old checkpoints can no longer be read
_NAME = re.compile(r"\d{8,}")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StorageError(DataError):
    """A file could not be written: full disk, quota, file size limit or missing permission."""


def save(
    directory: Path,
    step: int,
    state: Any,
    *,
    metadata: dict[str, Any],
    score: float | None = None,
    keep: int = 3,
) -> Path:
    """Write `state` as checkpoint `step`, then delete all but the last `keep` and the best score.

    metadata: JSON values for compatibility checks, returned by `read_metadata`. Raises
    StorageError when the disk is full; older checkpoints are then untouched. All processes of a
    distributed run call this together, on one file system; the first one puts it in place.
    """
    from orbax.checkpoint import v1 as ocp

    final = directory / f"{step:08d}"
    first = jax.process_index() == 0
    temporary = directory / f"tmp-{step:08d}"
    try:
        if first:
            directory.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(directory)
            temporary.mkdir()
        _wait_for_all(f"checkpoint {step} begins")
        ocp.save(temporary.absolute() / "state", state)
        _wait_for_all(f"checkpoint {step} written")
        if not first:
            _wait_for_all(f"checkpoint {step} done")
            return final
        content = {
            **metadata,
            "format": FORMAT,
            "step": step,
            "score": score,
            "arrays": _array_table(state),
            "files": _hashes(temporary / "state"),
        }
        (temporary / "metadata.json").write_text(json.dumps(content, indent=1))
        _flush_tree(temporary)
        if final.exists():  # the same step again, after a resume
            replaced = directory / f"tmp-{step:08d}-replaced"
            final.rename(replaced)
            temporary.rename(final)
            shutil.rmtree(replaced)
        else:
            temporary.rename(final)
        _flush(directory)
    except Exception as e:  # tensorstore reports a full disk as ValueError or RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        if not is_storage_failure(e):
            raise
        raise storage_error(directory, e) from e
    _prune(directory, keep)
    _wait_for_all(f"checkpoint {step} done")
    return final


def restore(path: Path, like: Any) -> Any:
    """The state saved at `path`, in the structure, shapes and dtypes of `like`.

    like: pytree of arrays or `jax.ShapeDtypeStruct` (from `jax.eval_shape`); it may be a dict with
    some of the saved top-level fields only. Where it has a sharding the array gets that one,
    whatever devices it was saved from. Raises DataError naming the first array that is
    missing or of another shape.
    """
    from orbax.checkpoint import v1 as ocp

    metadata = read_metadata(path)
    saved = metadata["arrays"]
    for name, (shape, dtype) in _array_table(like).items():
        if name not in saved:
            raise DataError(f"checkpoint {path}: holds no array {name}; it is from another setup")
        if saved[name] != [shape, dtype]:
            raise DataError(
                f"checkpoint {path}: array {name} has shape {saved[name][0]} {saved[name][1]}, "
                f"but this setup needs {shape} {dtype}"
            )
    # Orbax does not notice every missing or altered file.
    found = _hashes(path / "state")
    for name, digest in metadata["files"].items():
        if found.get(name) != digest:
            what = "was altered" if name in found else "is missing"
            raise DataError(
                f"checkpoint {path}: file state/{name} {what}; "
                "delete this folder to go on from an older one"
            )
    single = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=getattr(x, "sharding", None) or single
        ),
        like,
    )
    absl = logging.getLogger("absl")
    level = absl.level
    try:
        absl.setLevel(logging.ERROR)  # orbax announces its future renames as warnings
        options = ocp.options.PyTreeOptions(
            loading=ocp.options.PyTreeOptions.Loading(partial_load=True)
        )
        with ocp.Context(pytree_options=options):
            return ocp.load(path.absolute() / "state", abstract)
    except Exception as e:  # orbax raises many types; whatever it is, this folder is unusable
        reason = (str(e).splitlines() or [type(e).__name__])[0][:200]
        raise DataError(
            f"checkpoint {path}: cannot be read ({reason}); "
            "delete this folder to go on from an older one"
        ) from e
    finally:
        absl.setLevel(level)


def read_metadata(path: Path) -> dict[str, Any]:
    """metadata.json of a checkpoint. Raises DataError if absent, broken or of another format."""
    file = path / "metadata.json"
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        raise DataError(f"checkpoint {path}: metadata.json is missing; not a checkpoint?") from None
    except (OSError, ValueError) as e:
        raise DataError(f"checkpoint {file}: cannot be read ({e})") from e
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise DataError(
            f"checkpoint {file}: field format is {found!r}, this dexjax reads {FORMAT}; "
            "use the version that wrote it"
        )
    return content


def all_checkpoints(directory: Path) -> list[Path]:
    """Complete checkpoints in order of their step."""
    if not directory.is_dir():
        return []
    found = [p for p in directory.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name))


def latest(directory: Path) -> Path | None:
    """The checkpoint of the highest step, None if there is none."""
    found = all_checkpoints(directory)
    return found[-1] if found else None


def best(directory: Path) -> Path | None:
    """The checkpoint with the highest score (the later of equals), None if none has a score."""
    scored = []
    for path in all_checkpoints(directory):
        try:
            score = read_metadata(path)["score"]
        except DataError:
            continue
        if score is not None:
            scored.append((score, int(path.name), path))
    return max(scored)[2] if scored else None


def is_storage_failure(error: BaseException) -> bool:
    """Whether an exception (or its cause) means that the disk would not take more data."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (*_DISK_FULL, errno.EROFS, errno.EACCES):
            return True
        text = str(seen)
        if any(os.strerror(code) in text for code in _DISK_FULL):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def storage_error(directory: Path, error: BaseException) -> StorageError:
    """What to tell the user about a failed write: the reason, and what is left to go on from."""
    reason = next(
        (
            os.strerror(code)
            for code in (*_DISK_FULL, errno.EROFS, errno.EACCES)
            if os.strerror(code) in str(error) or getattr(error, "errno", None) == code
        ),
        str(error),
    )
    last = latest(directory)
    kept = f"the last intact checkpoint is {last}" if last else f"no checkpoint in {directory} yet"
    return StorageError(
        f"cannot write in {directory.parent}: {reason}; {kept}. "
        "Free some space and continue with --resume, or choose another --run-dir"
    )


def _array_table(tree: Any) -> dict[str, list]:
    """Path -> [shape, dtype] of each array; paths as in messages, `params.actor.Dense_0`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): [list(x.shape), str(x.dtype)]
        for path, x in leaves
    }


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def _remove_leftovers(directory: Path) -> None:
    """Unfinished writes of killed processes. One process writes to a directory at a time."""
    for path in directory.glob("tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def _wait_for_all(what: str) -> None:
    """Nothing in a single process; otherwise returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def _prune(directory: Path, keep: int) -> None:
    spared = {*all_checkpoints(directory)[-max(keep, 1) :], best(directory)}
    for path in all_checkpoints(directory):
        if path not in spared:
            doomed = directory / f"tmp-{path.name}-old"  # renamed first: never half a checkpoint
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def _flush_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            _flush(Path(folder) / name)
        _flush(Path(folder))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
