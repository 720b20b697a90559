"""One block of points of the streaming form at dim 1, as loops that numba compiles to vectors.

Contract: the arithmetic of ``tiles`` in float32, over a block short enough that its attention stays
in the nearest cache; a cluster's points lie side by side. Equation numbers are those of
docs/clustering.md. Sums over the block are float32 in an order fixed for a machine. NaN stays NaN.
Boundary: which blocks there are, and what is added up over them, is ``numba_streaming``'s; reading
and rounding of 16-bit values is ``numba_loops``'s.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba  # type: ignore[import-untyped,import-not-found,unused-ignore]
import numpy as np

from edkm.dkm.kernels.numba_loops import (
    F32,
    PATTERNS,
    U32,
    carray,
    pointer,
    to_bfloat16,
    to_float16,
    widened,
)
from edkm.dkm.settings import ATTENTION_FLOOR

SINGLE, BFLOAT16, FLOAT16 = range(3)  # dtypes of weights, gradients and results
BLOCK = 256  # points at most: 1 KiB of attention a cluster
# Where each line of a block begins in the one array of them: a compiler asks of many arrays
# whether they overlap, and gives up; of one it knows.
X, OVER, COUNTS, ABOVE, MEAN, DIRECT, RESULT = range(0, 7 * BLOCK, BLOCK)
_FLOOR = F32(ATTENTION_FLOOR)


def compiled(*fast: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``fast``: what of strict arithmetic to let go: "contract" rounds a product and a sum once,
    "reassoc" adds in any order, which is one order for a machine."""

    def compile(loop: Callable[..., Any]) -> Callable[..., Any]:
        made = numba.njit(nogil=True, cache=True, fastmath=set(fast) if fast else False)
        compiled: Callable[..., Any] = made(inspect.unwrap(loop))
        return compiled

    return compile


_ONE, _ZERO = F32(1.0), F32(0.0)
_LOWEST, _LOG2E = F32(-125.0), F32(1.4426950408889634)
_ROUND = F32(12582912.0 + 127)  # 1.5 * 2**23, and the bias of an exponent
# 2**r for r in [-0.5, 0.5] to 7.5e-8 (minimax, relative)
_C5, _C4, _C3 = F32(1.3276471992533978e-3), F32(9.675541334453752e-3), F32(5.5507132734978495e-2)
_C2, _C1, _C0 = F32(0.24022119723839974), F32(0.6931469670647609), F32(1.0000000716546849)


@compiled("contract")
def _power(y: Any) -> Any:
    """2**y of y <= 0 to 2 units in the last place; below -125 that of -125."""
    y = _LOWEST if y < _LOWEST else y
    shifted = y + _ROUND  # the nearest integer, biased, is in its lowest bits
    r = y - F32(shifted - _ROUND)
    p = F32(F32(F32(F32(_C5 * r + _C4) * r + _C3) * r + _C2) * r + _C1) * r + _C0
    return p * U32(F32(shifted).view(U32) << U32(23)).view(F32)


@compiled("contract")
def _logits(x: Any, c: Any, factor: Any, squared: Any, logits: Any, top: Any) -> None:
    """``D * factor`` (eq. 1) of a cluster into ``logits``, and the largest so far into ``top``."""
    if squared:
        for i in range(x.size):
            apart = c - x[i]
            logits[i] = F32(apart * apart) * factor
            top[i] = logits[i] if logits[i] > top[i] else top[i]
    else:
        for i in range(x.size):
            logits[i] = abs(c - x[i]) * factor
            top[i] = logits[i] if logits[i] > top[i] else top[i]


@compiled("contract")
def _powers(logits: Any, top: Any, total: Any) -> None:
    for i in range(top.size):
        power = _power(logits[i] - top[i])
        logits[i] = power
        total[i] += power


