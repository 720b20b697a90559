"""What-if: from one recorded step, what it would hold and move under other settings.

Contract: nothing is run. Everything that is computed has `predicted` in its name; what a run in
fact did is in `Measured`, with the same figures under `measured` names, so that the two can stand
side by side. A figure that rests on more than layouts, identities and the recorded graph is listed
in `assumes`.
Boundary: the rules of copying are `copies`, those of lifetimes `lifetimes`. One rank, one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from profiler.analyses.common import Result, Rows, choose_step, rows_of
from profiler.analyses.copies import HostCopies, Policy, host_copies
from profiler.analyses.lifetimes import Lives, peak
from profiler.analyses.steprows import Row, StepRows, read_step, within


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A setting to predict.

    offload: shell patterns of modules whose saves go to the host ("*": all). Without it, and with
    any of dedupe, uniquify, shard or every, what the run itself offloaded is taken, or else
    everything.
    every: copy each save by itself, as `save_on_cpu` does.
    checkpoint: shell patterns of modules that are computed again in backward.
    """

    name: str = ""
    dedupe: bool = False
    every: bool = False
    uniquify: bool = False
    shard: int = 1
    offload: tuple[str, ...] = ()
    checkpoint: tuple[str, ...] = ()
    min_bytes: int = 1024  # storages smaller than this stay

    def __post_init__(self) -> None:
        if not 1 <= self.shard <= 1 << 20:
            raise ValueError(f"shard {self.shard}: learners must be from 1 to {1 << 20}")
        if self.every and self.dedupe:
            raise ValueError("every and dedupe: got both; a save is copied by itself or once")
        if self.min_bytes < 0:
            raise ValueError(f"min_bytes {self.min_bytes}: must not be negative; 0 takes all")

    @property
    def title(self) -> str:
        words = [
            "M" if self.dedupe and not self.offload else "",
            "U" if self.uniquify else "",
            f"S over {self.shard}" if self.shard > 1 else "",
            f"offload {', '.join(self.offload)}" if self.offload else "",
            "copy every save" if self.every or (self.offload and not self.dedupe) else "",
            f"checkpoint {', '.join(self.checkpoint)}" if self.checkpoint else "",
        ]
        return self.name or " + ".join(word for word in words if word) or "as recorded"

    @property
    def moves(self) -> bool:
        return self.dedupe or self.every or self.uniquify or self.shard > 1 or bool(self.offload)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a recorded step held and moved. Bytes of one rank."""

    run: str
    step: int
    name: str
    measured_peak_bytes: int | None  # of tracked storages on the device
    measured_device_bytes: int  # that saves keep on the device at the end of forward
    measured_host_bytes: int
    measured_peer_bytes: int
    measured_d2h_bytes: int
    measured_h2d_bytes: int


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One scenario's figures, in bytes."""

    scenario: str
    predicted_peak_bytes: int
    predicted_device_bytes: int
    predicted_host_bytes: int
    predicted_peer_bytes: int
    predicted_d2h_bytes: int
    predicted_h2d_bytes: int
    upper_bound: bool  # host figures are at most this
    assumes: list[str] = field(default_factory=list)
    beside: Measured | None = None  # a run that did this


@dataclass(frozen=True, kw_only=True)
class WhatIf(Result):
    """Predictions from one step, and what that step itself did."""

    base: Measured
    predictions: list[Prediction]


def what_if(
    run: Rows,
    scenarios: Sequence[Scenario] | None = None,
    step: int | None = None,
    *,
    beside: Measured | None = None,
    rows: StepRows | None = None,
    base: Measured | None = None,
) -> WhatIf:
    """Predict scenarios (None: the usual ones) from a step (the last with saves).

    beside: what a run that did the only scenario measured. In the trace of an ablation its rows
    are found by name.
    rows, base: of that very step, where the caller has read them already.

    Raises:
        ValueError: an unknown step, a level without saves, or a pattern that no module matches.
    """
    rows = read_step(run, step) if rows is None else rows
    if not rows.saves:
        raise ValueError(
            f"step {rows.step}: has no rows of saves, so nothing can be predicted; "
            "record it at level full, with a backward in it"
        )
    chosen = list(scenarios) if scenarios is not None else usual(rows, _learners(run) or 8)
    for scenario in chosen:
        _check_patterns(rows, scenario)
    lives = Lives(rows)
    found = [_predict(run, rows, lives, scenario, beside) for scenario in chosen]
    return WhatIf(base=base or measured(run, rows.step), predictions=found)


