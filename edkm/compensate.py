"""A start that suits the data: round column by column and let later columns make up for it.

Contract: ``compensate`` moves the weights of a clustered model's linear layers so that the model
with hard-assigned weights stays close to the dense one on given inputs, before any tuning.
Codebooks that weigh columns are first fitted anew, each column by the energy of its input; others
stay as they are. Layers are done in the order in which the model calls them, each with the inputs
that the already rounded ones give it.
Source: GPTQ (arXiv 2210.17323), algorithm 1, with nearest centroids in the place of a grid.
Boundary: linear layers with scalar codebooks of their own; a tied head stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edkm.clustering import Clustering
from edkm.codebook import nearest
from edkm.dkm.distance import compute_dtype

DAMPING = 0.01  # of the mean diagonal of X^T X
_BLOCK = 32  # columns after which the ones beyond are made up for at once


class _Reached(Exception):
    """The layer's input is known; the rest of the forward is not needed."""


@torch.no_grad()
def compensate(clustering: Clustering, batches: Sequence[dict[str, Any]]) -> list[str]:
    """Move the weights of all linear layers in place; returns the names of those moved.

    ``batches``: keyword inputs of the model's forward, representative of the data. Memory: one
    ``in x in`` matrix in float64 at a time. ``ValueError`` without batches.
    """
    if not batches:
        raise ValueError("there are no batches to compensate for; give a few of the training data")
    model = clustering.model
    was_training = model.training
    model.eval()
    waiting: dict[nn.Module, str] = {
        entry.module: name
        for name, entry in clustering.weights.items()
        if isinstance(entry.module, nn.Linear)
        and len(entry.modules) == 1
        and entry.codebook.config.dim == 1
    }
    done = []
    try:
        for modules in _call_order(model, list(waiting), batches[0]):
            gram = input_gram(model, modules[0], batches)
            for module in modules:
                entry = clustering.weights[waiting[module]]
                book = entry.codebook
                if book.importance is not None:
                    book.weigh(entry.weight, gram.diagonal())
                moved = compensated(entry.weight, gram, book.centroids, book.scale)
                entry.weight.copy_(moved)
                done.append(entry.name)
    finally:
        model.train(was_training)
    return done


def compensated(
    weight: Float[Tensor, "out features"],
    gram: Float[Tensor, "features features"],
    centroids: Tensor,
    scale: Tensor | None = None,
) -> Float[Tensor, "out features"]:
    """The weight whose nearest centroids (``[k, 1]``) are the compensated rounding of ``weight``.

    ``gram``: X^T X of the layer's inputs. ``scale``: ``[out]``, of the rows. Columns are rounded in
    the order of their energy.
    """
    order = gram.diagonal().argsort(descending=True)
    factor = _inverse_factor(gram[order][:, order].double())
    work = weight.detach().double()[:, order].T.contiguous()  # a column of the weight in a row
    for first in range(0, len(work), _BLOCK):
        block = slice(first, min(first + _BLOCK, len(work)))
        errors = torch.empty_like(work[block])
        for at, column in enumerate(range(block.start, block.stop)):
            value = work[column]
            error = value - nearest(value.unsqueeze(1), centroids, scale).squeeze(1)
            errors[at] = error / factor[column, column]
            rest = slice(column + 1, block.stop)
            work[rest] -= factor[column, rest].unsqueeze(1) * errors[at]
        later = slice(block.stop, None)
        work[later] -= factor[block, later].T @ errors
    out = torch.empty_like(weight)
    out[:, order] = work.T.to(weight.dtype)
    return out


def _inverse_factor(gram: Tensor) -> Tensor:
    """Upper Cholesky factor of the damped inverse."""
    mean = gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    damped = gram + DAMPING * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _call_order(
    model: nn.Module, modules: list[nn.Module], batch: dict[str, Any]
) -> list[list[nn.Module]]:
    """The modules in the order of their first call; those given the very same tensor together."""
    called: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, inputs: Any) -> None:
        called.setdefault(module, inputs[0])

    handles = [module.register_forward_pre_hook(note) for module in modules]
    try:
        model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    groups: dict[int, list[nn.Module]] = {}
    for module, given in called.items():
        groups.setdefault(id(given), []).append(module)
    return list(groups.values())


def input_gram(model: nn.Module, module: nn.Module, batches: Sequence[dict[str, Any]]) -> Tensor:
    """X^T X, ``[in, in]`` in float64, of the inputs of one linear layer of ``model``."""
    total: list[Tensor] = []

    def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach().flatten(0, -2)
        rows = rows.to(compute_dtype(rows.dtype))  # rounded to 16 bits it need not be definite
        product = (rows.T @ rows).double()
        total.append(product if not total else total.pop() + product)
        raise _Reached

    handle = module.register_forward_pre_hook(add)
    try:
        for batch in batches:
            try:
                model(**batch)
            except _Reached:
                continue
    finally:
        handle.remove()
    return total[0]
