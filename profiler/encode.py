"""Lists of Python values as Arrow arrays, without pandas.

`pyarrow.array` imports pandas on its first call wherever pandas is installed: half a second and
tens of MiB in the program that is being measured. Building the buffers here avoids that, and is
faster for text that repeats.

Contract: int64, string, bool, float64 and lists of them, with None where a value is missing; text
that is not valid Unicode is escaped, never refused. TypeError or OverflowError for what does not
fit the type.
Boundary: knows Arrow types only; which column has which type is profiler.schema's.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterable, Sequence, Sized
from itertools import accumulate, chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_NUMPY = {pa.int64(): np.int64, pa.float64(): np.float64}
_CODES = {pa.int64(): "q", pa.float64(): "d"}
_FILL = {pa.int64(): 0, pa.float64(): 0.0, pa.bool_(): False}


def encode(values: Sequence[Any] | npt.NDArray[Any], arrow: pa.DataType) -> pa.Array:
    """Return the values as one Arrow array of the given type."""
    if isinstance(values, np.ndarray):
        return _plain(values, arrow) if arrow in _NUMPY else encode(values.tolist(), arrow)
    if _is_constant(values):
        return encode_constant(values[0], arrow, len(values))
    if pa.types.is_string(arrow):
        return _text(values)
    if pa.types.is_list(arrow):
        return _lists(values, arrow)
    return _plain(values, arrow)


def encode_flags(flags: npt.NDArray[np.bool_]) -> pa.Array:
    """Return a numpy array of flags as an Arrow array."""
    return pa.Array.from_buffers(pa.bool_(), len(flags), [None, _bits(flags)])


def encode_constant(value: Any, arrow: pa.DataType, count: int) -> pa.Array:
    """Return `count` times the same value."""
    if value is None:
        return pa.nulls(count, arrow)
    if pa.types.is_list(arrow):  # repeated ten times as fast as pa.repeat does it
        return encode([value], arrow).take(_from_numpy(np.zeros(count, np.int64), pa.int64()))
    return pa.repeat(_scalar(value, arrow), count)


@functools.lru_cache(maxsize=1024)
def _scalar(value: Any, arrow: pa.DataType) -> pa.Scalar:
    return encode([value], arrow)[0]


def _is_constant(values: Sequence[Any]) -> bool:
    """Whether all rows hold one and the same object, as most columns of a chunk do."""
    if len(values) < 2 or values[0] is not values[-1] or values[0] is not values[len(values) // 2]:
        return False
    return isinstance(values, list) and values.count(values[0]) == len(values)


def _plain(values: Sequence[Any] | npt.NDArray[Any], arrow: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray):
        numbers = values.astype(_NUMPY[arrow], casting="safe", copy=False)
        return _from_numpy(np.ascontiguousarray(numbers), arrow)
    try:  # a missing value is met here: looking for one beforehand takes as long as all of it
        return pa.Array.from_buffers(arrow, len(values), [None, _buffer(values, arrow)])
    except TypeError:
        missing = values.count(None)
        if not missing:
            raise
    fill = _FILL[arrow]
    filled = _buffer([fill if value is None else value for value in values], arrow)
    present = _bits(_flags([value is not None for value in values]))
    return pa.Array.from_buffers(arrow, len(values), [present, filled], missing)


def _buffer(values: Sequence[Any], arrow: pa.DataType) -> pa.Buffer:
    """The values as Arrow lays them; TypeError for one that is no number of the kind."""
    if pa.types.is_boolean(arrow):
        return _bits(_flags(values))
    return pa.py_buffer(array(_CODES[arrow], values))


def _flags(values: Sequence[Any]) -> npt.NDArray[np.bool_]:
    return np.frombuffer(bytes(values), dtype=np.bool_)


def _text(values: Sequence[Any]) -> pa.Array:
    """Encode each distinct text once, then look the rows up."""
    distinct, rows = _interned(values)
    return _distinct(distinct).take(_from_numpy(rows, pa.int64()))


class _Numbers(dict[Any, int]):
    """Numbers what it is asked for, in the order of first questions: one look-up a row."""

    def __missing__(self, value: Any) -> int:
        number = self[value] = len(self)
        return number


def _interned(values: Iterable[Any]) -> tuple[list[Any], array[int]]:
    """The distinct values in order of their first place, and each row's number among them."""
    numbers = _Numbers()
    rows = array("q", map(numbers.__getitem__, values))
    return list(numbers), rows


def _distinct(values: list[Any]) -> pa.Array:
    encoded = [b"" if v is None else _utf8(v) for v in values]
    present = _bits(_flags([v is not None for v in values])) if None in values else None
    buffers = [present, _offsets(encoded), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _offsets(values: Sequence[Sized]) -> pa.Buffer:
    """Where each value begins in what they are joined to, and where the last one ends."""
    return pa.py_buffer(array("i", accumulate(map(len, values), initial=0)))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate in a name or a path
        return text.encode("utf-8", "backslashreplace")
    except AttributeError:
        raise TypeError(f"got a {type(text).__name__}, must be text") from None


def _lists(values: Sequence[Sequence[Any]], arrow: pa.DataType) -> pa.Array:
    """Encode each distinct list once, as texts: shapes and strides repeat all the time."""
    distinct, rows = _interned(map(tuple, values))
    items = encode(list(chain.from_iterable(distinct)), arrow.value_type)
    whole = pa.Array.from_buffers(
        arrow, len(distinct), [None, _offsets(distinct)], children=[items]
    )
    return whole.take(_from_numpy(rows, pa.int64()))


def _from_numpy(values: npt.NDArray[Any] | array[int], arrow: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(arrow, len(values), [None, pa.py_buffer(values)])


def _bits(flags: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))
