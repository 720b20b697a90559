"""Operations that marshaling may replay on a copy: views, and what costs next to nothing.

Contract: `step_of(node)` turns an autograd node into a function that gives the values of the
node's forward output from its forward input, or None where the node is no such operation. The
values are exact; strides are the caller's business, since a copy's memory format is not recorded.
Boundary: reads the node's recorded arguments; keeps neither the node nor a tensor.
Source: eDKM (arXiv 2309.00964) sec. 2.1, "storage invariant" operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# What may be replayed: views (same storage), clamp with numbers, a copy in another layout, and a
# conversion to a wider or narrower floating type.
KINDS = ("view", "clamp", "contiguous", "upcast", "downcast")


_FLOATS = {torch.bfloat16, torch.float16, torch.float32, torch.float64}


@dataclass(frozen=True, slots=True)
class Step:
    """One operation to replay; its name is one of `KINDS`."""

    name: str
    run: Callable[[Tensor], Tensor]
    view: bool  # its output shares its input's storage


def _output_size(node: Any) -> tuple[int, ...]:
    return tuple(node._input_metadata[0].shape)


def _view(node: Any) -> Step:
    size = _output_size(node)
    return Step("view", lambda t: t.reshape(size), view=True)


def _expand(node: Any) -> Step:
    size = _output_size(node)
    return Step("view", lambda t: t.expand(size), view=True)


def _t(node: Any) -> Step:
    return Step("view", lambda t: t.t(), view=True)


def _transpose(node: Any) -> Step:
    dims = _signed(node._saved_dim0), _signed(node._saved_dim1)
    return Step("view", lambda t: t.transpose(*dims), view=True)


def _permute(node: Any) -> Step:
    dims = tuple(_signed(d) for d in node._saved_dims)
    return Step("view", lambda t: t.permute(dims), view=True)


def _unsqueeze(node: Any) -> Step:
    dim = _signed(node._saved_dim)
    return Step("view", lambda t: t.unsqueeze(dim), view=True)


def _squeeze(node: Any) -> Step:
    size = _output_size(node)
    return Step("view", lambda t: t.reshape(size), view=True)


def _slice(node: Any) -> Step:
    dim, step = _signed(node._saved_dim), node._saved_step
    start, end = (None if v is None else _signed(v) for v in (node._saved_start, node._saved_end))
    return Step("view", lambda t: torch.ops.aten.slice(t, dim, start, end, step), view=True)


def _select(node: Any) -> Step:
    dim, index = _signed(node._saved_dim), _signed(node._saved_index)
    return Step("view", lambda t: t.select(dim, index), view=True)


def _clamp(node: Any) -> Step:
    low, high = node._saved_min, node._saved_max
    return Step("clamp", lambda t: t.clamp(low, high), view=False)


def _clamp_min(node: Any) -> Step:
    low = node._saved_min
    return Step("clamp", lambda t: t.clamp(min=low), view=False)


def _clamp_max(node: Any) -> Step:
    high = node._saved_max
    return Step("clamp", lambda t: t.clamp(max=high), view=False)


def _clone(node: Any) -> Step:
    return Step("contiguous", lambda t: t.clone(), view=False)


def _to_copy(node: Any) -> Step | None:
    source, target = input_of(node), node._input_metadata[0]
    if source is None or source.device != target.device:
        return None
    dtype = target.dtype
    if dtype == source.dtype:
        return _clone(node)
    if not {dtype, source.dtype} <= _FLOATS:
        return None
    name = "upcast" if widens(source.dtype, dtype) else "downcast"
    return Step(name, lambda t: t.to(dtype), view=False)


@dataclass(frozen=True, slots=True)
class Kind:
    """Type and place of a node's input."""

    dtype: torch.dtype
    device: torch.device


def input_of(node: Any) -> Kind | None:
    """Type and place of what `node`'s forward read, where the graph tells."""
    source, output = node.next_functions[0]
    if source is None:
        return None
    told: Any = leaf_of(source)
    if told is None and output < len(source._input_metadata):
        told = source._input_metadata[output]
    return None if told is None else Kind(told.dtype, told.device)


def leaf_of(node: Any) -> Tensor | None:
    """The leaf whose gradient `node` accumulates; a custom function may have any attribute."""
    leaf: Tensor | None = node.variable if type(node).__name__ == "AccumulateGrad" else None
    return leaf


def widens(narrow: torch.dtype, wide: torch.dtype) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    return narrow != wide and torch.promote_types(narrow, wide) == wide


def _signed(value: int) -> int:
    """Nodes give some arguments as unsigned 64-bit numbers."""
    return value - (1 << 64) if value >= 1 << 63 else value


_STEPS: dict[str, Callable[[Any], Step | None]] = {
    "ViewBackward0": _view,
    "UnsafeViewBackward0": _view,
    "ReshapeAliasBackward0": _view,
    "AliasBackward0": _view,
    "ExpandBackward0": _expand,
    "TBackward0": _t,
    "TransposeBackward0": _transpose,
    "PermuteBackward0": _permute,
    "UnsqueezeBackward0": _unsqueeze,
    "SqueezeBackward0": _squeeze,
    "SqueezeBackward1": _squeeze,
    "SliceBackward0": _slice,
    "SelectBackward0": _select,
    "ClampBackward1": _clamp,
    "ClampMinBackward0": _clamp_min,
    "ClampMaxBackward0": _clamp_max,
    "CloneBackward0": _clone,
    "ToCopyBackward0": _to_copy,
}


def step_of(node: Any) -> Step | None:
    """How to replay `node`'s forward, or None where it is not storage invariant nor cheap."""
    make = _STEPS.get(type(node).__name__)  # a custom function may have any `name`
    return make(node) if make is not None else None
