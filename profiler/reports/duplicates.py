"""Which saved tensors are one and the same block of memory, or are rebuilt from one.

Contract: rows of the table `saves` in, groups out; two saves belong together when they share a
storage or one was served by the other's copy (`alias_of`).
Boundary: pure; the colours are the theme's, the drawing is elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Save = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Saved tensors that need one copy between them."""

    letter: str  # "A", "B", ...: largest waste first
    save_ids: tuple[int, ...]
    ops: tuple[str, ...]  # the nodes that save them, in order, without repeats
    storages: int  # how many storages they lie in: more than one where some are rebuilt
    saved_bytes: int  # all of them, each counted
    unique_bytes: int  # the largest one

    @property
    def wasted_bytes(self) -> int:
        """What holding each of them costs beyond holding one."""
        return self.saved_bytes - self.unique_bytes


def duplicate_groups(
    saves: Sequence[Save], aliases: Mapping[int, int] | None = None, *, at_least: int = 1024
) -> list[DuplicateGroup]:
    """Groups of two or more saves, the most wasteful first; tensors under `at_least` bytes apart.

    Args:
        saves: rows of the table.
        aliases: further links, save_id to save_id, e.g. what marshaling found (`found_by`).
        at_least: smaller tensors (centroids, sums) are left alone.
    """
    large = [save for save in saves if int(save["logical_bytes"]) >= at_least]
    parent = {int(save["save_id"]): int(save["save_id"]) for save in large}
    first_of: dict[int, int] = {}
    links: list[tuple[int, int]] = list((aliases or {}).items())
    for save in large:
        save_id = int(save["save_id"])
        links.append((save_id, first_of.setdefault(int(save["storage_id"]), save_id)))
        if save.get("alias_of") is not None:
            links.append((save_id, int(save["alias_of"])))
    for one, other in links:
        if one in parent and other in parent:
            parent[_root(parent, one)] = _root(parent, other)
    members: dict[int, list[Save]] = {}
    for save in large:
        members.setdefault(_root(parent, int(save["save_id"])), []).append(save)
    return _named([group for group in members.values() if len(group) > 1])


def found_by(plain: Sequence[Save], marshaled: Sequence[Save]) -> dict[int, int]:
    """What marshaling found, told of the saves of an identical graph that ran without it.

    The k-th save of one is the k-th of the other, since both ran the same operations; where the
    lists do not match save for save, nothing is claimed.
    """
    key = ("op", "shape", "logical_bytes")
    if len(plain) != len(marshaled) or any(
        [one.get(name) for name in key] != [other.get(name) for name in key]
        for one, other in zip(plain, marshaled, strict=True)
    ):
        return {}
    place = {int(save["save_id"]): index for index, save in enumerate(marshaled)}
    return {
        int(plain[index]["save_id"]): int(plain[place[int(save["alias_of"])]]["save_id"])
        for index, save in enumerate(marshaled)
        if save.get("alias_of") is not None and int(save["alias_of"]) in place
    }


def _root(parent: dict[int, int], save_id: int) -> int:
    while parent[save_id] != save_id:
        parent[save_id] = parent[parent[save_id]]
        save_id = parent[save_id]
    return save_id


def _named(groups: list[list[Save]]) -> list[DuplicateGroup]:
    made = [
        DuplicateGroup(
            letter="",
            save_ids=tuple(int(save["save_id"]) for save in group),
            ops=tuple(dict.fromkeys(str(save.get("op", "")) for save in group)),
            storages=len({int(save["storage_id"]) for save in group}),
            saved_bytes=sum(int(save["logical_bytes"]) for save in group),
            unique_bytes=max(int(save["logical_bytes"]) for save in group),
        )
        for group in groups
    ]
    made.sort(key=lambda group: (-group.wasted_bytes, group.save_ids))
    return [replace(group, letter=_letter(index)) for index, group in enumerate(made)]


def _letter(index: int) -> str:
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(ord("A") + rest) + name
    return name
