"""The autograd graph of one step as GraphML and as DOT.

Contract: one node per autograd node with its name, module and saved bytes; edges point forward.
Characters that XML does not allow are replaced; in DOT everything is quoted.
Boundary: no layout; that is the work of the tool that opens it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import networkx as nx

from profiler.analyses.common import choose_step, rows_of
from profiler.query import Run

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def autograd_graph(run: Run, step: int | None = None) -> nx.MultiDiGraph:
    """Return the graph of a step (the last one with saves); nodes are "rank.sequence" texts."""
    number, name = choose_step(run, step)
    graph = nx.MultiDiGraph(step=number, name=name)
    for row in rows_of(run, _NODES, {"step": number}):
        graph.add_node(row.pop("id"), **{k: v for k, v in row.items() if v is not None})
    for row in rows_of(run, _EDGES, {"step": number}):
        graph.add_edge(row["source"], row["target"], output=row["output"])
    return graph


def build_graphml(run: Run, step: int | None = None) -> bytes:
    """Return the GraphML document."""
    graph = autograd_graph(run, step)
    for _, values in [*graph.nodes(data=True), ("", graph.graph)]:
        for key, value in values.items():
            if isinstance(value, str):
                values[key] = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value)
    out = BytesIO()
    nx.write_graphml_xml(graph, out)
    return out.getvalue()


def build_dot(run: Run, step: int | None = None) -> bytes:
    """Return the DOT document; nodes that save more are drawn darker."""
    return "\n".join(_dot_lines(autograd_graph(run, step))).encode("utf-8", "replace") + b"\n"


def _dot_lines(graph: nx.MultiDiGraph) -> Iterator[str]:
    most = max((values.get("saved_bytes", 0) for _, values in graph.nodes(data=True)), default=0)
    yield "digraph autograd {"
    yield "  node [shape=box, style=filled, fontname=sans];"
    for node, values in graph.nodes(data=True):
        saved = values.get("saved_bytes", 0)
        lines = [values.get("name", node), values.get("module", ""), f"{saved} bytes saved"]
        label = "\n".join(line for line in lines if line)
        grey = 100 - (round(40 * saved / most) if most else 0)
        yield f"  {_quoted(node)} [label={_quoted(label)}, fillcolor=gray{grey}];"
    for source, target, values in graph.edges(data=True):
        yield f"  {_quoted(source)} -> {_quoted(target)} [taillabel={_quoted(values['output'])}];"
    yield "}"


def _quoted(text: Any) -> str:
    """Quote for DOT: only a quote and a backslash mean something inside quotes."""
    plain = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\0", "\N{SYMBOL FOR NULL}")
    return '"' + plain.replace("\r", "").replace("\n", "\\n") + '"'


_NODES = """
SELECT concat(n.rank, '.', n.seq) AS id, any_value(n.name) AS name, any_value(n.module) AS module,
    array_to_string(any_value(n.shape), ' x ') AS shape, sum(n.saved_bytes) AS saved_bytes,
    sum(n.saved_unique_bytes) AS saved_unique_bytes, n.seq, n.rank,
    array_to_string(any_value(k.frames), '\n') AS stack
FROM nodes n LEFT JOIN stacks k ON k.rank = n.rank AND k.stack_id = n.stack_id
WHERE n.step = $step GROUP BY n.rank, n.seq ORDER BY n.rank, n.seq
"""
_EDGES = """
SELECT concat(rank, '.', source) AS source, concat(rank, '.', target) AS target, output
FROM edges WHERE step = $step ORDER BY rank, source, target, output
"""
