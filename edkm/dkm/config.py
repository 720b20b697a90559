"""The settings of one clustering, validated when they are made.

Contract: a frozen value; every field with its unit; a bad value raises ``ValueError`` with the
field's name, the value, the rule and the remedy.
Boundary: no tensors; the module and the forms read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edkm.dkm.checks import (
    DISTANCES,
    FORMS,
    check_choice,
    check_range,
    check_schedule,
    check_tau,
)
from edkm.dkm.init import METHODS
from edkm.dkm.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DKMConfig:
    """How one weight is clustered (DKM, arXiv 2108.12659; eDKM, arXiv 2309.00964)."""

    bits: int = 3  # bits per cluster index, 1 to 8: 2**bits centroids
    dim: int = 1  # weights per cluster vector (1 for language models)
    tau: float | None = None  # softmax temperature, squared weight units; None: default_tau
    tau_multiple: float = 1.0  # with tau=None: multiples of dim * variance / K**(2/dim)
    iterations: int | None = None  # k-means updates per call; None: until convergence
    max_iter: int = 5  # most updates per call when iterations is None
    eps: float = 1e-4  # converged when no centroid moves further, weight units
    distance: str = "squared"  # what tau divides: "squared" or "euclidean" distance
    init: str = "kmeans++"  # where the first centroids come from: "kmeans++" or "quantile"
    seed: int = 0  # of k-means++
    repair: bool = True  # move centroids that serve no weight, every 16 training steps
    form: str = "auto"  # "auto", or insist on "dense", "fused" or "streaming"

    def __post_init__(self) -> None:
        check_range("bits", self.bits, 1, 8, "an index is stored in at most one byte")
        check_range("dim", self.dim, 1, None, "a cluster's vectors have at least one coordinate")
        check_range("seed", self.seed, 0, None, "a seed is a non-negative integer")
        if self.tau is not None:
            check_tau(self.tau)
        if not 0 < self.tau_multiple < float("inf"):
            raise ValueError(
                f"tau_multiple is {self.tau_multiple}; it must be finite and above 0: 1 is the "
                "default, less is harder"
            )
        check_schedule(self.iterations, self.max_iter, self.eps)
        check_choice("distance", self.distance, DISTANCES)
        check_choice("init", self.init, METHODS)
        check_choice("form", self.form, FORMS)
        if self.init == "quantile" and self.dim != 1:
            raise ValueError(
                f"init is 'quantile' with dim={self.dim}; quantiles need dim=1: use 'kmeans++'"
            )

    def settings(self, tau: float) -> Settings:
        """What the forms take, at the temperature ``tau``."""
        return {
            "tau": tau, "iterations": self.iterations, "max_iter": self.max_iter,
            "eps": self.eps, "distance": self.distance,
        }  # fmt: skip

    @property
    def clusters(self) -> int:
        """Number of centroids, ``2**bits``."""
        return int(2**self.bits)
