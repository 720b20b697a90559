"""The passes as compiled CPU loops (numba), a share of the weights for each of torch's threads.

Contract: ``edkm.dkm.kernels.choice.Passes``; as many threads as torch uses, and torch's own
(``edkm.dkm.kernels.team``): numba's pools abort the process when two threads enter them, or after
a fork. `benchmarks/dkm.py --passes` measures each pass against a copy.
Boundary: which memory a pass reads and writes; the loops are in ``numba_loops``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from numpy.typing import NDArray
from torch import Tensor

from edkm.dkm.kernels import numba_loops, team
from edkm.dkm.kernels.numba_loops import Task
from edkm.dkm.patterns import PATTERNS

_SHARE = 1 << 18  # fewer weights than this are not worth a thread (about 0.1 ms)
_PIECES = 4  # parts a thread, where parts are free: a thread that comes late delays less


def histogram(weight: Shaped[Tensor, " n"]) -> Int64[Tensor, " 65536"]:
    tallies = np.zeros((_threads(weight), PATTERNS), np.int64)
    _run(numba_loops.COUNT, weight, tallies.ctypes.data, parts=len(tallies))
    return _total(tallies)


def lookup(
    weight: Shaped[Tensor, " n"], table: Shaped[Tensor, " 65536"], out: Shaped[Tensor, " n"]
) -> None:
    _run(numba_loops.LOOK_UP, weight, out.data_ptr(), table=table)


def segment_sum(
    weight: Shaped[Tensor, " n"], grad: Shaped[Tensor, " n"]
) -> Float[Tensor, " 65536"]:
    sums = np.zeros((_threads(weight), PATTERNS), np.float64)
    _run(numba_loops.ADD, weight, sums.ctypes.data, upstream=grad, parts=len(sums))
    return _total(sums)


def gradient(
    weight: Shaped[Tensor, " n"],
    grad: Shaped[Tensor, " n"],
    slope: Float[Tensor, " 65536"],
    shift: Float[Tensor, " 65536"],
    out: Shaped[Tensor, " n"],
) -> None:
    lines = torch.stack((slope, shift), dim=1)  # side by side, so that both are one read
    _run(numba_loops.PULL, weight, out.data_ptr(), upstream=grad, table=lines)


def _run(
    job: int,
    weight: Tensor,
    out: int,
    *,
    upstream: Tensor | None = None,
    table: Tensor | None = None,
    parts: int | None = None,
) -> None:
    """``job`` on all weights. Parts depend on their number and that of the threads alone."""
    size, threads = weight.numel(), _threads(weight)
    if parts is None:
        parts = threads * max(1, min(_PIECES, size // (threads * _SHARE)))
    half = weight.dtype == torch.float16
    task = Task(
        taken=0, parts=parts, size=size, job=job, half=half, weight=weight.data_ptr(),
        upstream=0 if upstream is None else upstream.data_ptr(),
        table=0 if table is None else table.data_ptr(),
        values=float16_values().ctypes.data if half else 0, out=out,
    )  # fmt: skip
    fields = np.array(task, np.int64)
    team.run(cast(int, numba_loops.run_parts.address), fields.ctypes.data, threads)


def _threads(weight: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), weight.numel() // _SHARE))


@lru_cache(maxsize=1)
def float16_values() -> NDArray[Any]:
    return np.arange(PATTERNS, dtype=np.uint16).view(np.float16).astype(np.float32)


def _total(parts: NDArray[Any]) -> Tensor:
    """The sum over parts in their order; by numpy, as a forked process lacks torch's threads."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return torch.from_numpy(total)
