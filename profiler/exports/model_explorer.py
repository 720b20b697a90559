"""The autograd graph of one step for Model Explorer, and bytes to lay over it as node data.

Contract: a collection with one graph; edges are listed at their target; every attribute is a text;
the namespace is the module path, so layers fold. The overlay is keyed by the same graph id and
node ids, with a colour scale from nothing to the node that saves most.
Boundary: two files, opened together: the graph, and "node data" uploaded over it.
"""

from __future__ import annotations

import json
from typing import Any

import networkx as nx

from profiler.exports.graphs import autograd_graph
from profiler.query import Run


def build(run: Run, step: int | None = None) -> bytes:
    """Return the graph collection as JSON."""
    graph = autograd_graph(run, step)
    nodes = [_node(graph, node) for node in graph]
    collection = {"label": run.path.name, "graphs": [{"id": _graph_id(graph), "nodes": nodes}]}
    return json.dumps(collection).encode()


def build_overlay(run: Run, step: int | None = None) -> bytes:
    """Return saved bytes per node as Model Explorer node data."""
    graph = autograd_graph(run, step)
    results = {
        node: {"value": values["saved_bytes"]}
        for node, values in graph.nodes(data=True)
        if values.get("saved_bytes")
    }
    gradient = [{"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#e4572e"}]
    return json.dumps({_graph_id(graph): {"results": results, "gradient": gradient}}).encode()


def _graph_id(graph: nx.MultiDiGraph) -> str:
    name = graph.graph["name"]
    return f"step {graph.graph['step']}" + (f" {name}" if name else "")


def _node(graph: nx.MultiDiGraph, node: str) -> dict[str, Any]:
    values = graph.nodes[node]
    edges = enumerate(graph.in_edges(node, data=True))
    return {
        "id": node,
        "label": values.get("name") or node,
        "namespace": _namespace(values.get("module", "")),
        "attrs": [
            {"key": key, "value": str(values[key])}
            for key in (
                "module",
                "shape",
                "saved_bytes",
                "saved_unique_bytes",
                "seq",
                "rank",
                "stack",
            )
            if key in values
        ],
        "incomingEdges": [
            {
                "sourceNodeId": source,
                "sourceNodeOutputId": str(edge["output"]),
                "targetNodeInputId": str(place),
            }
            for place, (source, _, edge) in edges
        ],
    }


def _namespace(module: str) -> str:
    """Return the module path with slashes; a slash in a name must not open a layer."""
    return "/".join(part.replace("/", "\N{DIVISION SLASH}") for part in module.split(".") if part)
