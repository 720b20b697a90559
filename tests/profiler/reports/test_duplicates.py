"""Groups of duplicates: by storage, by what marshaling found, and never by chance."""

from __future__ import annotations

from dataclasses import asdict

from profiler.reports.duplicates import duplicate_groups, found_by
from tests.profiler.reports import samples
from tests.profiler.reports.samples import MAP, WEIGHT


def test_storages_alone_find_the_doubles() -> None:
    saves = [asdict(save) for save in samples.graph()[2]]
    groups = duplicate_groups(saves)
    assert [(group.letter, group.wasted_bytes) for group in groups] == [
        ("A", MAP),
        ("B", MAP),
        ("C", MAP),
        ("D", WEIGHT),
    ]
    assert all(group.storages == 1 for group in groups)


def test_marshaling_also_finds_what_is_rebuilt() -> None:
    saves = [asdict(save) for save in samples.graph()[2]]
    marshaled = [asdict(save) for save in samples.marshaled_saves()]
    groups = duplicate_groups(saves, found_by(saves, marshaled))
    first = groups[0]
    assert first.ops == ("SoftmaxBackward0", "ClampBackward1", "MmBackward0")
    assert (first.storages, first.saved_bytes, first.unique_bytes) == (2, 4 * MAP, MAP)
    # What remains when every group keeps one: the paper's row M.
    total = sum(int(save["logical_bytes"]) for save in saves)
    small = sum(int(save["logical_bytes"]) for save in saves if save["logical_bytes"] < 1024)
    assert total - sum(group.wasted_bytes for group in groups) == 2 * MAP + WEIGHT + small
    assert duplicate_groups(marshaled) == groups


def test_small_tensors_are_left_alone() -> None:
    saves = [{"save_id": at, "storage_id": 1, "logical_bytes": 16, "op": "x"} for at in range(3)]
    assert duplicate_groups(saves) == []
    assert len(duplicate_groups(saves, at_least=16)) == 1


def test_graphs_that_differ_lend_each_other_nothing() -> None:
    saves = [asdict(save) for save in samples.graph()[2]]
    marshaled = [asdict(save) for save in samples.marshaled_saves()]
    assert found_by(saves, marshaled[:-1]) == {}
    assert found_by(saves, list(reversed(marshaled))) == {}


def test_letters_go_on_after_z() -> None:
    saves = [
        {"save_id": 2 * at + half, "storage_id": at, "logical_bytes": 4096, "op": "x"}
        for at in range(28)
        for half in range(2)
    ]
    letters = [group.letter for group in duplicate_groups(saves)]
    assert letters[:2] == ["A", "B"]
    assert letters[25:] == ["Z", "AA", "AB"]
