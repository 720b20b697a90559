"""One storage and the saved tensors that lie in it or follow from it, as a small graph.

Contract: saves that are alike (same relation, layout and way of keeping) are one box with a
count; an arrow says what the tensor is to the storage, and over how many hops it was found.
Boundary: boxes and arrows; which tensors form a group is profiler.analyses.duplicates'.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from dashboard.charts.dot import Arrow, Box, Drawing
from dashboard.charts.spans import RELATIONS
from dashboard.tables import counted, shape_words, short_op
from dashboard.theme import Ground, category_colour, ink
from profiler.analyses.duplicates import Group, Member
from profiler.reports.units import format_bytes

MOST = 24  # boxes of tensors; the rest is one, counted
WORDS = {
    "first": "saved first", "same": "the same tensor", "transposed": "transposed", "view": "view",
    "derived": "computed from it",
}  # fmt: skip


class Alike(NamedTuple):
    """What saves of one box have in common."""

    relation: str
    shape: str
    dtype: str
    savers: str
    action: str
    hops: int | None


def alike(group: Group) -> list[tuple[Alike, int]]:
    """The boxes of a group and how many saves each stands for, in the order of saving."""
    return list(Counter(_alike(member) for member in group.members).items())


def alias_drawing(group: Group, ground: Ground) -> Drawing:
    """The storage, and an arrow to each of its tensors."""
    found = alike(group)
    storage = Box(
        name="storage",
        lines=(f"storage {group.storage_id}", format_bytes(group.storage_bytes), group.device),
        colour=category_colour("param" if group.is_param else group.category),
        strong=True,
    )
    boxes, arrows = [storage], []
    for number, (what, count) in enumerate(found[:MOST]):
        times = f"{count} times, " if count > 1 else ""
        boxes.append(
            Box(
                name=f"tensor {number}",
                lines=(f"{what.shape} {what.dtype}", what.savers, f"{times}{what.action}"),
                colour=RELATIONS.get(what.relation, ink(ground)),
            )
        )
        hops = "" if what.hops is None else f", {counted(what.hops, 'hop')}"
        arrows.append(
            Arrow(
                source="storage",
                target=f"tensor {number}",
                label=WORDS.get(what.relation, what.relation) + hops,
                dashed=what.relation == "derived",
            )
        )
    if rest := found[MOST:]:
        more = sum(count for _, count in rest)
        boxes.append(Box(name="rest", lines=(f"{more} more saves",), colour=ink(ground)))
        arrows.append(Arrow(source="storage", target="rest"))
    return Drawing(boxes=tuple(boxes), arrows=tuple(arrows), down=False)


def _alike(member: Member) -> Alike:
    return Alike(
        member.relation,
        shape_words(member.shape),
        member.dtype,
        f"{member.module or '(root)'} {short_op(member.op)}",
        member.action,
        member.hops,
    )