def measured(run: Rows, step: int | None = None) -> Measured:
    """What a step in fact held and moved (the last with saves, of the lowest rank)."""
    number, name = choose_step(run, step)
    (row,) = rows_of(run, _MEASURED, {"step": number})
    return Measured(run=str(getattr(run, "path", "")), step=number, name=name, **row)


def usual(rows: StepRows, learners: int = 8) -> list[Scenario]:
    """What is worth asking of any run: copies with and without M, S, and the repeated layers."""
    everything = () if _moved(rows) else ("*",)
    found = [
        Scenario(name="copy every save", offload=everything or ("*",)),
        Scenario(name="M: copy a storage once", dedupe=True, offload=everything),
        Scenario(
            name=f"M+S over {learners} learners", dedupe=True, shard=learners, offload=everything
        ),
    ]
    if _moved(rows):
        found[0] = Scenario(name="copy every save", every=True)
        found.insert(2, Scenario(name="M+U: tables of maps", dedupe=True, uniquify=True))
    repeated = _repeated(rows)
    if repeated:
        found.append(Scenario(name=f"checkpoint each {repeated}", checkpoint=(repeated,)))
    return found


def _predict(
    run: Rows, rows: StepRows, lives: Lives, scenario: Scenario, beside: Measured | None
) -> Prediction:
    selected = _selected(rows, scenario)
    foreign = bool(scenario.offload)
    as_it_was = not scenario.moves and any(s["action"] == "alias" for s in rows.saves)
    policy = Policy(
        dedupe=scenario.dedupe or as_it_was,
        uniquify=scenario.uniquify,
        learners=scenario.shard,
        conversions=foreign and scenario.dedupe,
        hold=foreign and scenario.dedupe,
    )
    copies = host_copies(rows, selected, policy)
    changed, kept = lives.with_changes({s["save_id"] for s in selected}, scenario.checkpoint)
    return Prediction(
        scenario=scenario.title,
        predicted_peak_bytes=peak(changed, rows.start_ns, rows.end_ns),
        predicted_device_bytes=kept,
        predicted_host_bytes=copies.own_bytes,
        predicted_peer_bytes=copies.peer_bytes,
        predicted_d2h_bytes=copies.own_bytes,
        predicted_h2d_bytes=copies.h2d_bytes,
        upper_bound=copies.bound,
        assumes=_assumptions(scenario, copies),
        beside=beside if beside is not None else _row_beside(run, rows, scenario),
    )


def _selected(rows: StepRows, scenario: Scenario) -> list[Row]:
    """The saves that leave the device."""
    large = [s for s in rows.saves if s["storage_bytes"] >= scenario.min_bytes]
    large = [s for s in large if s["logical_bytes"] and len(s["stride"]) == len(s["shape"])]
    if scenario.checkpoint:
        large = [s for s in large if within(s["module"], scenario.checkpoint) is None]
    if scenario.offload:
        patterns = scenario.offload
        return [s for s in large if not s["of_param"] and within(s["module"], patterns) is not None]
    if moved := _moved(rows):
        return [s for s in large if s["save_id"] in moved]
    return [s for s in large if not s["of_param"]] if scenario.moves else []


def _moved(rows: StepRows) -> set[int]:
    """What hooks took off the device in the run itself."""
    return {s["save_id"] for s in rows.saves if s["action"] not in ("kept", "rebuilt")} | {
        s["save_id"] for s in rows.saves if s["action"] == "rebuilt" and s["finder"]
    }


