"""Duplicates worked out by hand: what repeats, what was wasted, and what merely lies together."""

from __future__ import annotations

import json
from pathlib import Path

from profiler.analyses import duplicates
from profiler.events import Stack, Storage
from tests.profiler.analyses.runs import float32, run_of


def test_a_tensor_saved_three_times_repeats_twice(tmp_path: Path) -> None:
    saves = [
        float32(1, 7, [4, 4], op="A", module="m", stack_id=2),
        float32(2, 7, [4, 4], op="B", module="n"),
        float32(3, 7, [4, 4], stride=[1, 4], op="C"),
        float32(4, 8, [5]),  # saved once: no duplicate
    ]
    frames = ["/lib/site-packages/torch/nn/functional.py:9:silu", "x.py:3:f", "y.py:1:g"]
    places = [Stack(stack_id=2, frames=frames)]
    kept = [Storage(storage_id=7, category="saved", last_keeper="A")]
    found = duplicates(run_of(tmp_path / "run", saves, places, kept))
    (group,) = found.groups
    assert (group.storage_id, group.storage_bytes, group.logical_bytes) == (7, 64, 192)
    assert (group.repeated_bytes, group.wasted_bytes, group.exact) == (128, 0, True)
    assert group.last_keeper == "A" and group.category == "saved"
    assert [m.relation for m in group.members] == ["first", "same", "transposed"]
    assert [m.source for m in group.members] == ["x.py:3:f", "", ""]
    assert found.saves == 4 and found.repeated_bytes == 128
    assert json.loads(json.dumps(found.to_json()))["groups"][0]["repeated_bytes"] == 128


def test_slices_side_by_side_are_no_duplicates(tmp_path: Path) -> None:
    """gate_up.chunk(2, dim=-1): interleaved in memory, and yet not one byte twice."""
    saves = [
        float32(1, 7, [8, 3], stride=[6, 1], storage_elements=48, host_bytes=96),
        float32(2, 7, [8, 3], stride=[6, 1], storage_offset=3, storage_elements=48, host_bytes=96),
    ]
    assert duplicates(run_of(tmp_path / "run", saves)).groups == []


def test_overlapping_views_repeat_what_overlaps(tmp_path: Path) -> None:
    saves = [
        float32(1, 7, [10], storage_elements=15, host_bytes=40),
        float32(2, 7, [10], storage_offset=5, storage_elements=15, host_bytes=40),
    ]
    (group,) = duplicates(run_of(tmp_path / "run", saves)).groups
    assert group.repeated_bytes == 20 and group.wasted_bytes == 20
    assert [m.relation for m in group.members] == ["first", "view"]


def test_only_what_was_copied_again_is_wasted(tmp_path: Path) -> None:
    """save_on_cpu copies all; a policy with identity copies once and aliases the rest."""
    copied = [float32(i, 7, [4], host_bytes=16, action="copied") for i in (1, 2, 3)]
    aliased = [
        float32(4, 8, [4], host_bytes=16, action="copied"),
        float32(5, 8, [4], action="alias", alias_of=4, hops=0, finder="storage"),
    ]
    found = duplicates(run_of(tmp_path / "run", copied, aliased))
    assert [(g.storage_id, g.repeated_bytes, g.wasted_bytes) for g in found.groups] == [
        (7, 32, 32),
        (8, 16, 0),
    ]
    assert (found.repeated_bytes, found.wasted_bytes) == (48, 32)
    assert found.hops == {0: 1} and found.finders == {"storage": 1}


def test_compressed_copies_are_wasted_at_their_own_size(tmp_path: Path) -> None:
    saves = [float32(i, 7, [100], host_bytes=30, action="table") for i in (1, 2)]
    (group,) = duplicates(run_of(tmp_path / "run", saves)).groups
    assert (group.repeated_bytes, group.wasted_bytes) == (400, 30)


def test_a_save_rebuilt_from_another_storage_joins_its_group(tmp_path: Path) -> None:
    saves = [
        float32(1, 7, [4], action="copied", host_bytes=16),
        float32(2, 9, [4], action="rebuilt", alias_of=1, hops=3, finder="graph"),
        float32(3, 10, [4], action="rebuilt", alias_of=2, hops=4, finder="graph"),
    ]
    found = duplicates(run_of(tmp_path / "run", saves))
    (group,) = found.groups
    assert [m.relation for m in group.members] == ["first", "derived", "derived"]
    assert group.repeated_bytes == 32 and found.hops == {3: 1, 4: 1}


def test_an_expanded_tensor_is_one_thing(tmp_path: Path) -> None:
    saves = [
        float32(1, 7, [100, 4], stride=[0, 1], storage_elements=4),
        float32(2, 7, [4]),
    ]
    (group,) = duplicates(run_of(tmp_path / "run", saves)).groups
    assert group.repeated_bytes == 16


def test_parameters_can_be_left_out(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [float32(i, 7, [4], is_param=True) for i in (1, 2)])
    assert duplicates(run).groups[0].is_param
    assert duplicates(run, parameters=False).groups == []


def test_empty_and_scalar_tensors_are_harmless(tmp_path: Path) -> None:
    saves = [
        float32(1, 7, [0, 3]), float32(2, 7, [0, 3]),
        float32(3, 8, []), float32(4, 8, []),
    ]  # fmt: skip
    (group,) = duplicates(run_of(tmp_path / "run", saves)).groups
    assert (group.storage_id, group.repeated_bytes) == (8, 4)


def test_ranks_and_steps_are_kept_apart(tmp_path: Path) -> None:
    saves = [
        float32(1, 7, [4], rank=0), float32(1, 7, [4], rank=1), float32(2, 7, [4], step=1),
    ]  # fmt: skip
    run = run_of(tmp_path / "run", saves)
    assert duplicates(run, 0).groups == [] and duplicates(run, 1).groups == []
