"""What the ablation runs: the weight matrices of one transformer layer, clustered, in one step.

Contract: a workload makes the same step every time it is asked (same weights, same inputs, same
incoming gradients), so that only the policy differs between two rows of the ablation.
Boundary: with `profiler.ablation` the only part of the profiler that imports edkm. It measures
nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edkm.dkm import default_tau, gradient_reference, initial_centroids
from profiler.layers import KINDS, LayerName, Preset

Cluster = Callable[["ClusteredMatrix", Tensor], Tensor]


class ClusteredMatrix(nn.Module):
    """One matrix's clustering inside a step; which form it takes is set from outside.

    Attributes:
        centroids: `(K, 1)` starting centroids of the weight's dtype.
        tau: softmax temperature.
        cluster: the form and the policy of the row that runs now.
        form: which form of k-means ran last: dense, fused or streaming.
        capture: keep dL/dW~ of the next backward in `gradient`.
    """

    def __init__(self, name: str, weight: Tensor, bits: int, tau: float | None, seed: int) -> None:
        super().__init__()
        self.name = name
        self.shape = tuple(weight.shape)
        clusters = 1 << bits
        start = initial_centroids(weight.detach(), clusters, seed=seed)
        self.centroids = start.to(weight.dtype)
        self.tau = tau if tau is not None else default_tau(weight.detach(), clusters)
        self.cluster: Cluster | None = None
        self.form = ""
        self.capture = True
        self.gradient: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if self.cluster is None:
            return weight
        clustered = self.cluster(self, weight)
        if self.capture and clustered.requires_grad:
            clustered.register_hook(self._captured)
            self.capture = False
        return clustered

    def _captured(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach().clone()


class Workload(ABC):
    """One training step in which the matrices of one layer are clustered."""

    model: nn.Module
    matrices: list[ClusteredMatrix]
    tokens: str | None = None  # where the step's tokens came from

    @abstractmethod
    def forward(self) -> None:
        """Run the forward; what backward needs stays with the workload."""

    @abstractmethod
    def backward(self) -> None:
        """Run the backward of the last forward."""

    @abstractmethod
    def weight(self, matrix: ClusteredMatrix) -> nn.Parameter:
        """The weight that `matrix` clusters."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.weight(self.matrices[0]).device

    @property
    def clustering_modules(self) -> list[str]:
        """Qualified names of the modules in which the clustering itself runs."""
        modules = self.model.named_modules()
        return [name for name, module in modules if isinstance(module, ClusteredMatrix)]

    def references(self, iterations: int) -> list[Tensor]:
        """Float64 dense gradient of every matrix, for the incoming gradients captured last."""
        found = []
        for matrix in self.matrices:
            assert matrix.gradient is not None
            weight = self.weight(matrix).detach()
            found.append(
                gradient_reference(
                    weight,
                    matrix.centroids,
                    matrix.gradient,
                    tau=matrix.tau,
                    iterations=iterations,
                ).grad_weight
            )
            matrix.gradient = None
        return found


class PresetLayer(Workload):
    """Matrices of a published shape: normal weights (sigma 0.02), normal incoming gradients."""

    def __init__(
        self,
        name: LayerName,
        preset: Preset,
        *,
        dtype: torch.dtype,
        device: torch.device,
        bits: int,
        tau: float | None,
        seed: int,
    ) -> None:
        self.model = nn.Module()
        self.matrices = []
        self._weights: list[nn.Parameter] = []
        self._incoming: list[Tensor] = []
        self._outputs: list[Tensor] = []
        for matrix in name.matrices:
            order = [*KINDS["attn"], *KINDS["mlp"]].index(matrix)
            generator = torch.Generator().manual_seed((seed * 1000 + name.index) * 10 + order)
            shape = preset.shape(matrix)
            weight = nn.Parameter(_normal(shape, generator, dtype, 0.02).to(device))
            self._weights.append(weight)
            self._incoming.append(_normal(shape, generator, dtype, 1.0).to(device))
            self.matrices.append(ClusteredMatrix(matrix, weight, bits, tau, seed))
            self.matrices[-1].capture = False  # it is known beforehand
            self.model.add_module(matrix, self.matrices[-1])
            self.model.register_parameter(f"{matrix}_weight", weight)

    def forward(self) -> None:
        pairs = zip(self.matrices, self._weights, strict=True)
        self._outputs = [matrix(weight) for matrix, weight in pairs]

    def backward(self) -> None:
        outputs, self._outputs = self._outputs, []
        torch.autograd.backward(outputs, self._incoming)

    def weight(self, matrix: ClusteredMatrix) -> nn.Parameter:
        return self._weights[self.matrices.index(matrix)]

    def references(self, iterations: int) -> list[Tensor]:
        for matrix, incoming in zip(self.matrices, self._incoming, strict=True):
            matrix.gradient = incoming
        return super().references(iterations)


def _normal(
    shape: tuple[int, int], generator: torch.Generator, dtype: torch.dtype, sigma: float
) -> Tensor:
    """Normal numbers made row block by row block: no float32 copy of the whole matrix."""
    out = torch.empty(shape, dtype=dtype)
    for part in torch.split(out, 256):
        part.copy_(torch.randn(part.shape, generator=generator) * sigma)
    return out
