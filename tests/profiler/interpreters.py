"""`python ...` for tests, in a process forked from a server that has torch and the tracer loaded.

Contract: `python(words, folder)` runs `python words` in `folder` to its end and returns its exit
code (negative: the signal that killed it) and what it printed. That takes a tenth of the seconds
that importing torch does.
Boundary: the process is as fresh as its imports; what atexit registered is not run.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LOADED = ["pytest", "torch._dynamo", "torch.utils.data", "profiler.tracer", "profiler.layer_run"]


@dataclass(frozen=True)
class Done:
    """How a process ended."""

    code: int | None
    out: str
    err: str


def python(words: Sequence[str | Path], folder: Path) -> Done:
    """Run `python words` in `folder`."""
    multiprocessing.set_forkserver_preload(_LOADED)
    process = multiprocessing.get_context("forkserver").Process(
        target=_become, args=([str(word) for word in words], str(folder))
    )
    process.start()
    process.join()
    texts = [(folder / f"{name}.txt").read_text(encoding="utf-8") for name in ("out", "err")]
    return Done(process.exitcode, *texts)


def _become(words: list[str], folder: str) -> None:
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path[0] = folder
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path[0] = os.path.dirname(words[0])
        runpy.run_path(words[0], run_name="__main__")
