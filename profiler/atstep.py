"""One step of a run, read once for all questions about it.

Contract: answers SQL as the run does, but what belongs to another step is not there: saves,
nodes, edges, transfers, totals, memory and steps are copied into memory when they are first asked
for, so that of a long run only one question looks for them. Storages, modules and stacks, which
outlive a step, are the run's own.
Boundary: a view of a `Run` at the moment of the first question; a live run is asked anew by
making another one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from profiler.query import Params, Run
from profiler.schema import TYPES, columns

OF_A_STEP = tuple(
    table
    for table in TYPES
    if table != "storages" and any(column.name == "step" for column in columns(table))
)  # a storage has the step of its birth, and may live on


class AtStep:
    """The rows of one step. Safe to use from several threads.

    path, ablation: the run's. step: the only one that is seen.
    """

    def __init__(self, run: Run, step: int) -> None:
        self.path: Path = run.path
        self.step = step
        self._run = run
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._own = run.connection()

    @property
    def ablation(self) -> Mapping[str, Any] | None:
        """What ablation.json holds."""
        return self._run.ablation

    def sql(self, query: str, params: Params = None) -> pa.Table:
        """Answer one SELECT as `Run.sql` does, over this step; RunError as there."""
        with self._lock:
            for table in OF_A_STEP:
                if table not in self._held and re.search(rf"\b{table}\b", query):
                    self._hold(table)
            return self._run.sql(query, params, on=self._own)

    def _hold(self, table: str) -> None:
        """Copies the step's rows: a temporary table hides the view of the same name."""
        rows = self._run.sql(f"FROM {table} WHERE step = ?", [self.step], on=self._own)
        self._own.register("arrived", rows)
        self._own.execute(f"CREATE TEMP TABLE {table} AS FROM arrived")
        self._own.unregister("arrived")
        self._held.add(table)
