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

from edkm.dkm import layer_ops, streaming
from edkm.dkm.assign import assign_hard
from edkm.dkm.checks import check_finite
from edkm.dkm.choose import choose_form
from edkm.dkm.config import DKMConfig
from edkm.dkm.distance import compute_dtype
from edkm.dkm.module import DKM
from edkm.dkm.settings import Schedule
from edkm.weighted import weighted_linear


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
        schedule = Schedule(**config.settings(self.dkm.temperature))
        given = input, self.weight, self.bias, start
        if form == "streaming" and config.dim == 1 and not torch.compiler.is_compiling():
            check_finite(self.weight.detach())
            result, centroids = weighted_linear(*given, None, None, schedule)
        else:
            run = _Tables if form == "fused" else _Tiles
            result, centroids = run.apply(*given, schedule)  # type: ignore[no-untyped-call]
        self.dkm.end_step(centroids)
        output: Tensor = result
        return output

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


class _Tables(torch.autograd.Function):
    """``x @ W~.T + bias`` by the fused form: W~ is looked up in forward and again in backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, start: Tensor, schedule: Schedule
    ) -> tuple[Tensor, Tensor]:
        table, counts, states, masses, ran = layer_ops.clustering_table(
            weight, start.double(), *schedule.rule, schedule.steps, schedule.stop
        )
        ctx.rule = schedule.rule
        # Saved: what a plain linear saves, and tables. W~ is dropped here and looked up again.
        ctx.save_for_backward(x, weight, table, counts, states, masses, ran)
        centroids = states[-1, 0].clone()
        ctx.mark_non_differentiable(centroids)
        return _multiply(x, weight, bias, table), centroids

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, table, counts, states, masses, ran = ctx.saved_tensors
        upstream = grad.reshape(-1, grad.shape[-1]).to(weight.dtype)
        # one buffer is W~, then dL/dW~, then dL/dW: the gradient a plain linear makes too
        buffer = torch.empty_like(weight, memory_format=torch.contiguous_format)
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            layer_ops.look_up_(weight, table, buffer)
            to_x = upstream.mm(buffer).view(x.shape).to(x.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = buffer
            torch.mm(upstream.T, x.reshape(-1, x.shape[-1]).to(weight.dtype), out=buffer)
            layer_ops.pull_(buffer, weight, counts, states, masses, ran, *ctx.rule)
        if ctx.needs_input_grad[2]:
            to_bias = upstream.sum(0)
        return to_x, to_weight, to_bias, None, None


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor) -> Tensor:
    """``x @ W~.T + bias``. W~ is whole for a moment, as backward makes as much for dL/dW."""
    y = None
    if x.dtype == weight.dtype and not torch.is_autocast_enabled(weight.device.type):
        # What stays is allocated before what goes, so that no hole is left between activations.
        y = x.new_empty(*x.shape[:-1], weight.shape[0])
    clustered = torch.empty_like(weight, memory_format=torch.contiguous_format)
    layer_ops.look_up_(weight, table, clustered)
    if y is None:
        return F.linear(x, clustered, bias)
    rows, into = x.reshape(-1, x.shape[-1]), y.view(-1, weight.shape[0])
    if bias is None:
        torch.mm(rows, clustered.T, out=into)
    else:
        torch.addmm(bias, rows, clustered.T, out=into)
    return y


class _Tiles(torch.autograd.Function):
    """``x @ W~.T + bias`` by the streaming form: W~ is computed in forward and in backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, start: Tensor, schedule: Schedule
    ) -> tuple[Tensor, Tensor]:
        first = start.to(compute_dtype(weight.dtype)).unsqueeze(0)
        clustered, states, masses, ran = streaming._forward(
            weight, first, None, *schedule.rule, schedule.steps, schedule.stop
        )
        ctx.rule = schedule.rule
        # Saved: what a plain linear saves, and centroids. W~ is dropped here and computed again.
        ctx.save_for_backward(x, weight, states, masses, ran)
        centroids = states[-1, 0].clone()
        ctx.mark_non_differentiable(centroids)
        return F.linear(x, clustered, bias), centroids

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *path = ctx.saved_tensors
        upstream = grad.reshape(-1, grad.shape[-1]).to(weight.dtype)
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            clustered = streaming._rebuild(weight, None, *path, *ctx.rule)
            to_x = upstream.mm(clustered).view(x.shape).to(x.dtype)
            del clustered
        if ctx.needs_input_grad[1]:
            to_clustered = upstream.T.mm(x.reshape(-1, x.shape[-1]).to(weight.dtype))
            to_weight = streaming._backward(to_clustered, weight, None, *path, *ctx.rule)
        if ctx.needs_input_grad[2]:
            to_bias = upstream.sum(0)
        return to_x, to_weight, to_bias, None, None
