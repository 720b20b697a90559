"""How one clustering runs, whichever form does it: temperature, distance, number of updates.

Contract: ``Settings`` are the keywords that every form takes; ``Schedule`` is their checked value
and raises ``ValueError`` with the name, the value, the rule and the remedy.
Boundary: numbers only; centroids, scales and the choice of a form are the forms' own arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Required, TypedDict

from edkm.dkm.checks import DISTANCES, check_choice, check_schedule, check_tau

ATTENTION_FLOOR = 1e-7  # the attention is clamped from below so that no cluster loses all mass


class Settings(TypedDict, total=False):
    """Keywords of ``dense_dkm``, ``fused_dkm``, ``streaming_dkm`` and ``cluster_weight``."""

    tau: Required[float]  # softmax temperature: squared weight units; weight units if "euclidean"
    iterations: int | None  # exactly so many updates; None (the default): until they settle
    max_iter: int  # most updates where iterations is None; default 5
    eps: float  # settled when no centroid moves further, weight units; default 1e-4
    distance: str  # which distance tau divides: "squared" (the default) or "euclidean"


class Rule(NamedTuple):
    """How distances become attention."""

    tau: float  # softmax temperature
    squared: bool  # tau divides squared distances; else plain ones


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """``Settings``, checked. Fields and defaults as there."""

    tau: float
    iterations: int | None = None
    max_iter: int = 5
    eps: float = 1e-4
    distance: str = "squared"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", check_tau(self.tau))
        check_choice("distance", self.distance, DISTANCES)
        check_schedule(self.iterations, self.max_iter, self.eps)

    @property
    def rule(self) -> Rule:
        return Rule(self.tau, self.distance == "squared")

    @property
    def steps(self) -> int:
        """Most updates there can be."""
        return self.max_iter if self.iterations is None else self.iterations

    @property
    def stop(self) -> float:
        """The movement at which updates end; -1, which none falls below, for a fixed number."""
        return self.eps if self.iterations is None else -1.0
