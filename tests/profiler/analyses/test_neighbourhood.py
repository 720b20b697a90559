"""Neighbours in a graph drawn by hand, and against networkx in one drawn by chance."""

from __future__ import annotations

import random
from pathlib import Path

import networkx as nx
import pytest

from profiler.analyses.neighbourhood import neighbourhood, nodes_between
from profiler.events import Edge, Node
from tests.profiler.analyses.runs import float32, run_of

# 1 -> 2 -> 3 -> 4 -> 5, and a leaf -1 -> 3
NODES = [Node(seq=i, name=f"N{i}", module="m", shape=[i]) for i in (1, 2, 3, 4, 5, -1)]
EDGES = [Edge(source=i, target=i + 1) for i in (1, 2, 3, 4)] + [Edge(source=-1, target=3)]
SAVES = [float32(1, 1, [4], node_seq=3), float32(2, 1, [4], node_seq=3),
         float32(3, 2, [8], node_seq=4)]  # fmt: skip


def test_neighbours_by_hand(tmp_path: Path) -> None:
    with run_of(tmp_path / "run", NODES, EDGES, SAVES) as run:
        found = neighbourhood(run, 0, 3, hops=1)
        assert [(n.seq, n.distance, n.saves, n.saved_bytes) for n in found.nodes] == [
            (3, 0, 2, 32), (4, 1, 1, 32), (2, 1, 0, 0), (-1, 1, 0, 0),
        ]  # fmt: skip
        assert found.edges == [(-1, 3), (2, 3), (3, 4)]
        assert {n.seq for n in neighbourhood(run, 0, 3, hops=2).nodes} == {-1, 1, 2, 3, 4, 5}
        few = neighbourhood(run, 0, 3, hops=2, limit=2)
        assert ([n.seq for n in few.nodes], few.edges, few.more) == ([3, 4], [(3, 4)], 4)
        assert [row["seq"] for row in nodes_between(run, 0, 2, 4)] == [3, 4, 2]


def test_neighbours_are_those_of_networkx(tmp_path: Path) -> None:
    draw = random.Random(0)
    edges = [(draw.randrange(30), draw.randrange(30)) for _ in range(40)]
    graph = nx.Graph(edges)
    rows = [Edge(source=min(e), target=max(e)) for e in edges if e[0] != e[1]]
    with run_of(tmp_path / "run", [Node(seq=i, name="N") for i in range(30)], rows) as run:
        for seq in graph.nodes:
            wanted = nx.single_source_shortest_path_length(graph, seq, cutoff=2)
            found = neighbourhood(run, 0, seq, limit=30)
            assert {node.seq: node.distance for node in found.nodes} == wanted


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with run_of(tmp_path / "run", NODES, EDGES) as run:
        with pytest.raises(ValueError, match="seq: got 9, but step 0 of rank 0 has no such node"):
            neighbourhood(run, 0, 9)
        with pytest.raises(ValueError, match="hops, limit: got -1, 40"):
            neighbourhood(run, 0, 3, hops=-1)
