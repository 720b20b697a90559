"""One row, in a process of its own: compress, measure the file, write the row.

Contract: ``main`` writes the row of a job; any failure is a row with its error. ``probe`` measures
the model itself, once a table. Peak memory counts the libraries that the process began with.
Boundary: measures; what a row's keys mean is ``edkm.compare.record``.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from edkm.baselines.job import Job
from edkm.baselines.shared import once, timed
from edkm.compare.record import failed, write_json

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
PROBE = "probe.json"


def main(target: Path, job: Job) -> None:
    """Write the row of ``job`` to ``target``."""
    try:
        row = done(job)
    except Exception as error:  # a peer's library may raise anything; the table goes on
        traceback.print_exc()
        row = failed(job, _line(error))
    write_json(target, row)


def done(job: Job) -> dict[str, Any]:
    """Compress, then measure what the file holds."""
    from edkm.baselines.job import compress

    one_thread()
    with timed() as clock:
        folder = compress(job)
        spent = clock.read()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    row = {**failed(job, None), "status": "done", "peak_bytes": peak}
    row |= {"seconds": spent.seconds, "cpu_seconds": spent.cpu_seconds}
    return {**row, **measure(job, folder)}


def measure(job: Job, folder: Path) -> dict[str, Any]:
    """Size of the files, perplexity and tasks of the model read back from them."""
    from transformers import AutoTokenizer

    from edkm.baselines.job import read_rows
    from edkm.baselines.packed import load
    from edkm.evaluate import perplexity

    source = probe(job)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    model = load(folder)
    tasks = None
    if job.tasks is not None:
        from edkm.evaluate.tasks import run_tasks

        tasks = run_tasks(model, tokenizer, job.tasks)
    return {
        "size_bytes": size,
        "bits_per_weight": size * 8 / source["parameters"],
        "ppl_dense": source["ppl_dense"],
        "ppl": perplexity(model, read_rows(job.text_heldout, tokenizer, job.sequence)),
        "tasks": tasks,
    }


def probe(job: Job) -> dict[str, Any]:
    """Of the model before anything: perplexity, parameters, seconds of processor a token."""
    found: dict[str, Any] = json.loads(
        (once(job.common / "probe", lambda folder: _probe(job, folder)) / PROBE).read_text()
    )
    return found


def _probe(job: Job, folder: Path) -> None:
    from edkm.baselines.job import load_source, read_rows
    from edkm.evaluate import perplexity

    model, tokenizer = load_source(job)
    heldout = read_rows(job.text_heldout, tokenizer, job.sequence)
    with timed() as clock:
        found = perplexity(model, heldout)
        spent = clock.read()
    result = {
        "ppl_dense": found,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "token_seconds": spent.cpu_seconds / sum(len(row.ids) for row in heldout),
        "heldout_tokens": sum(len(row.ids) for row in heldout),
    }
    write_json(folder / PROBE, result)


def probe_main(target: Path, job: Job) -> None:
    """Write ``probe``'s numbers, or ``{"error": ...}``, to ``target``."""
    try:
        one_thread()
        write_json(target, probe(job))
    except Exception as error:  # a model or a text may be broken in any way
        traceback.print_exc()
        write_json(target, {"error": _line(error)})


def one_thread() -> None:
    """Rows run side by side; a thread each keeps their numbers and times their own."""
    import torch

    torch.set_num_threads(1)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
