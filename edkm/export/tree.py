"""Dotted names as a tree in JSON, in which equal numbered layers stand once.

Contract: ``flatten(nest(leaves))`` has the leaves of ``leaves``, in the order in which a file holds
them. ``model.layers.0.x`` to ``model.layers.5.x``, if alike, become ``{"model": {"layers": {"0-5":
{"x": ...}}}}``. A leaf is an object with a list ``shape``.
Boundary: JSON values only; what a leaf means is ``edkm.export.format``'s.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

Leaf = dict[str, Any]
_RUN = re.compile(r"(\d+)-(\d+)")
_MOST = 1 << 20  # layers of a run: a damaged header must not take all memory


def nest(leaves: dict[str, Leaf]) -> dict[str, Any]:
    """The tree; names that cannot be one (a part like ``0-5``) stand in full, side by side."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split(".")
        at = tree
        for part in parents:
            at = at.setdefault(part, {})
        at[last] = leaf
    tree = _merge(tree)
    return tree if flatten(tree) == leaves else dict(leaves)


def flatten(tree: dict[str, Any]) -> dict[str, Leaf]:
    """Leaves by dotted name. ``ValueError`` if the tree is none."""
    found: dict[str, Leaf] = {}
    for key, value in tree.items():
        if not isinstance(value, dict):
            raise ValueError(f"{key!r} is {value!r} where an object is due")
        if is_leaf(value):
            found[key] = value
            continue
        for part in _run(key):
            found.update({f"{part}.{name}": leaf for name, leaf in flatten(value).items()})
    return found


def is_leaf(value: dict[str, Any]) -> bool:
    return isinstance(value.get("shape"), list)


def _run(key: str) -> list[str]:
    ends = _RUN.fullmatch(key)
    if ends is None:
        return [key]
    first, last = int(ends[1]), int(ends[2])
    if not 0 <= last - first < _MOST:
        raise ValueError(f"{key!r} is no run of layers")
    return [str(number) for number in range(first, last + 1)]


def _merge(tree: dict[str, Any]) -> dict[str, Any]:
    """``tree`` with runs of consecutive numbers whose branches are equal as one branch."""
    branches = [(k, v if is_leaf(v) else _merge(v)) for k, v in tree.items()]

    def kind(at: int) -> int:
        """The number of the run that branch ``at`` belongs to."""
        while at and _follows(*branches[at - 1], *branches[at]):
            at -= 1
        return at

    merged = {}
    for _, run in groupby(range(len(branches)), kind):
        numbers = list(run)
        first, last = branches[numbers[0]], branches[numbers[-1]]
        merged[first[0] if len(numbers) == 1 else f"{first[0]}-{last[0]}"] = first[1]
    return merged


def _follows(before: str, one: Leaf, key: str, other: Leaf) -> bool:
    numbers = before.isdecimal() and key == str(int(before) + 1)
    return numbers and not is_leaf(other) and one == other
