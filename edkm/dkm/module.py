"""DKM as a module: soft clustering in training, nearest centroids in eval.

Contract: the centroids are a buffer, not a parameter. Each training step starts from those the
last step ended with. A step is told by the weight's version counter: calling again before the
weight has changed (gradient accumulation, activation checkpointing) starts from the same
centroids and so returns the same values. Under ``torch.compile``, which cannot see versions,
every training forward is a step, nothing is repaired, and each new ``tau_factor`` compiles anew
(torch holds an operator's float fixed), so anneal in a few stages. The first step breaks the
graph, to start: take it, or call ``start``, before compiling with ``fullgraph``.
Boundary: one weight, one codebook.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from edkm.dkm.assign import assign_hard
from edkm.dkm.choose import cluster_weight
from edkm.dkm.config import DKMConfig
from edkm.dkm.dense import ClusterResult
from edkm.dkm.init import initial_centroids
from edkm.dkm.repair import repair_centroids
from edkm.dkm.temperature import default_tau

REPAIR_EVERY = 16  # steps; a repair counts the weight once more


class DKM(nn.Module):
    """Differentiable k-means of one weight (DKM, arXiv 2108.12659, section 3).

    ``centroids`` is ``[2**bits, dim]`` float32. ``tau_factor`` multiplies the temperature and is
    what an annealing schedule sets. With ``config.tau=None`` the temperature is taken from the
    first weight seen and then kept in the buffer ``tau``, so that it is part of the checkpoint.
    """

    centroids: Tensor
    tau: Tensor
    ready: Tensor

    def __init__(self, config: DKMConfig | None = None) -> None:
        super().__init__()
        self.config = config or DKMConfig()
        shape = (self.config.clusters, self.config.dim)
        self.register_buffer("centroids", torch.zeros(shape))
        self.register_buffer("tau", torch.tensor(self.config.tau or 0.0, dtype=torch.float64))
        self.register_buffer("ready", torch.tensor(False))
        self.tau_factor = 1.0
        self._steps = 0  # of training since the module was made or copied
        self._known_tau: float | None = None  # the buffer's value, lest each step wait for it
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]
        self._step: tuple[weakref.ref[Tensor], int, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle begins a step of its own: weak references cannot be stored."""
        return {**self.__dict__, "_step": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DKM:
        """Moves with the model, but keeps its precision: tau is below what float16 can hold."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and old.dtype != new.dtype:
                self._buffers[name] = old.to(new.device)
        return self

    def extra_repr(self) -> str:
        return f"bits={self.config.bits}, dim={self.config.dim}, tau={float(self.tau):.3g}"

    def forward(self, weight: Shaped[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The clustered weight: soft and differentiable in training, hard in eval."""
        if not self.training:
            self._make_ready(weight)
            return assign_hard(weight, self.centroids)
        result = self.cluster(weight, self.begin_step(weight))
        self.end_step(result.centroids)
        return result.clustered

    @torch.compiler.disable  # type: ignore[untyped-decorator,unused-ignore]
    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Set the centroids, and tau if it is automatic, from ``weight``."""
        config = self.config
        first = initial_centroids(weight, config.clusters, config.dim, config.init, config.seed)
        self.centroids.copy_(first)
        if config.tau is None:
            tau = default_tau(
                weight,
                config.clusters,
                config.dim,
                multiple=config.tau_multiple,
                distance=config.distance,
            )
            self.tau.fill_(tau)
        self.ready.fill_(True)
        self._known_tau = float(self.tau)

    def _make_ready(self, weight: Tensor) -> None:
        if self._known_tau is None:
            self._look(weight)

    @torch.compiler.disable  # type: ignore[untyped-decorator,unused-ignore]
    def _look(self, weight: Tensor) -> None:
        """Starts, unless the buffers say that a checkpoint has."""
        if bool(self.ready):
            self._known_tau = float(self.tau)
        else:
            self.start(weight)

    @property
    def temperature(self) -> float:
        """tau of this step: the kept one times ``tau_factor``."""
        if self._known_tau is None:
            self._known_tau = float(self.tau)
        return self._known_tau * self.tau_factor

    @torch.no_grad()
    def end_step(self, centroids: Tensor) -> None:
        """Keep ``centroids`` for the next step and for eval."""
        self.centroids.copy_(centroids)

    def units(self, weight: Tensor) -> Tensor:
        """``weight`` as it is compared with the centroids; a subclass may scale it."""
        return weight

    def cluster(self, weight: Tensor, centroids: Tensor) -> ClusterResult:
        """One soft clustering from ``centroids``, which leaves the buffers alone."""
        settings = self.config.settings(self.temperature)
        return cluster_weight(weight, centroids, form=self.config.form, **settings)

    def begin_step(self, weight: Tensor) -> Tensor:
        """The centroids this step starts from: the last step's, repaired if asked."""
        self._make_ready(weight)
        if torch.compiler.is_compiling():
            return self.centroids.clone()
        if self._step is not None:
            seen, version, start = self._step
            if seen() is weight and version == weight._version:
                return start
        start = self.centroids.clone()
        if self.config.repair and self._steps % REPAIR_EVERY == 0:
            start = repair_centroids(self.units(weight), start)
        self._steps += 1
        self._step = (weakref.ref(weight), weight._version, start)
        return start


def _forget(module: nn.Module, incompatible: object) -> None:
    """After loading a checkpoint nothing remembered from before holds."""
    assert isinstance(module, DKM)
    module._known_tau = None
    module._step = None