@compiled()
def softmax(x: Any, c: Any, factor: Any, squared: Any, p: Any, top: Any, over: Any) -> None:
    """Eq. 2 before its clamp and before it is multiplied by ``over``: ``[clusters, block]``."""
    top[:] = F32(-np.inf)
    over[:] = _ZERO
    for j in range(c.size):
        _logits(x, c[j], factor * _LOG2E, squared, p[j], top)
    for j in range(c.size):
        _powers(p[j], top, over)
    for i in range(x.size):
        over[i] = _ONE / over[i]


@compiled()
def _floored(p: Any) -> Any:
    return _FLOOR if p < _FLOOR else p


@compiled("contract", "reassoc")
def sum_one(p: Any, over: Any, x: Any, counts: Any) -> Any:
    """Eq. 3's numerator and denominator of one cluster."""
    total = mass = _ZERO
    for i in range(x.size):
        a = _floored(p[i] * over[i]) * counts[i]
        mass += a
        total += a * x[i]
    return total, mass


@compiled("contract")
def mix_one(p: Any, over: Any, updated: Any, mixed: Any) -> None:
    """A cluster's part of eq. 4."""
    for i in range(mixed.size):
        mixed[i] += _floored(p[i] * over[i]) * updated


@compiled("contract", "reassoc")
def product(p: Any, over: Any, above: Any) -> Any:
    """dL/dc'_j of eq. 5."""
    total = _ZERO
    for i in range(above.size):
        total += _floored(p[i] * over[i]) * above[i]
    return total


@compiled("contract")
def gamma_one(p: Any, gamma: Any, lines: Any, size: Any, u: Any, s: Any, mu: Any) -> None:
    """gamma of eq. 5 and 7 where the clamp passes it, its part of the softmax's mean, and what
    eq. 7 sends directly to a point that counts once. Normalizes ``p``."""
    for i in range(size):
        one = p[i] * lines[OVER + i]
        to_a = u * lines[ABOVE + i] + lines[COUNTS + i] * F32(s * lines[X + i] + mu)
        passed = _ZERO if one < _FLOOR else to_a
        p[i], gamma[i] = one, passed
        lines[MEAN + i] += one * passed
        lines[DIRECT + i] += _floored(one) * s


@compiled("contract", "reassoc")
def along_one(p: Any, x: Any, c: Any, squared: Any, gamma: Any, mean: Any, pulled: Any) -> Any:
    """Eq. 6 but for -2/tau (-1/tau): a cluster's part of dL/dx, taken from ``pulled``, and its
    dL/dc, returned."""
    total = _ZERO
    if squared:
        for i in range(x.size):
            along = F32(F32(gamma[i] - mean[i]) * p[i]) * F32(c - x[i])
            pulled[i] -= along
            total += along
    else:
        for i in range(x.size):
            apart = c - x[i]
            sign = _ONE if apart > _ZERO else (-_ONE if apart < _ZERO else _ZERO)
            along = F32(F32(gamma[i] - mean[i]) * p[i]) * sign
            pulled[i] -= along
            total += along
    return total


@compiled()
def read(address: Any, kind: Any, values: Any, at: Any, into: Any) -> None:
    if kind == SINGLE:
        single = carray(pointer(address + 4 * at), into.size, F32)
        for i in range(into.size):
            into[i] = single[i]
        return
    bits = carray(pointer(address + 2 * at), into.size, np.uint16)
    if kind == BFLOAT16:
        for i in range(into.size):
            into[i] = widened(bits[i])
    else:
        table = carray(pointer(values), PATTERNS, F32)
        for i in range(into.size):
            into[i] = table[bits[i]]


@compiled()
def write(address: Any, kind: Any, adds: Any, at: Any, result: Any) -> None:
    if kind == SINGLE:
        single = carray(pointer(address + 4 * at), result.size, F32)
        if adds:
            for i in range(result.size):
                single[i] += result[i]
        else:
            for i in range(result.size):
                single[i] = result[i]
        return
    bits = carray(pointer(address + 2 * at), result.size, np.uint16)
    if kind == BFLOAT16:
        for i in range(result.size):
            bits[i] = to_bfloat16(F32(result[i]).view(U32))
    else:
        for i in range(result.size):
            bits[i] = to_float16(F32(result[i]).view(U32))
