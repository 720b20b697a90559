"""``edkm.schedule``: when clustering starts, and how its temperature falls over a training run.

Contract: a pure function of the step number, so a resumed run continues exactly; ``step(i)``
before the forward of optimizer step ``i`` sets the clustering for that step.
Boundary: it turns the knobs of a ``Clustering``; learning rates are the trainer's.
"""

from __future__ import annotations

from dataclasses import dataclass

from edkm.clustering import Clustering
from edkm.dkm import TauSchedule

DEFAULT_START = 2.0  # multiples of the automatic temperature, var(W) / K**2
DEFAULT_END = 0.05


@dataclass(frozen=True)
class Schedule:
    """The clustering of every step of a run; made by ``schedule``."""

    clustering: Clustering
    steps: int  # optimizer steps of the whole run
    tau: TauSchedule
    begin: int  # first clustered step
    straight_from: int  # first straight-through step; ``steps`` for none

    def step(self, index: int) -> float:
        """Set the clustering for optimizer step ``index`` (from 0); returns the tau factor."""
        self.clustering.new_step(index)
        if index < self.begin:
            self.clustering.set_mode("off", soft_only=False)
            return self.tau.start
        for entry in self.clustering.weights.values():
            late = index >= self.straight_from and entry.codebook.config.dim == 1
            entry.codebook.mode = "straight" if late else entry.codebook.made
        last = max(self.straight_from - 1, self.begin + 1)
        factor = self.tau((index - self.begin) / (last - self.begin))
        self.clustering.set_tau_factor(factor)
        return factor


def schedule(
    clustering: Clustering,
    steps: int,
    *,
    tau_start: float = DEFAULT_START,
    tau_end: float = DEFAULT_END,
    begin: float = 0.0,
    straight: float = 0.0,
) -> Schedule:
    """Anneal ``clustering`` over ``steps`` optimizer steps.

    ``tau_start``, ``tau_end``: multiples of each weight's automatic temperature, geometric in
    between. ``begin``: share of the run before clustering starts. ``straight``: share of the run,
    at its end, in which weights are already hard and gradients pass straight through. Raises
    ``ValueError`` for shares outside [0, 1] or that leave nothing between them.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; a schedule needs at least one optimizer step")
    for name, share in (("begin", begin), ("straight", straight)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; it is a share of the run: use 0 to 1")
    if begin + straight > 1:
        raise ValueError(
            f"begin={begin} and straight={straight} overlap; together they must be at most 1"
        )
    tau = TauSchedule(start=tau_start, end=tau_end)
    return Schedule(clustering, steps, tau, round(begin * steps), steps - round(straight * steps))
