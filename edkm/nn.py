"""Linear layers whose weight is clustered while they train.

Contract: ``ClusteredLinear`` computes ``x @ cluster(weight).T + bias`` and, unlike a plain
parametrization, does not keep the clustered weight for the backward of the matrix product: it is
rebuilt, bit for bit, from the weight and its centroids when backward asks. Saved are the input,
the weight (by reference) and tables below 1 MiB, so a clustered layer costs the activations that
a plain one costs. ``DKM`` itself works with ``torch.nn.utils.parametrize`` on any module.
Boundary: no files and no packing; see ``edkm.palette`` for those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from edkm.dkm import fused, streaming
from edkm.dkm.assign import assign_hard
from edkm.dkm.choose import choose_form
from edkm.dkm.config import DKMConfig
from edkm.dkm.distance import compute_dtype
from edkm.dkm.module import DKM
from edkm.dkm.settings import Rule, Schedule
from edkm.dkm.table import Occupied, occupied_points
from edkm.dkm.updates import Path


class ClusteredLinear(nn.Linear):
    """``nn.Linear`` with DKM (arXiv 2108.12659) on its weight.

    Soft and differentiable in training; in eval every weight is its nearest centroid. Takes the
    arguments of ``nn.Linear`` and a ``DKMConfig``. The weight's settings and centroids are in
    ``dkm``; set ``dkm.tau_factor`` to anneal. Not twice differentiable.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        config: DKMConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.dkm = DKM(config).to(device=device)

    @classmethod
    def from_linear(cls, linear: nn.Linear, config: DKMConfig | None = None) -> ClusteredLinear:
        """A clustered layer over the very parameters of ``linear`` (shared, not copied)."""
        layer = cls(
            linear.in_features, linear.out_features, bias=False, config=config, device="meta"
        )
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.dkm = DKM(config).to(device=linear.weight.device)
        return layer.train(linear.training)

    def forward(self, input: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch out"]:
        """``input @ W~.T + bias``; advances the centroids once per change of the weight."""
        if not self.training:
            return F.linear(input, self.dkm(self.weight), self.bias)
        config = self.dkm.config
        form = config.form
        if form == "auto":
            numel, dtype = self.weight.numel(), self.weight.dtype
            form = choose_form(numel, config.clusters, config.dim, dtype)
        if form == "dense":  # small enough for autograd to keep everything
            return F.linear(input, self.dkm(self.weight), self.bias)
        start = self.dkm.begin_step(self.weight)
        result, centroids = _apply(
            input, self.weight, self.bias, start, config, self.dkm.temperature, form
        )
        self.dkm.end_step(centroids)
        return result

    @torch.no_grad()
    def hard_weight(self) -> Float[Tensor, "out features"]:
        """The weight as eval uses it and as a palettized file stores it."""
        return assign_hard(self.weight, self.dkm.centroids)


def cluster_linears(
    model: nn.Module,
    config: DKMConfig | None = None,
    *,
    where: Callable[[str, nn.Linear], bool] = lambda name, linear: True,
) -> list[str]:
    """Replace the ``nn.Linear`` layers of ``model`` in place; returns their names.

    ``where(name, layer)`` picks layers. Layers whose subclass has another forward are left
    alone. Raises ``ValueError`` if nothing was replaced.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name and where(name, module)
    ]
    for name, linear in found:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, ClusteredLinear.from_linear(linear, config))
    if not found:
        raise ValueError(
            f"model {type(model).__name__} has no nn.Linear submodule that where() picks; check "
            "the names with model.named_modules()"
        )
    return [name for name, _ in found]


def _apply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    start: Tensor,
    config: DKMConfig,
    tau: float,
    form: str,
) -> tuple[Tensor, Tensor]:
    settings = (Schedule(**config.settings(tau)), form == "fused")
    result: tuple[Tensor, Tensor] = _ClusteredLinear.apply(x, weight, bias, start, settings)  # type: ignore[no-untyped-call]
    return result


class _ClusteredLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        start: Tensor,
        settings: tuple[Schedule, bool],
    ) -> tuple[Tensor, Tensor]:
        schedule, table = settings
        rule, steps, stop = schedule.rule, schedule.steps, schedule.stop
        if table:
            clustered, counts, states, masses, ran = fused._forward(
                weight, start.double(), *rule, steps, stop
            )
        else:
            first = start.to(compute_dtype(weight.dtype)).unsqueeze(0)
            counts = None
            clustered, states, masses, ran = streaming._forward(
                weight, first, None, *rule, steps, stop
            )
        ctx.rule, ctx.table = rule, table
        # Saved: what a plain linear saves, and tables. W~ is dropped here and rebuilt.
        ctx.save_for_backward(x, weight, counts, states, masses, ran)
        centroids = states[-1, 0].clone()
        ctx.mark_non_differentiable(centroids)
        return F.linear(x, clustered, bias), centroids

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, counts, states, masses, ran = ctx.saved_tensors
        path = Path(states, masses, ran)
        # Tables of the patterns that occur, made once for both passes; None: tiles.
        occupied = None if counts is None else occupied_points(counts, weight.dtype)
        to_x = to_weight = to_bias = None
        upstream = grad.reshape(-1, grad.shape[-1]).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            to_x = upstream.mm(_rebuild(weight, occupied, path, ctx.rule)).view(x.shape).to(x.dtype)
        if ctx.needs_input_grad[1]:
            to_clustered = upstream.T.mm(x.reshape(-1, x.shape[-1]).to(weight.dtype))
            to_weight = _pull(to_clustered, weight, occupied, path, ctx.rule)
        if ctx.needs_input_grad[2]:
            to_bias = upstream.sum(0)
        return to_x, to_weight, to_bias, None, None


def _rebuild(weight: Tensor, occupied: Occupied | None, path: Path, rule: Rule) -> Tensor:
    if occupied is None:
        return streaming.rebuild(weight, None, path, rule)
    return fused.rebuild(weight, occupied, path, rule)


def _pull(
    to_clustered: Tensor, weight: Tensor, occupied: Occupied | None, path: Path, rule: Rule
) -> Tensor:
    """dL/dW from dL/dW~, which nobody else holds and which may be overwritten."""
    if occupied is not None:
        fused.pull(to_clustered.view(-1), weight, occupied, path, rule, to_clustered.view(-1))
        return to_clustered
    out = torch.empty_like(to_clustered, dtype=path.states.dtype)
    streaming.pull(to_clustered, weight, None, path, rule, out)
    return out.to(weight.dtype)
