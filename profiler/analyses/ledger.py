"""The ledger: per module, what autograd saved in one step and what of it is new memory.

Contract: every saved byte is in exactly one of three columns,
    logical_bytes = param_bytes + first_bytes + aliased_bytes:
of parameters (in memory anyway), of storages seen for the first time in the step, or of storages
that an earlier save of the step keeps already. `unique_bytes` counts each non-parameter storage
whole and once, at the module that saved it first, so modules add up to the total. What the
allocator holds beyond what is known is `unexplained_bytes`, always given.
Boundary: counts over a whole step; storages of one step need not be alive at the same moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from profiler.analyses.common import Result, Rows, choose_step, rows_of


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One module's line, or the total. All sizes in bytes."""

    module: str
    kind: str = ""  # class of the module
    saves: int = 0
    logical_bytes: int = 0  # sum over saves, however often a storage is saved
    param_bytes: int = 0  # of which parameters and their views
    first_bytes: int = 0  # of which the first save of a storage in this step
    aliased_bytes: int = 0  # of which saves of a storage that was saved before
    unique_bytes: int = 0  # whole storages, each once; what autograd keeps alive
    param_storage_bytes: int = 0  # whole parameter storages, each once
    storages: int = 0  # how many unique_bytes counts
    host_copies: int = 0  # saves that added host memory
    host_bytes: int = 0
    peer_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Balance:
    """The fullest moment of the step: what was allocated, and what for."""

    time_ns: int
    phase: str
    device: str
    allocated_bytes: int
    param_bytes: int
    grad_bytes: int
    optimizer_bytes: int
    saved_bytes: int
    temp_bytes: int
    unexplained_bytes: int  # allocated less all of the above; may be negative while sampling races
    host_bytes: int
    rss_bytes: int
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Ledger(Result):
    """The ledger of one step, largest unique_bytes first. Ranks are added up."""

    step: int
    name: str
    total: Entry
    modules: list[Entry]
    actions: dict[str, int] = field(default_factory=dict)  # saves by what became of them
    balances: list[Balance] = field(default_factory=list)  # one per rank
    limits: list[str] = field(default_factory=list)  # what these rows cannot say


def ledger(run: Rows, step: int | None = None) -> Ledger:
    """Return the ledger of a step (the last one with saves); ValueError for an unknown step.

    Of a run at level `summary`, which has no saves, the recorded totals are taken.
    """
    number, name = choose_step(run, step)
    values = {"step": number}
    rows = rows_of(run, _MODULES, values) or rows_of(run, _SUMMARISED, values)
    modules = [Entry(**row) for row in rows]
    actions = rows_of(run, _ACTIONS, values)
    return Ledger(
        step=number,
        name=name,
        total=_total(modules),
        modules=modules,
        actions={row["action"]: row["saves"] for row in actions},
        balances=[Balance(**row) for row in rows_of(run, _BALANCES, values)],
        limits=_limits(run, values),
    )


def _total(entries: list[Entry]) -> Entry:
    numbers: dict[str, Any] = {
        name: sum(getattr(entry, name) for entry in entries)
        for name, kind in Entry.__annotations__.items()
        if kind == "int"
    }
    return Entry(module="", kind="total", **numbers)


def _limits(run: Rows, values: dict[str, Any]) -> list[str]:
    """What a reader of this step must know, besides its figures."""
    (step,) = rows_of(run, _COMPILED, values)
    found = []
    if step["compiled"]:
        found.append(
            f"{step['compiled']} saves, {step['bytes']} bytes, are of compiled code: its "
            "partitioner chose them, and which module or operation inside needs them is not known"
        )
    if getattr(run, "info", {}).get("fake") is True:
        found.append("planned with fake tensors: nothing was computed, no time was measured")
    return found


_MODULES = """
WITH ordered AS (
    SELECT *, row_number() OVER (PARTITION BY rank, storage_id ORDER BY save_id) = 1 AS is_first,
        bool_or(is_param) OVER (PARTITION BY rank, storage_id) AS of_param
    FROM saves WHERE step = $step
), summed AS (
    SELECT module, count(*) AS saves, sum(logical_bytes) AS logical_bytes,
        sum(if(of_param, logical_bytes, 0)) AS param_bytes,
        sum(if(is_first AND NOT of_param, logical_bytes, 0)) AS first_bytes,
        sum(if(NOT is_first AND NOT of_param, logical_bytes, 0)) AS aliased_bytes,
        sum(if(is_first AND NOT of_param, storage_bytes, 0)) AS unique_bytes,
        sum(if(is_first AND of_param, storage_bytes, 0)) AS param_storage_bytes,
        count_if(is_first AND NOT of_param) AS storages,
        count_if(host_bytes > 0) AS host_copies,
        sum(host_bytes) AS host_bytes, sum(peer_bytes) AS peer_bytes
    FROM ordered GROUP BY module
), kinds AS (SELECT module, any_value(kind) AS kind FROM modules GROUP BY module)
SELECT s.*, coalesce(k.kind, '') AS kind FROM summed s LEFT JOIN kinds k ON k.module = s.module
ORDER BY s.unique_bytes DESC, s.logical_bytes DESC, s.module
"""

_SUMMARISED = """
WITH kinds AS (SELECT module, any_value(kind) AS kind FROM modules GROUP BY module)
SELECT t.module, coalesce(any_value(k.kind), '') AS kind, sum(saves) AS saves,
    sum(logical_bytes) AS logical_bytes, sum(t.param_bytes) AS param_bytes,
    sum(first_bytes) AS first_bytes, sum(aliased_bytes) AS aliased_bytes,
    sum(unique_bytes) AS unique_bytes, sum(param_storage_bytes) AS param_storage_bytes,
    sum(storages) AS storages, sum(host_copies) AS host_copies, sum(host_bytes) AS host_bytes,
    sum(peer_bytes) AS peer_bytes
FROM totals t LEFT JOIN kinds k ON k.module = t.module WHERE t.step = $step GROUP BY t.module
ORDER BY unique_bytes DESC, logical_bytes DESC, t.module
"""

_ACTIONS = """
SELECT action, count(*) AS saves FROM saves WHERE step = $step GROUP BY 1 ORDER BY 2 DESC, 1
"""

_COMPILED = """
SELECT count(*) AS compiled, coalesce(sum(logical_bytes), 0) AS bytes FROM saves
WHERE step = $step AND starts_with(op, 'CompiledFunction')
"""

_BALANCES = """
SELECT rank, time_ns, phase, device, allocated_bytes, param_bytes, grad_bytes, optimizer_bytes,
    saved_bytes, temp_bytes,
    allocated_bytes - param_bytes - grad_bytes - optimizer_bytes - saved_bytes - temp_bytes
        AS unexplained_bytes,
    host_bytes, rss_bytes
FROM memory WHERE step = $step
QUALIFY row_number() OVER (PARTITION BY rank ORDER BY allocated_bytes DESC, time_ns) = 1
ORDER BY rank
"""
