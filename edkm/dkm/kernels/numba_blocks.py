"""Passes over weights in blocks, compiled by numba into one C function that any thread can call.

Contract: ``run_parts(task)`` takes parts of the points that a ``TASK`` describes, one after
another, until none is left; as many threads as there are may call it on the same task, and none
needs the interpreter. A block lies in one run of points, so it has one scale. Its sums are added
up in float64.
Boundary: addresses and sizes are not checked here, see ``numba_streaming``; the arithmetic is
``numba_tiles``'s. Numba's cache does not see changes there: change this file with it.
"""

from __future__ import annotations

import inspect
from typing import Any

import numba  # type: ignore[import-untyped,import-not-found,unused-ignore]
import numpy as np
from numba import types

from edkm.dkm.kernels.numba_loops import F32, carray, pointer, take
from edkm.dkm.kernels.numba_tiles import (
    ABOVE,
    BLOCK,
    COUNTS,
    DIRECT,
    MEAN,
    OVER,
    RESULT,
    X,
    along_one,
    compiled,
    gamma_one,
    mix_one,
    product,
    read,
    softmax,
    sum_one,
    write,
)

SUM, OUTPUT, PULL = range(3)  # what a task does with its points
_ZERO, _ONE, _TWO = F32(0.0), F32(1.0), F32(2.0)

# In the order of the record. Tensors are addresses of contiguous memory, 0 where there is none;
# float32 if no kind is said.
_NUMBERS = (
    "taken",  # parts that threads have taken
    "parts",
    "job",
    "points",  # all of them
    "run",  # points that share a scale and have a column each
    "per_group",  # points of a group
    "clusters",
    "squared",  # 1: the temperature divides squared distances
    "kind",  # dtype of rows and grad
    "out_kind",
    "values",  # the float32 values of float16's patterns
    "rows",  # the points
    "scale",  # of each run: divides its points
    "per_row",  # of each run: how often its points count
    "per_column",  # [run]: times how often
    "c",  # [groups, clusters], as all that follow: centroids that the attention is taken with
    "updated",  # C'
    "to_total",  # dL/dS
    "to_mass",  # dL/dM
    "grad",  # of points: dL/dW~
    "out",  # of points: W~, or dL/dW, which is added to what is there if there is no grad
    "first",  # [parts, groups, clusters] float64. SUM: S; OUTPUT: dL/dC'; PULL: dL/dC
    "second",  # SUM: M
)
TASK = np.dtype([*((name, np.int64) for name in _NUMBERS), ("factor", np.float32)])  # -1 / tau


@compiled()
def _factor(address: Any, at: Any) -> Any:
    return _ONE if address == 0 else carray(pointer(address + 4 * at), 1, F32)[0]


@compiled()
def _count(task: Any, row: Any, start: Any, counts: Any) -> None:
    """How often each point of a block counts."""
    counts[:] = _factor(task.per_row, row)
    if task.per_column != 0:
        columns = carray(pointer(task.per_column + 4 * start), counts.size, F32)
        for i in range(counts.size):
            counts[i] *= columns[i]


@compiled()
def _times(values: Any, by: Any) -> None:
    for i in range(values.size):
        values[i] *= by


@compiled()
def _over(values: Any, by: Any) -> None:
    for i in range(values.size):
        values[i] /= by


@compiled()
def _sum(p: Any, over: Any, x: Any, counts: Any, total: Any, mass: Any) -> None:
    """Eq. 3's sums."""
    for j in range(total.size):
        found = sum_one(p[j], over, x, counts)
        total[j] += found[0]
        mass[j] += found[1]


@compiled()
def _mix(p: Any, over: Any, updated: Any, mixed: Any) -> None:
    """Eq. 4."""
    mixed[:] = _ZERO
    for j in range(updated.size):
        mix_one(p[j], over, updated[j], mixed)


@compiled()
def _pull(task: Any, p: Any, gamma: Any, lines: Any, size: Any, books: Any, to_c: Any) -> None:
    """Eq. 5 and 7, then 6: dL/dx into the line of results, and dL/dC."""
    c, updated, to_total, to_mass = books[0], books[1], books[2], books[3]
    lines[MEAN : MEAN + 3 * BLOCK] = _ZERO  # and DIRECT, and RESULT
    for j in range(c.size):
        gamma_one(p[j], gamma[j], lines, size, updated[j], to_total[j], to_mass[j])
    x, mean, pulled = lines[X : X + size], lines[MEAN : MEAN + size], lines[RESULT : RESULT + size]
    step = _TWO * task.factor if task.squared else task.factor
    for j in range(c.size):
        to_c[j] += step * along_one(p[j], x, c[j], task.squared, gamma[j], mean, pulled)
    for i in range(size):
        pulled[i] = pulled[i] * step + lines[DIRECT + i] * lines[COUNTS + i]


@compiled()
def _walk(task: Any, part: Any, tables: Any, maps: Any, lines: Any) -> None:
    """The blocks of one part."""
    shape = (task.parts, tables.shape[1], task.clusters)
    first = carray(pointer(task.first), shape, np.float64)[part]
    second = carray(pointer(task.second), shape, np.float64)[part]
    across = (task.run + BLOCK - 1) // BLOCK
    blocks = task.points // task.run * across
    for block in range(blocks * part // task.parts, blocks * (part + 1) // task.parts):
        row, start = block // across, block % across * BLOCK
        size, at = min(BLOCK, task.run - start), row * task.run + start
        group, by = at // task.per_group, _factor(task.scale, row)
        books, p, gamma = tables[:, group], maps[0], maps[1]
        x, over = lines[X : X + size], lines[OVER : OVER + size]
        counts, above = lines[COUNTS : COUNTS + size], lines[ABOVE : ABOVE + size]
        result = lines[RESULT : RESULT + size]
        read(task.rows, task.kind, task.values, at, x)
        if task.scale != 0:
            _over(x, by)
        softmax(x, books[0], task.factor, task.squared, p, result, over)
        if task.job != OUTPUT:
            _count(task, row, start, counts)
        if task.grad != 0:
            read(task.grad, task.kind, task.values, at, above)
            _times(above, by)
        if task.job == SUM:
            _sum(p, over, x, counts, first[group], second[group])
            continue
        if task.job == OUTPUT:
            if task.grad != 0:
                for j in range(task.clusters):
                    first[group, j] += product(p[j], over, above)
            if task.out == 0:
                continue
            _mix(p, over, books[1], result)
            _times(result, by)
        else:
            _pull(task, p, gamma, lines, size, books, first[group])
            _over(result, by)
        adds = task.job == PULL and task.grad == 0
        write(task.out, task.out_kind, adds, at, result)


def _run_parts(address: Any) -> None:
    task = carray(address, 1, TASK)[0]
    groups = task.points // task.per_group
    tables = np.zeros((4, groups, task.clusters), F32)
    for i, table in enumerate((task.c, task.updated, task.to_total, task.to_mass)):
        if table != 0:
            tables[i] = carray(pointer(table), (groups, task.clusters), F32)
    maps, lines = np.empty((2, task.clusters, BLOCK), F32), np.zeros(7 * BLOCK, F32)
    while True:
        part = take(address)
        if part >= task.parts:
            return
        _walk(task, part, tables, maps, lines)


run_parts = numba.cfunc(types.void(types.voidptr), cache=True)(inspect.unwrap(_run_parts))
