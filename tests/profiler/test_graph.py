"""The walk over the autograd graph, and the graph read back from a run."""

from __future__ import annotations

import networkx as nx
import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from profiler import Tracer, open_run
from profiler.graph import autograd_graph, walk


def test_walk_names_every_node_once_and_points_edges_forward() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    x = weight * 2
    loss = (x + x.exp()).sum()
    nodes, edges = walk([loss.grad_fn, None], WeakTensorKeyDictionary({weight: "weight"}))
    names = {node.seq: node.name for node in nodes}
    assert sorted(names.values()) == [
        "AccumulateGrad",
        "AddBackward0",
        "ExpBackward0",
        "MulBackward0",
        "SumBackward0",
    ]
    arrows = {(names[e.source], names[e.target]) for e in edges}
    assert arrows == {
        ("AccumulateGrad", "MulBackward0"),
        ("MulBackward0", "ExpBackward0"),
        ("MulBackward0", "AddBackward0"),
        ("ExpBackward0", "AddBackward0"),
        ("AddBackward0", "SumBackward0"),
    }
    (leaf,) = [node for node in nodes if node.name == "AccumulateGrad"]
    assert leaf.seq < 0 and leaf.module == "weight" and leaf.shape == [3, 3]


def test_the_graph_of_a_run_is_acyclic_and_carries_its_saves(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    with Tracer(tmp_path / "run", model=model) as tracer, tracer.step():
        model(torch.ones(2, 4)).sum().backward()
    with open_run(tmp_path / "run") as run:
        graph = autograd_graph(run)
        saves = run.table("saves").num_rows
    assert nx.is_directed_acyclic_graph(graph)
    assert sum(len(data["saves"]) for _, data in graph.nodes(data=True)) == saves == 4
    (relu,) = [d for _, d in graph.nodes(data=True) if d["name"] == "ReluBackward0"]
    assert relu["module"] == "1" and relu["saved_bytes"] == 2 * 8 * 4
