"""Memory numbers are those of the operating system, and the sampler never disturbs."""

import threading
import time

import numpy as np
import pytest

from profiler import memory
from profiler.events import MemorySample

MIB = 2**20


def test_peak_rss_sees_memory_that_is_gone_at_exit() -> None:
    with memory.PeakRss() as peak:
        block = np.ones(64 * MIB, dtype=np.uint8)
        time.sleep(0.02)
        del block
    assert 60 * MIB < peak.growth_bytes < 100 * MIB
    assert memory.rss_bytes() < peak.peak_bytes - 50 * MIB


def test_peak_rss_falls_back_to_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CLEAR", "/nonexistent/clear_refs")
    with memory.PeakRss(interval=0.001) as peak:
        block = np.ones(64 * MIB, dtype=np.uint8)
        time.sleep(0.1)
        del block
    assert not peak.exact
    assert 60 * MIB < peak.growth_bytes < 100 * MIB
    assert not any(t.name == "peak-rss" for t in threading.enumerate())


def test_the_kernel_forgets_an_earlier_peak() -> None:
    block = np.ones(96 * MIB, dtype=np.uint8)
    del block
    with memory.PeakRss() as peak:
        pass
    if peak.exact:
        assert peak.growth_bytes < 32 * MIB


def test_available_memory_is_positive_and_within_the_machine() -> None:
    import psutil

    assert 0 < memory.available_memory() <= psutil.virtual_memory().total


def test_available_memory_respects_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_group_available", lambda: 123)
    assert memory.available_memory() == 123


def test_device_memory_is_empty_without_cuda() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("has CUDA")
    assert memory.device_memory() == []


def test_sampler_adds_what_the_caller_describes_and_stops() -> None:
    samples: list[MemorySample] = []
    fields = {"step": 3, "phase": "backward", "saved_bytes": 7}
    with memory.MemorySampler(samples.append, lambda: fields, interval=0.001):
        time.sleep(0.05)
    count = len(samples)
    assert count >= 3
    assert {(s.step, s.phase, s.saved_bytes) for s in samples} == {(3, "backward", 7)}
    assert all(s.rss_bytes > MIB for s in samples)
    assert [s.time_ns for s in samples] == sorted(s.time_ns for s in samples)
    time.sleep(0.02)
    assert len(samples) == count


def test_sampler_survives_a_failing_callback() -> None:
    def fail() -> dict[str, int]:
        raise KeyError("gone")

    sampler = memory.MemorySampler(lambda _: None, fail, interval=0.001)
    with sampler:
        time.sleep(0.02)
    assert sampler.problem == "KeyError: 'gone'"


def test_sampler_rejects_a_senseless_interval() -> None:
    with pytest.raises(ValueError, match="interval: got 0 s, must be above 0"):
        memory.MemorySampler(lambda _: None, dict, interval=0)
