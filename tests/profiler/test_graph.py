"""The walk over the autograd graph, and the graph read back from a run."""

from __future__ import annotations

import networkx as nx
import torch
from torch import nn

from profiler import Tracer, open_run
from profiler.graph import autograd_graph, walk


def test_walk_names_every_node_once_and_points_edges_forward() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    x = weight * 2
    loss = (x + x.exp()).sum()
    nodes, edges = walk([loss.grad_fn, None], lambda t: "weight" if t is weight else "")
    names = dict(zip(nodes.seq, nodes.name, strict=True))
    assert sorted(names.values()) == [
        "AccumulateGrad",
        "AddBackward0",
        "ExpBackward0",
        "MulBackward0",
        "SumBackward0",
    ]
    arrows = {(names[a], names[b]) for a, b in zip(edges.source, edges.target, strict=True)}
    assert arrows == {
        ("AccumulateGrad", "MulBackward0"),
        ("MulBackward0", "ExpBackward0"),
        ("MulBackward0", "AddBackward0"),
        ("ExpBackward0", "AddBackward0"),
        ("AddBackward0", "SumBackward0"),
    }
    leaf = nodes.name.index("AccumulateGrad")
    assert nodes.seq[leaf] < 0 and nodes.module[leaf] == "weight" and nodes.shape[leaf] == (3, 3)
    exp = nodes.name.index("ExpBackward0")
    assert tuple(nodes.shape[exp]) == (3, 3) and nodes.dtype[exp] == "float32"


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


def test_a_node_has_the_stack_of_its_first_save(tmp_path) -> None:
    x = torch.ones(4, requires_grad=True)
    with Tracer(tmp_path / "run") as tracer, tracer.step():
        y = x.exp()
        (y * y).sum().backward()
    with open_run(tmp_path / "run") as run:
        nodes = run.sql("select name, frames from nodes left join stacks using (rank, stack_id)")
        saves = run.sql("select op, frames from saves join stacks using (rank, stack_id)")
    found = dict(zip(nodes["name"].to_pylist(), nodes["frames"].to_pylist(), strict=True))
    assert found.pop("AccumulateGrad") is None and found.pop("SumBackward0") is None
    assert found == dict(zip(saves["op"].to_pylist(), saves["frames"].to_pylist(), strict=True))
    assert set(found) == {"ExpBackward0", "MulBackward0"}


class Labelled(torch.autograd.Function):
    """Uses the names of autograd's own attributes for what it remembers, as Python lets it."""

    @staticmethod
    def forward(ctx, x):
        ctx.name, ctx.variable, ctx.metadata_ = "layer", 3, {}
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def test_a_custom_function_may_call_anything_of_its_own_name(tmp_path) -> None:
    x = torch.randn(4, requires_grad=True)
    with Tracer(tmp_path / "run") as tracer, tracer.step():
        Labelled.apply(x.sin()).sum().backward()
    assert torch.equal(x.grad, 2 * x.sin() * x.cos())
    names = set(nx.get_node_attributes(autograd_graph(open_run(tmp_path / "run")), "name").values())
    assert "LabelledBackward" in names
