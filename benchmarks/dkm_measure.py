"""Clocks and memory marks for the clustering benchmarks, and what they ran on.

Contract: times are wall-clock seconds, with CPU seconds (all threads) where asked for; a peak is
the growth of the resident set's high-water mark (Linux only, else None).
Boundary: measures callables; what is measured is in ``dkm`` and ``dkm_block``.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from edkm.dkm.kernels import passes_for


def timed(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    return both_clocks(work)[0]


def both_clocks(work: Callable[[], object]) -> tuple[float, float]:
    """(wall-clock seconds, CPU seconds over all threads) of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak(work: Callable[[], object], results: int) -> int | None:
    """Growth of the resident set's high-water mark during ``work``, less its results' bytes."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":  # memory freed but kept would hide a growth
        ctypes.CDLL(None).malloc_trim(0)
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before - results)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def passes(n: int, rounds: int) -> list[dict[str, Any]]:
    """Each pass over an n x n bfloat16 weight beside its floor.

    The floor is the bytes that the pass must move (``bytes``), at the bandwidth of copying such
    a weight in the same rounds (``copy_bytes_per_s``).
    """
    weight, grad = (torch.randn(n * n).mul(0.02).bfloat16() for _ in range(2))
    table, slope = torch.zeros(65_536).bfloat16(), torch.ones(65_536)
    work, out = passes_for(weight.device), torch.empty_like(weight)
    cases: dict[str, tuple[Callable[[], object], int]] = {
        "copy": (lambda: out.copy_(weight), 2), "clone": (weight.clone, 2),
        "histogram": (lambda: work.histogram(weight), 1),
        "lookup": (lambda: work.lookup(weight, table, out), 2),
        "segment_sum": (lambda: work.segment_sum(weight, grad), 2),
        "gradient": (lambda: work.gradient(weight, grad, slope, slope, out), 3),
    }  # fmt: skip
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(5 * rounds):
        for name, (run, _) in cases.items():
            times[name].append(both_clocks(run))
    medians = {
        name: tuple(map(statistics.median, zip(*pairs, strict=True)))
        for name, pairs in times.items()
    }
    bandwidth = 2 * weight.nbytes / medians["copy"][0]
    return [
        {"pass": name, "seconds": medians[name][0], "cpu_seconds": medians[name][1],
         "bytes": units * weight.nbytes, "copy_bytes_per_s": bandwidth,
         "floor_seconds": (floor := units * weight.nbytes / bandwidth),
         "times_floor": medians[name][0] / floor}
        for name, (_, units) in cases.items()
    ]  # fmt: skip


def machine(threads: int) -> dict[str, Any]:
    """Processor, threads, versions, and the load before the run."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("numba", "coremltools") if find_spec(name)}
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "versions": versions,
            "load_before": os.getloadavg()[0]}  # fmt: skip