def _assumptions(scenario: Scenario, copies: HostCopies) -> list[str]:
    notes = []
    if scenario.uniquify:
        notes.append("every map with a row per 16-bit weight is a function of that weight")
    if copies.bound:
        notes.append("tables are full (upper bound): record at level values for distinct values")
    if scenario.offload or scenario.checkpoint:
        notes.append("what is freed early is freed right after its last use in forward")
    if scenario.shard > 1:
        notes.append("every sharded tensor is equal on all learners")
    return notes


def _row_beside(run: Rows, rows: StepRows, scenario: Scenario) -> Measured | None:
    """In an ablation: the step that has the scenario's switches on, by the name of its row."""
    if scenario.offload or scenario.checkpoint or rows.name != "none":
        return None
    if scenario.shard > 1 and scenario.shard != _learners(run):
        return None
    on = (scenario.dedupe, scenario.uniquify, scenario.shard > 1)
    letters = "+".join(letter for letter, is_on in zip("MUS", on, strict=True) if is_on) or "none"
    found = rows_of(run, "SELECT step FROM steps WHERE name = ? ORDER BY step", [letters])
    return measured(run, found[0]["step"]) if found else None


def _learners(run: Rows) -> int | None:
    """Over how many learners an ablation sharded."""
    found = (getattr(run, "ablation", None) or {}).get("learners")
    return found if isinstance(found, int) and 1 < found <= 1 << 20 else None


def _check_patterns(rows: StepRows, scenario: Scenario) -> None:
    modules = {save["module"] for save in rows.saves}
    for kind in ("offload", "checkpoint"):
        for pattern in getattr(scenario, kind):
            if not any(within(module, (pattern,)) is not None for module in modules):
                some = ", ".join(sorted(modules)[:8])
                raise ValueError(
                    f"{kind} {pattern!r}: no module that saved anything matches; there are {some}"
                    + (" ..." if len(modules) > 8 else "")
                )


def _repeated(rows: StepRows) -> str | None:
    """The pattern of the layers that are repeated most, such as "model.layers.*"."""
    layers: dict[str, set[str]] = {}
    for save in rows.saves:
        parts = save["module"].split(".")
        for place, part in enumerate(parts):
            if part.isdecimal():
                layers.setdefault(".".join([*parts[:place], "*"]), set()).add(part)
                break
    best = max(layers, key=lambda pattern: len(layers[pattern]), default=None)
    return best if best is not None and len(layers[best]) > 1 else None


_MEASURED: Any = """
WITH mine AS (
    SELECT *, bool_or(is_param) OVER (PARTITION BY storage_id) AS of_param FROM saves
    WHERE step = $step AND rank = (SELECT coalesce(min(rank), 0) FROM saves WHERE step = $step)
), moved AS (
    SELECT direction, sum(bytes) AS bytes FROM transfers
    WHERE step = $step AND NOT peer AND rank = (SELECT coalesce(min(rank), 0) FROM mine)
    GROUP BY direction
)
SELECT
    (SELECT any_value(peak_bytes) FROM steps WHERE step = $step
        AND rank = (SELECT coalesce(min(rank), 0) FROM mine)) AS measured_peak_bytes,
    coalesce((SELECT sum(bytes) FROM (SELECT any_value(storage_bytes) AS bytes FROM mine
        WHERE action = 'kept' AND NOT of_param AND phase = 'forward' GROUP BY storage_id)), 0)
        AS measured_device_bytes,
    coalesce((SELECT sum(host_bytes) FROM mine), 0) AS measured_host_bytes,
    coalesce((SELECT sum(peer_bytes) FROM mine), 0) AS measured_peer_bytes,
    coalesce((SELECT bytes FROM moved WHERE direction = 'd2h'), 0) AS measured_d2h_bytes,
    coalesce((SELECT bytes FROM moved WHERE direction = 'h2d'), 0) AS measured_h2d_bytes
"""
