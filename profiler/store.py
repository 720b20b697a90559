"""Writing a run folder: records in, numbered Parquet parts out, crash-safe.

Contract: `run.json` is there before the first row; a part appears whole or not at all, so a run
that is killed keeps every finished part. `add` costs one append and takes no lock: it is safe
from any thread and from a finalizer. A failing disk stops the recording with one warning and
never the traced program.
Boundary: never reads rows back except to merge them; reading is profiler.query.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import pyarrow as pa

from profiler.events import Record
from profiler.folder import claim_folder, rank_folder, write_json
from profiler.machine import describe_run, utc_now
from profiler.parts import Part, write_part
from profiler.schema import SCHEMA_VERSION, TYPES, check_columns
from profiler.settle import SMALL_ROWS, compact, holds_keys_once, settle
from profiler.waiting import WaitingRows

_COMPACT = 64  # parts of a table that are merged into one while the run goes on


class RunWriter:
    """Writes one run, or one rank's share of it.

    info: what run.json says besides versions and hardware (command, model, switches, level ...).
    flush_rows, flush_seconds: a part is written when either is reached, on a thread of its own.
    force: replace an existing run. ValueError when the folder cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: Mapping[str, Any] | None = None,
        *,
        flush_rows: int = 65_536,
        flush_seconds: float = 2.0,
        force: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_settings(flush_rows, flush_seconds)
        self.path = Path(path).absolute()  # the traced program may change its directory
        self.rank, self.world_size = rank, world_size
        self.problem: str | None = None
        self.write_seconds = 0.02  # of the processor, that the last flush took; a guess at first
        self._flush_rows = flush_rows
        self.closed = self._stopped = self._warned = self._woken = False
        self._pid = os.getpid()
        self._folder = rank_folder(self.path, rank, world_size)
        self._waiting = {table: WaitingRows(table) for table in TYPES}
        self._small: dict[str, list[Part]] = {table: [] for table in TYPES}
        self._last = dict.fromkeys(TYPES, 0)  # number of the newest part
        self._writing = threading.RLock()  # held while parts are written; `add` never takes it
        self._writer_thread: int | None = None
        claim_folder(self.path, force=force, rank=rank, world_size=world_size)
        self._info = describe_run(info or {}, SCHEMA_VERSION, world_size)
        self._write_info()
        self._wake: SimpleQueue[bool] = SimpleQueue()  # unlike Event, safe from finalizers
        self._thread = threading.Thread(
            target=_flush_loop,
            args=(weakref.ref(self), self._wake, flush_seconds),
            name="profiler-writer",
            daemon=True,
        )
        self._thread.start()
        atexit.register(self._at_exit)
        _forget_in_children(self)

    def add(self, record: Record) -> None:
        """Append a new record. Never blocks on the disk unless eight parts' worth is waiting."""
        if self._stopped:
            self._warn_once()
            return
        record.waiting = True
        queue = self._waiting[record.table].records
        queue.append(record)
        if len(queue) >= self._flush_rows:
            self._full(len(queue))

    def update(self, record: Record) -> None:
        """Say that an added record has changed: its row is written again if it was written.

        Its key, rank and step must stay as they were. While it waits nothing is left to do.
        """
        try:
            if record.waiting:
                return
        except AttributeError:
            pass  # it was not added, or recording has stopped
        if record.key is None:
            raise ValueError(f"record: got a row of {record.table}, which has no key to update by")
        self.add(record)

    def add_many(self, table: str, columns: Mapping[str, Any]) -> None:
        """Append rows given as whole columns; columns left out get their defaults.

        The columns are the writer's from now on: they are encoded when they are written.
        """
        check_columns(table, columns)
        if self._stopped:
            self._warn_once()
            return
        waiting = self._waiting[table]
        waiting.add_columns(columns)
        if waiting.column_rows >= self._flush_rows:
            self._full(waiting.column_rows)

    def describe(self, **info: Any) -> None:
        """Add to run.json what was not known at the start (for example the model)."""
        with self._writing:
            self._info.update(info)
            self._guarded(self._write_info)

    def write_json(self, name: str, obj: Any) -> Path:
        """Write a file such as ablation.json beside the tables, replaced as a whole."""
        if Path(name).name != name or not name.endswith(".json") or name == "run.json":
            raise ValueError(f"name: got {name!r}, must be a plain *.json name besides run.json")
        return write_json(self.path / name, obj)

    def flush(self) -> None:
        """Write what has been added so far, as one part per table; steps come last."""
        self._flush_quietly()
        self._warn_once()

    def close(self, **extra: Any) -> None:
        """Write the rest, merge parts where that is of use, and finish run.json."""
        if self.closed or self._foreign():
            return
        self._wake.put(False)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self.flush()
        with self._writing:
            self.closed = True
            if not self._stopped:
                self._merge()
            self._stopped = True
            self._info.update(extra, closed=True, ended=utc_now(), ended_ns=time.perf_counter_ns())
            if self.problem is not None:
                self._info["problem"] = self.problem
            self._guarded(self._write_info)
        atexit.unregister(self._at_exit)
        self._warn_once()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or (isinstance(error, SystemExit) and not error.code):
            self.close()
        else:
            self.close(interrupted=f"{kind.__name__}: {error}" if str(error) else kind.__name__)

    def _full(self, rows: int) -> None:
        if rows >= 8 * self._flush_rows:
            self.flush()  # the disk is slower than the program: memory must not grow
        elif not self._woken:
            self._woken = True
            self._wake.put(True)

    def _flush_quietly(self) -> None:
        if self._writer_thread == threading.get_ident() or self._foreign():
            return  # called by a finalizer in the middle of a flush, or in a forked child
        with self._writing:
            self._writer_thread, start = threading.get_ident(), time.thread_time()
            try:
                self._guarded(self._flush)
            finally:
                self._writer_thread = None
                self.write_seconds = time.thread_time() - start

    def _flush(self) -> None:
        drained = {table: self._waiting[table].drain() for table in reversed(TYPES)}
        try:
            for table in TYPES:
                if batches := drained[table].batches(self.rank):
                    self._write(table, batches)
                del drained[table]
        except KeyboardInterrupt:  # keep for close what was not written yet
            for table, rows in drained.items():
                self._waiting[table].put_back(rows)
            raise

    def _write(self, table: str, batches: list[pa.RecordBatch]) -> None:
        number = self._last[table] = self._last[table] + 1
        rows = pa.Table.from_batches(batches)
        folder, span = self._folder / table, (number, number)
        unique, small = holds_keys_once(rows, table), len(rows) < SMALL_ROWS
        part = write_part(folder, table, span, [rows], unique=unique, passing=small)
        parts = self._small[table]
        parts.append(part)
        if len(rows) > self._flush_rows // 8:
            parts.clear()
        elif len(parts) == _COMPACT:
            compact(folder, table, parts)
            parts.clear()

    def _merge(self) -> None:
        """Settle the parts of each table; where that fails they stay as they are, readable."""
        try:
            for table in TYPES:
                settle(self._folder / table, table)
        except Exception as error:
            self._info["unmerged"] = f"{type(error).__name__}: {error}"

    def _guarded(self, work: Callable[[], object]) -> None:
        """Do the work; on failure stop recording and remember why. Never raises."""
        if self._stopped and not self.closed:
            return
        try:
            work()
        except Exception as error:  # whatever it is, the traced program must go on
            self._stop(f"{type(error).__name__}: {error}")

    def _stop(self, why: str) -> None:
        self._stopped = True
        if self.problem is None:
            self.problem = why
        for waiting in self._waiting.values():
            waiting.clear()

    def _warn_once(self) -> None:
        if self.problem is None or self._warned or self._foreign():
            return
        self._warned = True
        warnings.warn(
            f"recording to {self.path} stopped: {self.problem}. The program goes on untraced; "
            "what was written before stays readable. Free space or choose another folder.",
            RuntimeWarning,
            stacklevel=3,
        )

    def _write_info(self) -> None:
        if self.world_size > 1:
            write_json(self._folder / "run.json", {**self._info, "rank": self.rank})
        if self.rank == 0:
            write_json(self.path / "run.json", self._info)

    def _foreign(self) -> bool:
        return os.getpid() != self._pid

    def _at_exit(self) -> None:
        self.close(interrupted="the program ended without closing the run")


def _flush_loop(
    writer: weakref.ref[RunWriter], wake: SimpleQueue[bool], flush_seconds: float
) -> None:
    """Flush when woken or when time is up, until told to stop or the writer is gone."""
    while True:
        try:
            going = wake.get(timeout=flush_seconds)
        except Empty:
            going = True
        owner = writer()
        if not going or owner is None:
            return
        owner._woken = False
        owner._flush_quietly()
        del owner


def _forget_in_children(writer: RunWriter) -> None:
    """Make a forked child (a data loader's worker) ignore the writer it inherited."""
    reference = weakref.ref(writer)

    def forget() -> None:
        if (inherited := reference()) is not None:
            inherited._stopped = True

    if hasattr(os, "register_at_fork"):  # not where there is no fork
        os.register_at_fork(after_in_child=forget)


def _check_settings(flush_rows: int, flush_seconds: float) -> None:
    if flush_rows < 1:
        raise ValueError(f"flush_rows: got {flush_rows}, must be at least 1; 65536 is usual")
    if not flush_seconds > 0:
        raise ValueError(f"flush_seconds: got {flush_seconds}, must be above 0; 2 is usual")
