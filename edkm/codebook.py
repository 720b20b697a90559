"""The codebook of one weight while a model is tuned: DKM, or hard k-means with a straight-through
gradient, or not yet anything.

Contract: ``Codebook`` is a ``DKM`` (arXiv 2108.12659) that starts from converged k-means and
whose ``mode`` a schedule may change between steps. Everything that later steps depend on is in
its buffers, so a checkpoint resumes exactly.
Boundary: one weight; the layers that use it are in ``edkm.layers``, whole models in
``edkm.clustering``.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from edkm.dkm import DKM, DKMConfig, assign_hard, initial_centroids, soft_hard_gap
from edkm.dkm.checks import check_choice
from edkm.dkm.kernels import passes_for
from edkm.dkm.patterns import PATTERNS, is_patterned, pattern_values
from edkm.dkm.settings import Schedule
from edkm.kmeans import best_kmeans, kmeans_update
from edkm.weighted import weighted_soft

Mode = Literal["soft", "straight", "off"]
Kind = Literal["hard", "soft", "dense"]
MODES: tuple[str, ...] = get_args(Mode)


class Codebook(DKM):
    """DKM with a warm start and three ways to train.

    ``mode``: ``"soft"`` is DKM; ``"straight"`` puts every weight on its nearest centroid in the
    forward, passes the gradient as it is, and moves each centroid to the mean of its weights once
    a step; ``"off"`` trains the weight itself. In eval the weight is always on its nearest
    centroid, except inside ``Clustering.frozen``.

    ``inputs``: columns of the weight, each of which then has an ``importance`` (a buffer, 1 until
    it is measured): k-means minimizes squared errors times the importance of their column.
    ``rows``: of the weight, each of which then has a ``scale`` (a buffer that ``start`` sets to the
    row's root mean square, rounded to bfloat16 as it is shipped): centroids are in its units.
    ``groups``: equal blocks of the weight's rows, each of which then has centroids of its own:
    ``centroids`` is ``[groups, k, 1]``. They share the temperature, so it suits groups of one
    scale; ``rows`` makes it one.
    """

    importance: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        config: DKMConfig | None = None,
        *,
        mode: Mode = "soft",
        warm_start: bool = True,
        inputs: int = 0,
        rows: int = 0,
        groups: int = 1,
    ) -> None:
        super().__init__(config)
        check_choice("mode", mode, MODES)
        if mode == "straight" and self.config.dim != 1:
            raise ValueError("mode is 'straight' with dim above 1; it needs dim=1: use 'soft'")
        if groups > 1 and self.config.dim != 1:
            raise ValueError(
                f"groups is {groups} with dim={self.config.dim}; groups of rows have scalar "
                "codebooks: use dim=1"
            )
        self.groups = groups
        if groups > 1:
            self.centroids = self.centroids.repeat(groups, 1, 1)
        self.made: Mode = mode  # the mode a schedule returns to
        self.mode: Mode = mode
        self.warm_start = warm_start
        self.fixed: Tensor | None = None  # what layers use instead, inside Clustering.frozen
        self.layer = ""  # name, for errors
        self.moved = 0.0  # largest movement of a centroid in the last step, weight units
        self.register_buffer("importance", torch.ones(inputs) if inputs else None)
        self.register_buffer("scale", torch.ones(rows) if rows else None)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode}"

    @property
    def weighs(self) -> bool:
        """Whether weights count differently, are scaled, or have a codebook a group, so that DKM
        is ``edkm.weighted``'s."""
        return self.importance is not None or self.scale is not None or self.groups > 1

    def units(self, weight: Tensor) -> Tensor:
        """``weight`` over its rows' scales."""
        return weight if self.scale is None else weight / self.scale.to(weight.dtype).unsqueeze(1)

    def assign(self, weight: Tensor) -> Tensor:
        """Each weight on its nearest centroid, bit for bit as ``palette().dense()`` is."""
        return nearest(weight, self.centroids, self.scale)

    def forward(self, weight: Shaped[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The weight as the layer is to use it now."""
        if self.fixed is not None:
            return self.fixed
        if not self.training:
            self.make_ready(weight)
            return self.assign(weight)
        if self.mode == "soft":
            return super().forward(weight)
        if self.mode == "off":
            return weight
        return straight_through(weight, self.begin_step(weight), self.scale)

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """k-means++ or quantiles, then hard k-means until nothing moves (dim 1).

        ``ValueError`` names the layer if the weight cannot be clustered.
        """
        self._check_values(weight)
        try:
            self._fit(weight)
        except ValueError as error:
            raise ValueError(f"layer {self.layer!r}: {error}") from error

    def make_ready(self, weight: Tensor) -> None:
        """``start``, unless that was done."""
        if weight.is_meta or not bool(self.ready):  # `start` says what is wrong with the first
            self.start(weight)

    def _check_values(self, weight: Tensor) -> None:
        if weight.is_meta:
            raise ValueError(
                f"layer {self.layer!r}: weight is on the meta device, which has no values to "
                "cluster; load the model's weights first"
            )

    def _fit(self, weight: Tensor) -> None:
        if self.scale is not None:
            size = weight.detach().float().square().mean(1).sqrt()
            size = torch.where(size > 0, size, 1.0)
            self.scale.copy_(size.bfloat16())
        units = self.units(weight)
        super().start(units)
        if self.groups > 1:
            self._start_groups(units.detach())
        if self.warm_start and self.config.dim == 1:
            self.refit(weight)

    def _start_groups(self, units: Tensor) -> None:
        """A start for each group, and a temperature by the spread within groups."""
        config, blocks = self.config, units.reshape(self.groups, -1)
        if not self.warm_start:
            starts = [
                initial_centroids(block, config.clusters, 1, config.init, config.seed)
                for block in blocks
            ]
            self.centroids.copy_(torch.stack(starts))
        if config.tau is None:
            within = float(blocks.float().var(1, correction=0).mean())
            whole = float(blocks.float().var(correction=0))
            share = max(within / whole, 1e-6) if whole else 1.0
            self.tau.mul_(share if config.distance == "squared" else share**0.5)
            self._known_tau = float(self.tau)

    @torch.no_grad()
    def refit(self, weight: Tensor, rounds: int = 100) -> None:
        """Hard k-means from the present centroids, and from quantiles; the better one stays."""
        if self.config.dim == 1:
            scaled = self.units(weight.detach())
            self.centroids.copy_(best_kmeans(scaled, self.centroids, rounds, self._mass()))

    def _mass(self) -> Tensor | None:
        """What a weight counts, ``[rows or 1, columns or 1]``; None: 1."""
        if self.scale is None:
            return None if self.importance is None else self.importance.unsqueeze(0)
        square = self.scale.square().unsqueeze(1)
        return square if self.importance is None else square * self.importance

    @torch.no_grad()
    def weigh(self, weight: Tensor, importance: Float[Tensor, " columns"]) -> None:
        """Take ``importance`` (its mean becomes 1) for the columns, and fit ``weight`` anew."""
        if self.importance is None:
            raise ValueError(
                "this codebook weighs no columns; make it with inputs= the weight's columns, or "
                "the model's by edkm.cluster(model, importance=True)"
            )
        self.importance.copy_(importance / importance.mean().clamp(min=1e-30))
        self.refit(weight)

    @torch.no_grad()
    def begin_step(self, weight: Tensor) -> Tensor:
        """The centroids of this step; in straight-through mode after one k-means update."""
        self._check_values(weight)
        before = self._step
        start = super().begin_step(weight)
        if self.mode == "straight" and self._step is not before:
            moved = kmeans_update(self.units(weight.detach()), start, self._mass())
            start.copy_(moved)
            self.end_step(moved)
        return start

    @torch.no_grad()
    def end_step(self, centroids: Tensor) -> None:
        """Keep ``centroids``, and how far they moved."""
        self.moved = float((centroids.to(self.centroids) - self.centroids).abs().max())
        super().end_step(centroids)

    def new_step(self, index: int) -> None:
        """Say that optimizer step ``index`` begins: sharded weights change unseen by their version
        counter, and a resumed run must count as the uninterrupted one did."""
        self._step = None
        self._steps = index

    @torch.no_grad()
    def as_used(self, weight: Tensor, kind: Kind) -> Tensor:
        """The weight itself, softly clustered, or on its nearest centroids; moves no centroid."""
        if kind == "dense":
            return weight.detach()
        self.make_ready(weight)
        if kind == "soft" and self.mode == "soft" and self.weighs:
            plan = self.schedule
            return weighted_soft(weight, self.centroids, self.importance, self.scale, plan)
        if kind == "soft" and self.mode == "soft":
            return self.cluster(weight.detach(), self.centroids).clustered
        if kind == "soft" and self.mode == "off":
            return weight.detach()
        return self.assign(weight)

    @property
    def schedule(self) -> Schedule:
        """How DKM runs now."""
        return Schedule(**self.config.settings(self.temperature))

    @torch.no_grad()
    def gap(self, weight: Tensor) -> float:
        """Relative distance between the weight as trained and as shipped (``soft_hard_gap``)."""
        soft = self.units(self.as_used(weight, "soft"))
        return soft_hard_gap(soft, self.units(weight), self.centroids)


def nearest(weight: Tensor, centroids: Tensor, scale: Tensor | None) -> Tensor:
    """``assign_hard``, of rows over their ``scale`` if there is one."""
    if scale is None:
        tabled = is_patterned(weight.dtype) and centroids.ndim == 2 and centroids.shape[1] == 1
        return (_by_table if tabled and weight.numel() > PATTERNS else assign_hard)(
            weight, centroids
        )
    by = scale.to(weight.dtype).unsqueeze(1)
    return assign_hard(weight / by, centroids) * by


def _by_table(weight: Tensor, centroids: Tensor) -> Tensor:
    """``assign_hard`` of a 16-bit weight by a table of its values; NaN and infinity become NaN."""
    values = pattern_values(weight.dtype, weight.device)
    finite = values.isfinite()
    table = assign_hard(values.where(finite, 0.0), centroids).where(finite, torch.nan)
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    flat = weight.detach().contiguous().view(-1)
    passes_for(weight.device).lookup(flat, table, out.view(-1))
    return out


def straight_through(weight: Tensor, centroids: Tensor, scale: Tensor | None = None) -> Tensor:
    """``nearest`` whose gradient passes to ``weight`` as it is."""
    out: Tensor = _StraightThrough.apply(weight, centroids, scale)  # type: ignore[no-untyped-call]
    return out


class _StraightThrough(torch.autograd.Function):
    """Nearest centroid forwards, identity backwards; saves nothing."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, centroids: Tensor, scale: Tensor | None) -> Tensor:
        return nearest(weight, centroids, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None
