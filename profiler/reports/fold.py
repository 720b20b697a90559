"""Makes a graph small enough to read: drops the nodes that save least, and keeps who feeds whom.

Contract: returns kept nodes, edges among them (a path through dropped nodes becomes an edge,
redundant ones removed) and the dropped nodes. Nothing changes at or under the limit.
Boundary: pure; what "folded" means in words is the caller's to say.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

import networkx as nx


def fold_small(
    weights: Mapping[Hashable, int], edges: Iterable[tuple[Hashable, Hashable]], limit: int
) -> tuple[set[Hashable], list[tuple[Hashable, Hashable]], set[Hashable]]:
    """Keeps the `limit` heaviest nodes of the graph; ties keep the earlier one."""
    graph = nx.DiGraph()
    graph.add_nodes_from(weights)
    graph.add_edges_from(edge for edge in edges if edge[0] in weights and edge[1] in weights)
    if len(graph) <= limit:
        return set(graph), list(graph.edges), set()
    ranked = sorted(weights, key=lambda node: -weights[node])
    dropped = set(ranked[limit:])
    for node in dropped:
        before, after = list(graph.pred[node]), list(graph.succ[node])
        graph.remove_node(node)
        graph.add_edges_from((one, other) for one in before for other in after if one != other)
    if nx.is_directed_acyclic_graph(graph):
        graph = nx.transitive_reduction(graph)
    return set(graph), list(graph.edges), dropped
