"""Operators for a layer that makes its clustered weight twice instead of keeping it.

Contract: the fused form in parts. ``clustering_table`` does all of the clustering and gives the
table of W~, ``look_up_`` writes any part of W~ from it, ``pull_`` turns dL/dW~ into dL/dW where it
lies. ``torch.library`` operators with fake kernels, without autograd: the layer has its own.
Boundary: bfloat16 and float16, one scalar codebook; ``fused`` is the same as one differentiable
function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edkm.dkm import fused
from edkm.dkm.kernels import passes_for
from edkm.dkm.patterns import PATTERNS

clustering_table = torch.library.custom_op(
    "edkm::clustering_table", mutates_args=(), schema=fused.FORWARD
)(fused.clustering_table)


@clustering_table.register_fake
def _(
    weight: Tensor, centroids: Tensor, tau: float, squared: bool, steps: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return weight.new_empty(PATTERNS), *fused.fake_path(weight, centroids, steps)


@torch.library.custom_op(
    "edkm::look_up_",
    mutates_args=("out",),
    schema="(Tensor weight, Tensor table, Tensor(a!) out) -> ()",
)
def look_up_(weight: Tensor, table: Tensor, out: Tensor) -> None:
    """``out_i = table[pattern(weight_i)]``; ``out`` is contiguous, in the weight's dtype."""
    passes_for(weight.device).lookup(fused.flatten(weight), table, out.view(-1))


@look_up_.register_fake
def _(weight: Tensor, table: Tensor, out: Tensor) -> None:
    return None


@torch.library.custom_op(
    "edkm::pull_", mutates_args=("grad",), schema=f"(Tensor(a!) grad, {fused.SAVED}) -> ()"
)
def pull_(grad: Tensor, weight: Tensor, counts: Tensor, *path_and_rule: Any) -> None:
    """dL/dW over dL/dW~ (contiguous, in the weight's dtype), eq. 11."""
    flat = grad.view(-1)
    fused.pull(flat, weight, counts, *path_and_rule, out=flat)


@pull_.register_fake
def _(grad: Tensor, weight: Tensor, *others: object) -> None:
    return None
