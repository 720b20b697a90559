"""DKM of a 16-bit weight by its histogram: nothing of size N is made or saved but the result.

Contract: the values and gradients of ``dense_dkm`` at dim 1, to the rounding of the weight's
dtype, for any number of updates. Saved for backward: the weight itself (by reference), its
histogram (512 KiB) and the centroids of each update. A ``torch.library`` operator with a fake
kernel, so that FakeTensor planning and ``torch.compile`` pass through it.
Boundary: bfloat16 and float16, one codebook a weight; other cases are in ``streaming``.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from jaxtyping import Shaped
from torch import Tensor

from edkm.dkm.checks import check_centroids, check_sizes
from edkm.dkm.dense import DEFAULT_CLUSTERS, ClusterResult
from edkm.dkm.init import initial_centroids
from edkm.dkm.kernels import passes_for
from edkm.dkm.patterns import PATTERNS, is_patterned
from edkm.dkm.settings import Rule, Schedule, Settings
from edkm.dkm.table import occupied_points, table_backward, table_forward
from edkm.dkm.updates import Path


def fused_dkm(
    weight: Shaped[Tensor, "*shape"],
    centroids: Tensor | None = None,
    **settings: Unpack[Settings],
) -> ClusterResult:
    """``dense_dkm`` of a bfloat16 or float16 weight at dim 1, by tables of 65,536 rows.

    Arguments as ``dense_dkm``. ``centroids`` of the result are float64: the updates lose nothing
    to rounding. Raises ``ValueError`` as ``dense_dkm``, and for other dtypes and dimensions.
    """
    schedule = Schedule(**settings)
    if not is_patterned(weight.dtype):
        raise ValueError(
            f"weight has dtype {weight.dtype}; the fused form needs bfloat16 or float16, whose "
            "bits number a table: use cluster_weight, which picks a form for every dtype"
        )
    if centroids is None:
        centroids = initial_centroids(weight, DEFAULT_CLUSTERS)
    check_centroids(centroids, weight, 1, finite=False)  # the operator looks at the values
    check_sizes(weight, centroids.shape[0], 1)
    steps, stop = schedule.steps, schedule.stop
    clustered, _, states, _, ran = _forward(
        weight, centroids.detach().double(), *schedule.rule, steps, stop
    )
    return ClusterResult(clustered, states[-1, 0].detach(), updates_run(schedule, ran), "fused")


def updates_run(schedule: Schedule, ran: Tensor) -> int | Tensor:
    """The number of updates as an int where that waits for nothing; else the tensor."""
    if schedule.iterations is not None:
        return schedule.iterations
    readable = type(ran) is Tensor and ran.device.type == "cpu"
    return int(ran) if readable and not torch.compiler.is_compiling() else ran.detach()


# Schemas are spelled out: inferring them fails once a type checker wraps the function.
FORWARD = (
    "(Tensor weight, Tensor centroids, float tau, bool squared, int steps, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
SAVED = (  # what backward is given beside the gradient
    "Tensor weight, Tensor counts, Tensor states, Tensor masses, Tensor ran,"
    " float tau, bool squared"
)


@torch.library.custom_op("edkm::fused_dkm", mutates_args=(), schema=FORWARD)
def _forward(
    weight: Tensor, centroids: Tensor, tau: float, squared: bool, steps: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(W~, histogram, states, masses, ran); ``eps < 0`` runs all ``steps``."""
    table, *path = clustering_table(weight, centroids, tau, squared, steps, eps)
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    passes_for(weight.device).lookup(flatten(weight), table, out.view(-1))
    counts, states, masses, ran = path
    return out, counts, states, masses, ran


@_forward.register_fake
def _(
    weight: Tensor, centroids: Tensor, tau: float, squared: bool, steps: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    return out, *fake_path(weight, centroids, steps)


def fake_path(
    weight: Tensor, centroids: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(histogram, states, masses, ran) without values."""
    k = centroids.shape[0]
    return (
        weight.new_empty(PATTERNS, dtype=torch.int64),
        centroids.new_empty(steps + 1, 1, k, 1),
        centroids.new_empty(steps, 1, k, 1),
        weight.new_empty((), dtype=torch.int64),
    )


def clustering_table(
    weight: Tensor, centroids: Tensor, tau: float, squared: bool, steps: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(W~ of each pattern in the weight's dtype, histogram, states, masses, ran)."""
    check_centroids(centroids, weight, 1)
    counts = passes_for(weight.device).histogram(flatten(weight))
    rule, stop = Rule(tau, squared), None if eps < 0 else eps
    table, path = table_forward(counts, weight.dtype, centroids, rule, steps, stop)
    return table.to(weight.dtype), counts, path.states, path.masses, path.ran


@torch.library.custom_op(
    "edkm::fused_dkm_backward", mutates_args=(), schema=f"(Tensor grad, {SAVED}) -> Tensor"
)
def _backward(grad: Tensor, weight: Tensor, counts: Tensor, *path_and_rule: Any) -> Tensor:
    """dL/dW from dL/dW~ (docs/clustering.md eq. 11)."""
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    pull(flatten(grad), weight, counts, *path_and_rule, out=out.view(-1))
    return out


@_backward.register_fake
def _(grad: Tensor, weight: Tensor, *others: object) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def pull(
    grad: Tensor,
    weight: Tensor,
    counts: Tensor,
    states: Tensor,
    masses: Tensor,
    ran: Tensor,
    tau: float,
    squared: bool,
    *,
    out: Tensor,
) -> None:
    """Two passes over the weight; ``out`` (flat) may be ``grad`` (flat) itself."""
    path, rule = Path(states, masses, ran), Rule(tau, squared)
    flat, occupied = flatten(weight), occupied_points(counts, weight.dtype)
    passes = passes_for(weight.device)
    sums = passes.segment_sum(flat, grad)
    slope, shift = table_backward(occupied, sums, path, rule)
    passes.gradient(flat, grad, slope.float(), shift.float(), out)


def flatten(tensor: Tensor) -> Tensor:
    """Flat and contiguous: a view where the tensor is contiguous, else one copy."""
    return tensor.detach().contiguous().view(-1)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    weight, _, ctx.tau, ctx.squared, _, _ = inputs
    _, counts, states, masses, ran = output
    # Saved: the weight by reference, 512 KiB of counts, centroids. Recomputed: everything else.
    ctx.save_for_backward(weight, counts, states, masses, ran)


def _pull_back(ctx: Any, grad: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
    weight, counts, states, masses, ran = ctx.saved_tensors
    pulled = _backward(
        grad.to(weight.dtype), weight, counts, states, masses, ran, ctx.tau, ctx.squared
    )
    return pulled, None, None, None, None, None


_forward.register_autograd(_pull_back, setup_context=_setup)
