"""The passes' inner loops, compiled by numba into one C function that any thread can call.

Contract: ``run_parts(task)`` takes parts of the weights that a ``Task`` describes, one after
another, until none is left; as many threads as there are may call it on the same task. It never
needs the interpreter, so no thread waits for another to let go of its lock.
Four weights are read as one word; gathering a block of table entries first leaves arithmetic that
compiles to vectors, and results go through a block of their own, because in place a compiler
cannot tell that a write leaves the reads of other weights alone (1.24 against 0.64 ns a weight).
Boundary: little-endian machines; addresses and sizes are not checked here, see ``numba_cpu``.
One file, because numba's cache looks for changes in the file of the function it compiled.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numba  # type: ignore[import-untyped,import-not-found,unused-ignore]
import numpy as np
from numba import types
from numba.extending import intrinsic  # type: ignore[import-untyped,import-not-found,unused-ignore]

if sys.byteorder != "little":
    raise ImportError("words of four weights are taken apart in little-endian order")
if numba.config.DISABLE_JIT:  # type: ignore[attr-defined,unused-ignore]
    raise ImportError("NUMBA_DISABLE_JIT is set: there is nothing to call")

COUNT, LOOK_UP, ADD, PULL = range(4)  # what a task does with its weights
_BLOCK = 256  # table entries gathered at a time: 2 KiB
_LINE = 64  # parts begin at multiples of so many weights, which two threads never share
carray: Any = numba.carray  # type: ignore[attr-defined,unused-ignore]
U16, U32, U64, F32 = np.uint16, np.uint32, np.uint64, np.float32


class Task(NamedTuple):
    """An array of int64 in this order; addresses are of contiguous memory."""

    taken: int  # parts that threads have taken
    parts: int
    size: int  # weights
    job: int
    half: int  # 1: the values are float16, 0: bfloat16
    weight: int  # address of 16-bit patterns
    upstream: int  # address of dL/dW~, 16-bit
    table: int  # LOOK_UP: address of 16-bit entries; PULL: of (slope, shift) in float32
    values: int  # address of the float32 values of float16's patterns
    out: int  # address of 16-bit results; COUNT, ADD: of [parts, 65536] int64 or float64


_FIELDS = len(Task._fields)
PATTERNS = 1 << 16  # a literal: numba freezes globals


def _compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    # Unwrapped: a run-time type checker's wrapper can be neither compiled nor cached.
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True)(inspect.unwrap(loop))
    return compiled


def _inlined(code: Callable[..., Any]) -> Callable[..., Any]:
    inlined: Callable[..., Any] = intrinsic(inspect.unwrap(code))
    return inlined


@_inlined
def pointer(typing: Any, address: Any) -> Any:
    """The address in an integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@_inlined
