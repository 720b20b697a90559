"""The autograd graph: walked once from its roots, kept as rows, given back as a networkx graph.

Contract: nodes are known by their autograd sequence number; leaves (AccumulateGrad, which share
one number) get negative serials. Edges point forward: from the node that made a tensor to the
node that consumed it.
Boundary: reads no saved tensor (that would unpack it) and keeps no node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import networkx as nx

from profiler import events

if TYPE_CHECKING:
    from torch import Tensor

    from profiler.query import Run

_LEAF_SEQUENCE = (1 << 63) - 1  # leaves report a number above every real one


def walk(
    roots: Iterable[Any], names: Mapping[Tensor, str] | None = None
) -> tuple[list[events.Node], list[events.Edge]]:
    """Every node reachable from `roots` (autograd nodes), and the edges between them.

    Args:
        roots: `grad_fn`s; None entries are passed over.
        names: qualified names of parameters, for leaves (a mapping that compares by identity).
    """
    numbers: dict[Any, int] = {}
    nodes: list[events.Node] = []
    edges: list[events.Edge] = []
    waiting = [root for root in roots if root is not None]
    while waiting:
        node = waiting.pop()
        if node in numbers:
            continue
        number = _number(node, len(numbers))
        numbers[node] = number
        nodes.append(_row(node, number, names or {}))
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    for node, number in numbers.items():
        for parent, output in node.next_functions:
            if parent is not None:
                edges.append(events.Edge(source=numbers[parent], target=number, output=output))
    return nodes, edges


def _number(node: Any, seen: int) -> int:
    sequence = int(node._sequence_nr())
    return sequence if 0 <= sequence < _LEAF_SEQUENCE else -1 - seen


def _row(node: Any, number: int, names: Mapping[Tensor, str]) -> events.Node:
    leaf = getattr(node, "variable", None)
    metadata = getattr(node, "_input_metadata", ())
    shape = list(leaf.shape) if leaf is not None else _shape(metadata)
    module = names.get(leaf, "") if leaf is not None else ""
    dtype = leaf.dtype if leaf is not None else _dtype(metadata)
    return events.Node(
        seq=number,
        name=_plain(node.name()),
        module=module,
        shape=shape,
        dtype=str(dtype).removeprefix("torch."),
    )


def _shape(metadata: Any) -> list[int]:
    try:
        return [int(n) for n in metadata[0].shape]
    except (IndexError, RuntimeError, TypeError):  # nested and symbolic shapes have none
        return []


def _dtype(metadata: Any) -> Any:
    return metadata[0].dtype if len(metadata) else ""


def _plain(name: str) -> str:
    return name.rpartition("::")[2]


def autograd_graph(run: Run, step: int = 0, rank: int = 0) -> nx.DiGraph[int]:
    """One step's autograd graph.

    Node attributes: name, module, shape, saved_bytes, saved_unique_bytes and `saves`, the list of
    save_ids. Edges carry `output`.
    """
    graph: nx.DiGraph[int] = nx.DiGraph()
    where = "where step = ? and rank = ?"
    for row in run.sql(f"select * from nodes {where}", [step, rank]).to_pylist():
        graph.add_node(row["seq"], **{k: v for k, v in row.items() if k != "seq"}, saves=[])
    for row in run.sql(f"select * from edges {where}", [step, rank]).to_pylist():
        graph.add_edge(row["source"], row["target"], output=row["output"])
    saves = f"select save_id, node_seq from saves {where} and node_seq is not null"
    for row in run.sql(saves, [step, rank]).to_pylist():
        if row["node_seq"] in graph:
            graph.nodes[row["node_seq"]]["saves"].append(row["save_id"])
    return graph
