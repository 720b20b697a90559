"""comparison.json: the rows of a table, kept as they come.

Contract: ``{"settings", "machine", "versions", "rows"}``; a row has the keys of ``KEYS``: sizes in
bytes of the model's files, ``bits_per_weight`` of those bytes over all parameters (embeddings,
norms and headers included), perplexities of the held-out text before (``ppl_dense``) and after,
``tasks`` or None, seconds of the wall clock and of the processor and peak resident bytes of the
method's process, ``status`` ``"done"`` or ``"failed"``, ``error`` or None. ``bits`` and
``embedding_bits`` are None for the dense row, the latter also where bits are allocated. Rows are
ordered by method, bits and seed. Written whole or not at all.
Boundary: rendering is ``edkm.compare.report``.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from edkm.baselines.job import Job
from edkm.compare.plan import Settings
from edkm.method_names import ALLOCATED

FILE = "comparison.json"
KEYS = (
    "method", "bits", "embedding_bits", "group_size", "size_bytes", "bits_per_weight", "ppl_dense",
    "ppl", "tasks", "seconds", "cpu_seconds", "peak_bytes", "seed", "status", "error",
)  # fmt: skip
PACKAGES = (
    "torch", "transformers", "llmcompressor", "compressed-tensors", "torchao", "coremltools",
    "lm-eval", "edkm-profiler",
)  # fmt: skip
Key = tuple[Any, ...]
Row = dict[str, Any]


class Record:
    """The rows in ``out/comparison.json``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.path = settings.out / FILE
        self.rows: list[Row] = self._read()

    def _read(self) -> list[Row]:
        if not self.path.is_file():
            return []
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            rows, before = list(found["rows"]), found["fingerprint"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} is no comparison ({error!r}); remove it or give another --out"
            ) from error
        if before != self.settings.fingerprint():
            raise ValueError(
                f"{self.path} was made with other settings (fingerprint {before}, now "
                f"{self.settings.fingerprint()}); its rows cannot stand beside new ones: give "
                "another --out"
            )
        return rows

    def is_done(self, job: Job) -> bool:
        """Whether the job's row is there; a failed row is run again."""
        return any(key(row) == job_key(job) and row["status"] == "done" for row in self.rows)

    def save(self, *rows: Row) -> dict[str, Any]:
        """Write the file with these settings and ``rows``, each in place of an earlier one of the
        same method, bits and seed; what it holds.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # another command may fill in rows of the same table at the same time
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            new = {key(row) for row in rows}
            kept = [old for old in self._read() if key(old) not in new]
            self.rows = sorted(
                [*kept, *rows], key=lambda one: (one["method"], one["bits"] or 0, one["seed"])
            )
            write_json(self.path, self.as_json())
        return self.as_json()

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            "settings": self.settings.as_json(),
            "fingerprint": self.settings.fingerprint(),
            "machine": machine(),
            "versions": versions(),
            "rows": self.rows,
        }


def key(row: Row) -> Key:
    """What makes a row one row."""
    return row["method"], row["bits"], row["seed"]


def job_key(job: Job) -> Key:
    """The key of the job's row."""
    return job.name or job.method, None if job.method == "dense" else job.bits, job.seed


def failed(job: Job, error: str | None) -> Row:
    """A row without numbers."""
    row: Row = dict.fromkeys(KEYS)
    row["method"], row["bits"], row["seed"] = job_key(job)
    fixed = job.method not in ("dense", *ALLOCATED)
    row["embedding_bits"] = job.embedding_bits if fixed else None
    grouped = job.method in ("rtn", "smoothquant", "gptq", "awq", "llm-qat")
    row["group_size"] = job.group_size if grouped else None
    return {**row, "status": "failed", "error": error}


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` whole; infinities, which JSON has no word for, as None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(_finite(value), indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return value


def machine() -> dict[str, Any]:
    """Platform, cores, memory in bytes."""
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def versions() -> dict[str, str | None]:
    """Python and the packages that the rows rest on; None where one is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
