"""Run the rows of a table, some at once, and keep each as it comes.

Contract: rows that are done are not run again; a method that raises, crashes or is killed leaves a
failed row and the rest goes on. Every row has a process of its own with one thread, so its numbers
do not depend on how many run at once. An interruption kills what runs and leaves the table.
Boundary: no printing; progress goes to ``say``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edkm.baselines.job import Job
from edkm.compare.estimate import estimate
from edkm.compare.plan import Settings, plan
from edkm.compare.pool import Pool
from edkm.compare.record import Record, Row, failed
from edkm.compare.worker import main, probe_main

Work = Callable[[Path, Job], None]  # writes the job's row to the path


@dataclass
class Progress:
    """Where a table stands."""

    total: int
    done: int = 0
    running: list[Job] = field(default_factory=list)
    cpu_seconds: float | None = None  # that the missing rows will take, about
    last: Row | None = None  # the row that came last


Say = Callable[[Progress], None]


def compare(
    settings: Settings,
    *,
    jobs: int = 1,
    say: Say = lambda progress: None,
    work: Work = main,
    probe: Work = probe_main,
) -> dict[str, Any]:
    """Fill the table, ``jobs`` rows at once; what comparison.json holds.

    ``ValueError`` for settings that clash, and for a model or a text that cannot be measured.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; at least one row runs at a time: use 1 or more")
    record = Record(settings)
    rows = plan(settings)
    missing = [job for job in rows if not record.is_done(job)]
    state = Progress(len(rows), len(rows) - len(missing))
    say(state)
    if not missing:
        return record.save()
    with Pool(settings.out / "work", [job.method for job in missing]) as pool:
        numbers = _probe(pool, missing[0], probe)
        state.cpu_seconds = estimate(missing, numbers)
        say(state)
        while missing or len(pool):
            while missing and len(pool) < jobs:
                job = missing.pop(0)
                (job.out / "row.json").unlink(missing_ok=True)
                pool.start(job, job.out / "log.txt", work, job.out / "row.json", job)
                state.running.append(job)
            state.last = None
            say(state)
            for job, code in pool.wait():
                state.running.remove(job)
                state.last = finish(job, code)
                record.save(state.last)
                state.done += 1
                say(state)
    return record.save()


def _probe(pool: Pool, job: Job, probe: Work) -> dict[str, Any]:
    target, log = job.common / "probe.json", job.common / "probe.txt"
    target.unlink(missing_ok=True)
    pool.start(job, log, probe, target, job)
    ((_, code),) = pool.wait()
    found = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    if "error" in found or not found:
        why = found.get("error") or f"the process ended with {code}: {last_line(log)}"
        raise ValueError(
            f"model {job.model} cannot be measured on {job.text_heldout}: {why}; see {log}"
        )
    return dict(found)


def finish(job: Job, code: int) -> Row:
    """The row that the job's process left, or one that says how it ended."""
    target = job.out / "row.json"
    if not target.is_file():
        return failed(job, f"the process ended with {code}: {last_line(job.out / 'log.txt')}")
    row: Row = json.loads(target.read_text(encoding="utf-8"))
    if row["status"] == "done":
        for name in ("checkpoints", "model"):  # as large as the model, and measured already
            shutil.rmtree(job.out / name, ignore_errors=True)
    return row


def last_line(log: Path) -> str:
    """The last line that says something."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