def take(typing: Any, counter: Any) -> Any:
    """Adds 1 to the integer at ``counter``, undivided; returns what it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = context.get_value_type(types.int64)
        pointer = builder.bitcast(arguments[0], integer.as_pointer())
        return builder.atomic_rmw("add", pointer, integer(1), "monotonic")

    return types.int64(types.voidptr), generate


@_compiled
def _count(bits: Any, words: Any, tally: Any) -> None:
    for i in range(words.size):
        word = words[i]
        tally[word & U64(0xFFFF)] += 1
        tally[(word >> U64(16)) & U64(0xFFFF)] += 1
        tally[(word >> U64(32)) & U64(0xFFFF)] += 1
        tally[word >> U64(48)] += 1
    for i in range(4 * words.size, bits.size):
        tally[bits[i]] += 1


@_compiled
def _look_up(bits: Any, words: Any, table: Any, out: Any, out_words: Any) -> None:
    whole = min(words.size, out_words.size)
    for i in range(whole):
        word = words[i]
        out_words[i] = (
            U64(table[word & U64(0xFFFF)])
            | (U64(table[(word >> U64(16)) & U64(0xFFFF)]) << U64(16))
            | (U64(table[(word >> U64(32)) & U64(0xFFFF)]) << U64(32))
            | (U64(table[word >> U64(48)]) << U64(48))
        )
    for i in range(4 * whole, bits.size):
        out[i] = table[bits[i]]


@_compiled
def widened(bits: Any) -> Any:
    """A bfloat16 is the upper half of a float32."""
    return U32(U32(bits) << U32(16)).view(F32)


@_compiled
def _add(bits: Any, upstream: Any, half: Any, values: Any, sums: Any) -> None:
    if half:
        for i in range(bits.size):
            sums[bits[i]] += values[upstream[i]]
    else:
        for i in range(bits.size):
            sums[bits[i]] += widened(upstream[i])


@_compiled
def _affine(above: Any, line: Any) -> Any:
    """``above * slope + shift``, rounded twice as torch does, as the bits of a float32."""
    slope, shift = U32(line).view(F32), U32(line >> U64(32)).view(F32)
    return F32(F32(above * slope) + shift).view(U32)


@_compiled
def to_bfloat16(wide: Any) -> Any:
    """The nearest bfloat16, ties to even; NaN stays NaN."""
    even = U32(U32(wide >> U32(16)) & U32(1))
    nearest = U32(U32(wide + U32(U32(0x7FFF) + even)) >> U32(16))
    return U16(nearest) if U32(wide & U32(0x7FFFFFFF)) <= U32(0x7F800000) else U16(0x7FC0)


@_compiled
def to_float16(wide: Any) -> Any:
    """The nearest float16, ties to even; NaN stays NaN. Without branches, so that it vectorizes."""
    size = U32(wide & U32(0x7FFFFFFF))
    even = U32(U32(size >> U32(13)) & U32(1))
    nearest = U32(U32(U32(size + U32(U32(0xFFF) + even)) >> U32(13)) - U32(112 << 10))
    # below 2**-14: adding 0.5 rounds to 2**-24, the step of the subnormals
    small = U32(F32(size.view(F32) + F32(0.5)).view(U32) - U32(0x3F000000))
    nearest = small if size < U32(0x38800000) else nearest
    nearest = U32(0x7C00) if size >= U32(0x47800000) else nearest  # 2**16: infinite
    nearest = U32(0x7E00) if size > U32(0x7F800000) else nearest
    return U16(U32(U32(wide >> U32(16)) & U32(0x8000)) | nearest)


@_compiled
def _gather(words: Any, lines: Any, gathered: Any) -> None:
    for i in range(words.size):
        word = words[i]
        gathered[4 * i] = lines[word & U64(0xFFFF)]
        gathered[4 * i + 1] = lines[(word >> U64(16)) & U64(0xFFFF)]
        gathered[4 * i + 2] = lines[(word >> U64(32)) & U64(0xFFFF)]
        gathered[4 * i + 3] = lines[word >> U64(48)]


@_compiled
def _pull_one(above: Any, half: Any, values: Any, line: Any) -> Any:
    if half:
        return to_float16(_affine(values[above], line))
    return to_bfloat16(_affine(widened(above), line))


@_compiled
def _pull_block(upstream: Any, half: Any, values: Any, gathered: Any, rounded: Any) -> None:
    if half:
        for i in range(_BLOCK):
            rounded[i] = _pull_one(upstream[i], True, values, gathered[i])
    else:
        for i in range(_BLOCK):
            rounded[i] = _pull_one(upstream[i], False, values, gathered[i])


@_compiled
def _pull(
    bits: Any, words: Any, upstream: Any, half: Any, values: Any, lines: Any, out: Any
) -> None:
    gathered, rounded = np.empty(_BLOCK, U64), np.empty(_BLOCK, U16)
    blocks = 4 * words.size // _BLOCK
    for block in range(blocks):
        first = block * _BLOCK
        _gather(words[first // 4 : first // 4 + _BLOCK // 4], lines, gathered)
        _pull_block(upstream[first : first + _BLOCK], half, values, gathered, rounded)
        for i in range(_BLOCK):
            out[first + i] = rounded[i]
    for i in range(blocks * _BLOCK, bits.size):
        out[i] = _pull_one(upstream[i], half, values, lines[bits[i]])


@_compiled
def _bits(address: Any, low: Any, high: Any) -> Any:
    return carray(pointer(address + 2 * low), high - low, U16)


@_compiled
def _words(address: Any, low: Any, high: Any) -> Any:
    """The same memory in words of four patterns, none if they would straddle words of memory."""
    begin = address + 2 * low
    return carray(pointer(begin), 0 if begin % 8 else (high - low) // 4, U64)


def _run_parts(task: Any) -> None:
    fields = carray(task, _FIELDS, np.int64)
    parts, size, job, half = fields[1], fields[2], fields[3], fields[4] == 1
    weight, upstream, table, values, out = fields[5], fields[6], fields[7], fields[8], fields[9]
    while True:
        part = take(task)
        if part >= parts:
            return
        low = size * part // parts // _LINE * _LINE
        high = size if part + 1 == parts else size * (part + 1) // parts // _LINE * _LINE
        bits, words = _bits(weight, low, high), _words(weight, low, high)
        mine = out + 8 * PATTERNS * part
        if job == COUNT:
            _count(bits, words, carray(pointer(mine), PATTERNS, np.int64))
        elif job == LOOK_UP:
            entries = _bits(table, 0, PATTERNS)
            _look_up(bits, words, entries, _bits(out, low, high), _words(out, low, high))
        else:
            above, wide = _bits(upstream, low, high), carray(pointer(values), PATTERNS, F32)
            if job == ADD:
                _add(bits, above, half, wide, carray(pointer(mine), PATTERNS, np.float64))
            else:
                lines = carray(pointer(table), PATTERNS, U64)
                _pull(bits, words, above, half, wide, lines, _bits(out, low, high))


run_parts = numba.cfunc(types.void(types.voidptr), cache=True)(inspect.unwrap(_run_parts))
