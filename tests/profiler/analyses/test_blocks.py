"""Boxes of the autograd graph: runs of one module, never a cycle, every save in one box."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from profiler.analyses.blocks import EVERY_NODE, blocks, saves_between
from profiler.events import Edge, Node, Record, Stack
from tests.profiler.analyses.runs import float32, run_of

MODULES = ["a.x", "a.x", "a.y", "a", "b.x", "a.x", ""]


def graph() -> list[Record]:
    """A residual network of seven nodes, with one leaf."""
    nodes: list[Record] = [
        Node(seq=i, name=f"Op{'AB'[i % 2]}Backward0", module=name) for i, name in enumerate(MODULES)
    ]
    pairs = [(0, 1), (1, 2), (0, 3), (2, 3), (3, 4), (4, 5), (3, 5), (5, 6), (-1, 4)]
    edges: list[Record] = [Edge(source=source, target=target) for source, target in pairs]
    return [*nodes, Node(seq=-1, name="AccumulateGrad", module="a.x.weight"), *edges]


SAVES: list[Record] = [
    float32(0, 1, [10], node_seq=0, stack_id=0), float32(1, 1, [10], node_seq=2),
    float32(2, 2, [5], node_seq=2), float32(3, 3, [7], node_seq=4, is_param=True),
]  # fmt: skip


def test_depths_from_coarse_to_every_node(tmp_path: Path) -> None:
    with run_of(tmp_path / "run", graph(), SAVES) as run:
        assert blocks(run).depths == {1: 4, 2: 6, EVERY_NODE: 7}
        assert blocks(run).depth == EVERY_NODE
        assert blocks(run, comfortable=6).depth == 2
        assert blocks(run, comfortable=2).depth == 1
        assert blocks(run, limit=6).depths == {1: 4, 2: 6}
        with pytest.raises(ValueError, match="depth: got 0, must be one of"):
            blocks(run, limit=6, depth=EVERY_NODE)


@pytest.mark.parametrize("depth", [EVERY_NODE, 1, 2])
def test_boxes_are_acyclic_and_lose_nothing(depth: int, tmp_path: Path) -> None:
    with run_of(tmp_path / "run", graph(), SAVES) as run:
        seen = blocks(run, depth=depth)
    assert nx.is_directed_acyclic_graph(nx.DiGraph([(a, b) for a, b, _ in seen.links]))
    assert all(source < target for source, target, _ in seen.links)
    assert sum(box.nodes for box in seen.boxes) == seen.nodes == 7
    assert seen.leaves == 1
    assert sum(box.saves for box in seen.boxes) == 4
    assert sum(box.unique_bytes for box in seen.boxes) == 60
    assert sum(box.saved_bytes for box in seen.boxes) == 128


def test_a_box_is_an_unbroken_run_of_one_module(tmp_path: Path) -> None:
    with run_of(tmp_path / "run", graph(), SAVES) as run:
        boxes = blocks(run, depth=2).boxes
        (first,) = [box for box in boxes if box.module == "a.y"]
        saved = saves_between(run, 0, first.first_seq, first.last_seq)
    assert [box.module for box in boxes] == ["a.x", "a.y", "a", "b.x", "a.x", ""]
    assert boxes[0].operations == ["OpA", "OpB"]  # the one that saves comes first
    assert [row["save_id"] for row in saved] == [1, 2]


def test_saves_come_with_their_line(tmp_path: Path) -> None:
    stack = Stack(stack_id=0, frames=["/m/model.py:7:f"])
    with run_of(tmp_path / "run", graph(), SAVES, [stack]) as run:
        (row,) = saves_between(run, 0, 0, 1)
    assert row["source"] == "/m/model.py:7:f"


def test_no_graph_is_no_boxes(tmp_path: Path) -> None:
    with run_of(tmp_path / "run", SAVES) as run:
        seen = blocks(run)
    assert (seen.boxes, seen.links, seen.nodes) == ([], [], 0)
