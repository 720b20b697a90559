"""The streaming form's passes on the CPU as compiled loops, at dim 1 and in float32 arithmetic.

Contract: ``edkm.dkm.kernels.choice.RowPasses``. Torch's own threads take parts of the rows
(``edkm.dkm.kernels.team``); a part's sums are float64, and parts are added in their order: equal
inputs give equal bits at one number of threads. Nothing of the weight's size is made.
Boundary: which blocks of points a part has is ``numba_blocks``'s, a block's arithmetic
``numba_tiles``'s.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from edkm.dkm.kernels import numba_blocks, team
from edkm.dkm.kernels.choice import Assignment
from edkm.dkm.kernels.numba_cpu import float16_values
from edkm.dkm.kernels.numba_tiles import BFLOAT16, FLOAT16, SINGLE

_KINDS = {torch.float32: SINGLE, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}
_SHARE = 1 << 14  # fewer points than this are not worth a thread (about 0.1 ms)
_PIECES = 4  # parts a thread: one that comes late delays less


def sums(to: Assignment) -> tuple[Float64[Tensor, "g k d"], Float64[Tensor, "g k 1"]]:
    total, mass = _run(numba_blocks.SUM, to)
    return total, mass


def output(
    to: Assignment,
    updated: Float[Tensor, "g k d"],
    out: Float[Tensor, "g n d"] | None,
    grad: Float[Tensor, "g n d"] | None,
) -> Float64[Tensor, "g k d"]:
    return _run(numba_blocks.OUTPUT, to, updated=updated, out=out, grad=grad)[0]


def pull(
    to: Assignment,
    updated: Float[Tensor, "g k d"] | None,
    grad: Float[Tensor, "g n d"] | None,
    to_total: Float[Tensor, "g k d"],
    to_mass: Float[Tensor, "g k 1"],
    out: Float[Tensor, "g n d"],
) -> Float64[Tensor, "g k d"]:
    given = {"updated": updated, "grad": grad, "to_total": to_total, "to_mass": to_mass}
    return _run(numba_blocks.PULL, to, out=out, **given)[0]


def _run(job: int, to: Assignment, **given: Tensor | None) -> tuple[Tensor, Tensor]:
    """``job`` on all points; its two sums over them, ``[g, k, 1]``."""
    groups, clusters = to.c.shape[:2]
    size, run = to.rows.numel(), _run_of_points(to)
    threads = max(1, min(torch.get_num_threads(), size // _SHARE))
    parts = threads * _PIECES if threads > 1 else 1
    held = np.zeros((2, parts, groups, clusters))
    out = given.get("out")
    task = np.zeros(1, numba_blocks.TASK)
    task["parts"], task["job"], task["points"], task["run"] = parts, job, size, run
    task["per_group"], task["clusters"] = size // groups, clusters
    task["factor"], task["squared"] = -1.0 / to.rule.tau, to.rule.squared
    task["kind"], task["out_kind"] = (
        _KINDS[t.dtype] for t in (to.rows, to.rows if out is None else out)
    )
    task["values"] = float16_values().ctypes.data if to.rows.dtype == torch.float16 else 0
    for name, tensor in {**to._asdict(), **given}.items():
        if isinstance(tensor, Tensor):
            task[name] = tensor.data_ptr()
    task["first"], task["second"] = held[0].ctypes.data, held[1].ctypes.data
    team.run(cast(int, numba_blocks.run_parts.address), task.ctypes.data, threads)
    return _total(held[0]), _total(held[1])


def _run_of_points(to: Assignment) -> int:
    """Points that share a scale and a count of their row, and have a column each."""
    count = to.rows.shape[1]
    for each in (to.scale, to.per_row):
        if each is not None:
            return count // each.shape[1]
    return count if to.per_column is None else len(to.per_column)


def _total(parts: NDArray[Any]) -> Tensor:
    """The sum over parts in their order; by numpy, as a forked process lacks torch's threads."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return torch.from_numpy(total).unsqueeze(2)
