"""What an ablation measures: its rows, each a combination of M, U and S, and its settings.

Contract: settings that are out of range are refused with name, value and rule.
Boundary: says what to run; profiler.ablation runs it. Source: eDKM (arXiv 2309.00964) Table 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from edkm.saved import SavedTensorPolicy, SimulatedLearners


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """One row of the ablation."""

    name: str
    marshal: bool = False
    uniquify: bool = False
    shard: bool = False
    fused: bool = False  # no N x K tensor at all; the weight itself is the index

    def policy(self, learners: int) -> SavedTensorPolicy:
        """What happens to the row's saved tensors.

        The fused form saves the weight by reference: a parameter is in memory anyway, so it stays
        where it is, and only what is beyond it is counted on the host.
        """
        return SavedTensorPolicy(
            marshal=self.marshal or self.fused,
            uniquify=self.uniquify,
            shard=SimulatedLearners(learners) if self.shard else None,
            skip_parameters=self.fused,
        )


CONFIGS = {
    row.name: row
    for row in (
        Switches(name="none"),
        Switches(name="M", marshal=True),
        Switches(name="M+S", marshal=True, shard=True),
        Switches(name="M+U", marshal=True, uniquify=True),
        Switches(name="M+U+S", marshal=True, uniquify=True, shard=True),
        Switches(name="fused", fused=True),
        Switches(name="U", uniquify=True),
        Switches(name="S", shard=True),
        Switches(name="U+S", uniquify=True, shard=True),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationSettings:
    """What is measured; the fields of ablation.json of the same names."""

    layer: str
    bits: int  # 1 to 8: 2**bits clusters
    iterations: int  # DKM updates per step
    learners: int  # learners that S shards over (simulated in this process)
    configs: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        _check_range("bits", self.bits, 1, 8, "clusters are indexed by at most one byte")
        _check_range("iterations", self.iterations, 1, 100, "DKM needs at least one update")
        _check_range("learners", self.learners, 1, 4096, "give 1 to shard over nobody")
        unknown = [name for name in self.configs if name not in CONFIGS]
        twice = sorted({name for name in self.configs if self.configs.count(name) > 1})
        if twice:
            raise ValueError(f"configs {', '.join(twice)}: given twice; each row is measured once")
        if unknown or not self.configs:
            raise ValueError(
                f"configs {', '.join(unknown) or '(none given)'}: unknown; "
                f"valid are {', '.join(CONFIGS)}"
            )


def _check_range(name: str, value: int, low: int, high: int, rule: str) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} {value}: must be from {low} to {high}; {rule}")
