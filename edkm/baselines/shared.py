"""Work that several rows of a table need, done once: the tuned dense model, the teacher's text.

Contract: ``once`` runs a piece of work in a folder unless it is finished there; rows of other
processes wait for it. What it cost is kept beside it and charged to every row that uses it, so
that a row's time is what its method takes alone, whichever row came first.
Boundary: what the work is belongs to the methods; files are locked as POSIX does (``fcntl``).
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

MARKER = "spent.json"  # written last: the folder is finished


@dataclass(frozen=True)
class Spent:
    """What a piece of work took."""

    seconds: float  # of the wall clock
    cpu_seconds: float  # of the process, all its threads

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.seconds - other.seconds, self.cpu_seconds - other.cpu_seconds)


class Clock:
    """Time since it was made, with shared work at the price of doing it alone."""

    def __init__(self) -> None:
        self._begun = _now()
        self._correction = Spent(0.0, 0.0)

    def charge(self, passed: Spent, price: Spent) -> None:
        """Count ``price`` in place of the time that ``passed``."""
        self._correction += price - passed

    def read(self) -> Spent:
        """Time so far."""
        return _now() - self._begun + self._correction


_CLOCK: ContextVar[Clock | None] = ContextVar("clock", default=None)


@contextmanager
def timed() -> Iterator[Clock]:
    """A clock that ``once`` charges while the context lasts."""
    clock = Clock()
    token = _CLOCK.set(clock)
    try:
        yield clock
    finally:
        _CLOCK.reset(token)


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, filled by ``make(folder)`` unless it was finished before.

    A folder that an interruption left unfinished is given to ``make`` as it is.
    """
    entered = _now()
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / MARKER
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, also by a crash
        if not marker.is_file():
            begun = _now()
            make(folder)
            partial = marker.with_name(f"{MARKER}.partial")
            partial.write_text(json.dumps(asdict(_now() - begun)), encoding="utf-8")
            os.replace(partial, marker)
    if (clock := _CLOCK.get()) is not None:
        price = Spent(**json.loads(marker.read_text(encoding="utf-8")))
        clock.charge(_now() - entered, price)
    return folder


def _now() -> Spent:
    return Spent(time.perf_counter(), time.process_time())
