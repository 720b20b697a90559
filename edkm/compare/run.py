"""Run the rows of a table, one process after the other, and keep each as it comes.

Contract: rows that are done are not run again; a method that raises, crashes or is killed leaves a
failed row and the rest goes on. An interruption kills the row's process and leaves the table.
Boundary: no printing; progress goes to ``say``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edkm.baselines.job import Job
from edkm.compare.plan import Settings, plan
from edkm.compare.record import Record, Row, failed

Say = Callable[[int, int, Job, Row | None], None]  # rows done, rows in all, job, its row
WORKER = (sys.executable, "-m", "edkm.compare.worker")


def compare(
    settings: Settings,
    *,
    say: Say = lambda done, total, job, row: None,
    worker: tuple[str, ...] = WORKER,
) -> dict[str, Any]:
    """Fill the table; what comparison.json holds. ``ValueError`` for settings that clash."""
    record = Record(settings)
    jobs = plan(settings)
    for number, job in enumerate(jobs):
        if record.is_done(job):
            say(number + 1, len(jobs), job, None)
            continue
        say(number, len(jobs), job, None)
        row = run_row(job, worker)
        record.add(row)
        say(number + 1, len(jobs), job, row)
    return record.as_json()


def run_row(job: Job, worker: tuple[str, ...] = WORKER) -> Row:
    """The job's row, from its own process; its output is kept in ``out/log.txt``."""
    job.out.mkdir(parents=True, exist_ok=True)
    target, log = job.out / "row.json", job.out / "log.txt"
    target.unlink(missing_ok=True)
    begun = time.perf_counter()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [*worker, str(target)],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            text=True,
        )
        try:
            process.communicate(json.dumps(job.as_json()))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if not target.is_file():
        why = f"the process ended with {process.returncode}: {last_line(log)}"
        return failed(job, why, time.perf_counter() - begun)
    row: Row = json.loads(target.read_text(encoding="utf-8"))
    if row["status"] == "done":
        for name in ("checkpoints", "model"):  # as large as the model, and measured already
            shutil.rmtree(job.out / name, ignore_errors=True)
    return row


def last_line(log: Path) -> str:
    """The last line that says something."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
