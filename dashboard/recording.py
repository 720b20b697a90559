"""Records an ablation in a process of its own: start, watch, cancel.

Contract: the command line that a person would type, without a shell; one recording at a time per
runs folder; cancelling interrupts first, so that the run stays readable, and kills only a process
that does not end.
Boundary: no Streamlit here. What was measured is read back from the run folder.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

State = Literal["running", "done", "failed", "cancelled"]

GRACE_S = 10.0  # from interrupt to kill
LOG_BYTES = 4000
CONFIGS = ("none", "M", "M+S", "M+U", "M+U+S", "fused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to record."""

    model: str = "llama-7b"  # a preset of profiler.trace
    layer: str = "attn0"
    configs: tuple[str, ...] = CONFIGS
    extra: tuple[str, ...] = ()  # further options, e.g. ("--bits", "4")

    def arguments(self, out: str | os.PathLike[str]) -> list[str]:
        """The options of `python -m profiler.trace`."""
        return [
            "--layer", self.layer, "--model", self.model, "--configs", ",".join(self.configs),
            *self.extra, "--out", os.fspath(out),
        ]  # fmt: skip


@dataclass(slots=True)
class Recording:
    """One recording, running or ended."""

    request: Request
    folder: Path
    process: subprocess.Popen[bytes]
    log_file: IO[bytes]
    cancelled_at: float | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def state(self) -> State:
        """Looks at the process; kills it if it outlived the grace after `cancel`."""
        code = self.process.poll()
        if code is None:
            if self.cancelled_at is not None and time.monotonic() - self.cancelled_at > GRACE_S:
                self.process.kill()
            return "running"
        if self.cancelled_at is not None:
            return "cancelled"
        return "done" if code == 0 else "failed"

    @property
    def rows(self) -> list[str]:
        """The configurations that are measured already."""
        try:
            found = json.loads((self.folder / "ablation.json").read_text(encoding="utf-8"))
            return [str(row["name"]) for row in found["rows"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def log(self) -> str:
        """The last lines that the command wrote."""
        size = os.fstat(self.log_file.fileno()).st_size
        data = os.pread(self.log_file.fileno(), LOG_BYTES, max(0, size - LOG_BYTES))
        return data.decode("utf-8", "replace").strip()

    def cancel(self) -> None:
        """Asks the process to end; what it has measured stays."""
        if self.process.poll() is None and self.cancelled_at is None:
            self.cancelled_at = time.monotonic()
            self.process.send_signal(signal.SIGINT)


class Recorder:
    """The one place that starts recordings for a runs folder. Safe across sessions."""

    def __init__(self, root: Path, command: Sequence[str] | None = None) -> None:
        self.root = root
        self.command = tuple(command or (sys.executable, "-m", "profiler.trace"))
        self.current: Recording | None = None
        self._lock = threading.Lock()
        atexit.register(self.stop)  # nothing goes on measuring behind a closed dashboard

    def start(self, request: Request) -> Recording:
        """Starts a recording, or returns the one that is running."""
        with self._lock:
            if self.current is not None and self.current.state == "running":
                return self.current
            self.root.mkdir(parents=True, exist_ok=True)
            folder = self._fresh(request)
            log = tempfile.TemporaryFile()
            process = subprocess.Popen(
                [*self.command, *request.arguments(folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self.current = Recording(request, folder, process, log)
            return self.current

    def stop(self) -> None:
        """Interrupts a recording that is under way; what it has measured stays readable."""
        if self.current is not None:
            self.current.cancel()

    def forget(self) -> None:
        """Lets go of a recording that has ended."""
        with self._lock:
            if self.current is not None and self.current.state != "running":
                self.current.log_file.close()
                self.current = None

    def _fresh(self, request: Request) -> Path:
        """A folder that does not exist yet, named by layer, preset and time."""
        stem = f"{request.layer}-{request.model}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
        return next(self.root / name for name in names if not (self.root / name).exists())
