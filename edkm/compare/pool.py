"""Processes that begin with the libraries imported: a server imports them once and forks.

Contract: ``Pool.start`` runs a function of a module in a process of its own, its output in a log;
``Pool.wait`` gives finished ones with their exit codes. Leaving the context kills what still runs.
What the imports say is in ``imports.log``. The server holds no model and runs no numbers, so what
it hands on is imports alone.
Boundary: what runs is the caller's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection, forkserver, get_context
from pathlib import Path
from types import TracebackType
from typing import Any

ALWAYS = (
    "edkm.compare.worker",
    "edkm.export",
    "edkm.train.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)
CALIBRATED = ("llmcompressor.entrypoints.oneshot", "datasets")
LIBRARIES: dict[str, tuple[str, ...]] = {
    "rtn": CALIBRATED,
    "smoothquant": (*CALIBRATED, "llmcompressor.modifiers.transform.smoothquant"),
    "gptq": (*CALIBRATED, "llmcompressor.modifiers.gptq"),
    "awq": (*CALIBRATED, "llmcompressor.modifiers.transform.awq"),
    "llm-qat": ("torchao.quantization.qat", "compressed_tensors.compressors"),
    "kmeans": ("coremltools.optimize.torch.palettization",),
    "dkm": ("coremltools.optimize.torch.palettization",),
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Pool:
    """Up to the caller how many run at once."""

    def __init__(self, folder: Path, methods: Sequence[str]) -> None:
        modules = [*ALWAYS, *(one for method in methods for one in LIBRARIES.get(method, ()))]
        folder.mkdir(parents=True, exist_ok=True)
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(list(dict.fromkeys(modules)))
        self._running: dict[Any, tuple[Any, Any]] = {}  # sentinel: process, tag
        with _output_in(folder / "imports.log"), _environment():
            forkserver.ensure_running()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for process, _ in self._running.values():
            process.kill()
        for process, _ in self._running.values():
            process.join()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, tag: Any, log: Path, work: Callable[..., None], *values: Any) -> None:
        """Run ``work(*values)``; ``tag`` comes back from ``wait``."""
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        process = self._context.Process(target=_logged, args=(log, work, values))
        process.start()
        self._running[process.sentinel] = process, tag

    def wait(self) -> list[tuple[Any, int]]:
        """(tag, exit code) of those that have ended, at least one."""
        ended = []
        for sentinel in connection.wait(list(self._running)):
            process, tag = self._running.pop(sentinel)
            process.join()
            ended.append((tag, process.exitcode))
        return ended


def _logged(log: Path, work: Callable[..., None], values: tuple[Any, ...]) -> None:
    with _output_in(log):
        work(*values)


@contextmanager
def _output_in(log: Path) -> Iterator[None]:
    """Whatever this process, or one that it starts, writes to its output goes to ``log``."""
    with log.open("a", encoding="utf-8") as stream:
        kept = {number: os.dup(number) for number in (1, 2)}
        sys.stdout.flush()
        sys.stderr.flush()
        for number in kept:
            os.dup2(stream.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in kept.items():
                os.dup2(old, number)
                os.close(old)


@contextmanager
def _environment() -> Iterator[None]:
    """One thread a process, as libraries read it when they are imported."""
    values = {**dict.fromkeys(THREADS, "1"), "TOKENIZERS_PARALLELISM": "false"}
    kept = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
