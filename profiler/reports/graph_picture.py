"""The autograd graph of one DKM iteration, with every tensor it saves and which are one block.

Contract: rows of the tables `nodes`, `edges` and `saves` of one step in, PNG and SVG out. A saved
tensor is a small box beside its node; boxes of one colour and letter need only one copy.
Boundary: for graphs that a person can read. Above `limit` nodes the smallest savers are folded
away and the subtitle says how many and how much.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.reports.canvas import write
from profiler.reports.duplicates import DuplicateGroup, duplicate_groups
from profiler.reports.fold import fold_small
from profiler.reports.graph_drawing import Picture, SavedBox, paint
from profiler.reports.rows import Rows, plain
from profiler.reports.units import format_bytes

LIMIT = 60


@dataclass(frozen=True, slots=True)
class _Tables:
    nodes: dict[Hashable, dict[str, Any]]
    edges: list[tuple[Hashable, Hashable]]
    saves: list[dict[str, Any]]


def draw_graph(
    nodes: Rows,
    edges: Rows,
    saves: Rows,
    path_stem: str | os.PathLike[str],
    *,
    aliases: Mapping[int, int] | None = None,
    title: str = "What one iteration of differentiable k-means keeps for backward",
    limit: int = LIMIT,
) -> tuple[Path, Path]:
    """Draws the graph and returns the paths of the PNG and the SVG.

    Args:
        nodes: rows of `nodes`, of one step.
        edges: rows of `edges`, of the same step.
        saves: rows of `saves`, of the same step.
        path_stem: where to, without a suffix.
        aliases: further duplicates, save_id to save_id, see `duplicates.found_by`.
        title: the headline.
        limit: how many nodes to draw at most.

    Raises:
        ValueError: there are no nodes, or the edges form a cycle.
    """
    tables = _read(nodes, edges, saves)
    if not tables.nodes:
        raise ValueError("nodes: 0 rows; at least one is needed. Record with level full.")
    groups = duplicate_groups(tables.saves, aliases)
    kept, joined, folded = fold_small(_weights(tables), tables.edges, limit)
    picture = Picture(
        title=title,
        subtitle=_subtitle(tables, groups, folded, kept),
        nodes={key: _label(tables.nodes[key]) for key in kept},
        edges=joined,
        saved=_boxes(tables, groups, kept),
        legend=[(group.letter, _sentence(group)) for group in groups],
    )
    return write(paint(picture), path_stem)


def _read(nodes: Rows, edges: Rows, saves: Rows) -> _Tables:
    return _Tables(
        nodes={int(node["seq"]): node for node in plain(nodes)},
        edges=[(int(edge["source"]), int(edge["target"])) for edge in plain(edges)],
        saves=sorted(plain(saves), key=lambda save: int(save["save_id"])),
    )


def _weights(tables: _Tables) -> dict[Hashable, int]:
    """Bytes that each node saves."""
    weights: dict[Hashable, int] = dict.fromkeys(tables.nodes, 0)
    for save in tables.saves:
        if save["node_seq"] in weights:
            weights[save["node_seq"]] += int(save["logical_bytes"])
    return weights


def _label(node: dict[str, Any]) -> tuple[str, str]:
    shape = " x ".join(f"{size:,}" for size in node.get("shape") or ())
    module = str(node.get("module") or "")
    return str(node["name"]), ", ".join(part for part in (module, shape) if part)


def _boxes(
    tables: _Tables, groups: list[DuplicateGroup], kept: set[Hashable]
) -> dict[Hashable, list[SavedBox]]:
    place = {save_id: at for at, group in enumerate(groups) for save_id in group.save_ids}
    boxes: dict[Hashable, list[SavedBox]] = {}
    for save in tables.saves:
        if save["node_seq"] not in kept:
            continue
        at = place.get(int(save["save_id"]))
        letter = "" if at is None else f"{groups[at].letter}  "
        text = letter + format_bytes(int(save["logical_bytes"]))
        boxes.setdefault(save["node_seq"], []).append(SavedBox(text=text, group=at))
    return boxes


def _subtitle(
    tables: _Tables, groups: list[DuplicateGroup], folded: set[Hashable], kept: set[Hashable]
) -> str:
    saved = sum(int(save["logical_bytes"]) for save in tables.saves)
    wasted = sum(group.wasted_bytes for group in groups)
    words = f"{len(tables.saves)} tensors saved, {format_bytes(saved)}"
    if wasted:
        words += f"; {format_bytes(saved - wasted)} would do"
    if folded:
        weights = _weights(tables)
        hidden = format_bytes(sum(weights[key] for key in folded))
        words += f". Drawn: {len(kept)} nodes; {len(folded)} smaller ones folded, {hidden}"
    return words


def _sentence(group: DuplicateGroup) -> str:
    kind = "one storage" if group.storages == 1 else "rebuilt from one storage"
    return (
        f"saved {len(group.save_ids)} times by {', '.join(group.ops)}: {kind}, "
        f"{format_bytes(group.saved_bytes)} held where {format_bytes(group.unique_bytes)} would do"
    )
