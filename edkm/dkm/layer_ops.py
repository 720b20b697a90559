"""Operators for a layer that makes its clustered weight twice instead of keeping it.

Contract: the fused form in parts. ``clustering_table`` does all of the clustering and gives the
table of W~, ``look_up_`` writes any part of W~ from it, ``pull_`` turns dL/dW~ into dL/dW where it
lies. ``torch.library`` operators with fake kernels, without autograd: the layer has its own.
Defined in a library and not by ``custom_op``, whose wrappers for autograd take another 0.1 ms a
call between matrix products, which empty the caches; a block makes 28 calls a step.
Boundary: bfloat16 and float16, one scalar codebook; ``fused`` is the same as one differentiable
function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edkm.dkm import fused
from edkm.dkm.kernels import passes_for
from edkm.dkm.patterns import PATTERNS

_LIBRARY = torch.library.Library("edkm", "FRAGMENT")


def _operator(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """The operator ``edkm::name``: ``run`` on every device, ``fake`` for tensors without values."""
    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"edkm::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.edkm, name).default


def _fake_table(
    weight: Tensor, centroids: Tensor, tau: float, squared: bool, steps: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return weight.new_empty(PATTERNS), *fused.fake_path(weight, centroids, steps)


def _look_up(weight: Tensor, table: Tensor, out: Tensor) -> None:
    """``out_i = table[pattern(weight_i)]``; ``out`` is contiguous, in the weight's dtype."""
    passes_for(weight.device).lookup(fused.flatten(weight), table, out.view(-1))
    torch.autograd.graph.increment_version(out)


def _pull(grad: Tensor, weight: Tensor, counts: Tensor, *path_and_rule: Any) -> None:
    """dL/dW over dL/dW~ (contiguous, in the weight's dtype), eq. 11."""
    flat = grad.view(-1)
    fused.pull(flat, weight, counts, *path_and_rule, out=flat)
    torch.autograd.graph.increment_version(grad)


def _fake_nothing(*tensors: object) -> None:
    """What is written has its shape already."""


clustering_table = _operator("clustering_table", fused.FORWARD, fused.clustering_table, _fake_table)
look_up_ = _operator(
    "look_up_", "(Tensor weight, Tensor table, Tensor(a!) out) -> ()", _look_up, _fake_nothing
)
pull_ = _operator("pull_", f"(Tensor(a!) grad, {fused.SAVED}) -> ()", _pull, _fake_nothing)
