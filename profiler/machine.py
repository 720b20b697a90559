"""What a run was made on: versions of the software and size of the hardware.

Contract: plain JSON values; a thing that cannot be found out is None, never an error.
Boundary: imports no framework. torch is asked only when the program has imported it already.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import psutil

_PACKAGES = {
    "torch": "torch",
    "edkm": "edkm-profiler",
    "profiler": "edkm-profiler",
    "numpy": "numpy",
    "pyarrow": "pyarrow",
    "duckdb": "duckdb",
    "transformers": "transformers",
}


def collect_versions() -> dict[str, str | None]:
    """Return the versions of Python, torch, this project and what it stands on."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name, distribution in _PACKAGES.items():
        versions[name] = _version(distribution)
    return versions


def collect_hardware() -> dict[str, Any]:
    """Return processor, cores this process may use, memory in bytes, and GPU names."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": _gpus(),
    }


def describe_run(info: Mapping[str, Any], version: int, ranks: int) -> dict[str, Any]:
    """Return what run.json says when a run begins: the caller's info, the machine, the clocks.

    created_ns and every *_ns column are time.perf_counter_ns; created is the same moment in UTC.
    """
    defaults: dict[str, Any] = {
        "command": None,
        "argv": list(sys.argv),
        "model": None,
        "switches": {},
    }
    return {
        "schema": version,
        **defaults,
        "level": "full",
        **info,
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "ranks": ranks,
        "created": utc_now(),
        "created_ns": time.perf_counter_ns(),
        "closed": False,
    }


def utc_now() -> str:
    """Return the time of day as text, to the millisecond."""
    now = datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
