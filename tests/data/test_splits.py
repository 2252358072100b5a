"""Split lists and their leakage, on a synthetic set with the published lists' properties."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dexjax.core.errors import DataError
from dexjax.data.splits import Split, SplitEntry, read_split, split_leakage

SCALES = (0.06, 0.08, 0.1, 0.12, 0.15)


def _line(entry: tuple[str, float]) -> str:
    return f"    '{entry[0]}':[{entry[1]}],"


def _published(folder: Path) -> tuple[Split, Split, Split]:
    """Lists of the published sizes: 3200 lines of 2145 codes in 100 categories; 141 lines of 137
    codes, 83 of them train meshes at another scale; 100 lines, 78 distinct, 43 codes, with
    sem/Mug (2 lines, 1 code) unseen only because train spells it core/mug."""
    rng = random.Random(0)
    codes = [f"core/mug-{i:032x}" if i < 60 else f"sem/Cat{i % 99}-{i:032x}" for i in range(2145)]
    train = [(code, 0.06) for code in codes] + [(code, 0.08) for code in codes[:1055]]
    # Seen: 83 train meshes at scale 0.15, 54 new meshes, 4 of them at a second scale.
    fresh = [f"sem/Cat{i % 40}-{10**6 + i:032x}" for i in range(54)]
    seen = [(code, 0.15) for code in codes[100:183]] + [(code, 0.1) for code in fresh]
    seen += [(code, 0.12) for code in fresh[:4]]
    # Unseen: 42 codes in 21 new categories at 77 (code, scale) pairs, 1 mug, 22 repeated lines.
    new = [f"sem/New{i % 21}-{10**7 + i:032x}" for i in range(42)]
    unseen = [(code, 0.06) for code in new] + [(code, 0.08) for code in new[:35]]
    unseen += unseen[:21] + [(f"sem/Mug-{10**8:032x}", 0.06)] * 2
    splits = []
    for name, entries in (("train_set", train), ("seen", seen), ("unseen", unseen)):
        rng.shuffle(entries)
        (folder / f"{name}.yaml").write_text("\n".join(map(_line, entries)) + "\n")
        splits.append(read_split(folder / f"{name}.yaml"))
    return splits[0], splits[1], splits[2]


def test_leakage_of_lists_with_the_published_properties(tmp_path: Path) -> None:
    train, seen, unseen = _published(tmp_path)
    assert (len(train.entries), len(train.distinct)) == (3200, 3200)
    assert len({entry.object_code for entry in train.entries}) == 2145
    assert (len(seen.entries), len({e.object_code for e in seen.entries})) == (141, 137)
    assert (len(unseen.entries), len(unseen.distinct)) == (100, 78)
    assert len({e.object_code for e in unseen.entries}) == 43
    assert sum(unseen.duplicates.values()) - len(unseen.duplicates) == 22

    report = split_leakage(train, [seen, unseen])
    assert (report.train_lines, report.train_duplicate_lines) == (3200, 0)
    first, second = report.tests
    assert len(first.same_mesh) == first.leaking_lines == 83
    assert not first.same_entry and not first.same_instance and not first.renamed_categories
    assert second.duplicate_lines == 22 and second.leaking_lines == 0
    assert second.renamed_categories == {"sem/Mug": "core/mug"} and not second.shared_categories
    text = str(report)
    assert "83 lines share a mesh" in text and "sem/Mug = core/mug" in text


def test_each_kind_of_leak_is_told_apart() -> None:
    train = Split("train", (SplitEntry("core/mug-1", 0.06), SplitEntry("sem/Car-2", 0.1)))
    test = Split(
        "test",
        (
            SplitEntry("core/mug-1", 0.06),  # the same
            SplitEntry("core/mug-1", 0.08),  # the same mesh
            SplitEntry("sem/Mug-1", 0.12),  # the same ShapeNet model
            SplitEntry("sem/Mug-1", 0.12),
            SplitEntry("sem/Car-3", 0.1),  # only the category
            SplitEntry("ddg/1", 0.1),  # another source's name that happens to look alike
        ),
    )
    (leak,) = split_leakage(train, [test]).tests
    assert leak.same_entry == (SplitEntry("core/mug-1", 0.06),)
    assert leak.same_mesh == (SplitEntry("core/mug-1", 0.08),)
    assert leak.same_instance == (SplitEntry("sem/Mug-1", 0.12),)
    assert leak.leaking_lines == 4 and leak.duplicate_lines == 1 and leak.lines == 6
    assert leak.shared_categories == ("core/mug", "sem/Car")
    assert leak.renamed_categories == {"sem/Mug": "core/mug"}


def test_lines_of_every_published_form(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(
        "    'sem/Car-1':[0.06],\n"
        "\n# comment\n"
        "'core/mug-2': [0.06, 0.1],\n"
        '"core/jar-3":[0.15]\n'
        "    'sem/Car-1':[0.06],[0.784],\n"  # result files: success behind the scale
    )
    split = read_split(path, "mine")
    assert split.name == "mine"
    assert [(e.object_code, e.scale) for e in split.entries] == [
        ("sem/Car-1", 0.06),
        ("core/mug-2", 0.06),
        ("core/mug-2", 0.1),
        ("core/jar-3", 0.15),
        ("sem/Car-1", 0.06),
    ]
    assert split.duplicates == {SplitEntry("sem/Car-1", 0.06): 2}


@pytest.mark.parametrize(
    "line",
    ["sem/Car-1: [0.06]", "'Car':[0.06],", "'sem/Car-1':[],", "'sem/Car-1':[x],"]
    + ["'sem/Car-1':[12.5],", "'sem/Car-1':[nan],", "'sem/Car-1':[0.06],,", "--- !!python/object"],
)
def test_other_lines_are_refused_with_their_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(f"'sem/Car-0':[0.06],\n{line}\n")
    with pytest.raises(DataError, match=r"list\.yaml:2"):
        read_split(path)


def test_unreadable_lists(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, reason in (("empty", "no entries"), ("binary", "text"), ("absent", "check")):
        with pytest.raises(DataError, match=rf"{name}\.yaml.*{reason}"):
            read_split(tmp_path / f"{name}.yaml")


ENTRIES = st.builds(
    SplitEntry,
    st.from_regex(r"(core|sem|ddg)/[A-Za-z]{1,5}-[0-9a-f]{1,4}", fullmatch=True),
    st.sampled_from(SCALES),
)


@given(entries=st.lists(ENTRIES, min_size=1, max_size=30))
@settings(max_examples=100)
def test_written_lists_read_back(entries: list[SplitEntry], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "list.yaml"
    path.write_text("\n".join(_line((e.object_code, e.scale)) for e in entries))
    split = read_split(path)
    assert list(split.entries) == entries
    # A list leaks wholly into itself.
    (leak,) = split_leakage(split, [split]).tests
    assert leak.leaking_lines == len(entries) and not leak.renamed_categories


@pytest.mark.slow
@given(text=st.text(st.sampled_from("'\"seCar/-:[],.06 \n#") | st.characters(), max_size=200))
@settings(max_examples=1000)
def test_any_text_1000(text: str, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        split = read_split(path)
    except DataError as error:
        assert "any.yaml" in str(error)
    else:
        assert split.entries and all(0 < entry.scale < 1 for entry in split.entries)
