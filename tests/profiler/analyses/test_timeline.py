"""The timeline keeps its peak however few points are asked for, and knows what lived when."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.analyses.timeline import CATEGORIES, alive_at, timeline
from profiler.events import MemorySample, Step, Storage
from tests.profiler.analyses.runs import run_of

SECOND = 10**9


def sample(second: int, saved: int, **fields: int) -> MemorySample:
    return MemorySample(
        time_ns=second * SECOND, phase="forward", saved_bytes=saved, allocated_bytes=saved, **fields
    )


def test_the_peak_survives_any_number_of_bins(tmp_path: Path) -> None:
    samples = [sample(second, 10 + second % 7) for second in range(100)]
    samples[37] = sample(37, 1000)
    with run_of(tmp_path / "run", samples) as run:
        for bins in (1, 2, 10, 99, 1000):
            seen = timeline(run, bins=bins)
            assert len(seen.moments) <= bins
            assert seen.samples == 100
            assert seen.peak is not None
            assert (seen.peak.time_ns, seen.peak.total_bytes) == (37 * SECOND, 1000)
        with pytest.raises(ValueError, match="bins: got 0"):
            timeline(run, bins=0)


def test_what_nothing_explains_is_a_category_and_host_comes_on_top(tmp_path: Path) -> None:
    rows = [MemorySample(time_ns=1, allocated_bytes=100, param_bytes=30, host_bytes=7)]
    with run_of(tmp_path / "run", rows) as run:
        (moment,) = timeline(run).moments
    held = dict(zip(CATEGORIES, moment.bytes, strict=True))
    assert (held["param"], held["unexplained"], held["host"]) == (30, 70, 7)
    assert moment.total_bytes == 107


def test_one_rank_and_one_step_at_a_time(tmp_path: Path) -> None:
    samples = [sample(0, 1), sample(1, 2, step=1), sample(2, 9, rank=1)]
    with run_of(tmp_path / "run", samples) as run:
        assert [m.total_bytes for m in timeline(run).moments] == [1, 2]
        assert [m.total_bytes for m in timeline(run, step=1).moments] == [2]
        assert [m.total_bytes for m in timeline(run, rank=1).moments] == [9]
        assert timeline(run, rank=5).peak is None


def test_bands_part_forward_from_backward_also_of_an_unfinished_step(tmp_path: Path) -> None:
    steps = [
        Step(step=0, name="a", start_ns=0, forward_end_ns=2 * SECOND, end_ns=3 * SECOND),
        Step(step=1, start_ns=3 * SECOND),
    ]
    with run_of(tmp_path / "run", [sample(0, 1), sample(9, 1)], steps) as run:
        bands = timeline(run).bands
    assert [(b.step, b.part, b.start_ns // SECOND, b.end_ns // SECOND) for b in bands] == [
        (0, "forward", 0, 2), (0, "backward", 2, 3), (1, "forward", 3, 9),
    ]  # fmt: skip


def test_a_span_counts_what_held_at_its_start(tmp_path: Path) -> None:
    spans = ((2, 12), (11, 30), (12, 11), (25, 30))
    with run_of(tmp_path / "run", [sample(0, 5), sample(10, 1), sample(20, 3)]) as run:
        found = [timeline(run, between=(start * SECOND, end * SECOND)) for start, end in spans]
        earlier = timeline(run, between=(-9, -5))
    assert [[m.total_bytes for m in each.moments] for each in found] == [[5, 1], [1, 3], [1], [3]]
    assert [each.peak.total_bytes for each in found if each.peak] == [5, 3, 1, 3]
    assert earlier.peak is None


def test_a_span_is_thinned_on_its_own(tmp_path: Path) -> None:
    with run_of(tmp_path / "run", [sample(i, 1 + i % 5) for i in range(100)]) as run:
        seen = timeline(run, bins=10, between=(20 * SECOND, 29 * SECOND))
    assert [m.time_ns // SECOND for m in seen.moments] == list(range(20, 30))
    assert seen.samples == 10


def test_alive_lists_the_largest_and_counts_the_rest(tmp_path: Path) -> None:
    storages = [
        Storage(storage_id=1, bytes=10, born_ns=0, died_ns=50),
        Storage(storage_id=2, bytes=20, born_ns=10),
        Storage(storage_id=3, bytes=30, born_ns=60),
        Storage(storage_id=4, bytes=5, born_ns=0),
    ]
    with run_of(tmp_path / "run", storages) as run:
        found = alive_at(run, 20, limit=2)
        assert [row["storage_id"] for row in found.storages] == [2, 1]
        assert (found.more, found.more_bytes) == (1, 5)
        assert [row["storage_id"] for row in alive_at(run, 50).storages] == [2, 4]
        assert alive_at(run, 0, rank=3).storages == []
