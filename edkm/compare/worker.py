"""One row in a process of its own: ``python -m edkm.compare.worker ROW.json < job``.

Contract: reads a job as JSON, does it, measures the file that it wrote, and writes the row. Any
failure is a row with its error. A process of its own makes the peak memory the method's, and keeps
libraries' global state from the next row.
Boundary: measures; what a row's keys mean is ``edkm.compare.record``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from edkm.baselines.job import Job
from edkm.compare.record import failed, write_json

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes


def main(target: Path, job: Job) -> None:
    """Write the row of ``job`` to ``target``."""
    begun = time.perf_counter()
    try:
        row = done(job)
    except Exception as error:  # a peer's library may raise anything; the table goes on
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        row = failed(job, text, time.perf_counter() - begun)
    write_json(target, row)


def done(job: Job) -> dict[str, Any]:
    """Compress, then measure what the file holds."""
    from edkm.baselines.job import compress

    begun = time.perf_counter()
    folder = compress(job)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    row = {**failed(job, None, seconds), "status": "done", "peak_bytes": peak}
    return {**row, **measure(job, folder)}


def measure(job: Job, folder: Path) -> dict[str, Any]:
    """Size of the files, perplexity and tasks of the model read back from them."""
    from edkm.baselines.job import load_source, read_rows
    from edkm.baselines.packed import load
    from edkm.evaluate import perplexity

    source, tokenizer = load_source(job)
    heldout = read_rows(job.text_heldout, tokenizer, job.sequence)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    numbers = sum(parameter.numel() for parameter in source.parameters())
    model = load(folder)
    tasks = None
    if job.tasks is not None:
        from edkm.evaluate.tasks import run_tasks

        tasks = run_tasks(model, tokenizer, job.tasks)
    return {
        "size_bytes": size,
        "bits_per_weight": size * 8 / numbers,
        "ppl_dense": perplexity(source, heldout),
        "ppl": perplexity(model, heldout),
        "tasks": tasks,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Job.from_json(json.load(sys.stdin)))
