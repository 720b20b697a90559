"""How much memory the process and the device hold, now and at the peak.

Contract: bytes everywhere; times are time.perf_counter_ns. Nothing here allocates device memory
or initialises CUDA.
Boundary: what the bytes are for (parameters, saved tensors ...) is told by the caller; this module
only reads the operating system and the allocator.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import psutil

from profiler.events import MemorySample

__all__ = [
    "DeviceMemory",
    "MemorySampler",
    "PeakRss",
    "available_memory",
    "device_memory",
    "rss_bytes",
]

_STATUS = "/proc/self/status"
_STATM = "/proc/self/statm"
_PAGE = mmap.PAGESIZE
_CLEAR = "/proc/self/clear_refs"


@dataclass(frozen=True)
class DeviceMemory:
    """What a device's allocator says, in bytes."""

    device: str
    allocated: int
    reserved: int
    peak_allocated: int
    free: int
    total: int


def rss_bytes() -> int:
    """Return the resident memory of this process."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(_STATM, "rb") as file:
        return _pages_resident(file.read()) * _PAGE  # a fifth of what psutil takes for it
    return int(psutil.Process().memory_info().rss)


def available_memory() -> int:
    """Return what can still be allocated without swapping, within the control group's limit."""
    free = int(psutil.virtual_memory().available)
    group = _group_available()
    return free if group is None else min(free, group)


def device_memory() -> list[DeviceMemory]:
    """Return the CUDA allocator's numbers per device; empty where CUDA is not in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    return [_cuda_memory(torch, index) for index in range(torch.cuda.device_count())]


class PeakRss:
    """Measures the highest resident memory inside a `with` block.

    On Linux the kernel keeps the exact peak (VmHWM, reset at entry: only one block at a time is
    exact, an inner one resets the outer one's peak so it is remembered by neither). Elsewhere a
    thread reads every `interval` seconds, and `exact` is False.
    """

    def __init__(self, interval: float = 0.005) -> None:
        self.interval = interval
        self.start_bytes = 0
        self.peak_bytes = 0
        self.exact = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def growth_bytes(self) -> int:
        """The peak above what was resident at entry."""
        return max(0, self.peak_bytes - self.start_bytes)

    def __enter__(self) -> Self:
        self.start_bytes = self.peak_bytes = rss_bytes()
        self.exact = _reset_peak()
        if not self.exact:
            self._stop.clear()
            self._thread = threading.Thread(target=self._watch, name="peak-rss", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        self.peak_bytes = max(self.read(), self.peak_bytes)

    def read(self) -> int:
        """Return the peak so far."""
        kernel = _kernel_peak() if self.exact else None
        self.peak_bytes = max(self.peak_bytes, kernel or 0, rss_bytes())
        return self.peak_bytes

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            self.peak_bytes = max(self.peak_bytes, rss_bytes())


class MemorySampler:
    """Adds a MemorySample every `interval` seconds on a thread of its own.

    add: takes the samples (RunWriter.add). describe: returns fields of the sample that only the
    caller knows (step, phase, device, rank, saved_bytes ...); what it leaves out is filled from
    the CUDA allocator, or stays 0. If describe or add raises, sampling stops and `problem` says
    why: the traced program is never disturbed.
    """

    def __init__(
        self,
        add: Callable[[MemorySample], object],
        describe: Callable[[], Mapping[str, Any]],
        *,
        interval: float = 0.02,
    ) -> None:
        if not interval > 0:
            raise ValueError(f"interval: got {interval} s, must be above 0; 0.02 is usual")
        self.interval = interval
        self.problem: str | None = None
        self._add, self._describe = add, describe
        self._statm: int | None = None  # kept open: opening costs more than reading
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin sampling; does nothing when it has begun."""
        if self._thread is None:
            self._stop.clear()
            with contextlib.suppress(OSError):
                self._statm = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
            self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End sampling, with one last sample; returns when the thread is gone."""
        if self._thread is None:
            return
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._thread = None
        statm, self._statm = self._statm, None
        if statm is not None:
            os.close(statm)

    def sample(self) -> MemorySample:
        """Take one sample now, without adding it."""
        fields: dict[str, Any] = {
            "time_ns": time.perf_counter_ns(),
            "rss_bytes": self._resident(),
        }
        devices = device_memory()
        if devices:
            fields["device"] = devices[0].device
            fields["allocated_bytes"] = sum(d.allocated for d in devices)
            fields["reserved_bytes"] = sum(d.reserved for d in devices)
        fields.update(self._describe())
        return MemorySample(**fields)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _resident(self) -> int:
        if self._statm is None:
            return rss_bytes()
        return _pages_resident(os.pread(self._statm, 128, 0)) * _PAGE

    def _run(self) -> None:
        try:
            while True:
                self._add(self.sample())
                if self._stop.wait(self.interval):
                    self._add(self.sample())
                    return
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"


def _pages_resident(statm: bytes) -> int:
    return int(statm.split()[1])


def _reset_peak() -> bool:
    """Ask the kernel to forget its peak; False where it cannot."""
    try:
        with open(_CLEAR, "w") as file:
            file.write("5")
    except OSError:
        return False
    return _kernel_peak() is not None


def _kernel_peak() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError), open(_STATUS) as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def _group_available() -> int | None:
    """Return what the control group (a container's limit) still allows, or None."""
    with contextlib.suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/memory.max") as file:
            limit = int(file.read())
        with open("/sys/fs/cgroup/memory.current") as file:
            return max(0, limit - int(file.read()))
    return None


def _cuda_memory(torch: Any, index: int) -> DeviceMemory:
    free, total = torch.cuda.mem_get_info(index)
    return DeviceMemory(
        device=f"cuda:{index}",
        allocated=torch.cuda.memory_allocated(index),
        reserved=torch.cuda.memory_reserved(index),
        peak_allocated=torch.cuda.max_memory_allocated(index),
        free=free,
        total=total,
    )
