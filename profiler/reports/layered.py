"""A layered layout of a small directed graph: who sits in which layer, in which order, where.

Contract: layers by longest path, sources pulled next to their first consumer, long edges routed
through waypoints so that no edge passes behind a box; boxes of one layer never overlap.
Deterministic. Boundary: geometry only, in inches; knows nothing of autograd or drawing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

SWEEPS = 12
SETTLE = 200  # passes over the coordinates; a graph of 60 nodes takes some milliseconds each
_WAYPOINT = 0.10  # half the width that a passing edge needs, inches


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a box reaches left and right of its anchor, inches."""

    left: float
    right: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Anchors as (x, layer), and for every edge the anchors it passes, both ends included."""

    place: Mapping[Hashable, tuple[float, int]]
    routes: Mapping[tuple[Hashable, Hashable], Sequence[tuple[float, int]]]
    layers: int
    left: float  # the extremes of all boxes
    right: float


def layered_layout(
    extents: Mapping[Hashable, Extent],
    edges: Iterable[tuple[Hashable, Hashable]],
    *,
    gap: float = 0.3,
) -> Layout:
    """Lays out the graph of the nodes in `extents`, with `gap` inches between boxes.

    Raises:
        ValueError: the edges form a cycle.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(extents)
    graph.add_edges_from(
        edge for edge in edges if edge[0] in extents and edge[1] in extents and edge[0] != edge[1]
    )
    if not nx.is_directed_acyclic_graph(graph):
        raise ValueError("edges: they form a cycle; an autograd graph has none. Record it again.")
    depth = _depths(graph)
    chained, chains = _with_waypoints(graph, depth)
    order = _order(chained, depth)
    sizes = {node: extents.get(node, Extent(_WAYPOINT, _WAYPOINT)) for node in chained}
    x = _coordinates(chained, order, sizes, gap)
    return Layout(
        place={node: (x[node], depth[node]) for node in extents},
        routes={edge: [(x[node], depth[node]) for node in chain] for edge, chain in chains.items()},
        layers=len(order),
        left=min((x[node] - sizes[node].left for node in chained), default=0.0),
        right=max((x[node] + sizes[node].right for node in chained), default=0.0),
    )


def _depths(graph: nx.DiGraph) -> dict[Hashable, int]:
    depth: dict[Hashable, int] = {}
    for level, generation in enumerate(nx.topological_generations(graph)):
        for node in generation:
            depth[node] = level
    for node in reversed(list(nx.topological_sort(graph))):
        if not graph.pred[node] and graph.succ[node]:
            depth[node] = min(depth[consumer] for consumer in graph.succ[node]) - 1
    return depth


def _with_waypoints(
    graph: nx.DiGraph, depth: dict[Hashable, int]
) -> tuple[nx.DiGraph, dict[tuple[Hashable, Hashable], list[Hashable]]]:
    """The graph with one waypoint per layer that an edge passes; adds them to `depth`."""
    chained = nx.DiGraph()
    chained.add_nodes_from(graph)
    chains = {}
    for source, target in graph.edges:
        middle = [
            ("waypoint", source, target, at) for at in range(depth[source] + 1, depth[target])
        ]
        depth.update({point: point[3] for point in middle})
        chains[(source, target)] = [source, *middle, target]
        nx.add_path(chained, chains[(source, target)])
    return chained, chains


def _order(graph: nx.DiGraph, depth: Mapping[Hashable, int]) -> list[list[Hashable]]:
    """Order within each layer by barycentres, the best of all sweeps by edge crossings."""
    order: list[list[Hashable]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node in graph:
        order[depth[node]].append(node)
    best, fewest = [list(layer) for layer in order], _crossings(graph, order)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for layer in order if downwards else reversed(order):
            neighbours = graph.pred if downwards else graph.succ
            place = {node: at for each in order for at, node in enumerate(each)}
            layer.sort(key=lambda node: _mean([place[n] for n in neighbours[node]], place[node]))
        count = _crossings(graph, order)
        if count < fewest:
            best, fewest = [list(layer) for layer in order], count
    return best


def _crossings(graph: nx.DiGraph, order: Sequence[Sequence[Hashable]]) -> int:
    place = {node: at for layer in order for at, node in enumerate(layer)}
    total = 0
    for layer in order[:-1]:
        ends = [end for node in layer for end in sorted(place[child] for child in graph.succ[node])]
        total += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
    return total


def _coordinates(
    graph: nx.DiGraph,
    order: Sequence[Sequence[Hashable]],
    sizes: Mapping[Hashable, Extent],
    gap: float,
) -> dict[Hashable, float]:
    """Every box as near to its neighbours' mean as the others of its layer allow."""
    x: dict[Hashable, float] = {}
    for layer in order:
        x.update(zip(layer, _apart([0.0] * len(layer), layer, sizes, gap), strict=True))
    for sweep in range(SETTLE):
        for layer in order if sweep % 2 else reversed(order):
            wanted = [_mean([x[n] for n in _pulls(graph, node)], x[node]) for node in layer]
            x.update(zip(layer, _apart(wanted, layer, sizes, gap), strict=True))
    return x


def _pulls(graph: nx.DiGraph, node: Hashable) -> list[Hashable]:
    """Neighbours, the only consumer and the only producer thrice: chains come out straight."""
    before, after = list(graph.pred[node]), list(graph.succ[node])
    alone = [n for n in before if len(graph.succ[n]) == 1] if len(before) == 1 else []
    alone += [n for n in after if len(graph.pred[n]) == 1] if len(after) == 1 else []
    return before + after + 2 * alone


def _apart(
    wanted: Sequence[float], layer: Sequence[Hashable], sizes: Mapping[Hashable, Extent], gap: float
) -> list[float]:
    """Least-squares positions with the order kept and no overlap (pool adjacent violators)."""
    offsets = [0.0]
    for one, other in pairwise(layer):
        offsets.append(offsets[-1] + sizes[one].right + gap + sizes[other].left)
    pools: list[tuple[float, int]] = []  # (mean of wanted minus offset, size)
    for want, offset in zip(wanted, offsets, strict=False):
        mean, size = want - offset, 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, size = (mean * size + before * many) / (size + many), size + many
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=False)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
