"""Reading a run folder: tables as Arrow, questions as SQL, while the run goes on or after it died.

Contract: read-only, and never a pickle. Whatever is on disk, the answer is rows, a note that says
what is missing, or a RunError with name, value, rule and remedy. Every question sees the parts
that are finished at that moment.
Boundary: gives rows, draws no conclusions (profiler.analyses does) and prints nothing.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from profiler.events import Step
from profiler.folder import rank_folders
from profiler.parts import Part, damage, drop_covered, list_parts
from profiler.runinfo import (
    RunError,
    first_line,
    latest_run,
    list_runs,
    read_info,
    read_json,
    unreadable,
)
from profiler.schema import TYPES, record_type, to_records
from profiler.views import escape_glob, literal, superseded_rows, view_sql

__all__ = ["Run", "RunError", "latest_run", "list_runs", "open_run"]

_TRIES = 6  # a merge may delete parts between listing and reading them
_KINDS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
Params = Sequence[Any] | Mapping[str, Any] | None
_Listing = dict[str, list[Part]]


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run folder; RunError when it is missing, unreadable or from a newer version."""
    return Run(path)


class Run:
    """One run folder, finished or not. Safe to use from several threads.

    path: the folder. info: run.json as it was at opening. Everything else is read when asked.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.info = read_info(self.path)
        self._lock = threading.Lock()
        self._sound: dict[Path, str | None] = {}
        self._views: _Listing | None = None
        self._db = _connect(self.path)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the in-memory database."""
        self._db.close()

    @property
    def closed(self) -> bool:
        """Whether the run ended in order, on every rank."""
        return not self._open_ranks()

    @property
    def note(self) -> str | None:
        """What a reader must know before trusting the rows, or None."""
        notes = []
        if open_ranks := self._open_ranks():
            notes.append(f"{' and '.join(open_ranks)}; {self._progress()}")
        for key in ("interrupted", "problem"):
            if text := self._read_now().get(key):
                notes.append(f"{key}: {text}")
        self._refresh()
        with self._lock:
            bad = [(p, why) for p, why in self._sound.items() if why]
        notes += [f"skipped {p.relative_to(self.path)}: {why}" for p, why in sorted(bad)]
        if (broken := self._broken_ablation()) is not None:
            notes.append(f"skipped ablation.json: {broken}")
        return "; ".join(notes) or None

    @property
    def ablation(self) -> dict[str, Any] | None:
        """What ablation.json holds, or None when there is none or it is damaged."""
        try:
            return read_json(self.path / "ablation.json")
        except (OSError, ValueError, RecursionError):
            return None

    @property
    def steps(self) -> list[Step]:
        """The steps of the run in order, as records."""
        rows: list[Step] = to_records(self.sql("FROM steps ORDER BY step, rank"), "steps")
        return rows

    @property
    def version(self) -> str:
        """A token that changes when there is something new to read."""
        digest = hashlib.sha256()
        for name in ("run.json", "ablation.json"):
            try:
                stat = (self.path / name).stat()
                digest.update(f"{name} {stat.st_mtime_ns} {stat.st_size}".encode())
            except OSError:
                digest.update(f"{name} -".encode())
        for parts in self._listing().values():
            digest.update(repr([str(part.path) for part in parts]).encode("utf-8", "replace"))
        return digest.hexdigest()[:16]

    def table(self, name: str) -> pa.Table:
        """Return a whole table; ValueError names the tables there are."""
        record_type(name)
        return self.sql(f"FROM {name}")

    def connection(self) -> duckdb.DuckDBPyConnection:
        """Return a connection for `sql` that keeps temporary tables, and the parts there are now.

        On it parts that come later are seen only once one of these has gone.
        """
        self._refresh()
        return self._db.cursor()

    def sql(
        self, query: str, params: Params = None, *, on: duckdb.DuckDBPyConnection | None = None
    ) -> pa.Table:
        """Answer one SELECT over the tables of the run (saves, storages, transfers, ...).

        params: values for ? or $name in the query. on: a `connection` to ask, else a new one.
        Sums of bytes come as int64. RunError for anything but one SELECT, and for one that
        cannot be answered.
        """
        _check_query(query)
        for attempt in range(_TRIES):
            try:
                if on is None or attempt:
                    self._refresh(again=attempt > 0)
                db = on or self._db.cursor()
                return _whole(db.sql(query, params=params).to_arrow_table())
            except (duckdb.IOException, FileNotFoundError) as error:
                problem: Exception = error
            except (duckdb.Error, pa.ArrowException, UnicodeError, TypeError) as error:
                raise _query_error(query, error) from None
        raise _query_error(query, problem) from None

    def _refresh(self, again: bool = False) -> None:
        """Point the views at the parts there are now."""
        for _ in range(_TRIES):
            try:
                with self._lock:
                    listing = self._sound_parts()
                    if listing == self._views and not again:
                        return
                    old = {} if again or self._views is None else self._views
                    self._point_at({t: p for t, p in listing.items() if p != old.get(t)})
                    self._views = listing
                return
            except (FileNotFoundError, duckdb.IOException):
                continue

    def _point_at(self, listing: _Listing) -> None:
        """Replace the views of some tables, all at once for who asks meanwhile."""
        self._db.begin()
        try:
            for table, parts in listing.items():
                gone = superseded_rows(table, parts)
                if len(gone):
                    self._db.register("arrived", gone)
                    self._db.execute(f"CREATE OR REPLACE TABLE superseded_{table} AS FROM arrived")
                    self._db.unregister("arrived")
                self._db.execute(view_sql(table, parts, superseded=len(gone) > 0))
        except BaseException:
            self._db.rollback()
            raise
        self._db.commit()

    def _listing(self) -> _Listing:
        found: _Listing = {}
        try:
            folders = rank_folders(self.path)
        except OSError as error:
            raise unreadable(self.path, error) from None
        for table in TYPES:
            found[table] = [part for folder in folders for part in list_parts(folder / table)]
        return found

    def _sound_parts(self) -> _Listing:
        """Return the parts to read: undamaged, and not leftovers of a merge."""
        sound: _Listing = {}
        listing = self._listing()
        for table, parts in listing.items():
            for part in parts:
                if part.path not in self._sound:
                    self._sound[part.path] = damage(part, table)
            good = [part for part in parts if self._sound[part.path] is None]
            sound[table] = _drop_covered_per_rank(good)
        present = {part.path for parts in listing.values() for part in parts}
        self._sound = {path: why for path, why in self._sound.items() if path in present}
        return sound

    def _read_now(self) -> dict[str, Any]:
        try:
            return read_json(self.path / "run.json")
        except (OSError, ValueError, RecursionError):
            return self.info

    def _open_ranks(self) -> list[str]:
        """Say what is not closed: the run, or some of its ranks."""
        info = self._read_now()
        if info.get("closed") is not True:
            return ["not closed"]
        ranks = info.get("ranks")
        if not isinstance(ranks, int) or not 1 < ranks < 1_000_000:
            return []
        return [f"rank {r} not closed" for r in range(ranks) if not _rank_closed(self.path, r)]

    def _progress(self) -> str:
        last = self.sql("SELECT max(step) AS last FROM steps").column("last")[0].as_py()
        return "no step finished" if last is None else f"last step {last}"

    def _broken_ablation(self) -> str | None:
        try:
            read_json(self.path / "ablation.json")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            return first_line(error)
        return None


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database that can read this run's files and nothing else."""
    db = duckdb.connect(":memory:")
    allowed = ", ".join(literal(p) for p in {os.path.abspath(path), escape_glob(path)})
    for setting in (
        f"allowed_directories = [{allowed}]",
        "temp_directory = ''",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        db.execute(f"SET {setting}")
    return db


def _check_query(query: str) -> None:
    try:
        kinds = [statement.type for statement in duckdb.extract_statements(query)]
    except (duckdb.Error, UnicodeError, TypeError) as error:
        raise _query_error(query, error) from None
    if len(kinds) != 1 or kinds[0] not in _KINDS:
        raise RunError(f"query: got {query[:80]!r}, must be one SELECT; a run is only read")


def _whole(table: pa.Table) -> pa.Table:
    """Return 128-bit sums, which Arrow has only as decimals, as int64 where they fit."""
    for index, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type) and field.type.scale == 0:
            try:
                column = table.column(index).cast(pa.int64())
            except pa.ArrowInvalid:
                continue
            table = table.set_column(index, field.name, column)
    return table


def _query_error(query: str, error: Exception) -> RunError:
    return RunError(
        f"query: got {query[:200]!r}, which cannot be answered ({first_line(error)}); "
        f"the tables are {', '.join(TYPES)}"
    )


def _rank_closed(path: Path, rank: int) -> bool:
    try:
        return read_json(path / f"rank-{rank:03d}" / "run.json").get("closed") is True
    except (OSError, ValueError, RecursionError):
        return False


def _drop_covered_per_rank(parts: list[Part]) -> list[Part]:
    by_rank: dict[Path, list[Part]] = {}
    for part in parts:
        by_rank.setdefault(part.path.parent, []).append(part)
    return [part for own in by_rank.values() for part in drop_covered(own)]
