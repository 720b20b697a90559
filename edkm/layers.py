"""Linear and Embedding layers over a ``Codebook``: what ``edkm.cluster`` puts into a model.

Contract: same parameters under the same names as the plain layers (``weight``, ``bias``), so
optimizers, tied weights and checkpoints see what they knew; the codebook is the submodule
``dkm``. No layer keeps its clustered weight for backward.
Boundary: which layers of a model get one, and how, is ``edkm.clustering``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from edkm.codebook import Codebook, nearest, straight_through
from edkm.dkm import assign_hard
from edkm.nn import ClusteredLinear
from edkm.weighted import weighted_linear


class CodebookLinear(ClusteredLinear):
    """``ClusteredLinear`` whose codebook may also be straight-through, off, or held fixed."""

    dkm: Codebook

    @classmethod
    def over(cls, linear: nn.Linear, codebook: Codebook) -> CodebookLinear:
        """A layer over the very parameters of ``linear``, sharing ``codebook``."""
        layer = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        layer.weight, layer.bias, layer.dkm = linear.weight, linear.bias, codebook
        return layer.train(linear.training)

    def forward(self, input: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch out"]:
        """``input @ W~.T + bias``."""
        codebook = self.dkm
        if codebook.fixed is not None:
            return F.linear(input, codebook.fixed, self.bias)
        if not self.training or (codebook.mode == "soft" and not codebook.weighs):
            return super().forward(input)
        if codebook.mode == "off":
            return F.linear(input, self.weight, self.bias)
        start = codebook.begin_step(self.weight)
        if codebook.mode == "soft":
            plan, weighed = codebook.schedule, (codebook.importance, codebook.scale)
            out, last = weighted_linear(input, self.weight, self.bias, start, *weighed, plan)
            codebook.end_step(last)
            return out
        straight: Tensor = _StraightLinear.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, start, codebook.scale
        )
        return straight

    @torch.no_grad()
    def hard_weight(self) -> Float[Tensor, "out features"]:
        """The weight as eval uses it and as a palettized file stores it."""
        return self.dkm.assign(self.weight)


class CodebookEmbedding(nn.Embedding):
    """``nn.Embedding`` that clusters the rows it looks up (straight-through), or all (soft)."""

    dkm: Codebook

    @classmethod
    def over(cls, embedding: nn.Embedding, codebook: Codebook) -> CodebookEmbedding:
        """A layer over the very parameter of ``embedding``, sharing ``codebook``."""
        if embedding.max_norm is not None or embedding.sparse:
            raise ValueError(
                "an Embedding with max_norm or sparse gradients cannot be clustered while it "
                "trains; turn both off, or leave the layer out by `exclude`"
            )
        layer = cls(
            embedding.num_embeddings,
            embedding.embedding_dim,
            padding_idx=embedding.padding_idx,
            device="meta",
        )
        layer.weight, layer.dkm = embedding.weight, codebook
        return layer.train(embedding.training)

    def forward(self, input: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        """The clustered rows numbered by ``input``."""
        codebook = self.dkm
        whole = codebook.fixed
        if whole is None and self.training and codebook.mode == "soft":
            whole = codebook(self.weight)
        if whole is not None:
            return F.embedding(input, whole, self.padding_idx)
        rows = F.embedding(input, self.weight, self.padding_idx)
        if self.training and codebook.mode == "off":
            return rows
        if not self.training:
            codebook.make_ready(self.weight)
        centroids = codebook.begin_step(self.weight) if self.training else codebook.centroids
        if codebook.config.dim > 1 and self.embedding_dim % codebook.config.dim:
            return F.embedding(input, assign_hard(self.weight, centroids), self.padding_idx)
        return straight_through(rows, centroids)


class _StraightLinear(torch.autograd.Function):
    """A linear layer on nearest centroids whose gradient passes to the weight as it is."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        centroids: Tensor,
        scale: Tensor | None,
    ) -> Tensor:
        # Saved: what a plain linear saves, and the codebook. Made again: the hard weight.
        ctx.save_for_backward(x, weight, centroids, scale)
        return F.linear(x, nearest(weight, centroids, scale), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, centroids, scale = ctx.saved_tensors
        to_x = to_weight = to_bias = None
        upstream = grad.reshape(-1, grad.shape[-1]).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            to_x = upstream.mm(nearest(weight, centroids, scale)).view(x.shape).to(x.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = upstream.T.mm(x.reshape(-1, x.shape[-1]).to(weight.dtype))
        if ctx.needs_input_grad[2]:
            to_bias = upstream.sum(0)
        return to_x, to_weight, to_bias, None, None
