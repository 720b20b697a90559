"""The tree of places adds up to the ledger, and stays within its limit without losing a byte."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from profiler.analyses import ledger
from profiler.analyses.places import operations, places, source_lines
from profiler.events import Stack, Total
from tests.profiler.analyses.runs import float32, run_of

SAVES = [
    float32(0, 1, [100], module="layers.0.mlp", op="Gelu", stack_id=0),
    float32(1, 1, [100], module="layers.0.mlp", op="Mm", stack_id=1),
    float32(2, 2, [50], module="layers.0", op="Mul", stack_id=1),
    float32(3, 3, [10], module="", op="Loss"),
    float32(4, 4, [70], module="layers.1.mlp", op="Mm", is_param=True),
]
STACKS = [
    Stack(stack_id=0, frames=["/x/torch/nn.py:1:f", "/m/model.py:7:Mlp.forward"]),
    Stack(stack_id=1, frames=["/m/model.py:8:Mlp.forward"]),
]


def test_the_tree_adds_up_to_the_ledger(tmp_path: Path) -> None:
    with run_of(tmp_path / "run", SAVES) as run:
        nodes = places(run).nodes
        entries = {entry.module: entry.unique_bytes for entry in ledger(run).modules}
    by_path = {node.path: node for node in nodes}
    root = nodes[0]
    assert (root.path, root.total_bytes, root.saves) == ("", 640, 5)
    for node in nodes:
        if node.kind == "module":
            assert node.self_bytes == entries.get(node.module, 0)
            inside = [n.total_bytes for n in nodes if n.parent == node.path]
            assert node.total_bytes == sum(inside)
        if node.parent is not None:
            assert nodes.index(by_path[node.parent]) < nodes.index(node)


@pytest.mark.parametrize("limit", [1, 2, 5, 20, 200, 1500])
def test_a_trimmed_tree_keeps_its_sums(limit: int, tmp_path: Path) -> None:
    saves = [
        float32(i, i, [1 + i % 13], module=f"a.{i % 9}.b{i % 31}", op=f"Op{i % 5}")
        for i in range(400)
    ]
    with run_of(tmp_path / "run", saves) as run:
        nodes = places(run, limit=limit).nodes
    assert len(nodes) <= max(limit, 2)
    inside: dict[str, int] = defaultdict(int)
    for node in nodes:
        if node.parent is not None:
            inside[node.parent] += node.total_bytes
    assert all(inside[n.path] == n.total_bytes for n in nodes if n.path in inside)
    assert nodes[0].total_bytes == sum(4 * (1 + i % 13) for i in range(400))


def test_lines_are_those_inside_the_chosen_place(tmp_path: Path) -> None:
    with run_of(tmp_path / "run", SAVES, STACKS) as run:
        lines = source_lines(run, 0, "layers.0.mlp")
        assert [(line.source, line.unique_bytes, line.logical_bytes) for line in lines] == [
            ("/m/model.py:7:Mlp.forward", 400, 400),
            ("/m/model.py:8:Mlp.forward", 0, 400),
        ]
        assert [line.op for line in source_lines(run, 0, "layers.0.mlp", "Mm")] == ["Mm"]
        assert len(source_lines(run, 0)) == 5
        assert source_lines(run, 0, "layers.0.ml") == []


def test_operations_part_new_repeated_and_parameters(tmp_path: Path) -> None:
    with run_of(tmp_path / "run", SAVES) as run:
        by_op = {each.op: each for each in operations(run)}
    assert (by_op["Gelu"].unique_bytes, by_op["Gelu"].aliased_bytes) == (400, 0)
    mm = by_op["Mm"]
    assert (mm.saves, mm.unique_bytes, mm.aliased_bytes, mm.param_bytes) == (2, 0, 400, 280)


def test_a_summary_has_modules_only(tmp_path: Path) -> None:
    totals = [Total(module="a.b", saves=2, unique_bytes=30), Total(module="c", unique_bytes=4)]
    with run_of(tmp_path / "run", totals) as run:
        nodes = places(run).nodes
        assert [(n.label, n.kind, n.total_bytes) for n in nodes] == [
            ("model", "module", 34), ("a", "module", 30), ("c", "module", 4), ("b", "module", 30),
        ]  # fmt: skip
        assert operations(run) == []
