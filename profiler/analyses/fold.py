"""Repeated layers told once: "layers.3-59" instead of fifty-seven equal lines.

Contract: layers (the parts that share a prefix and differ in one number) are folded together only
when everything in them has equal fingerprints; every member is in exactly one line, and lines
stand where their first member stood.
Boundary: names and fingerprints in, groups out; what a fingerprint is made of is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Line(Generic[T]):
    """Members that are alike, under one name."""

    name: str
    members: tuple[T, ...]

    @property
    def count(self) -> int:
        return len(self.members)

    @property
    def label(self) -> str:
        """The name, and how often: "layers.0-3.mlp (x4)"."""
        return f"{self.name} (x{self.count})" if self.count > 1 else self.name


def fold(
    items: Sequence[T], name: Callable[[T], str], fingerprint: Callable[[T], Hashable]
) -> list[Line[T]]:
    """Fold equal layers, outer numbers first, then the numbers inside them."""
    lines = [Line(name(item), (item,)) for item in items]
    prints: dict[str, Hashable] = {name(item): fingerprint(item) for item in items}
    while (folded := _once(lines, prints)) is not None:
        lines = folded
    return lines


def fold_names(names: Iterable[str]) -> list[str]:
    """Names with the numbers in which they differ as ranges: "layers.0-3.mlp (x4)"."""
    return [line.label for line in fold(sorted(set(names), key=_natural), str, lambda _: 0)]


def _once(lines: list[Line[T]], prints: dict[str, Hashable]) -> list[Line[T]] | None:
    """Fold along the first number of the first prefix where that joins anything."""
    if len(lines) < 2:
        return None
    for depth in range(1 + max((line.name.count(".") for line in lines), default=0)):
        layers: dict[str, dict[int, list[tuple[str, Line[T]]]]] = {}
        for line in lines:
            parts = line.name.split(".")
            if len(parts) > depth and parts[depth].isdecimal():
                prefix, rest = ".".join(parts[:depth]), ".".join(parts[depth + 1 :])
                layers.setdefault(prefix, {}).setdefault(int(parts[depth]), []).append((rest, line))
        for prefix, numbered in layers.items():
            joined = _join(prefix, numbered, prints)
            if joined is not None:
                return _replaced(lines, joined)
    return None


def _join(
    prefix: str, numbered: dict[int, list[tuple[str, Line[T]]]], prints: dict[str, Hashable]
) -> list[Line[T]] | None:
    alike: dict[Hashable, list[int]] = {}
    for number, parts in sorted(numbered.items()):
        mark = frozenset((rest, line.count, prints[line.name]) for rest, line in parts)
        alike.setdefault(mark, []).append(number)
    joined = []
    for numbers in alike.values():
        if len(numbers) < 2:
            continue
        for rest, first in numbered[numbers[0]]:
            same = [line for n in numbers for other, line in numbered[n] if other == rest]
            name = ".".join(part for part in (prefix, _ranges(numbers), rest) if part)
            prints[name] = prints[first.name]
            joined.append(Line(name, tuple(m for line in same for m in line.members)))
    return joined or None


def _replaced(lines: list[Line[T]], joined: list[Line[T]]) -> list[Line[T]]:
    into = {id(member): line for line in joined for member in line.members}
    out: list[Line[T]] = []
    placed: set[int] = set()
    for line in lines:
        better = into.get(id(line.members[0]), line)
        if id(better) not in placed:
            placed.add(id(better))
            out.append(better)
    return out


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] as "0-2,5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in name.split(".")]
