"""Published train and test lists of UniDexGrasp, and what leaks between them.

The lists look like YAML but are none: lines `'sem/Mug-<hash>':[0.06],` whose keys repeat, so that
a YAML reader would keep the last line of each object only. Result files append `[success],`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dexjax.core.errors import DataError
from dexjax.data.records import ObjectCode, parse_object_code

_LIST = r"\[([^\[\]]*)\]"
_LINE = re.compile(rf"""\s*(['"])([^'"]+)\1\s*:\s*{_LIST}\s*,?\s*(?:{_LIST}\s*,?)?\s*""")


@dataclass(frozen=True)
class SplitEntry:
    """One object at one scale."""

    object_code: str
    scale: float  # metres per unit of the normalised mesh


@dataclass(frozen=True)
class Split:
    """A published list, in file order, repeated lines included as they count twice there."""

    name: str
    entries: tuple[SplitEntry, ...]

    @property
    def distinct(self) -> tuple[SplitEntry, ...]:
        """Each (object, scale) once, in order of first appearance."""
        return tuple(dict.fromkeys(self.entries))

    @property
    def duplicates(self) -> dict[SplitEntry, int]:
        """Entries that stand more than once, with how often."""
        return {entry: n for entry, n in Counter(self.entries).items() if n > 1}


@dataclass(frozen=True)
class SplitLeakage:
    """What one test list shares with the training list. Entries are distinct (object, scale)."""

    test: str
    lines: int
    duplicate_lines: int  # lines that repeat an earlier one
    same_entry: tuple[SplitEntry, ...]  # in training at the same scale
    same_mesh: tuple[SplitEntry, ...]  # in training, at other scales only
    same_instance: tuple[SplitEntry, ...]  # the ShapeNet model is in training under another code
    leaking_lines: int  # lines of the three kinds above
    shared_categories: tuple[str, ...]  # same source and category on both sides
    renamed_categories: dict[str, str]  # test category -> training category of another spelling


@dataclass(frozen=True)
class LeakageReport:
    """Leakage of every test list, and lines repeated within the training list."""

    train: str
    train_lines: int
    train_duplicate_lines: int
    tests: tuple[SplitLeakage, ...]

    def __str__(self) -> str:
        rows = [
            f"train {self.train}: {self.train_lines} lines, "
            f"{self.train_duplicate_lines} of them repeated"
        ]
        for test in self.tests:
            renamed = ", ".join(f"{a} = {b}" for a, b in test.renamed_categories.items())
            rows.append(
                f"test {test.test}: {test.lines} lines, {test.duplicate_lines} of them repeated; "
                f"{test.leaking_lines} lines share a mesh with train "
                f"(entries: {len(test.same_entry)} same scale, {len(test.same_mesh)} other scale, "
                f"{len(test.same_instance)} other name); "
                f"{len(test.shared_categories)} categories in train"
                + (f", and under another name: {renamed}" if renamed else "")
            )
        return "\n".join(rows)


def read_split(path: str | Path, name: str | None = None) -> Split:
    """A list of (object, scale); `name` defaults to the file's stem.

    Empty lines and comments are skipped; any other line that is no entry raises DataError with its
    number, as does an empty list.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); check the path") from error
    entries: list[SplitEntry] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        match = _LINE.fullmatch(content)
        if match is None:
            raise DataError(
                f"{path}:{number}: {content[:80]!r} is not of the form 'source/object':[scale],"
            )
        code, scales = match[2], [part for part in match[3].split(",") if part.strip()]
        try:
            parse_object_code(code)
            entries.extend(SplitEntry(code, _scale(scale)) for scale in scales)
        except ValueError as error:  # DataError is one
            raise DataError(f"{path}:{number}: {error}") from error
        if not scales:
            raise DataError(f"{path}:{number}: {code} has no scale")
    if not entries:
        raise DataError(f"{path}: no entries; expected lines 'source/object':[scale],")
    return Split(name or path.stem, tuple(entries))


def split_leakage(train: Split, tests: Sequence[Split]) -> LeakageReport:
    """What the test lists share with the training list: entries, meshes, models, categories.

    A mesh at another scale is the same mesh; the same ShapeNet hash under `core/mug` and `sem/Mug`
    is the same model; category names are compared without case and punctuation.
    """
    return LeakageReport(
        train=train.name,
        train_lines=len(train.entries),
        train_duplicate_lines=len(train.entries) - len(train.distinct),
        tests=tuple(_leakage(train, test) for test in tests),
    )


def _leakage(train: Split, test: Split) -> SplitLeakage:
    codes = {entry.object_code for entry in train.entries}
    known = [parse_object_code(code) for code in codes]
    instances = {code.instance for code in known if code.category}  # only those are hashes
    categories = {_category(code) for code in known} - {""}
    by_spelling = {_spelling(category): category for category in sorted(categories)}

    same_entry, same_mesh, same_instance = [], [], []
    train_entries = set(train.entries)
    for entry in test.distinct:
        if entry in train_entries:
            same_entry.append(entry)
        elif entry.object_code in codes:
            same_mesh.append(entry)
        else:
            code = parse_object_code(entry.object_code)
            if code.category and code.instance in instances:
                same_instance.append(entry)
    leaking = {*same_entry, *same_mesh, *same_instance}

    tested = sorted({_category(parse_object_code(e.object_code)) for e in test.entries} - {""})
    return SplitLeakage(
        test=test.name,
        lines=len(test.entries),
        duplicate_lines=len(test.entries) - len(test.distinct),
        same_entry=tuple(same_entry),
        same_mesh=tuple(same_mesh),
        same_instance=tuple(same_instance),
        leaking_lines=sum(entry in leaking for entry in test.entries),
        shared_categories=tuple(c for c in tested if c in categories),
        renamed_categories={
            c: by_spelling[_spelling(c)]
            for c in tested
            if c not in categories and _spelling(c) in by_spelling
        },
    )


def _category(code: ObjectCode) -> str:
    return f"{code.source}/{code.category}" if code.category else ""


def _spelling(category: str) -> str:
    """The category alone, so that sem/Mug, core/mug and core/mug_ compare equal."""
    return re.sub(r"[^a-z0-9]", "", category.partition("/")[2].casefold())


def _scale(text: str) -> float:
    scale = float(text)
    if not 0.0 < scale < 1.0:
        raise DataError(f"scale {scale} is not in (0, 1) m")
    return scale
