"""Levers: what a what-if can be asked of a recorded step, and all eight combinations of M, U, S.

Contract: patterns are such that some module with saves matches each of them; the combinations are
predicted from the ablation's step "none" and carry that word in their figures.
Boundary: chooses what to ask; predicting is `whatif`. The fused form saves other tensors than the
dense one, so it cannot be predicted from it and is not among the combinations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from profiler.analyses.common import Result, Rows, rows_of
from profiler.analyses.whatif import Scenario, what_if

BASE = "none"  # the ablation's row that copies every save whole
SWITCHES = ("M", "U", "S")


@dataclass(frozen=True, kw_only=True)
class Levers(Result):
    """What there is to choose from for a step."""

    patterns: list[str]  # "*", repeated layers and parts of them, the most saved bytes first
    offloaded: bool  # the step itself sent something to the host


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One combination of the switches. Bytes of one learner."""

    name: str
    predicted_host_bytes: int
    predicted_peer_bytes: int
    predicted_d2h_bytes: int
    predicted_h2d_bytes: int
    upper_bound: bool  # at most these


@dataclass(frozen=True, kw_only=True)
class Combinations(Result):
    """The eight, in the order of how many switches are on."""

    step: int
    learners: int
    rows: list[Combination] = field(default_factory=list)
    assumes: list[str] = field(default_factory=list)


def levers(run: Rows, step: int, limit: int = 12) -> Levers:
    """The levers of one step; at most `limit` patterns besides "*"."""
    sizes: dict[str, int] = {}
    layers: dict[str, set[str]] = {}
    for row in rows_of(run, _SAVED, {"step": step}):
        for pattern, index in _patterns(row["module"]):
            sizes[pattern] = sizes.get(pattern, 0) + row["bytes"]
            layers.setdefault(pattern, set()).add(index)
    found = [pattern for pattern, indices in layers.items() if len(indices) > 1]
    found.sort(key=lambda pattern: (-sizes[pattern], len(pattern), pattern))
    (moved,) = rows_of(run, _MOVED, {"step": step})
    return Levers(patterns=["*", *found[:limit]], offloaded=bool(moved["count"]))


def combinations(run: Rows) -> Combinations | None:
    """All combinations of M, U and S; None where the run has no step "none" with single saves."""
    found = rows_of(run, _BASE, {"name": BASE})
    if not found:
        return None
    learners = _learners(run)
    names = sorted(_names(), key=lambda name: len(name.split("+")) if name != BASE else 0)
    answer = what_if(run, [_scenario(name, learners) for name in names], found[0]["step"])
    notes = dict.fromkeys(note for one in answer.predictions for note in one.assumes)
    rows = [
        Combination(
            name=name,
            predicted_host_bytes=one.predicted_host_bytes,
            predicted_peer_bytes=one.predicted_peer_bytes,
            predicted_d2h_bytes=one.predicted_d2h_bytes,
            predicted_h2d_bytes=one.predicted_h2d_bytes,
            upper_bound=one.upper_bound,
        )
        for name, one in zip(names, answer.predictions, strict=True)
    ]
    return Combinations(step=found[0]["step"], learners=learners, rows=rows, assumes=list(notes))


def _learners(run: Rows) -> int:
    """Over how many learners an ablation sharded; eight where the run does not say."""
    raw = (getattr(run, "ablation", None) or {}).get("learners")
    return raw if isinstance(raw, int) and 1 < raw <= 1 << 20 else 8


def _names() -> list[str]:
    """none, M, U, M+U, S, ...: every set of switches."""
    chosen = (
        [switch for bit, switch in enumerate(SWITCHES) if number >> bit & 1] for number in range(8)
    )
    return ["+".join(switches) or BASE for switches in chosen]


def _scenario(name: str, learners: int) -> Scenario:
    on = set(name.split("+"))
    return Scenario(
        name=name,
        dedupe="M" in on,
        every="M" not in on,
        uniquify="U" in on,
        shard=learners if "S" in on else 1,
    )


def _patterns(module: str) -> list[tuple[str, str]]:
    """("model.layers.*", "3"), ("model.layers.*.mlp", "3"): the first index of a name starred."""
    parts = module.split(".")
    at = next((place for place, part in enumerate(parts) if part.isdecimal()), None)
    if at is None:
        return []
    starred = [*parts[:at], "*", *parts[at + 1 :]]
    ends = range(at + 1, min(len(parts), at + 2) + 1)
    return [(".".join(starred[:end]), parts[at]) for end in ends]


_SAVED = """
SELECT module, sum(logical_bytes) AS bytes FROM saves WHERE step = $step AND NOT is_param
GROUP BY module ORDER BY module
"""

_MOVED = """
SELECT count(*) AS count FROM saves WHERE step = $step
    AND (action NOT IN ('kept', 'rebuilt') OR (action = 'rebuilt' AND finder IS NOT NULL))
"""

_BASE = """
SELECT s.step FROM steps s WHERE s.name = $name
    AND EXISTS (SELECT 1 FROM saves v WHERE v.step = s.step) ORDER BY s.step LIMIT 1
"""
